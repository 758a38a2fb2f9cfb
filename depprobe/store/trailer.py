"""A checksum behind the data: one line after the end of a file, which readers of the format never look at.

    file   =  named, "\\n# depprobe sha256 ", sha256(named) in hexadecimal, "\\n"
    named  =  data  or  data, "\\n# depprobe file ", name

A file whose name says what it holds carries that name, so that it is not read as another once it is renamed.
HDF5 writes down where its data end and ignores what follows, so any netCDF-4 program reads such a file. One
that another program changed has lost the line, and is taken as that program's.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from depprobe.errors import BadInput

_MARK, _NAME = b"\n# depprobe sha256 ", b"\n# depprobe file "
_LENGTH = len(_MARK) + 64 + 1
_PIECE = 1 << 20


def sealed(data: bytes, name: str = "") -> bytes:
    """The data with their checksum, and with the name of their file where one is given."""
    named = data + _line(name)
    return named + _MARK + hashlib.sha256(named).hexdigest().encode() + b"\n"


def _line(name: str) -> bytes:
    return _NAME + name.encode() if name else b""


def data_of(path: Path, name: str) -> bytes:
    """The data of a file that must carry a checksum and this name.

    Raises ``BadInput`` where one of them is missing or wrong.
    """
    if not verify(path, name):
        raise BadInput("it carries no checksum, or not its name")
    return path.read_bytes()[: -_LENGTH - len(_line(name))]


def verify(path: Path, name: str = "") -> bool:
    """Whether a file carries a checksum, and the name where one is given.

    Raises ``BadInput`` if the checksum is wrong.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a")
    ...     _ = file.write_bytes(sealed(b"data", "a"))
    ...     verify(file), verify(file, "a"), verify(file, "b")
    (True, True, False)
    """
    with path.open("rb") as stream:
        end = max(0, stream.seek(0, os.SEEK_END) - _LENGTH)
        stream.seek(end)
        tail = stream.read()
        alike = sum(here == there for here, there in zip(tail, _MARK, strict=False))
        # the mark may itself be what is damaged, or cut off
        if alike < len(_MARK) // 2 and _MARK[:11] not in tail:
            return False
        stream.seek(0)
        found, left = hashlib.sha256(), end
        while left > 0 and (piece := stream.read(min(left, _PIECE))):
            found.update(piece)
            left -= len(piece)
        line = _line(name)
        stream.seek(max(0, end - len(line)))
        is_named = stream.read(len(line)) == line
    if tail != _MARK + found.hexdigest().encode() + b"\n":
        raise BadInput("it is truncated or damaged: its checksum does not fit")
    return is_named

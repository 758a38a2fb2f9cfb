"""A checksum behind the data: one line after the end of a file, which readers of the format never look at.

    file  =  data, "\\n# depprobe sha256 ", sha256(data) in hexadecimal, "\\n"

HDF5 writes down where its data end and ignores what follows, so any netCDF-4 program reads such a file. One
that another program changed has lost the line, and is taken as that program's.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from depprobe.errors import BadInput

_MARK = b"\n# depprobe sha256 "
_LENGTH = len(_MARK) + 64 + 1
_PIECE = 1 << 20


def sealed(data: bytes) -> bytes:
    """The data with their checksum."""
    return data + _MARK + hashlib.sha256(data).hexdigest().encode() + b"\n"


def data_of(path: Path) -> bytes:
    """The data of a file that must carry a checksum; raises ``BadInput`` where it has none or a wrong one."""
    if not verify(path):
        raise BadInput("it carries no checksum")
    return path.read_bytes()[:-_LENGTH]


def verify(path: Path) -> bool:
    """Whether a file carries a checksum; raises ``BadInput`` if it is wrong.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a")
    ...     _ = file.write_bytes(sealed(b"data"))
    ...     verify(file)
    True
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
    if tail != _MARK + found.hexdigest().encode() + b"\n":
        raise BadInput("it is truncated or damaged: its checksum does not fit")
    return True

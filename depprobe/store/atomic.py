"""Files that are whole or as they were: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from depprobe.errors import BadInput, DepprobeError

#: machine, process and chance, in hexadecimal
_TEMPORARY = re.compile(r"\.([0-9a-f]{4})([0-9a-f]{6})[0-9a-f]{6}\.tmp")
#: seconds after which a temporary file of another machine is taken for forgotten
_FORGOTTEN = 24 * 3600.0


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; rename it to ``path`` if the block succeeds.

    If the block raises anything, an interrupt included, the temporary file goes and ``path`` stays as it was.

    Parameters
    ----------
    path : the file to make or replace; parent folders are made, symbolic links followed.

    Raises
    ------
    BadInput : the folder cannot be made or written, or the path is something other than a file.
    DepprobeError : the block failed to write.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(folder + "/table.csv") as temporary:
    ...         _ = temporary.write_text("lag,norm")
    ...     [file.name for file in pathlib.Path(folder).iterdir()]
    ['table.csv']
    """
    final = Path(os.path.realpath(path))
    # short whatever the final name, which may use the full length a file system allows
    temporary = final.with_name(f".{this_process()}{secrets.token_hex(3)}.tmp")
    try:
        if final.exists() and not final.is_file():
            raise BadInput(f"cannot write {str(path)!r}: it is {'a folder' if final.is_dir() else 'no file'}")
        final.parent.mkdir(parents=True, exist_ok=True)
        _swept(final.parent)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: {reason_of(error)}") from error
    try:
        try:
            yield temporary
            temporary.replace(final)
        except OSError as error:
            raise DepprobeError(f"could not write {str(path)!r}: {reason_of(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _swept(folder: Path) -> None:
    """Remove once what killed processes left in a folder."""
    remove_forgotten(folder)


def remove_forgotten(folder: Path) -> None:
    """Remove temporary files that processes which are gone left behind, killed or cut off from power."""
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if not found:
            continue
        process = found[1] + found[2]
        try:
            gone = process != this_process() and is_gone(process, path)
            if gone:
                path.unlink()
        except OSError:
            # someone else removed it, or may
            continue


def this_process() -> str:
    """This machine and process, in ten hexadecimal digits."""
    return f"{_machine()}{os.getpid() % 16**6:06x}"


def is_gone(process: str, noted: Path) -> bool:
    """Whether another process, by its ten digits, has ended; one of another machine a day after its note."""
    if process[:4] != _machine():
        return time.time() - noted.stat().st_mtime > _FORGOTTEN
    number = int(process[4:], 16)
    return number == os.getpid() or not _lives(number)


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def as_path(path: object) -> Path:
    """A path as such; raises ``BadInput`` for what is none."""
    if not isinstance(path, str | os.PathLike):
        raise BadInput(f"a path is a string or a Path, not {type(path).__name__}")
    return Path(path)


def reason_of(error: OSError) -> str:
    """What the system says of it, as one phrase."""
    return error.strerror.lower() if error.strerror else one_line(error)


def one_line(error: Exception) -> str:
    """The message on one line, cut where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."

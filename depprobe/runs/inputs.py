"""What the layers read: seeded noise, text, arrays and tables. No torch here.

    noise    x ~ N(0, 1), (n, d_in)
    .txt     bytes through a fixed random embedding, E ~ N(0, 1), (256, d_in); also .md, .py and other text
    .npy     an array (length, d_in) or (length,);   .csv, .tsv   columns of numbers, see ``runs.tables``
    .wav     sound (samples, channels) in -1 .. 1, which a model of sound reads as its own frames

A file longer than n gives its first n positions, or evenly spaced windows where several samples are asked
for; a shorter one is an error, and so are windows that would overlap: they would be no samples of their own.
Files are data: nothing in them is run, and pickles are refused.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depprobe.errors import BadInput
from depprobe.models.checkpoint import ReadsText
from depprobe.runs.tables.csv_table import SUFFIXES, Table, read_table, standardised
from depprobe.runs.tables.frame import NAME, READERS, as_csv, is_frame, read_frame
from depprobe.store.atomic import one_line
from depprobe.units import counted, readable

Floats = NDArray[np.float64]

#: suffixes of known files that are no input
_NOT_TEXT = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".gguf", ".onnx"), "weights"),
    ".npz": "several arrays",
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "a pickle"),
    **dict.fromkeys((".nc", ".h5", ".hdf5", ".mat", ".zarr"), "a dataset"),
    **dict.fromkeys(READERS, "a table of another kind"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".docx", ".mp4"), "no text"),
    **dict.fromkeys((".mp3", ".flac", ".ogg", ".m4a"), "compressed sound"),
    **dict.fromkeys((".zip", ".gz", ".bz2", ".xz", ".tar", ".7z", ".whl"), "an archive"),
}
#: two lines of numbers at the start of a text
_NUMBERS = re.compile(rb"(\s*[-+]?(\d+\.?|\d*\.\d+)(e[-+]?\d+)?([ \t,;]+|\r?\n|$)){4}", re.IGNORECASE)
_OF_NUMBERS = "it holds numbers and is read as text, byte by byte; as a table it would be a .csv or .tsv file"
_READ = "use noise or a .txt, .npy, .csv, .tsv or .wav file"
#: positions that are read where no length is asked for
DEFAULT_LENGTH = 1000
#: seeds of what stays fixed whatever ``--seed`` says: the byte embedding and the joining projection
_EMBEDDING_SEED, _PROJECTION_SEED = 256, 1


@dataclass(frozen=True)
class Source:
    """An input of any length, from which a layer takes windows (n, d_in).

    ``width`` is the input's own d_in, or None where it takes the width the layer asks for; ``rate`` are
    samples a second, of sound; ``about`` says what was read of a table, for the attributes of a dataset,
    and ``notes`` what was recognised in it.
    """

    name: str
    data: Floats | None = None
    text: bytes | None = None
    rate: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int | None:
        """Own d_in of the input; None for noise and text."""
        return None if self.data is None else self.data.shape[1]

    @property
    def length(self) -> int | None:
        """Number of positions; None for noise, which is as long as it is asked to be."""
        if self.text is not None:
            return len(self.text)
        return None if self.data is None else len(self.data)

    def own_length(self, samples: int) -> int:
        """The length where none is asked for: the default, or what a shorter file holds for each sample."""
        return DEFAULT_LENGTH if self.length is None else min(DEFAULT_LENGTH, self.length // max(samples, 1))

    def check(self, n: int | None, samples: int = 1) -> None:
        """Refuse what ``windows`` cannot give; raises ``BadInput``."""
        asked, n = n is not None, DEFAULT_LENGTH if n is None else n
        if n < 2:
            raise BadInput(f"n must be at least 2, not {n}")
        if samples < 1:
            raise BadInput(f"samples must be at least 1, not {samples}")
        if self.length is None or self.length >= n * samples:
            return
        if self.length >= n:
            apart, shorter = self.length // n, self.length // samples
            raise BadInput(
                f"{self.name} holds {counted(apart, 'window')} of n = {n} positions side by side, and "
                f"samples = {samples} were asked for; use --samples {apart}{' or less' * (apart > 1)}"
                + f", or --n {shorter} or less"
                * (shorter >= 2)
            )
        remedy = f"use --n {self.length} or less" if self.length >= 2 else "use a longer one"
        held = f"{self.name} holds {counted(self.length, 'position')}"
        if asked:
            raise BadInput(f"{held} and n = {n} were asked for; {remedy}")
        raise BadInput(f"{held} and the default n = {n} is longer; {remedy}")

    def windows(self, n: int | None, d: int, samples: int = 1, seed: int = 0) -> Floats:
        """``samples`` windows of n positions, 1000 by default: (samples, n, d_in), d_in ``width`` or d."""
        self.check(n, samples)
        n = DEFAULT_LENGTH if n is None else n
        length = self.length
        if length is None:
            return np.random.default_rng([seed, 1]).standard_normal((samples, n, d))
        starts = np.linspace(0, length - n, samples).astype(int)
        rows: NDArray = np.frombuffer(self.text or b"", dtype=np.uint8) if self.data is None else self.data
        windows = np.stack([rows[start : start + n] for start in starts])
        if self.data is not None:
            return windows
        return np.random.default_rng(_EMBEDDING_SEED).standard_normal((256, d))[windows]


def joined(x: Floats, d: int) -> Floats:
    """Bring inputs (..., d_in) to width d by a fixed random projection P ~ N(0, 1/d_in)."""
    d_in = x.shape[-1]
    return x @ np.random.default_rng(_PROJECTION_SEED).normal(0.0, d_in**-0.5, (d_in, d))


def read(
    name: Any,
    columns: str | int | Sequence[str | int] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    standardise: bool = False,
) -> Source:
    """The input that ``--input`` names: ``noise``, or a file (.npy, .csv, .tsv, .wav, otherwise text).

    Parameters
    ----------
    name : ``noise``, the file, or a DataFrame, which is read as a file of it would be.
    columns : of a table, names or positions from 0, as a list or with commas between; all but
        those that say where a row stands (dates, times, row numbers) by default, which ``notes`` then say.
    delimiter : between the columns of a table: one character, ``tab``, or ``space`` for any run of blanks.
    decimal : the mark before the fraction in a table's numbers.
    standardise : bring every column of a table or array to mean 0 and standard deviation 1 over all its rows.

    Raises
    ------
    BadInput : no such file, a kind that is not read, empty, truncated, not two-dimensional, holding what is
        not a finite number, or an option that has no meaning for it.

    Examples
    --------
    >>> read("noise").width is None
    True
    """
    if is_frame(name):
        if delimiter is not None or decimal is not None:
            raise BadInput("delimiter and decimal are for files, not for a DataFrame; leave them out")
        return _of_table(read_frame(name, columns), Path(NAME), standardise)
    if not isinstance(name, str | Path):
        raise BadInput(f"an input is named by text or a Path, not by {type(name).__name__} {name!r:.40}")
    path, name = Path(name), str(name)
    suffix = path.suffix.lower()
    given = {"columns": columns, "delimiter": delimiter, "decimal": decimal}
    for option, value in (given | {"standardise": standardise or None}).items():
        kinds = (*SUFFIXES, ".npy") if option == "standardise" else tuple(SUFFIXES)
        if value is not None and (name == "noise" or suffix not in kinds):
            raise BadInput(f"{option} is for {', '.join(kinds)} files, not for {path.name!r}; leave it out")
    if name == "noise":
        return Source("noise")
    try:
        if not path.is_file():
            what = f"input {name!r} is a folder" if name and path.is_dir() else f"no such input {name!r}"
            raise BadInput(f"{what}; {_READ}")
        if path.stat().st_size == 0:
            raise BadInput(f"input {name!r} is empty")
        if suffix in _NOT_TEXT:
            raise BadInput(
                f"cannot read {name!r} as an input: {suffix} is {_NOT_TEXT[suffix]}; {_READ}{as_csv(path)}"
            )
        if suffix in SUFFIXES:
            return _of_table(read_table(path, columns, delimiter, decimal), path, standardise)
        if suffix == ".npy":
            data = _checked(_read_npy(path), name)
            return _of_columns(path, data, [f"column {j}" for j in range(data.shape[1])], {}, standardise)
        if suffix == ".wav":
            rate, sound = _read_wav(path)
            return Source(path.name, data=_checked(sound, name), rate=rate)
        text = _read_text(path)
        return Source(path.name, text=text, notes=(_OF_NUMBERS,) if _NUMBERS.match(text) else ())
    except OSError as error:
        raise BadInput(f"cannot read input {name!r}: {error.strerror or error}") from None
    except BadInput:
        raise
    except Exception as error:  # damage surfaces as whatever the decoder meets first
        raise BadInput(f"cannot read input {name!r}: {one_line(error)}") from None


def _of_table(table: Table, path: Path, standardise: bool) -> Source:
    about: dict[str, Any] = {"input_columns": ", ".join(table.names)}
    if table.index:
        about["input_index"] = table.index
    return _of_columns(path, table.data, table.names, about, standardise, table.notes)


def _of_columns(
    path: Path,
    data: Floats,
    names: Sequence[str],
    about: dict[str, Any],
    standardise: bool,
    notes: tuple[str, ...] = (),
) -> Source:
    if standardise:
        data, mean, std = standardised(data, names)
        about = about | {"input_mean": _plain(mean), "input_std": _plain(std)}
    return Source(path.name, data=data, about=about, notes=notes)


def _plain(values: Floats) -> Any:
    """As netCDF holds it in an attribute: a list of one number comes back as the number."""
    return values.tolist() if len(values) > 1 else float(values[0])


def _read_text(path: Path) -> bytes:
    text = path.read_bytes()
    if b"\0" in text:
        raise BadInput(f"cannot read {str(path)!r} as a text: it holds NUL bytes; {_READ}")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"cannot read {str(path)!r} as a text: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from None
    return text


def _read_npy(path: Path) -> NDArray:
    """The array in a .npy file, its header read first: what it claims may be a pickle, or not be there."""
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise BadInput(f"cannot read input {str(path)!r}: it is not a .npy file; pickles are refused")
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        reader = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
        shape, _, dtype = getattr(np.lib.format, reader)(stream)
        if dtype.hasobject:
            raise BadInput(f"cannot read input {str(path)!r}: it holds Python objects; pickles are refused")
        claimed, found = math.prod(shape) * dtype.itemsize, path.stat().st_size - stream.tell()
        if found < claimed:
            raise BadInput(
                f"cannot read input {str(path)!r}: it is truncated, {readable(found)} of the "
                f"{readable(claimed)} that shape {shape} takes"
            )
    return np.load(path, allow_pickle=False)


def _read_wav(path: Path) -> tuple[float, NDArray]:
    """Samples a second, and the sound (samples, channels) in -1 .. 1."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        # chunks of the file that hold no sound
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        rate, sound = wavfile.read(path)
    if sound.dtype == np.uint8:
        sound = sound.astype(np.int16) * 256 - 2**15
    if sound.dtype.kind == "i":
        sound = sound / -float(np.iinfo(sound.dtype).min)
    return rate, sound.reshape(len(sound), -1)


def _checked(data: NDArray, name: str) -> Floats:
    if data.dtype.kind not in "iuf":
        raise BadInput(f"input {name!r} holds {data.dtype}; it must hold real numbers")
    if data.size == 0:
        raise BadInput(f"input {name!r} is empty")
    data = data[:, None] if data.ndim == 1 else data
    if data.ndim != 2:
        way = "; save one sample, or give all to depprobe.jacobian in Python" if data.ndim == 3 else ""
        raise BadInput(f"input {name!r} has shape {data.shape}; it must be (length,) or (length, width){way}")
    if not np.isfinite(data).all():
        raise BadInput(f"input {name!r} holds NaN or Inf; every entry must be finite")
    return data.astype(np.float64)


def symbol_of(x: Any, subject: Any) -> str:
    """What one position of an input is: "byte" or "token" of a text; "" where it is no text."""
    is_text = isinstance(x, Source) and x.text is not None
    if isinstance(getattr(subject, "make", None), ReadsText) and (is_text or not isinstance(x, Source)):
        return "token"
    return "byte" if is_text else "token" if callable(getattr(x, "tokens", None)) else ""

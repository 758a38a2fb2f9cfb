"""What figures say: names of curves and panels, the norm shown, the conditions it was measured under."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import xarray as xr
from matplotlib.mathtext import MathTextParser

from depprobe.curves.align import UNKNOWN, each_curve, in_words, placed
from depprobe.curves.names import in_formulas, numerator, one_setting, repeats, told_apart, value_of
from depprobe.errors import BadInput, unknown, wrong_number
from depprobe.figures.drawing.log_axis import log10_of
from depprobe.vocabulary import NORMS, STATUS

#: most letters of a token on an axis
_LETTERS = 14
#: no log10 of a norm reaches it
_LARGEST = 1e15

Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def as_list(datasets: xr.Dataset | Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """One dataset or several as a list; raises ``BadInput`` for anything else."""
    given: list[Any] = list(datasets) if isinstance(datasets, list | tuple) else [datasets]
    for ds in given:
        if not isinstance(ds, xr.Dataset):
            raise BadInput(f"a figure takes datasets, not {type(ds).__name__}")
    return [placed(one_setting(ds)) for ds in given]


def by_layer(
    datasets: xr.Dataset | Sequence[xr.Dataset], labels: Sequence[str] | None
) -> list[tuple[str, xr.Dataset]]:
    """Each layer (and depth) of each dataset with the name it goes by in the figure.

    Parameters
    ----------
    datasets : one dataset or several, each with or without ``layer`` and ``depth``.
    labels : one name per layer, or None for the spec strings, told apart by attributes where they repeat.

    Raises
    ------
    BadInput : no dataset, something else than a dataset, or a wrong number of labels.
    """
    parts = [part for ds in as_list(datasets) for part in each_curve(ds)]
    if not parts:
        raise BadInput("nothing to draw: no dataset was given")
    if labels is not None and len(labels) != len(parts):
        raise wrong_number(len(labels), "label", len(parts), "layer")
    names = list(labels) if labels is not None else told_apart(parts)
    return list(zip(names, parts, strict=True))


def printable(name: str, width: int = 30) -> str:
    """A name as it can be drawn: formulas, no accidental mathematics, long names in lines.

    Examples
    --------
    >>> printable("cost$x"), printable("LSTM, $d=64$")
    ('cost\\\\$x', 'LSTM, $d=64$')
    """
    pieces: list[str] = []
    for words, formula in in_formulas(name):
        if formula and _can_be_set(words):
            pieces.append(words)
        else:
            cut = _pieces(words, width, (" ", ",:", "=", "-", ""))
            pieces += [piece.replace("$", r"\$") for piece in cut]
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _settable(title: str) -> str:
    """A title as it is, or, where matplotlib cannot read a formula in it, with that one as it is written."""
    if _can_be_set(title):
        return title
    pieces = (
        words if formula and _can_be_set(words) else words.replace("$", r"\$")
        for words, formula in in_formulas(title.replace(r"\$", "$"))
    )
    return "".join(pieces)


def _can_be_set(formula: str) -> bool:
    """Whether matplotlib reads a formula, which may be LaTeX that it does not know."""
    try:
        MathTextParser("path").parse(formula)
    except ValueError:
        return False
    return True


def _pieces(name: str, width: int, marks: Sequence[str]) -> list[str]:
    """A name cut after the first kind of mark, and after the next kinds where a piece is too long still."""
    if not marks[0]:
        return [name[i : i + width] for i in range(0, len(name), width)]
    pieces = re.findall(f"[^{marks[0]}]+[{marks[0]}]?|[{marks[0]}]", name)
    return [
        part
        for piece in pieces
        for part in (_pieces(piece, width, marks[1:]) if len(piece) > width else [piece])
    ]


def asks(draw: Drawing) -> Drawing:
    """Decorator of a figure function: refuses titles and labels that are no text, other switches."""

    @functools.wraps(draw)
    def asked(*args: Any, **kwargs: Any) -> Any:
        if hasattr(kwargs.get("labels"), "__array__"):
            kwargs["labels"] = np.asarray(kwargs["labels"]).tolist()
        title, labels, across = (kwargs.get(name) for name in ("title", "labels", "across"))
        if title is not None and not isinstance(title, str):
            raise BadInput(f"title must be text, or None; got {title!r}")
        if title:
            kwargs["title"] = _settable(title)
        for name in ("legend", "share_legend", "share_floor", "colorbar"):
            if not isinstance(kwargs.get(name, True), bool | np.bool_):
                raise BadInput(f"{name} must be true or false; got {kwargs[name]!r}")
        if labels is not None and not isinstance(labels, list | tuple):
            raise BadInput(f"labels are a list of names, one a layer; not {type(labels).__name__}")
        for label in labels or ():
            if not isinstance(label, str):
                raise BadInput(f"a label must be text; got {label!r}")
        if across is not None and not isinstance(across, int | np.integer):
            raise BadInput(f"across must be a number of panels in a row, 1 or more, not {across!r}")
        return draw(*args, **kwargs)

    return cast(Drawing, asked)


def check_number(name: str, value: Any) -> None:
    """Refuse an option that is neither a number nor None."""
    real = isinstance(value, int | float | np.number)
    if value is not None and not (real and (abs(value) < _LARGEST or abs(value) == math.inf)):
        raise BadInput(f"{name} is a log10 of a norm, a number or None; got {value!r}")


def floors(given: Any, panels: Iterable[str]) -> dict[str, float]:
    """The lowest values that panels show, by panel; raises ``BadInput`` for what is none."""
    names = list(panels)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise BadInput(f"floor has one number for each panel, as in {{{names[0]!r}: -4}}; got {given!r}")
    for name, value in given.items():
        if name not in names:
            raise unknown("panel", str(name), names)
        check_number("floor", value)
    return {str(name): float(value) for name, value in given.items()}


def token(word: str) -> str:
    """A token, cut where it is long, with blanks and line ends to be seen and no mathematics read into it."""
    marks = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "$": r"\$"}
    word = word if len(word) <= _LETTERS else f"{word[: _LETTERS - 1]}\u2026"
    return "".join(marks.get(letter, letter if letter.isprintable() else "\u00b7") for letter in word)


def norm_label(parts: Sequence[xr.Dataset], short: bool = False) -> str:
    """Axis label of the norm that all parts show, or its symbol alone."""
    symbol = NORMS.get(str(_shared(parts, "norm")), r"\Vert J_{t,k}\Vert")
    return f"${symbol}$" if short else f"norm ${symbol}$ (dimensionless)"


def unknown_norms(parts: Sequence[xr.Dataset]) -> str:
    """How many norms of decay curves are not known, by kind; "" where all are."""
    counts = {name: sum(int(part[name].sum()) for part in parts if name in part) for name in UNKNOWN}
    total = sum(int(part["unknown"].sum()) for part in parts)
    return in_words(counts) or (f"{total:,} unknown" if total else "")


def kinds_of_unknown(parts: Sequence[xr.Dataset]) -> str:
    """Which kinds of norms are not known, and below what where they may be small."""
    stored = [part["log_norm_status"].values for part in parts if "log_norm_status" in part]
    kinds = [kind for kind in UNKNOWN if any((one == STATUS[kind]).any() for one in stored)]
    floors = {part.attrs["log_floor"] for part in parts if "log_floor" in part.attrs}
    small = not kinds or {"underflow", "undecided"} & {*kinds}
    below = rf", below $10^{{{log10_of(max(floors)):.0f}}}$" if floors and small else ""
    return (", ".join(kind.replace("_", " ") for kind in kinds) or "unknown") + below


def conditions(parts: Sequence[xr.Dataset]) -> list[str]:
    """What was measured, of what all parts share, for a title."""
    pairs = {(numerator(value_of(part, "of")), str(value_of(part, "wrt"))) for part in parts}
    of, wrt = pairs.pop() if len(pairs) == 1 else ("", "")
    modules = [*dict.fromkeys(str(value_of(part, "submodule")) for part in parts)]
    one = modules[0] if len(modules) == 1 else "m"
    above, below = (_in_formula(one if "*" in name else name) for name in (of, wrt))
    said = [rf"$J_{{t,k}} = \partial {above}_t / \partial {below}_k$"] if above and below else []
    if said and "*" in of + wrt and len(modules) > 1:
        alike = len(parts) == len(modules) * len({value_of(part, "layer") for part in parts})
        said.append(f"$m$ = {modules[0]} to {modules[-1]}" if alike else f"$m$ = {of if '*' in of else wrt}")
    return [*said, *sizes(parts)]


def _in_formula(name: str) -> str:
    """A state, or an output or submodule by its name, in a formula; "" for names that cannot be set."""
    if name in ("x", "h", "c", "m"):
        return name
    plain = name != "None" and re.fullmatch(r"[A-Za-z0-9_.*]+", name)
    return rf"\text{{{name}}}".replace("_", r"\_") if plain else ""


def symbol(part: xr.Dataset) -> str:
    """What one position of the input is: a byte, a token, or, where nothing else is known, a position."""
    return str(value_of(part, "symbol") or "position")


def sentences(*said: str) -> str:
    """Sentences of a caption in a row; empty ones left out."""
    return " ".join(f"{one[0].upper()}{one[1:].rstrip('.')}." for one in said if one)


def split(caption: str) -> list[str]:
    """The sentences of a caption.

    Examples
    --------
    >>> split(sentences("bands: 5 to 95 %", "the lowest norm is 0.5"))
    ['Bands: 5 to 95 %.', 'The lowest norm is 0.5.']
    """
    return [one for one in re.split(r"(?<=\.) (?=[A-Z$])", caption) if one]


def sizes(parts: Sequence[xr.Dataset]) -> list[str]:
    """Length, width, and seed or numbers of seeds and samples, each where all parts share it."""
    # 0 is the length of no sequence
    said = [f"${name}$ = {_shared(parts, name)}" for name in ("n", "d") if _shared(parts, name)]
    repeated = {repeats(part) for part in parts}
    return [*said, *filter(None, repeated)] if len(repeated) == 1 else said


def _shared(parts: Sequence[xr.Dataset], name: str) -> Any:
    values = [value_of(part, name) for part in parts]
    return values[0] if len(set(map(str, values))) == 1 else None

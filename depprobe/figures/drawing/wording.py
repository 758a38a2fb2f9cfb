"""What figures say: names of curves and panels, the norm shown, the conditions it was measured under."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from depprobe.curves.align import UNKNOWN, each_curve, in_words
from depprobe.errors import BadInput
from depprobe.vocabulary import NORMS, repeats

#: where two datasets show the same layer, what may tell them apart
_DISTINGUISHING = ("depth", "n", "d", "seed", "norm", "wrt", "dtype", "method", "tolerance")


def as_list(datasets: xr.Dataset | Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """One dataset or several as a list; raises ``BadInput`` for anything else."""
    given: list[Any] = list(datasets) if isinstance(datasets, list | tuple) else [datasets]
    for ds in given:
        if not isinstance(ds, xr.Dataset):
            raise BadInput(f"a figure takes datasets, not {type(ds).__name__}")
    return given


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
    if labels is not None and not isinstance(labels, list | tuple):
        raise BadInput(f"labels are a list of names, one a layer; not {type(labels).__name__}")
    if labels is not None and len(labels) != len(parts):
        raise BadInput(f"{len(labels)} labels were given for {len(parts)} layers")
    names = list(labels) if labels is not None else _told_apart(parts)
    return list(zip(names, parts, strict=True))


def printable(name: str, width: int = 30) -> str:
    """A name as it can be drawn: no accidental mathematics, long spec strings broken after their marks.

    Examples
    --------
    >>> printable("cost$x")
    'cost\\\\$x'
    """
    lines = [""]
    for piece in _pieces(name, width, (",:", "=", "-", "")):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines).replace("$", r"\$")


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


def check_number(name: str, value: Any) -> None:
    """Refuse an option that is neither a number nor None."""
    if value is not None and not isinstance(value, int | float | np.number):
        raise BadInput(f"{name} is a log10 of a norm, a number or None; got {value!r}")


def norm_label(parts: Sequence[xr.Dataset]) -> str:
    """Axis label of the norm that all parts show."""
    symbol = NORMS.get(str(_shared(parts, "norm")), r"\Vert J_{t,k}\Vert")
    return f"norm ${symbol}$ (dimensionless)"


def unknown_norms(parts: Sequence[xr.Dataset]) -> str:
    """How many norms of decay curves are not known, by kind; "" where all are."""
    counts = {name: sum(int(part[name].sum()) for part in parts if name in part) for name in UNKNOWN}
    total = sum(int(part["unknown"].sum()) for part in parts)
    return in_words(counts) or (f"{total:,} unknown" if total else "")


def conditions(parts: Sequence[xr.Dataset]) -> str:
    """One line on what was measured, of what all parts share."""
    wrt = _shared(parts, "wrt")
    said = [rf"$J_{{t,k}} = \partial h_t / \partial {wrt}_k$"] if wrt in ("x", "h", "c") else []
    return ",  ".join([*said, *sizes(parts)])


def sizes(parts: Sequence[xr.Dataset]) -> list[str]:
    """Length, width, and seed or numbers of seeds and samples, each where all parts share it."""
    # 0 is the length of no sequence
    said = [f"${name}$ = {_shared(parts, name)}" for name in ("n", "d") if _shared(parts, name)]
    repeated = {repeats(part) for part in parts}
    return [*said, *filter(None, repeated)] if len(repeated) == 1 else said


def _shared(parts: Sequence[xr.Dataset], name: str) -> Any:
    values = {str(part.attrs.get(name)) for part in parts}
    return parts[0].attrs.get(name) if len(values) == 1 else None


def _told_apart(parts: Sequence[xr.Dataset]) -> list[str]:
    names = [_spec(part) for part in parts]
    result = []
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        same = [other for other, theirs in zip(parts, names, strict=True) if theirs == name]
        differing = [a for a in _DISTINGUISHING if len({str(_value(other, a)) for other in same}) > 1]
        if len(same) == 1:
            result.append(name)
        elif differing:
            result.append(f"{name} ({', '.join(f'{a}={_value(part, a)}' for a in differing)})")
        else:
            result.append(f"{name} ({names[: i + 1].count(name)})")
    return result


def _spec(part: xr.Dataset) -> str:
    return str(_value(part, "layer") or "layer")


def _value(part: xr.Dataset, name: str) -> Any:
    if name in part.coords and part[name].ndim == 0:
        return part[name].item()
    return part.attrs.get(name)

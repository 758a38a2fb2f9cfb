"""Names for the curves of several datasets: spec strings, with what differs where several are the same.

Of a sweep, which holds cells of several settings, one is taken, or refused by the settings to choose from.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from os.path import splitext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from depprobe.curves.selected import selected
from depprobe.errors import BadInput
from depprobe.vocabulary import KINDS

#: where two datasets show the same layer, what may tell them apart; options of their commands come after
_DISTINGUISHING = (
    *("part", "depth", "n", "d", "seed", "sample"),
    *("norm", "of", "wrt", "dtype", "method", "tolerance"),
)
#: options of a command that name the layer, which is told already
_NAMING = ("layer", "model", "weights")
#: entry of a dataset's encoding that holds the file it was read from, as xarray has it
FILE = "source"
#: what the commands put at the end of a file's name
_HASH = re.compile(r"_[0-9a-f]{8}$")
#: a formula: no blank behind its first dollar or before its last, and nothing that ends or escapes it
_FORMULA = re.compile(r"(?<!\\)(\$(?!\s)[^$#%&~\n]+(?<![\s\\])\$)(?!\d)")
#: in a sweep, what says over its axes why cells hold nothing
REASON = "missing_reason"
#: axes of a sweep that summaries and figures of a kind tell apart or pool
_TOLD = {
    "jacobian": ("layer", "depth", "seed", "sample"),
    "lyapunov": ("layer",),
    "cost": ("layer", "n", "d", "phase", "threads"),
}


def told_apart(parts: Sequence[xr.Dataset]) -> list[str]:
    """A name for each curve: its spec string, with what differs where several have the same.

    What was measured comes first, then the options of the commands, the target, the files, at last a number.
    """
    names = [curve_name(part) for part in parts]
    said: list[list[str]] = [[] for _ in parts]
    for differing in (_settings, _options, _targets, _files, _numbers):
        alike: dict[tuple[str, ...], list[int]] = {}
        for i, name in enumerate(names):
            alike.setdefault((name, *said[i]), []).append(i)
        for same in alike.values():
            if len(same) > 1:
                for i, words in zip(same, differing([parts[i] for i in same]), strict=True):
                    said[i] += words
    return [
        f"{name} ({', '.join(words)})" if words else name for name, words in zip(names, said, strict=True)
    ]


def curve_name(part: xr.Dataset) -> str:
    """The layer of one curve, and along depth the submodule that it belongs to."""
    layer, submodule = str(value_of(part, "layer") or "layer"), value_of(part, "submodule")
    return f"{layer} {submodule}" if submodule else layer


def numerator(of: Any) -> str:
    """What stands above in J[t,k]: h for a model's output, or another output or submodule by name."""
    return "h" if of in (None, "None", "output") else str(of)


def _settings(parts: Sequence[xr.Dataset]) -> list[list[str]]:
    """What was measured, where it differs."""
    differing = [a for a in _DISTINGUISHING if len({str(value_of(part, a)) for part in parts}) > 1]
    return [[f"{a}={value_of(part, a)}" for a in differing] for part in parts]


def _options(parts: Sequence[xr.Dataset]) -> list[list[str]]:
    """The options in which the commands of datasets differ."""
    every = [_given(part) for part in parts]
    names = [name for name in dict.fromkeys(key for one in every for key in one) if name not in _NAMING]
    differing = [name for name in names if len({one.get(name) for one in every}) > 1]
    return [[f"{name}={one.get(name, 'default')}" for name in differing] for one in every]


def _targets(parts: Sequence[xr.Dataset]) -> list[list[str]]:
    """The targets of datasets with one each, where they differ."""
    one = [part["target"].values.ravel() if "target" in part.coords else np.array([]) for part in parts]
    told = all(each.size == 1 for each in one) and len({int(each[0]) for each in one}) > 1
    return [[f"t={each[0]}"] if told else [] for each in one]


def _files(parts: Sequence[xr.Dataset]) -> list[list[str]]:
    """The files that datasets were read from, without a hash in their names, and a folder only if needed."""
    files = [Path(splitext(part.encoding.get(FILE, ""))[0]) for part in parts]
    for depth in (1, 2):
        names = [_HASH.sub("", "/".join(file.parts[-depth:])) for file in files]
        if len(set(names)) > 1:
            return [[name] if name else [] for name in names]
    return [[] for _ in parts]


def _numbers(parts: Sequence[xr.Dataset]) -> list[list[str]]:
    return [[str(number)] for number, _ in enumerate(parts, 1)]


def _given(part: xr.Dataset) -> dict[str, str]:
    """The options in the command that a dataset records."""
    try:
        words = shlex.split(str(json.loads(part.attrs["provenance"])["command"]))
    except (KeyError, TypeError, ValueError):
        return {}
    found = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word.removeprefix("--")] = "" if after.startswith("--") else after
    return found


def value_of(part: xr.Dataset, name: str) -> Any:
    """The coordinate or attribute of that name, None where there is neither."""
    if name in part.coords and part[name].ndim == 0:
        return part[name].item()
    return part.attrs.get(name)


def one_setting(ds: xr.Dataset) -> xr.Dataset:
    """A dataset of a sweep at the one setting that it holds, without padding; any other as it is.

    Raises
    ------
    BadInput : it holds several, along axes that nothing of its kind tells apart; says how to choose one.

    Examples
    --------
    >>> reason = (("n", "d"), [["", ""], ["", ""]])
    >>> one_setting(xr.Dataset({"missing_reason": reason}, coords={"n": [9, 99], "d": [2, 3]}))
    Traceback (most recent call last):
    depprobe.errors.BadInput: a sweep over n (2 values) and d (2 values): choose one, as in ds.sel(n=9, d=2)
    """
    if not isinstance(ds, xr.Dataset):
        return ds
    ds = selected(ds)
    if REASON not in ds:
        return ds
    kind = next((kind for kind, variable in KINDS.items() if variable in ds), "")
    axes = [str(axis) for axis in ds[REASON].dims if axis not in _TOLD.get(kind, ())]
    several = [axis for axis in axes if ds.sizes[axis] > 1]
    if several:
        over = " and ".join(f"{axis} ({ds.sizes[axis]} values)" for axis in several)
        there = dict(zip(ds[REASON].dims, np.argwhere(ds[REASON].values == "")[:1].T.ravel(), strict=False))
        one = ", ".join(f"{axis}={ds[axis].values[there.get(axis, 0)].item()!r}" for axis in several)
        raise BadInput(f"a sweep over {over}: choose one, as in ds.sel({one})")
    ds = ds.squeeze(axes)
    known = {str(name): value.item() for name, value in ds.coords.items() if value.ndim == 0}
    ds = ds.assign_attrs(known | ds.attrs)
    if kind == "cost":
        ds = ds.expand_dims([axis for axis in ("layer", "n") if axis in ds.coords and axis not in ds.dims])
        ds = ds.assign_attrs({axis: ds[axis].values.tolist() for axis in ("n", "d") if axis in ds.dims})
    return ds if kind == "jacobian" else _without_padding(ds.compute())


def _without_padding(ds: xr.Dataset) -> xr.Dataset:
    """Without the positions that only cells of other settings have."""
    for dim in [dim for dim in ds.dims if dim not in ds[REASON].dims]:
        held = [variable for variable in ds.data_vars.values() if dim in variable.dims]
        there = [(one.notnull() & (one != "")).any([d for d in one.dims if d != dim]) for one in held]
        if there:
            ds = ds.isel({dim: np.flatnonzero(np.any([one.values for one in there], axis=0))})
    return ds


def repeats(ds: xr.Dataset) -> str:
    """The seed of a dataset, or how many seeds and samples it holds; "" where it has neither.

    A dataset over (seed, sample) has the numbers as sizes, one that pooled them as attributes.

    Examples
    --------
    >>> repeats(xr.Dataset(attrs={"seed": 3})), repeats(xr.Dataset(attrs={"seed": 3, "samples": 2}))
    ('seed 3', 'seed 3, 2 samples')
    >>> repeats(xr.Dataset(coords={"seed": [3, 4]}, attrs={"seed": 3}))
    '2 seeds'
    >>> repeats(xr.Dataset(coords={"seed": [4]}, attrs={"seed": 3}))
    'seed 4'
    """
    held = {name: ds[name].size for name in ("seed", "sample") if name in ds.coords and ds[name].ndim < 2}
    seeds, samples = (
        int(ds.sizes.get(name, held.get(name, ds.attrs.get(f"{name}s", 1)))) for name in ("seed", "sample")
    )
    seed = ds["seed"].values.item() if held.get("seed") == 1 else ds.attrs.get("seed")
    said = [f"{seeds} seeds"] if seeds > 1 else [f"seed {seed}"] if seed is not None else []
    return ", ".join([*said, f"{samples} samples"] if samples > 1 else said)


def in_formulas(name: str) -> list[tuple[str, bool]]:
    """A name in pieces, and of each whether it is a formula, between dollars as in LaTeX.

    Where a dollar belongs to no formula, none is one.

    Examples
    --------
    >>> in_formulas("LSTM, $d=64$"), in_formulas("$5 or $6")
    ([('LSTM, ', False), ('$d=64$', True)], [('$5 or $6', False)])
    """
    pieces = [(piece, i % 2 == 1) for i, piece in enumerate(_FORMULA.split(name)) if piece]
    odd = any("$" in piece.strip("$" * formula) for piece, formula in pieces)
    even = all(piece.count("{") == piece.count("}") for piece, formula in pieces if formula)
    return pieces if even and not odd else [(name, False)]


def of_each(datasets: Any, measure: Callable[[xr.Dataset], xr.Dataset]) -> xr.Dataset:
    """What is found of each dataset, joined along ``layer`` under names that tell all layers apart.

    Raises
    ------
    BadInput : no dataset, or something else than datasets.
    """
    if not isinstance(datasets, list | tuple) or not datasets:
        found = "an empty list" if isinstance(datasets, list | tuple) else type(datasets).__name__
        raise BadInput(f"a Jacobian dataset or a list of them is taken, not {found}")
    layers = [part for ds in datasets for part in _layers(ds)]
    names = iter(told_apart(layers))
    joined = []
    for ds in datasets:
        result, dim = measure(ds), "layer"
        if dim not in result.dims:
            result = result.drop_vars(dim, errors="ignore").expand_dims(dim)
        joined.append(result.assign_coords({dim: [next(names) for _ in _layers(ds)]}))
    shared = set.intersection(*({*map(str, one.coords)} for one in joined))
    joined = [one.drop_vars({*map(str, one.coords)} - shared) for one in joined]
    single = [name for name in shared if all(one[name].ndim == 0 for one in joined)]
    single = [name for name in single if len({str(one[name].values) for one in joined}) > 1]
    joined = [
        one.assign_coords(
            {name: ("layer", [one[name].values.item()] * one.sizes["layer"]) for name in single}
        )
        for one in joined
    ]
    return xr.concat(
        joined,
        dim="layer",
        data_vars="all",
        coords="minimal",
        compat="override",
        combine_attrs="drop_conflicts",
    )


def _layers(ds: xr.Dataset) -> list[xr.Dataset]:
    """The parts of a dataset, one a layer."""
    if not isinstance(ds, xr.Dataset):
        raise BadInput(f"a Jacobian dataset or a list of them is taken, not a list with {type(ds).__name__}")
    return [ds.isel(layer=i) for i in range(ds.sizes["layer"])] if "layer" in ds.dims else [ds]

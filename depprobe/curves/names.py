"""Names for the curves of several datasets: spec strings, with what differs where several are the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr

from depprobe.errors import BadInput

#: where two datasets show the same layer, what may tell them apart; options of their commands come after
_DISTINGUISHING = ("depth", "n", "d", "seed", "norm", "of", "wrt", "dtype", "method", "tolerance")
#: options of a command that name the layer, which is told already
_NAMING = ("layer", "model", "weights")


def told_apart(parts: Sequence[xr.Dataset]) -> list[str]:
    """A name for each curve: its spec string, with what differs where several have the same."""
    names = [_spec(part) for part in parts]
    result = []
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        same = [other for other, theirs in zip(parts, names, strict=True) if theirs == name]
        differing = [a for a in _DISTINGUISHING if len({str(value_of(other, a)) for other in same}) > 1]
        said = [f"{a}={value_of(part, a)}" for a in differing] or _options_apart(part, same)
        if len(same) == 1:
            result.append(name)
        else:
            result.append(f"{name} ({', '.join(said) or names[: i + 1].count(name)})")
    return result


def _options_apart(part: xr.Dataset, same: Sequence[xr.Dataset]) -> list[str]:
    """The options in which the commands of datasets differ, as this one has them."""
    own = _options(part)
    every = [_options(other) for other in same]
    names = [name for name in dict.fromkeys(key for one in every for key in one) if name not in _NAMING]
    differing = [name for name in names if len({one.get(name) for one in every}) > 1]
    return [f"{name}={own.get(name, 'default')}" for name in differing]


def _options(part: xr.Dataset) -> dict[str, str]:
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


def _spec(part: xr.Dataset) -> str:
    return str(value_of(part, "layer") or "layer")


def value_of(part: xr.Dataset, name: str) -> Any:
    """The coordinate or attribute of that name, None where there is neither."""
    if name in part.coords and part[name].ndim == 0:
        return part[name].item()
    return part.attrs.get(name)


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

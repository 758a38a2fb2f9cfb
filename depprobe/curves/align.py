r"""Blocks by lag: both stored forms of a Jacobian dataset as one table, layer by layer.

    lag = p_t - k,    p_t = floor(position_t + 1/2)        (half a position rounds up)

so the sources of one target never share a bin, whatever the stride. Only lags where some block is not an
exact zero get a column; the others are known by their number alone: a banded layer costs its band.

Shapes: m lags with a column, z without, T targets, R repeats (seeds times samples).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.errors import BadInput

#: leading dimensions a dataset may have; repeats come in this order
REPEATS = ("seed", "sample")
LEADING = ("layer", *REPEATS)
VALID = {*LEADING, "target", "source", "lag"}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """Log norms of one layer by lag.

    Attributes
    ----------
    lags : (m,) lags where some block is not an exact zero, ascending; where a layer looks both ways the
        mirror of each too, so that both directions can be pooled by distance.
    values : (m, T, R) natural logs; -inf exact zero, NaN unknown or not existing.
    exists : (m, T) whether the source at that lag lies inside the sequence.
    zero_lags : (z,) the other lags that exist, ascending; every block there is an exact zero.
    zero_counts : (z,) number of blocks at each.
    error : (m,) largest ``log_norm_error`` at each lag, or None.
    repeats : (seeds, samples), whose product is R.
    """

    lags: Ints
    values: Floats
    exists: NDArray[np.bool_]
    zero_lags: Ints
    zero_counts: Ints
    error: Floats | None
    repeats: tuple[int, int]


def check(ds: xr.Dataset) -> None:
    """Refuse what is not a Jacobian dataset, in one line that says why.

    Raises
    ------
    BadInput : no ``log_norm``; dimensions other than target, source or lag, layer, seed, sample; no
        ``position``; no attribute ``n`` beside a banded ``log_norm``; nothing in it; an infinite norm.
    """
    if "log_norm" not in ds:
        held = ", ".join(sorted(map(str, ds.data_vars))) or "nothing"
        raise BadInput(f"the dataset has no variable 'log_norm'; it holds {held}")
    dims = ds["log_norm"].dims
    if "target" not in dims or ("source" in dims) == ("lag" in dims) or not set(dims) <= VALID:
        raise BadInput(
            f"log_norm has dimensions ({', '.join(map(str, dims))}); "
            f"valid: (target, source) or (target, lag), with {', '.join(LEADING)} before them"
        )
    if "position" not in ds.coords or set(ds["position"].dims) - {"layer", "target"}:
        raise BadInput(
            "the dataset has no coordinate 'position' of each target; lag = position - source needs it"
        )
    if "lag" in dims and ("n" not in ds.attrs or "lag" not in ds.coords):
        raise BadInput(
            "log_norm(target, lag) needs the attribute 'n' (number of sources) and the coordinate 'lag'"
        )
    if ds["log_norm"].size == 0:
        raise BadInput(f"log_norm is empty: {dict(ds['log_norm'].sizes)}")
    infinite = int(np.isposinf(ds["log_norm"].values).sum())
    if infinite:
        raise BadInput(f"log_norm is +inf in {infinite} blocks: the run that made it overflowed")


def by_layer(ds: xr.Dataset) -> Iterator[tuple[xr.Dataset, Blocks]]:
    """Each layer's part of a dataset (its only part where there is no ``layer``) and its blocks by lag."""
    check(ds)
    for i in range(ds.sizes.get("layer", 1)):
        part = ds.isel(layer=i) if "layer" in ds.dims else ds
        yield part, _align(part)


def over_layers(ds: xr.Dataset, results: list[xr.Dataset], fill: dict[str, Any]) -> xr.Dataset:
    """One result per layer joined along ``layer`` with what labels it; ``fill`` for absent lags."""
    if "layer" not in ds.dims:
        return results[0]
    joined = xr.concat(
        results,
        dim="layer",
        data_vars="all",
        coords="minimal",
        compat="override",
        join="outer",
        fill_value=fill,
        combine_attrs="override",
    )
    return joined.assign_coords({k: v for k, v in ds.coords.items() if v.dims == ("layer",)})


def sources_of(ds: xr.Dataset, position: Floats) -> Ints:
    """Source position of every column of ``log_norm``: (T, C), or (1, C) where all targets share it."""
    if "source" in ds["log_norm"].dims:
        return ds["source"].values.astype(np.int64)[None, :]
    return np.floor(position[:, None] - ds["lag"].values[None, :] + 0.5).astype(np.int64)


def _align(ds: xr.Dataset) -> Blocks:
    banded = "lag" in ds["log_norm"].dims
    column = "lag" if banded else "source"
    repeats = (ds.sizes.get(REPEATS[0], 1), ds.sizes.get(REPEATS[1], 1))
    order = ("target", column, *(dim for dim in REPEATS if dim in ds["log_norm"].dims))

    def cells(name: str) -> Floats:
        stored = ds[name].transpose(*order).values.astype(np.float64, copy=False)
        return stored.reshape(*stored.shape[:2], -1)

    x = cells("log_norm")
    position = ds["position"].values.astype(np.float64)
    here = np.floor(position + 0.5).astype(np.int64)
    source = sources_of(ds, position)
    lag = here[:, None] - source
    inside = np.ones(x.shape[:2], bool)
    if banded:
        n = int(ds.attrs["n"])
        inside = (source >= 0) & (source < n)
        found, counts = _lags_of_band(here, n)
    else:
        found, counts = np.unique(lag, return_counts=True)

    support = np.unique(lag[(x != -np.inf).any(2) & inside])
    if (support < 0).any() and (support > 0).any():
        support = np.intersect1d(np.union1d(support, -support), found)
    t, c = np.nonzero(inside & np.isin(lag, support))
    row = np.searchsorted(support, lag[t, c])
    if banded:
        k = here[None, :] - support[:, None]
        exists = (k >= 0) & (k < n)
    else:
        exists = np.zeros((len(support), len(here)), bool)
        exists[row, t] = True
    values = np.where(exists[:, :, None], -np.inf, np.full((1, 1, x.shape[2]), np.nan))
    values[row, t] = x[t, c]

    error = None
    if "log_norm_error" in ds:
        error = np.zeros(len(support))
        np.fmax.at(error, row, np.fmax.reduce(cells("log_norm_error")[t, c], axis=1))
    empty = ~np.isin(found, support)
    return Blocks(support, values, exists, found[empty], counts[empty] * x.shape[2], error, repeats)


def _lags_of_band(here: Ints, n: int) -> tuple[Ints, Ints]:
    """Lags that exist between targets at ``here`` and all n sources, and how many pairs have each."""
    first, last = int(here.min()) - n + 1, int(here.max())
    change = np.zeros(last - first + 2, np.int64)
    np.add.at(change, here - n + 1 - first, 1)
    np.add.at(change, here + 1 - first, -1)
    counts = np.cumsum(change)[:-1]
    lags = np.arange(first, last + 1)
    return lags[counts > 0], counts[counts > 0]

r"""Blocks by lag: both stored forms of a Jacobian dataset as one table, layer by layer.

    lag = p_t - k,    p_t = floor(position_t + 1/2)        (half a position rounds up)

so the sources of one target never share a bin, whatever the stride. Only lags where some block is not an
exact zero get a column; the others are known by their number alone: a banded layer costs its band.

Shapes: m lags with a column, z without, T targets, R repeats (seeds times samples); a curve each for every
layer and depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.curves.names import one_setting
from depprobe.errors import BadInput, require_known
from depprobe.vocabulary import NORMALISED, STATUS, at_lag_0, describe, status_of

#: leading dimensions a dataset may have: a curve for each layer and depth, pooled over repeats
CURVES, REPEATS = ("layer", "depth"), ("seed", "sample")
LEADING = (*CURVES, *REPEATS)
VALID = {*LEADING, "target", "source", "lag"}
#: kinds of norms that exist and are not known: never taken for zeros, but left out and counted by kind
UNKNOWN: tuple[str, ...] = ("underflow", "overflow", "undecided", "not_a_number")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """Log norms of one layer by lag.

    Attributes
    ----------
    lags : (m,) lags where some block is not an exact zero, ascending; where a layer looks both ways the
        mirror of each too, so that both directions can be pooled by distance.
    values : (m, T, R) natural logs; -inf exact zero, NaN unknown, not measured or not existing.
    status : (m, T, R) what is known of each, see ``vocabulary.STATUS``.
    zero_lags : (z,) the other lags that exist, ascending; every block there is an exact zero.
    zero_counts : (z,) number of blocks at each.
    error : (m,) largest ``log_norm_error`` at each lag, or None.
    repeats : (seeds, samples), whose product is R.
    here : (T,) source that lag 0 of each target is, which is its lag to source 0.
    probed : (2, m, T, R) standard error from probes and loading of what values were measured; None if exact.
    normalised : whether values are over that of lag 0.
    """

    lags: Ints
    values: Floats
    status: NDArray[np.int8]
    zero_lags: Ints
    zero_counts: Ints
    error: Floats | None
    repeats: tuple[int, int]
    here: Ints
    probed: Floats | None = None
    normalised: bool = False

    def unknown(self, axis: tuple[int, ...]) -> dict[str, Ints]:
        """Numbers of blocks whose norm is not known: all, and by kind."""
        kinds = {name: (self.status == STATUS[name]).sum(axis) for name in UNKNOWN}
        return {"unknown": np.sum(list(kinds.values()), axis=0), **kinds}

    def over_diagonal(self) -> Blocks:
        """Each norm over that of its target's block at lag 0; undecided where that is zero or not known."""
        at = np.flatnonzero(self.lags == 0)
        diagonal = self.values[at[0]] if len(at) else np.full(self.values.shape[1:], np.nan)
        lost = ~np.isfinite(diagonal) & (self.status != STATUS["not_measured"])
        values = np.where(lost, np.nan, self.values - np.where(np.isfinite(diagonal), diagonal, 0.0))
        status = np.where(lost, STATUS["undecided"], self.status)
        return replace(self, values=values, status=status, normalised=True)


def in_words(counts: Mapping[str, int]) -> str:
    """How many norms are not known, by kind; "" where all are.

    Examples
    --------
    >>> in_words({"underflow": 1200, "overflow": 0, "undecided": 3})
    '1,200 underflow, 3 undecided'
    """
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in UNKNOWN if counts.get(name))


def check(ds: xr.Dataset) -> None:
    """Refuse what is not a Jacobian dataset, in one line that says why.

    Raises
    ------
    BadInput : its norms, dimensions, positions or status are not those of a Jacobian, or an infinite norm.
    """
    if not isinstance(ds, xr.Dataset):
        several = isinstance(ds, list | tuple)
        how = "one at a time, a call for each" if several else "as depprobe.jacobian gives it"
        raise BadInput(f"a dataset is taken {how}; not {type(ds).__name__}")
    if "log_norm" not in ds:
        held = ", ".join(sorted(map(str, ds.data_vars))) or "nothing"
        raise BadInput(f"the dataset has no variable 'log_norm'; it holds {held}")
    dims = ds["log_norm"].dims
    if "target" not in dims or ("source" in dims) == ("lag" in dims) or not set(dims) <= VALID:
        raise BadInput(
            f"log_norm has dimensions ({', '.join(map(str, dims))}); "
            f"valid: (target, source) or (target, lag), with {', '.join(LEADING)} before them"
        )
    if "position" not in ds.coords or np.isnan(ds["position"].values.astype(np.float64)).any():
        raise BadInput(
            "no coordinate 'position': where the outputs sit among the inputs is not known, and a lag needs "
            "it; measure with position= (--position): same, end, forecast or an array"
        )
    if set(ds["position"].dims) - {*CURVES, "target"}:
        raise BadInput(f"position is over ({', '.join(map(str, ds['position'].dims))}), not over (target)")
    if "lag" in dims and ("n" not in ds.attrs or "lag" not in ds.coords):
        raise BadInput("log_norm(target, lag) needs the attribute 'n' (of sources) and the coordinate 'lag'")
    if ds["log_norm"].size == 0:
        raise BadInput(f"log_norm is empty: {dict(ds['log_norm'].sizes)}")
    status: Any = ds.get("log_norm_status")
    # whole numbers unless it was computed with: joining makes float32 of 8 bits, a mean float64
    if status is not None and status.dtype.kind == "f":
        unlike = ((status == STATUS["finite"]) != np.isfinite(ds["log_norm"])) | (status % 1 > 0)
        if status.dtype == np.float64 or unlike.any():
            raise BadInput(
                "log_norm_status does not fit log_norm, as norms were averaged or changed; give the dataset "
                "as it was measured: seeds and samples are pooled here"
            )
    infinite = int(np.isposinf(ds["log_norm"].values).sum())
    if infinite:
        raise BadInput(f"log_norm is +inf in {infinite} blocks: the run that made it overflowed")


def placed(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with positions also of targets that a layer lacks, as joining layers by xarray leaves them.

    Any layer's place of such a target serves: no norm of it is there.
    """
    if "position" not in ds.coords or ds["position"].dims != ("layer", "target"):
        return ds
    values = ds["position"].values.astype(np.float64)
    missing = np.isnan(values) & ~np.isnan(values).all(1, keepdims=True)
    if not missing.any():
        return ds
    known = ds["position"].max("layer").values
    place = ds["position"].copy(data=np.where(missing, known, values))
    return ds.assign_coords(position=place)


def with_lag(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the lag of every block as a coordinate over (target, source), from its positions.

    It is that of the banded form; NaN where a position is. Unchanged, and the same object, where it is right
    already, and where there are no blocks over (target, source) at known positions.
    """
    held = "log_norm" in ds and "lag" not in ds.dims and {"source", "position"} <= set(ds.coords)
    if not held or "source" not in ds["log_norm"].dims:
        return ds
    here = at_lag_0(ds["position"].variable.astype(np.float64))
    kind = np.float64 if np.isnan(here.values).any() else np.int32
    lag = here.astype(kind) - ds["source"].variable.astype(kind)
    if "lag" in ds.coords and ds["lag"].variable.equals(lag) and ds["lag"].dtype == lag.dtype:
        return ds
    lag.attrs = describe("lag")
    return ds.assign_coords(lag=lag)


def by_layer(
    ds: xr.Dataset, skip_first: int = 0, normalise: str = "none"
) -> Iterator[tuple[xr.Dataset, Blocks]]:
    """Each curve's part of a dataset (one a layer and depth, where there are such) and its blocks by lag.

    ``skip_first`` sources are left out as if they did not exist; ``normalise`` is one of ``NORMALISED``.
    """
    if isinstance(ds, xr.Dataset):
        ds = placed(one_setting(ds))
    check(ds)
    if "source" in ds.dims:
        ds = with_lag(ds.assign_coords(source=ds["source"]))
    require_known("normalise", normalise, NORMALISED)
    if not isinstance(skip_first, int | np.integer) or isinstance(skip_first, bool) or skip_first < 0:
        raise BadInput(f"skip_first must be a number of sources, 0 or more; got {skip_first!r}")
    for part in each_curve(ds):
        blocks = _align(part, skip_first)
        yield part, blocks.over_diagonal() if normalise == "diagonal" else blocks


def each_curve(ds: xr.Dataset) -> list[xr.Dataset]:
    """The parts of a dataset that are not pooled: one a layer and depth, layer by layer.

    Each over the seeds, samples, targets and sources at which it was measured.
    """
    parts = [ds]
    for dim in CURVES:
        parts = (
            [one.isel({dim: i}) for one in parts for i in range(one.sizes[dim])] if dim in ds.dims else parts
        )
    joined = len(parts) > 1 and "log_norm_status" in ds
    return [_measured(part) for part in parts] if joined else parts


def _measured(part: xr.Dataset) -> xr.Dataset:
    there = part["log_norm_status"].fillna(STATUS["not_measured"]) != STATUS["not_measured"]
    if bool(there.all()) or not bool(there.any()):
        return part
    dims = [dim for dim in (*REPEATS, "target", "source") if dim in there.dims]
    kept = {dim: there.any([other for other in there.dims if other != dim]) for dim in dims}
    return part.isel({dim: np.flatnonzero(keep) for dim, keep in kept.items() if not bool(keep.all())})


def over_layers(ds: xr.Dataset, results: list[xr.Dataset], fill: dict[str, Any]) -> xr.Dataset:
    """One result per curve joined along ``layer`` and ``depth`` with its labels; ``fill`` for absent lags."""
    for dim in [dim for dim in reversed(CURVES) if dim in ds.dims]:
        size = ds.sizes[dim]
        runs = [results[i : i + size] for i in range(0, len(results), size)]
        results = [_joined(run, dim, fill) for run in runs]
    left = {k: v.variable for k, v in ds.coords.items() if set(v.dims) <= {*CURVES}}
    return results[0].assign_coords({k: v for k, v in left.items() if v.ndim or k not in results[0].dims})


def _joined(results: list[xr.Dataset], dim: str, fill: dict[str, Any]) -> xr.Dataset:
    how: dict[str, Any] = {"data_vars": "all", "coords": "minimal", "compat": "override"}
    return xr.concat(results, dim=dim, join="outer", fill_value=fill, combine_attrs="override", **how)


def band_sources(position: Floats, lags: NDArray[Any]) -> Ints:
    """Source of every target and lag of a banded ``log_norm``, also where there is none: (T, m)."""
    return at_lag_0(position).astype(np.int64)[:, None] - lags.astype(np.int64)


def _align(ds: xr.Dataset, first: int) -> Blocks:
    banded = "lag" in ds["log_norm"].dims
    column = "lag" if banded else "source"
    repeats = (ds.sizes.get(REPEATS[0], 1), ds.sizes.get(REPEATS[1], 1))
    order = ("target", column, *(dim for dim in REPEATS if dim in ds["log_norm"].dims))

    def cells(variable: xr.DataArray) -> NDArray[Any]:
        stored = variable.transpose(*order).values
        return stored.reshape(*stored.shape[:2], -1)

    x = cells(ds["log_norm"]).astype(np.float64, copy=False)
    here = at_lag_0(ds["position"].values.astype(np.float64)).astype(np.int64)
    lag = ds["lag"].transpose("target", column, missing_dims="ignore").values.astype(np.int64)
    lag = np.broadcast_to(lag, x.shape[:2])
    source = here[:, None] - lag if banded else ds["source"].values
    inside = np.broadcast_to(source >= first, x.shape[:2])
    if banded:
        n = int(ds.attrs["n"])
        inside = inside & (source < n)
        found, counts = _lags_of_band(here, first, n)
    else:
        found, counts = np.unique(lag[inside], return_counts=True)

    if first and not inside.any():
        raise BadInput(f"skip_first={first} leaves none of the {x.shape[1] if not banded else n} sources")
    support = np.unique(lag[(x != -np.inf).any(2) & inside])
    if (support < 0).any() and (support > 0).any():
        support = np.intersect1d(np.union1d(support, -support), found)
    t, c = np.nonzero(inside & np.isin(lag, support))
    row = np.searchsorted(support, lag[t, c])
    if banded:
        k = here[None, :] - support[:, None]
        exists = (k >= first) & (k < n)
    else:
        exists = np.zeros((len(support), len(here)), bool)
        exists[row, t] = True
    # a lag that a band leaves out is zero
    values = np.where(exists[:, :, None], -np.inf, np.full((1, 1, x.shape[2]), np.nan))
    values[row, t] = x[t, c]
    status = status_of(values, exists[:, :, None])
    if "log_norm_status" in ds:  # NaN where xarray joined: not measured
        status[row, t] = np.nan_to_num(cells(ds["log_norm_status"])[t, c])

    error = None
    if "log_norm_error" in ds:
        error = np.zeros(len(support))
        np.fmax.at(error, row, np.fmax.reduce(cells(ds["log_norm_error"])[t, c], axis=1))
    probed = np.zeros((2, *values.shape))
    for told, name in zip(probed, ("log_norm_stderr", "probe_loading"), strict=True):
        told[row, t] = np.nan_to_num(cells(ds[name])[t, c]) if name in ds else 0.0
    empty = ~np.isin(found, support)
    zeros = found[empty], counts[empty] * x.shape[2]
    return Blocks(support, values, status, *zeros, error, repeats, here, probed if probed[0].any() else None)


def _lags_of_band(here: Ints, start: int, n: int) -> tuple[Ints, Ints]:
    """Lags between targets at ``here`` and sources start to n - 1, and how many pairs have each."""
    first, last = int(here.min()) - n + 1, int(here.max()) - start
    change = np.zeros(max(last - first + 2, 1), np.int64)
    if last >= first:
        np.add.at(change, here - n + 1 - first, 1)
        np.add.at(change, here - start + 1 - first, -1)
    counts = np.cumsum(change)[:-1]
    lags = np.arange(first, last + 1)
    return lags[counts > 0], counts[counts > 0]

r"""How costs grow with length and width, and where one layer overtakes another.

    ln q = a_d + p_n ln n        p_n one slope for all widths, a_d one height a width; p_d the other way round
    n* with q_A(n*) = q_B(n*)    by straight lines in (ln n, ln q) between the lengths that were measured

A sum such as n^2 d + n d^2 is no power: its exponent is that of the lengths measured, between 1 and 2.
Times that something else on the machine disturbed give neither: quartiles more than ``APART`` times apart, or
more threads that take more than ``SLOWER`` times as long as one. Threads that do not help slow a pass down
little; threads that wait for a busy processor, a hundred times.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from depprobe.curves.align import Floats
from depprobe.errors import BadInput
from depprobe.vocabulary import ABOUT, describe

#: what grows
QUANTITIES = ("time", "flops", "peak_bytes")
#: quartiles of a normal distribution are so many standard deviations apart
_QUARTILES = 1.3489795
#: spread of ln time below which a point weighs no more: clocks and caches are not steadier
_STEADIEST = 0.01
_LEVEL = 0.95
#: draws of all costs that memory holds
_MOST_DRAWN = 100_000
#: quartiles further apart than this factor, undisturbed within some 1.3
APART = 2.0
#: more threads that take more times as long as one
SLOWER = 3.0


def scaling(ds: xr.Dataset) -> xr.Dataset:
    """Exponents of growth of time, FLOPs and memory with length and with width.

    Parameters
    ----------
    ds : what ``depprobe.cost`` gives, at two lengths at least.

    Returns
    -------
    Dataset over (quantity, layer, phase, threads), those of them that ``ds`` has; ``quantity`` is ``time``,
    ``flops`` (as counted), ``peak_bytes``, and the last two do not depend on ``threads``:

    - ``scaling_n``, ``scaling_d``: exponents by weighted least squares in logs; a time weighs by the inverse
      square of the quartile spread of its log. ``scaling_d`` is NaN with one width;
    - ``scaling_n_stderr``, ``scaling_d_stderr``: their standard errors, from the residuals.

    Where points leave no residual (two lengths at one width) an error is NaN, and the attribute
    ``stderr_unknown`` says so. Values that are unknown or not above 0 are left out.

    Raises
    ------
    BadInput : not a dataset of costs, or one length only.

    Notes
    -----
    Residuals of a sum of powers are bends, not noise: its standard error then tells how far from a power the
    cost is, within the lengths measured, and says nothing of longer ones.

    Examples
    --------
    >>> n = np.array([100.0, 200.0, 400.0])
    >>> ds = xr.Dataset({"flops": (("layer", "n"), [5 * n**2])}, coords={"layer": ["a"], "n": n})
    >>> float(scaling(ds).scaling_n.sel(quantity="flops").round(6).item())
    2.0
    """
    logs, spread = _logs(ds, QUANTITIES)
    if ds.sizes["n"] < 2:
        raise BadInput(f"a fit needs at least two n, not {ds.sizes['n']}")
    weight = 1 / np.maximum(spread, _STEADIEST) ** 2
    found: dict[str, xr.DataArray] = {}
    for size in ("n", "d"):
        other = "d" if size == "n" else "n"
        found[f"scaling_{size}"], found[f"scaling_{size}_stderr"] = xr.apply_ufunc(
            _exponent,
            logs,
            weight,
            np.log(logs[size].astype(float)),
            input_core_dims=[[other, size], [other, size], [size]],
            output_core_dims=[[], []],
            vectorize=True,
        )
    result = _described(xr.Dataset(found), ds)
    result.attrs["title"] = f"Growth of the cost of {ds.attrs.get('layer', 'layers')}"
    unknown = [size for size in ("n", "d") if np.isnan(result[f"scaling_{size}_stderr"]).all()]
    reasons = {
        size: f"one {size} only" if ds.sizes.get(size, 1) < 2 else "as many points as parameters"
        for size in unknown
    }
    result.attrs["stderr_unknown"] = "; ".join(f"{size}: {reason}" for size, reason in reasons.items())
    return result


def crossovers(ds: xr.Dataset, resamples: int = 400, seed: int = 0) -> xr.Dataset:
    """The length from which each layer costs more than each other, within the lengths measured.

    Parameters
    ----------
    ds : what ``depprobe.cost`` gives, at two lengths at least.
    resamples : number of draws for the intervals, 2 to 100,000.
    seed : of the draws.

    Returns
    -------
    Dataset over (quantity, layer, other, phase, threads, d), those of the last three that ``ds`` has;
    FLOPs are those of the formula (as counted where there is none), time and memory as measured:

    - ``crossover`` (positions): from there to the longest length ``layer`` costs more than ``other``. 0 where
      it does at every length, inf where it does not at the longest; NaN where they cost the same at every
      length, or fewer than two lengths have both. Between lengths costs are taken for powers of n;
    - ``crossover_low``, ``crossover_high``: 95 % interval of time's, by drawing every log time from a normal
      distribution with its quartile spread; 0 and inf here too lie outside the lengths measured. NaN for
      quantities that do not vary from run to run.

    Raises
    ------
    BadInput : not a dataset of costs, one length only, or fewer than 2 resamples.

    Examples
    --------
    >>> n = np.array([100.0, 200.0, 400.0])
    >>> ds = xr.Dataset({"flops": (("layer", "n"), [n**2, 150 * n])}, coords={"layer": ["a", "b"], "n": n})
    >>> crossovers(ds).crossover.sel(quantity="flops").values.round(6)
    array([[ nan, 150.],
           [ inf,  nan]])
    """
    if not isinstance(resamples, int | np.integer) or not 2 <= resamples <= _MOST_DRAWN:
        raise BadInput(f"resamples must be a whole number from 2 to {_MOST_DRAWN:,}, not {resamples!r}")
    if "flops_formula" in ds and "flops" in ds:
        ds = ds.assign(flops=ds["flops_formula"].fillna(ds["flops"]))
    logs, spread = _logs(ds, QUANTITIES)
    if ds.sizes["n"] < 2:
        raise BadInput(f"a crossover needs at least two n, not {ds.sizes['n']}")
    rng = np.random.default_rng(seed)
    log_n = np.log(logs["n"].values.astype(float))

    def of_layers(values: Floats, sd: Floats) -> tuple[Floats, ...]:
        varies = bool((sd > 0).any())
        drawn = values + sd * rng.standard_normal((resamples if varies else 0, *sd.shape))
        found = np.full((3, len(values), len(values)), np.nan)
        for i in range(len(values)):
            for j in range(len(values)):
                gap = values[i] - values[j]
                known = np.isfinite(gap)
                if i == j or known.sum() < 2 or not gap[known].any():
                    continue
                found[0, i, j] = _overtakes(gap[None, known], log_n[known])[0]
                if varies:
                    draws = _overtakes((drawn[:, i] - drawn[:, j])[:, known], log_n[known])
                    tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
                    # an order statistic: nothing lies between a length and infinity
                    found[1:, i, j] = np.quantile(draws, tails, method="inverted_cdf")
        return tuple(found)

    names = ("crossover", "crossover_low", "crossover_high")
    arrays = xr.apply_ufunc(
        of_layers,
        logs,
        spread,
        input_core_dims=[["layer", "n"]] * 2,
        output_core_dims=[["layer", "other"]] * 3,
        vectorize=True,
    )
    result = xr.Dataset(dict(zip(names, arrays, strict=True)), coords={"other": ds["layer"].values})
    # a width is a condition here, not what was fitted
    result = _described(result, ds).transpose("quantity", "layer", "other", ...)
    result.attrs |= {
        "title": f"Crossovers of the cost of {ds.attrs.get('layer', 'layers')}",
        "n": [int(n) for n in ds["n"].values],
        "level": _LEVEL,
        "resamples": resamples,
        "resample_seed": seed,
    }
    return result


def disturbed(ds: xr.Dataset) -> xr.DataArray:
    """Which times of a dataset of costs are disturbed, over their dimensions; unknown times are not."""
    found = ds["time_high"] > APART * ds["time_low"]
    if "threads" in ds["time"].dims and 1 in ds["threads"].values:
        found = found | slowed(ds["time"], ds["time"].sel(threads=1, drop=True))
    return found


def slowed(many: Any, one: Any) -> Any:
    """Whether a pass with many threads took so much longer than with one that it was disturbed.

    Examples
    --------
    >>> slowed(2.0, 1.0), slowed(40.0, 0.2)
    (False, True)
    """
    return many > SLOWER * one


def grow_tellably(layer: xr.Dataset) -> bool:
    """Whether times of a layer tell how they grow: ``disturbed`` nowhere, of two with quartiles apart."""
    if not {"time_low", "time_high", "disturbed"} <= set(layer):
        return True
    low, high = (layer[name].values.ravel() for name in ("time_low", "time_high"))
    known = ~np.isnan(low)
    overlap = known.sum() == 2 and low[known].max() <= high[known].min()
    return not overlap and not bool(layer["disturbed"].any())


def _logs(ds: xr.Dataset, quantities: tuple[str, ...]) -> tuple[xr.DataArray, xr.DataArray]:
    """Natural logs over (quantity, ..., layer, n, d) and their spread, 0 where values do not vary."""
    there = [name for name in quantities if name in ds] if isinstance(ds, xr.Dataset) else []
    if not there or "flops" not in ds or not {"layer", "n"} <= set(ds["flops"].dims):
        raise BadInput("not a dataset of costs: it has no flops(layer, n, d, phase)")
    ds = ds if "d" in ds.dims else ds.expand_dims(d=[1])
    positive = {name: xr.DataArray(np.log(ds[name].where(ds[name] > 0))) for name in there}
    spreads = {name: (0 * values).fillna(0.0) for name, values in positive.items()}
    if {"time", "time_low", "time_high"} <= set(ds):
        ratio: xr.DataArray = ds["time_high"] / ds["time_low"]
        spreads["time"] = xr.DataArray(np.log(ratio) / _QUARTILES).fillna(0.0)
    label = xr.DataArray(there, dims="quantity", name="quantity")
    logs, spread = (
        xr.concat(xr.broadcast(*parts.values()), label, coords="minimal", compat="override")
        for parts in (positive, spreads)
    )
    return logs, spread.broadcast_like(logs).transpose(*logs.dims)


def _exponent(values: Floats, weight: Floats, log_size: Floats) -> tuple[float, float]:
    """Slope common to the rows of values (rows, sizes), each at its own height, and its standard error."""
    weight = np.where(np.isfinite(values), weight, 0.0)
    # a row of one point fixes its own height and nothing else
    weight[(weight > 0).sum(1) < 2] = 0.0
    rows = weight.sum(1) > 0
    if not rows.any():
        return math.nan, math.nan
    w, y = weight[rows], np.nan_to_num(values[rows])
    x = np.broadcast_to(log_size, y.shape)
    total = w.sum(1, keepdims=True)
    x = x - (w * x).sum(1, keepdims=True) / total
    y = y - (w * y).sum(1, keepdims=True) / total
    power = (w * x * x).sum()
    slope = (w * x * y).sum() / power
    free = int((w > 0).sum()) - len(w) - 1
    if free < 1:
        return float(slope), math.nan
    residual = (w * (y - slope * x) ** 2).sum() / free
    return float(slope), math.sqrt(residual / power)


def _overtakes(gap: Floats, log_n: Floats) -> Floats:
    """Length from which each gap of logs (draws, n) stays above 0: 0 if it always is, inf if not at last."""
    above = gap > 0
    # how many of the last lengths are above without a break
    held = np.cumprod(above[:, ::-1], axis=1).sum(1)
    first = gap.shape[1] - held
    after = np.clip(first, 1, gap.shape[1] - 1)
    rows = np.arange(len(gap))
    low, high = gap[rows, after - 1], gap[rows, after]
    share = np.divide(-low, high - low, out=np.zeros_like(low), where=high != low)
    at = np.exp(log_n[after - 1] + share.clip(0, 1) * (log_n[after] - log_n[after - 1]))
    return np.where(held == 0, np.inf, np.where(first == 0, 0.0, at))


def _described(result: xr.Dataset, ds: xr.Dataset) -> xr.Dataset:
    """With names and units, and the attributes of what it came from."""
    if "d" not in ds.dims and "d" in result.dims:
        result = result.squeeze("d", drop=True)
    for name in result.variables:
        # a sweep keeps what cells say in words as coordinates
        result[name].attrs = describe(str(name)) if name in ABOUT else {}
    kept = ("layer", "n", "d", "seed", "dtype", "depprobe_version", "schema_version", "provenance")
    result.attrs = {name: ds.attrs[name] for name in kept if name in ds.attrs}
    return result

r"""The decay curve: norms of J[t,k] by lag, pooled over targets, samples and seeds.

    rms(lag)       = sqrt( mean of ||J[t,k]||^2 over all known blocks with p_t - k = lag ),   zeros counted
    geometric(lag) = exp( mean of ln ||J[t,k]|| over the same ),   0 where one of them is

The median and the 5 and 95 % quantiles are those of the norms, linearly interpolated, as numpy.quantile gives
them; everything is computed and stored in natural logs, since norms may be far below the range of floats.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.curves.align import REPEATS, UNKNOWN, Blocks, Floats, Ints, by_layer, over_layers
from depprobe.curves.names import one_setting
from depprobe.curves.pool import log_weighted
from depprobe.vocabulary import describe

#: variable -> quantile of the pooled norms
QUANTILES = {"log_median": 0.5, "log_low": 0.05, "log_high": 0.95}
COUNTS = ("count", "zeros", "unknown", *UNKNOWN)


def decay_curve(ds: xr.Dataset, skip_first: int = 0, normalise: str = "none") -> xr.Dataset:
    """Pool a Jacobian dataset by lag over targets, samples and seeds.

    Parameters
    ----------
    ds : Jacobian dataset with ``log_norm`` over ``(target, source)`` or ``(target, lag)``, natural logs,
        with or without ``layer``, ``seed`` and ``sample`` before them; -inf is an exact zero, NaN an unknown
        (``log_norm_status`` says of which kind).
    skip_first : number of sources, from the first on, that are left out.
    normalise : ``"diagonal"`` divides each norm by that of its target's block at lag 0; ``"none"`` does not.

    Returns
    -------
    Dataset over ``lag``, or ``(layer, lag)``: ``log_median``, ``log_low`` and ``log_high`` (5 and 95 %),
    ``log_rms``, ``log_geometric``, natural logs of norms, -inf where zero, NaN where nothing is known;
    ``count`` (blocks pooled, zeros included), ``zeros`` (exact zeros among them), ``unknown`` (not known and
    left out: never taken for zeros), and ``underflow``, ``overflow``, ``undecided``, ``not_a_number`` among
    these; ``log_norm_error`` (the largest at that lag, a bound for all of the above) where the input has it.
    The attributes are those of the input, and ``seeds`` and ``samples``, how many were pooled, where several.
    Lags are every lag that exists, in steps of one input position; negative ones (the future) are left out
    where all layers are zero there.

    Raises
    ------
    BadInput : not a Jacobian dataset; another ``normalise``; a negative ``skip_first``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> ds = xr.Dataset(
    ...     {"log_norm": (("target", "source"), [[-5002.0, -5001.0, -5000.0, -np.inf]])},
    ...     coords={"target": [2], "position": ("target", [2.0]), "source": [0, 1, 2, 3]},
    ... )
    >>> decay_curve(ds)["log_median"].values
    array([-5000., -5001., -5002.])
    """
    ds = one_setting(ds)
    parts = [(part, blocks) for part, blocks in by_layer(ds, skip_first, normalise)]
    causal = all((blocks.lags >= 0).all() for _, blocks in parts)
    curves = [_curve(blocks, causal) for _, blocks in parts]
    curve = over_layers(ds, curves, dict.fromkeys(COUNTS, 0))
    curve.attrs = ds.attrs | {"title": f"decay curve: {ds.attrs.get('title', 'temporal Jacobian')}"}
    curve.attrs |= {f"{name}s": ds.sizes[name] for name in REPEATS if name in ds["log_norm"].dims}
    curve.attrs |= {"skip_first": skip_first, "normalise": normalise}
    for name, q in QUANTILES.items():
        curve[name].attrs["quantile"] = q
    # curves of one target are named by it where nothing else tells them apart
    one = {"target": ((), ds["target"].values[0], describe("target"))} if ds.sizes["target"] == 1 else {}
    return curve.assign_coords(one)


def _curve(blocks: Blocks, causal: bool) -> xr.Dataset:
    m, targets, repeats = blocks.values.shape
    pooled = blocks.values.reshape(m, targets * repeats)
    # NaN, absent or unknown, sorts last
    ranked = np.sort(pooled, axis=1)
    count = (~np.isnan(pooled)).sum(1)
    columns: dict[str, Floats | Ints] = {name: _quantile(ranked, count, q) for name, q in QUANTILES.items()}
    columns["log_rms"] = _log_rms(pooled, count)
    with np.errstate(invalid="ignore"):
        columns["log_geometric"] = np.where(np.isnan(pooled), 0.0, pooled).sum(1) / count
    if blocks.error is not None:
        columns["log_norm_error"] = blocks.error
    columns["count"] = count
    columns["zeros"] = (pooled == -np.inf).sum(1)
    columns |= blocks.unknown((1, 2))

    at_zero = {
        name: np.full(len(blocks.zero_lags), -np.inf) for name in (*QUANTILES, "log_rms", "log_geometric")
    }
    at_zero |= {"count": blocks.zero_counts, "zeros": blocks.zero_counts}
    lags = np.concatenate([blocks.lags, blocks.zero_lags])
    order = np.argsort(lags)
    if causal:
        order = order[lags[order] >= 0]
    variables = {}
    for name, values in columns.items():
        rest = at_zero.get(name, np.zeros(len(blocks.zero_lags), values.dtype))
        variables[name] = ("lag", np.concatenate([values, rest])[order], describe(name))
    return xr.Dataset(variables, coords={"lag": ("lag", lags[order], describe("lag"))})


def _quantile(ranked: Floats, count: Ints, q: float) -> Floats:
    """Natural log of the q-quantile of norms whose sorted logs are the first ``count`` of each row."""
    last = np.maximum(count - 1, 0)
    at = q * last
    below = np.floor(at).astype(np.int64)
    lower = np.take_along_axis(ranked, below[:, None], 1)[:, 0]
    upper = np.take_along_axis(ranked, np.minimum(below + 1, last)[:, None], 1)[:, 0]
    # interpolated between norms, not logs: half way between 0 and 1 is 1/2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.logaddexp(np.log1p(below - at) + lower, np.log(at - below) + upper)


def _log_rms(pooled: Floats, count: Ints) -> Floats:
    squares = np.where(np.isnan(pooled), -np.inf, 2 * pooled)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 0.5 * (log_weighted(np.ones((1, pooled.shape[1])), squares.T)[0] - np.log(count))

r"""Lyapunov exponents from the growth of a frame: means, standard errors, running means, and what follows.

    lambda_i = mean over steps of ln r_ii;  standard error: sd of block means / sqrt(blocks)
    Kaplan-Yorke dimension  j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|, j the last with a sum >= 0
    entropy rate            sum of the positive exponents (Pesin), nats a step; an upper bound

Neighbouring steps are correlated, so blocks must be longer than the memory of the growth rates: 20 blocks.
Source: Kaplan and Yorke 1979; Pesin 1977; Flyvbjerg and Petersen 1989 (block means).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.vocabulary import describe

Floats = NDArray[np.float64]

BLOCKS = 20
#: running means kept
_STOPS = 100


def stops_of(steps: int) -> NDArray[np.int64]:
    """Numbers of steps at which sums are kept: 100, evenly spaced, or every one.

    Examples
    --------
    >>> stops_of(1000)[:3].tolist(), len(stops_of(7))
    ([10, 20, 30], 7)
    """
    count = min(steps, _STOPS)
    return np.round(np.linspace(0, steps, count + 1)).astype(np.int64)[1:]


def running_means(increments: Floats, stops: NDArray[np.int64]) -> Floats:
    """Means from the start up to every stop: sums (stops, m) between stops to (stops, m)."""
    return np.cumsum(increments, 0) / stops[:, None]


def block_stderr(increments: Floats, stops: NDArray[np.int64]) -> tuple[Floats, int]:
    """Standard error (m,) of the mean growth rate from block means, and the number of blocks.

    NaN where there are too few steps for two blocks of 10, or a growth is not finite.
    """
    blocks = min(BLOCKS, int(stops[-1]) // 10)
    if blocks < 2:
        return np.full(increments.shape[1], np.nan), 0
    lengths = np.diff(stops, prepend=0)
    parts = np.array_split(np.arange(len(stops)), blocks)
    means = np.stack([increments[part].sum(0) / lengths[part].sum() for part in parts])
    with np.errstate(invalid="ignore"):  # -inf has no spread
        return means.std(0, ddof=1) / math.sqrt(blocks), blocks


def kaplan_yorke(exponents: Floats, whole: bool) -> float:
    """Kaplan-Yorke dimension of exponents in descending order; NaN where more of them would be needed.

    ``whole`` says that these are all the exponents there are.

    Examples
    --------
    >>> round(kaplan_yorke(np.array([0.9056, 0.0, -14.572]), True), 4)
    2.0621
    """
    known = np.isfinite(exponents) | np.isneginf(exponents)
    whole = whole and bool(known.all())
    ordered = np.sort(exponents[known])[::-1]
    sums = np.cumsum(ordered)
    below = np.flatnonzero(sums < 0)
    if not len(below):
        return float(len(ordered)) if whole and len(ordered) else math.nan
    j = int(below[0])
    return j + (float(sums[j - 1] / -ordered[j]) if j else 0.0)


def entropy_rate(exponents: Floats, whole: bool) -> float:
    """Sum of the positive exponents; NaN where exponents that were not measured may be positive too."""
    known = exponents[~np.isnan(exponents)]
    if (not whole or len(known) < len(exponents)) and (not len(known) or known.min() > 0):
        return math.nan
    return float(known[known > 0].sum())


def exponents_of(
    increments: Floats,
    log_det: Sequence[Floats | None],
    stops: NDArray[np.int64],
    labels: Sequence[str],
    seeds: Sequence[int],
    widths: Sequence[int],
    intervals: Sequence[float],
) -> xr.Dataset:
    """Exponents, their errors and what follows, over (layer, mode); a single layer has no dimension.

    The frame holds them in the order of its columns, in which near ones may stand the other way round: modes
    are sorted by falling mean, with their errors, running means and cases.

    Parameters
    ----------
    increments : (cases, stops, m) growth between successive stops, layer by layer, then seed by seed, then
        sample by sample.
    log_det : of each case the sums (stops,) of ln |det J_t|, or None.
    stops : steps after the warm-up.
    widths, intervals : of each case, the width of its state and the steps between orthonormalisations.
    """
    cases, _, m = increments.shape
    samples = cases // (len(labels) * len(seeds))
    lead = (len(labels), len(seeds), samples)
    running = np.stack([running_means(one, stops) for one in increments])
    errors, blocks = zip(*(block_stderr(one, stops) for one in increments), strict=True)
    each, stderr = running[:, -1].reshape(*lead, m), np.stack(errors).reshape(*lead, m)
    mean, spread, source = _pooled(each, stderr, blocks[0])
    order = np.argsort(-mean, axis=-1, kind="stable")

    def falling(values: Floats) -> Floats:
        return np.take_along_axis(values, order.reshape(len(labels), *(values.ndim - 2) * (1,), m), -1)

    mean, spread, each, stderr = map(falling, (mean, spread, each, stderr))
    width, interval = np.reshape(widths, lead)[:, 0, 0], np.reshape(intervals, lead).mean((1, 2))
    columns: dict[str, tuple[tuple[str, ...], NDArray]] = {
        "exponent": (("layer", "mode"), mean),
        "exponent_stderr": (("layer", "mode"), spread),
        "exponent_running": (("layer", "step", "mode"), falling(running.reshape(*lead, -1, m).mean((1, 2)))),
        "state": (("layer",), width),
        "interval": (("layer",), interval),
    }
    whole = [bool(w == m) for w in width]
    columns["kaplan_yorke"] = (
        ("layer",),
        np.array([kaplan_yorke(*pair) for pair in zip(mean, whole, strict=True)]),
    )
    columns["entropy_rate"] = (
        ("layer",),
        np.array([entropy_rate(*pair) for pair in zip(mean, whole, strict=True)]),
    )
    if all(whole):
        columns["exponent_sum"] = (("layer",), mean.sum(1))
    if any(one is not None for one in log_det):
        dets = [math.nan if one is None else float(one.sum()) / float(stops[-1]) for one in log_det]
        columns["log_det"] = (("layer",), np.reshape(dets, lead).mean((1, 2)))
    if lead[1] * lead[2] > 1:
        columns["exponent_case"] = (("layer", "seed", "sample", "mode"), each)
        columns["exponent_case_stderr"] = (("layer", "seed", "sample", "mode"), stderr)
    coords = {"layer": list(labels), "step": stops, "mode": np.arange(m)}
    if "exponent_case" in columns:
        coords |= {"seed": list(seeds), "sample": np.arange(samples)}
    ds = xr.Dataset(columns, coords=coords, attrs={"stderr_from": source})
    ds = ds.squeeze([name for name in ("layer", "seed", "sample") if ds.sizes.get(name) == 1], drop=True)
    for variable in ds.variables:
        ds[variable].attrs = describe(str(variable))
    return ds


def _pooled(each: Floats, stderr: Floats, blocks: int) -> tuple[Floats, Floats, str]:
    """Mean over seeds and samples (layers, m), its standard error, and what that is from.

    Samples of one seed share their weights, so that with several seeds only the spread of the seeds' means
    holds for other weights too.
    """
    _, seeds, samples, _ = each.shape
    if seeds * samples == 1:
        return each[:, 0, 0], stderr[:, 0, 0], f"{blocks} block means" if blocks else ""
    units, word = (each.mean(2), "seeds") if seeds > 1 else (each[:, 0], "samples")
    with np.errstate(invalid="ignore"):  # -inf has no spread
        spread = units.std(1, ddof=1) / math.sqrt(units.shape[1])
    return units.mean(1), spread, f"the spread of {units.shape[1]} {word}"

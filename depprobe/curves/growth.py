"""Growth of tangent frames of many cases as one labelled dataset of Lyapunov exponents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.curves.exponents import Floats, block_stderr, entropy_rate, kaplan_yorke, running_means
from depprobe.vocabulary import describe


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
    width, interval = np.reshape(widths, lead)[:, 0, 0], np.reshape(intervals, lead).mean((1, 2))
    columns: dict[str, tuple[tuple[str, ...], NDArray]] = {
        "exponent": (("layer", "mode"), mean),
        "exponent_stderr": (("layer", "mode"), spread),
        "exponent_running": (("layer", "step", "mode"), running.reshape(*lead, -1, m).mean((1, 2))),
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
        return each[:, 0, 0], stderr[:, 0, 0], f"{blocks} block means"
    units, word = (each.mean(2), "seeds") if seeds > 1 else (each[:, 0], "samples")
    with np.errstate(invalid="ignore"):  # -inf has no spread
        spread = units.std(1, ddof=1) / math.sqrt(units.shape[1])
    return units.mean(1), spread, f"the spread of {units.shape[1]} {word}"

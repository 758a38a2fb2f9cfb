"""Norms of many cases as one labelled dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from depprobe.operators import LogNorms
from depprobe.vocabulary import describe


@dataclass
class Result:
    """Norms of one case, and how they came about."""

    norms: LogNorms
    target: NDArray[np.int64]
    position: NDArray[np.float64]
    method: str
    tolerance: float
    shape: tuple[int, int, int, int]


def labelled(
    results: list[Result],
    labels: list[str],
    seeds: list[int],
    dtype: torch.dtype,
) -> xr.Dataset:
    """All cases as one dataset over (layer, seed, sample, target, source or lag); single dimensions dropped.

    ``results`` come layer by layer, then seed by seed, then sample by sample.
    """
    samples = len(results) // (len(labels) * len(seeds))
    n = results[0].shape[2]
    lead = (len(labels), len(seeds), samples)
    norms = [result.norms for result in results]
    lags = norms[0].lags
    banded = len(labels) == 1 and all(
        one.lags is not None and lags is not None and np.array_equal(one.lags, lags) for one in norms
    )
    if not banded:
        norms = [over_sources(one, result.position, n) for one, result in zip(norms, results, strict=True)]
    last: tuple[str, NDArray] = ("lag", lags) if banded and lags is not None else ("source", np.arange(n))
    dims = ("layer", "seed", "sample", "target", last[0])

    def stack(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.stack(rows).reshape(*lead, *rows[0].shape)

    columns = {"log_norm": stack([one.values for one in norms])}
    for name, attribute in (("log_norm_error", "error"), ("log_norm_stderr", "stderr")):
        fields = [getattr(one, attribute) for one in norms]
        if any(values is not None for values in fields):
            # beside an estimate, an exact operator errs by nothing but round-off
            exact = np.zeros_like(norms[0].values)
            columns[name] = stack([exact if values is None else values for values in fields])
    every = len(seeds) * samples
    per_layer = results[::every]
    position = np.stack([result.position for result in per_layer])
    shared = bool((position == position[0]).all())
    ds = xr.Dataset(
        {name: (dims, values) for name, values in columns.items()},
        coords={
            "layer": labels,
            "seed": seeds,
            "sample": np.arange(samples),
            "target": results[0].target,
            last[0]: last[1],
            "position": ("target", position[0]) if shared else (("layer", "target"), position),
        },
    )
    methods, tolerances = [r.method for r in per_layer], [r.tolerance for r in per_layer]
    if len(labels) > 1:
        ds = ds.assign_coords(method=("layer", methods), tolerance=("layer", tolerances))
    else:
        ds.attrs |= {"method": methods[0], "tolerance": tolerances[0]}
    inside = np.ones(columns["log_norm"].shape[3:], dtype=bool)
    if last[0] == "lag":
        source = np.floor(position[0][:, None] - last[1][None, :] + 0.5)
        inside = (source >= 0) & (source < n)
    if np.isnan(columns["log_norm"][..., inside]).any():
        # a factor or product below the normal numbers of the dtype is not told from zero
        ds.attrs["log_floor"] = math.log(torch.finfo(dtype).smallest_normal)
    single = [name for name, size in zip(("layer", "seed", "sample"), lead, strict=True) if size == 1]
    ds = ds.squeeze(single, drop=True)
    for variable in ds.variables:
        ds[variable].attrs = describe(str(variable))
    return ds


def stacked(parts: list[LogNorms], position: NDArray[np.float64], n: int) -> LogNorms:
    """Norms of successive targets as one; banded ones stay banded where all have the same lags."""
    if len(parts) == 1:
        return parts[0]
    lags = parts[0].lags
    if lags is None or not all(part.lags is not None and np.array_equal(part.lags, lags) for part in parts):
        lags = None
        ends = np.cumsum([len(part.values) for part in parts])
        parts = [
            over_sources(part, position[end - len(part.values) : end], n)
            for part, end in zip(parts, ends, strict=True)
        ]

    def joined_field(name: str) -> NDArray[np.float64] | None:
        fields = [getattr(part, name) for part in parts]
        return None if any(values is None for values in fields) else np.concatenate(fields)

    return LogNorms(
        np.concatenate([p.values for p in parts]), joined_field("error"), joined_field("stderr"), lags
    )


def over_sources(norms: LogNorms, position: NDArray[np.float64], n: int) -> LogNorms:
    """Banded norms (targets, lags) as norms (targets, n), exact zeros elsewhere; others as they are."""
    if norms.lags is None:
        return norms
    source = np.floor(position[:, None] - norms.lags[None, :] + 0.5).astype(int)
    inside = (source >= 0) & (source < n)
    rows = np.nonzero(inside)[0]

    def spread(values: NDArray[np.float64] | None, fill: float) -> NDArray[np.float64] | None:
        if values is None:
            return None
        out = np.full((len(position), n), fill)
        out[rows, source[inside]] = values[inside]
        return out

    values = spread(norms.values, -np.inf)
    assert values is not None
    return LogNorms(values, spread(norms.error, 0.0), spread(norms.stderr, 0.0))

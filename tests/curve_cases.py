"""Jacobian datasets with blocks that are known, for the tests of curves and distances."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike


def dataset(log_norm: ArrayLike, position: ArrayLike | None = None, dims: str = "", **extra) -> xr.Dataset:
    """Dense dataset; ``dims`` names the leading dimensions, position defaults to the index of the target."""
    x = np.asarray(log_norm, float)
    targets, sources = x.shape[-2:]
    position = np.arange(targets) if position is None else np.asarray(position)
    leading = {name: np.arange(size) for name, size in zip(dims.split(), x.shape[:-2], strict=True)}
    names = (*leading, "target", "source")
    return xr.Dataset(
        {"log_norm": (names, x)} | {name: (names, values) for name, values in extra.items()},
        coords=leading
        | {"target": np.arange(targets), "position": ("target", position.astype(float))}
        | {"source": np.arange(sources)},
        attrs={"title": "known blocks", "n": sources},
    )


def last_row(log_norm_by_lag: ArrayLike) -> xr.Dataset:
    """One causal target at the end of the sequence, whose block at lag L is the L-th given."""
    by_lag = np.asarray(log_norm_by_lag, float)
    return dataset(by_lag[None, ::-1], [len(by_lag) - 1])


def band(ds: xr.Dataset, lags: ArrayLike) -> xr.Dataset:
    """The banded form of a dense dataset whose blocks at all other lags are zero."""
    lags = np.asarray(lags)
    x = ds["log_norm"].values
    here = np.floor(ds["position"].values + 0.5).astype(int)
    k = here[:, None] - lags
    inside = (k >= 0) & (k < ds.sizes["source"])
    t = np.arange(len(here))[:, None]
    values = np.where(inside, x[..., t, np.where(inside, k, 0)], np.nan)
    out = ds.drop_vars(["log_norm", "source"])
    out["log_norm"] = ((*ds["log_norm"].dims[:-1], "lag"), values)
    return out.assign_coords(lag=lags)

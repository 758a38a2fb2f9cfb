r"""The banded form of a Jacobian dataset written out.

log_norm(target, lag), all other lags zero   ->   log_norm(target, source), -inf outside the band
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.curves.align import band_sources, check, placed, with_lag
from depprobe.curves.names import one_setting
from depprobe.vocabulary import STATUS, describe

#: what stands outside the band: no norm, known exactly
OUTSIDE: dict[str, float] = {
    "log_norm": -np.inf,
    "log_norm_status": STATUS["zero"],
    "log_norm_error": 0.0,
    "log_norm_stderr": 0.0,
    "log_norm_low": -np.inf,
    "log_norm_high": -np.inf,
    "effective_rank": np.nan,
    "probe_loading": np.nan,
}


def dense(ds: xr.Dataset) -> xr.Dataset:
    """Expand ``log_norm(target, lag)`` to ``log_norm(target, source)``, with -inf outside the band.

    Parameters
    ----------
    ds : Jacobian dataset, ``log_norm`` over ``(..., target, lag)`` with the attribute ``n``, or over
        ``(..., target, source)``.

    Returns
    -------
    Dataset with ``log_norm``, and its status, error and standard error where present, over
    ``(..., target, source)``, sources 0 to n-1; attributes and other coordinates as they were. A dataset that
    is dense already comes back unchanged.

    Raises
    ------
    BadInput : not a Jacobian dataset.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> band = xr.Dataset(
    ...     {"log_norm": (("target", "lag"), [[0.0, np.nan], [0.0, -1.0], [0.0, -1.0]])},
    ...     coords={"target": [0, 1, 2], "position": ("target", [0.0, 1.0, 2.0]), "lag": [0, 1]},
    ...     attrs={"n": 3},
    ... )
    >>> dense(band)["log_norm"].values
    array([[  0., -inf, -inf],
           [ -1.,   0., -inf],
           [-inf,  -1.,   0.]])
    """
    if isinstance(ds, xr.Dataset):
        ds = placed(one_setting(ds))
    check(ds)
    if "source" in ds["log_norm"].dims:
        return ds
    if "layer" in ds["position"].dims:
        parts = [dense(ds.isel(layer=[i]).squeeze("layer")) for i in range(ds.sizes["layer"])]
        joined = xr.concat(
            parts,
            dim=ds["layer"],
            data_vars="all",
            coords="different",
            compat="equals",
            join="outer",
            fill_value={"log_norm_status": STATUS["not_measured"]},
        )
        joined.attrs = dict(ds.attrs)
        return with_lag(joined.transpose(*ds["log_norm"].dims[:-1], "source"))

    n = int(ds.attrs["n"])
    source = band_sources(ds["position"].values.astype(np.float64), ds["lag"].values)
    t, c = np.nonzero((source >= 0) & (source < n))
    out = ds.drop_dims("lag").assign_coords(source=("source", np.arange(n), describe("source")))
    for name, fill in OUTSIDE.items():
        if name in ds:
            stored = ds[name].transpose(..., "target", "lag")
            values = np.full((*stored.shape[:-1], n), fill, stored.dtype)
            values[..., t, source[t, c]] = stored.values[..., t, c]
            out[name] = ((*stored.dims[:-1], "source"), values, ds[name].attrs)
    return with_lag(out)

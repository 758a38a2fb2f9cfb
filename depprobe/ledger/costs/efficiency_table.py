r"""The efficiency table: time, memory, gradient distance and parallelism, beside the article's figures.

    ratio = cost / cost of the reference layer, in the same pass, at the shortest length measured

Times of two machines differ; what can be compared are ratios between layers on one of them. The article's
figures are for an RTX 3090 with PyTorch 2.0, d = 512; it does not say which pass, nor which attention.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from depprobe.errors import BadInput
from depprobe.vocabulary import describe


class Published(NamedTuple):
    """A row of the article: seconds, bytes, steps of the gradient path, and a word on parallelism."""

    time: float = math.nan
    bytes: float = math.nan
    path: float = math.nan
    parallelism: str = ""


WIDTH = 512
_ATTENTION = {1000: Published(42.3e-3, 210e6, 1, "full"), 5000: Published(bytes=500e6)}
#: layer -> length -> what the article says of it
ARTICLE: dict[str, dict[int, Published]] = {
    "attention:fused=false": _ATTENTION,
    "attention": _ATTENTION,
    "conv": {1000: Published(5.7e-3, 15e6, 10, "per position")},
    "lstm": {1000: Published(38.5e-3, 45e6, 1000, "none")},
}
LENGTHS = (1000, 5000)

#: the article's figures in the table: long names and units
_ABOUT = {
    "article_time": ("time that the article gives", "s"),
    "article_bytes": ("memory that the article gives", "B"),
    "article_path": ("gradient path that the article gives", "steps"),
    "article_parallelism": ("parallelism in the article's words", "1"),
    "article_time_ratio": ("article's time over that of the reference", "1"),
    "article_memory_ratio": ("article's memory over that of the reference", "1"),
}
_KEPT = ("time", "time_low", "time_high", "peak_bytes", "sequential_steps", "path_length", "parallelism")


def efficiency(ds: xr.Dataset, reference: str | None = None) -> xr.Dataset:
    """Costs of layers as ratios to one of them, beside the figures of the article where it has any.

    Parameters
    ----------
    ds : what ``depprobe.cost`` gives at one width; times with the most threads are taken.
    reference : the layer whose cost at the shortest length is 1; by default the last.

    Returns
    -------
    Dataset over (layer, n, phase), with the costs and

    - ``time_ratio``, ``memory_ratio``: over the reference at the shortest length;
    - ``article_time``, ``article_bytes``, ``article_path``, ``article_parallelism`` and the ratios
      ``article_time_ratio``, ``article_memory_ratio``, over (layer, n): NaN or empty where the article has
      none.

    Raises
    ------
    BadInput : not a dataset of costs, more than one width, an unknown reference.

    Examples
    --------
    >>> ds = xr.Dataset(
    ...     {"flops": (("layer", "n"), [[1.0], [1.0]]), "time": (("layer", "n"), [[3.0], [2.0]])},
    ...     coords={"layer": ["conv", "lstm"], "n": [1000], "d": 512},
    ... )
    >>> found = efficiency(ds)
    >>> found.time_ratio.values.ravel().tolist(), found.article_time_ratio.values.round(3).ravel().tolist()
    ([1.5, 1.0], [0.148, 1.0])
    """
    if "flops" not in ds or not {"layer", "n"} <= set(ds.dims):
        raise BadInput("not a dataset of costs: it has no flops(layer, n, d, phase)")
    widths = np.atleast_1d(ds["d"].values if "d" in ds.coords else ds.attrs.get("d", 0))
    if len(widths) > 1:
        raise BadInput(f"the efficiency table is for one d, not for {', '.join(map(str, widths))}")
    if "d" in ds.dims:
        ds = ds.squeeze("d", drop=True)
    if "threads" in ds.dims:
        ds = ds.sel(threads=ds["threads"].max(), drop=True)
    labels = [str(label) for label in ds["layer"].values]
    reference = labels[-1] if reference is None else reference
    if reference not in labels:
        raise BadInput(f"the reference must be one of {', '.join(labels)}, not {reference!r}")
    ds = ds.sortby("n")
    lengths = [int(n) for n in ds["n"].values]
    found = ds[[name for name in _KEPT if name in ds]]
    for ratio, name in (("time_ratio", "time"), ("memory_ratio", "peak_bytes")):
        if name in ds:
            found[ratio] = ds[name] / ds[name].sel(layer=reference, n=lengths[0])
    known = ARTICLE if int(widths[0]) == WIDTH else {}
    rows = [[known.get(label, {}).get(n, Published()) for n in lengths] for label in labels]
    for field in Published._fields:
        values = [[getattr(row, field) for row in of_layer] for of_layer in rows]
        found[f"article_{field}"] = (("layer", "n"), np.array(values))
    at = {"layer": reference, "n": lengths[0]}
    found["article_time_ratio"] = found["article_time"] / found["article_time"].sel(at)
    found["article_memory_ratio"] = found["article_bytes"] / found["article_bytes"].sel(at)
    for variable in map(str, found.variables):
        about = _ABOUT.get(variable)
        found[variable].attrs = (
            dict(zip(("long_name", "units"), about, strict=True)) if about else describe(variable)
        )
    found.attrs = {name: value for name, value in ds.attrs.items() if name != "title"} | {
        "title": f"Efficiency of {', '.join(labels)}",
        "d": int(widths[0]),
        "reference": reference,
        "reference_n": lengths[0],
    }
    return found

"""What the article would take: its decision tree, and its rules of thumb.

tree     n < 500: attention; 500 to 5000: convolution if local, sparse attention if global;
         n > 5000: recurrence; the article names no lag at which local ends, here it is ``LOCAL``
rules    n < 500: attention; streams: recurrence; long and local: dilated convolution;
         documents over 10,000: sparse attention mixed with convolution
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.advice.ranking import LOCAL, MIXED, USABLE
from depprobe.registry import Spec
from depprobe.vocabulary import describe

#: longest sequence for plain attention, and for anything but a recurrence
SHORT, LONG = 500, 5000
#: from here documents are told to mix sparse attention with convolution
DOCUMENTS = 10_000
#: what the article calls a kind of layer -> the layers that are of it
FAMILIES: dict[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "convolution": ("conv", "dilated-conv"),
    "dilated convolution": ("dilated-conv",),
    "sparse attention": ("sliding-window", "dilated-attention", "block-attention"),
    "recurrence": ("rnn", "gru", "lstm"),
    "sparse attention with convolution": (MIXED,),
}


def is_of(spec: str, family: str) -> bool:
    """Whether a layer is what the article calls by this name, whatever its further options.

    Examples
    --------
    >>> is_of("gru:gain=1", "recurrence"), is_of("conv-attention", "sparse attention with convolution")
    (True, False)
    """
    given = Spec.parse(spec)
    members = [Spec.parse(member) for member in FAMILIES[family]]
    return any(
        given.name == member.name and member.settings.items() <= given.settings.items() for member in members
    )


def tree(n: int, lag: int) -> str:
    """The leaf of the decision tree.

    Examples
    --------
    >>> tree(300, 10), tree(1000, 10), tree(1000, 900), tree(10_000, 10)
    ('attention', 'convolution', 'sparse attention', 'recurrence')
    """
    if n < SHORT:
        return "attention"
    if n > LONG:
        return "recurrence"
    return "convolution" if lag <= LOCAL else "sparse attention"


def rule_of_thumb(n: int, lag: int, stream: bool) -> str | None:
    """What the rules of thumb say, None where they are silent.

    Examples
    --------
    >>> rule_of_thumb(1000, 10, stream=True), rule_of_thumb(20_000, 19_999, stream=False)
    ('recurrence', 'sparse attention with convolution')
    """
    if stream:
        return "recurrence"
    if n < SHORT:
        return "attention"
    if lag <= LOCAL:
        return "dilated convolution"
    return "sparse attention with convolution" if n > DOCUMENTS else None


def beside_ranking(ds: xr.Dataset) -> xr.Dataset:
    """A ranking with what the article would take.

    Parameters
    ----------
    ds : from ``depprobe.advise``.

    Returns
    -------
    The same with the attributes ``tree`` and ``rule_of_thumb`` (a family each, or empty), ``tree_agrees`` and
    ``rule_of_thumb_agrees`` (1 where the first of the ranking is usable and of that family, else 0).
    """
    first, usable = str(ds["layer"].values[0]), float(ds["group"][0]) == USABLE
    n, lag = int(ds.attrs["n"]), int(ds.attrs["lag"])
    families = {"tree": tree(n, lag), "rule_of_thumb": rule_of_thumb(n, lag, bool(ds.attrs["stream"])) or ""}
    agrees = {
        f"{name}_agrees": int(bool(family) and usable and is_of(first, family))
        for name, family in families.items()
    }
    return ds.assign_attrs(families | agrees)


def beside_map(ds: xr.Dataset) -> xr.Dataset:
    """A map of the layers to take with the borders of the article's tree.

    Parameters
    ----------
    ds : from ``depprobe.decision_map``.

    Returns
    -------
    The same with ``tree_factor(lag, n)``, the time of the layer that the tree takes over that of the best,
    inf where it is not usable, and the attributes that ``depprobe.figures.decision`` draws as borders.
    """
    times = ds["predicted_time"].transpose("layer", "lag", "n")
    best, specs = times.min("layer").values, [str(spec) for spec in ds["layer"].values]
    factor = np.full(best.shape, math.nan)
    for at in zip(*np.nonzero(~np.isnan(best)), strict=True):
        family = tree(int(ds["n"][at[1]]), int(ds["lag"][at[0]]))
        own = [float(times[i, *at]) for i, spec in enumerate(specs) if is_of(spec, family)]
        factor[at] = min(own) / best[at] if any(map(math.isfinite, own)) else math.inf
    return ds.assign(tree_factor=(("lag", "n"), factor, describe("tree_factor"))).assign_attrs(
        border_name="the article's borders",
        border_n=[SHORT, LONG],
        border_lag=LOCAL,
        border_regions="attention;convolution,\nsparse attention;recurrence",
    )

"""Predicted curves drawn over a measured decay curve, in its colour, thin and dashed."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from depprobe.errors import BadInput
from depprobe.figures.drawing.drawn_curve import Curve
from depprobe.figures.drawing.log_axis import log10_of
from depprobe.figures.drawing.style import thin

_DASHES = ((0, (6, 2)), (0, (2, 2)), (0, (6, 2, 1, 2)), (0, (1, 1)))


def draw_theory(
    ax: Axes, theory: xr.Dataset, part: xr.Dataset, curve: Curve, colour: str, name: str
) -> list[Line2D]:
    """Draw what theory says of one layer; a curve known up to a constant starts on the first measured lag.

    Absolute heights hold for Frobenius norms with respect to the input; any other curve is moved likewise.
    """
    missing = [one for one in ("log_theory", "constant", "layer") if one not in theory]
    if missing:
        raise BadInput(f"not a theory dataset: it lacks {', '.join(missing)}")
    layer = str(part["layer"].item() if "layer" in part.coords else part.attrs.get("layer"))
    if layer not in theory["layer"].values:
        return []
    as_predicted = part.attrs.get("norm") == "fro" and part.attrs.get("wrt") == "x"
    finite = np.flatnonzero(np.isfinite(curve.median) & (curve.lag >= 0))
    lines = []
    for i, kind in enumerate(theory["theory"].values):
        one = theory.sel(layer=layer, theory=kind)
        height, lag = log10_of(one["log_theory"].values), one["lag"].values
        if np.isnan(height).all() or not finite.size:
            continue
        if not as_predicted or one["constant"].item() == "first lag":
            first = finite[0]
            height = height + curve.median[first] - np.interp(curve.lag[first], lag, height)
        look: dict[str, Any] = {
            "color": colour,
            "linewidth": thin(2 / 3),
            "linestyle": _DASHES[i % len(_DASHES)],
        }
        (line,) = ax.plot(lag, height, label=f"{kind}, {name}", **look)
        lines.append(line)
    return lines

"""Which layer to take over length and dependency distance, with the borders of the article's tree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from depprobe.figures.style import COLOURS, COLUMN, GREY, styled


class DecisionMap(NamedTuple):
    """The figure and its axes."""

    figure: Figure
    ax: Axes


def decision(ds: xr.Dataset) -> DecisionMap:
    """Draw the regions of a map.

    Parameters
    ----------
    ds : from ``depprobe.advise.regions``; ``best`` over (lag, n).

    Returns
    -------
    The figure, one colour and hatch for each layer; dashed lines are the article's lengths.
    """
    names = str(ds.attrs["layers"]).split(",")
    n, lag = ds["n"].values.astype(float), ds["lag"].values.astype(float)
    hatches = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "---", "|||", "***")
    with styled():
        figure = Figure(figsize=(1.5 * COLUMN, 3.2), layout="constrained")
        ax = figure.subplots()
        colours = [COLOURS[index % len(COLOURS)] for index in range(len(names))]
        values = ds["best"].transpose("lag", "n").values
        ax.set_xscale("log")
        ax.set_yscale("log")
        for index in range(len(names)):
            shown = np.where(values == index, 1.0, np.nan)
            cmap, norm = ListedColormap([colours[index]]), BoundaryNorm([0, 2], 1)
            ax.pcolormesh(_edges(n), _edges(lag), shown, cmap=cmap, norm=norm, alpha=0.75)
            for row, column in zip(*np.nonzero(values == index), strict=True):
                x, y = _edges(n)[column : column + 2], _edges(lag)[row : row + 2]
                ax.fill_between(
                    x, y[0], y[1], facecolor="none", edgecolor="white", linewidth=0, hatch=hatches[index]
                )
        for border in (500, 5000):
            ax.axvline(border, color=GREY, linestyle=(0, (4, 2)), linewidth=1)
            ax.text(
                border,
                1.01,
                f"{border:,}",
                ha="center",
                va="bottom",
                transform=ax.get_xaxis_transform(),
                fontsize=7,
            )
        ax.set_xlabel("sequence length $n$ (positions)")
        ax.set_ylabel("lag of the dependency (positions)")
        title = f"$d$ = {ds.attrs['d']}" + (", one more token" if ds.attrs["stream"] else ", a training step")
        ax.set_title(title, loc="left", pad=14)
        keys = [
            Patch(facecolor=colours[i], alpha=0.75, hatch=hatches[i], edgecolor="white", label=name)
            for i, name in enumerate(names)
        ]
        keys.append(Patch(facecolor="white", edgecolor=GREY, label="no lag so long"))
        handles = [
            *keys,
            ax.plot([], [], color=GREY, linestyle=(0, (4, 2)), label="the article's borders")[0],
        ]
        figure.legend(handles=handles, loc="outside right upper")
    return DecisionMap(figure, ax)


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of cells around values, half way between them in the logarithm."""
    logs = np.log(values)
    inner = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - inner[0]], inner, [2 * logs[-1] - inner[-1]]]))

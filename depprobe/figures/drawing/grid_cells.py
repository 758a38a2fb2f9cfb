r"""A Jacobian dataset as the cells of a picture: log10 of norms on a regular grid over (t, k).

A picture has no use for more cells than it has dots, so finer grids are pooled by the largest norm: a
diagonal one cell wide stays visible, and a cell is an exact zero only where all it stands for are. Rows of
sparse targets are as high as ``_ROW`` of the picture, with gaps between them where nothing was measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.curves.align import CURVES, REPEATS, band_sources, check
from depprobe.errors import BadInput
from depprobe.figures.drawing.log_axis import log10_of

Floats = NDArray[np.float64]

#: stands for an unknown while cells are pooled: above an exact zero, below every norm
_UNKNOWN = -1e300
#: height of the row of a target far from others, as a share of the picture; one position at least
_ROW = 0.01


class Cells(NamedTuple):
    """Cells of one picture.

    Attributes
    ----------
    values : (rows, columns) log10 of norms, rows by t, columns by k; -inf exact zero, NaN unknown, inf in
        gaps between targets.
    t_edges, k_edges : first and last edge of the grid, in positions.
    t_view, k_view : the part of it that exists, in positions.
    targets : number of targets.
    """

    values: Floats
    t_edges: tuple[float, float]
    k_edges: tuple[float, float]
    t_view: tuple[float, float]
    k_view: tuple[float, float]
    targets: int


def cells(ds: xr.Dataset, finest: int) -> Cells:
    """Cells of one layer; over seeds and samples the median, and unknown where any of them is.

    Parameters
    ----------
    ds : Jacobian dataset with ``log_norm`` over (target, source) or (target, lag), and (seed, sample) before.
    finest : most cells along one side.

    Raises
    ------
    BadInput : not a Jacobian dataset of one layer.
    """
    check(ds)
    if set(CURVES) & set(ds["log_norm"].dims):
        raise BadInput("cells are those of one layer and depth")
    position, rows = np.unique(ds["position"].values.astype(np.float64), return_index=True)
    ds = ds.isel(target=rows)
    banded = "lag" in ds["log_norm"].dims
    if not banded:
        ds = ds.sortby("source")
    source = np.arange(int(ds.attrs["n"])) if banded else ds["source"].values
    n = int(ds.attrs.get("n", source[-1] + 1))

    t_edges, k_edges = _edges(position), _edges(source.astype(np.float64))
    high = max(1.0, _ROW * (position[-1] - position[0]))
    sparse = bool((np.diff(position) > high).any())
    by_row, by_column = 1 if sparse else _group(t_edges, finest), _group(k_edges, finest)
    columns = np.arange(len(source)) // by_column
    repeats = tuple(dim for dim in REPEATS if dim in ds["log_norm"].dims)
    stored = ds["log_norm"].transpose(*repeats, "target", "lag" if banded else "source").values
    stored = stored.reshape(-1, *stored.shape[-2:])

    values = np.full((-(-len(position) // by_row), columns[-1] + 1), -np.inf)
    for row, start in enumerate(range(0, len(position), by_row)):
        some = slice(start, start + by_row)
        norms = _over_repeats(stored[:, some])
        ranked = np.where(np.isnan(norms), _UNKNOWN, norms)
        if banded:
            k = band_sources(position[some], ds["lag"].values)
            inside = (k >= 0) & (k < len(source))
            np.maximum.at(values[row], columns[k[inside]], ranked[inside])
        else:
            starts = np.arange(0, len(source), by_column)
            values[row] = np.maximum.reduceat(ranked.max(0), starts)
    values = np.where(values == _UNKNOWN, np.nan, log10_of(values))
    if sparse:
        values, t_range = _rows_apart(values, position, high, finest)
    else:
        values, t_range = _regular(values, t_edges, by_row, finest)
    values, k_range = _regular(values.T, k_edges, by_column, finest)
    return Cells(
        values.T,
        t_range,
        k_range,
        (max(t_range[0], -0.5), min(t_range[1], t_edges[-1], n - 0.5)),
        (max(k_edges[0], -0.5), min(k_edges[-1], n - 0.5)),
        len(position),
    )


def _over_repeats(norms: Floats) -> Floats:
    """Median over the first axis, the upper one of two: half way between a norm and a zero is not a zero."""
    if norms.shape[0] == 1:
        return norms[0]
    # NaN sorts last
    ranked = np.sort(norms, axis=0)
    return np.where(np.isnan(ranked[-1]), np.nan, ranked[norms.shape[0] // 2])


def _edges(positions: Floats) -> Floats:
    """Edges of cells around sorted positions, half way between neighbours."""
    if len(positions) == 1:
        return positions[0] + np.array([-0.5, 0.5])
    middles = (positions[1:] + positions[:-1]) / 2
    return np.concatenate([[2 * positions[0] - middles[0]], middles, [2 * positions[-1] - middles[-1]]])


def _even(edges: Floats) -> bool:
    return bool(np.allclose(np.diff(edges), edges[1] - edges[0]))


def _group(edges: Floats, finest: int) -> int:
    """How many neighbouring cells become one."""
    return -(-(len(edges) - 1) // finest) if _even(edges) else 1


def _rows_apart(
    values: Floats, positions: Floats, high: float, finest: int
) -> tuple[Floats, tuple[float, float]]:
    """Rows of one height on an even grid, inf between them, and the first and last edge of the grid."""
    ends = positions[0] - high / 2, positions[-1] + high / 2
    grid = np.linspace(*ends, finest + 1)
    centres = (grid[1:] + grid[:-1]) / 2
    nearest = np.abs(centres[:, None] - positions).argmin(1)
    within = np.abs(centres - positions[nearest]) <= high / 2
    return np.where(within[:, None], values[nearest], np.inf), ends


def _regular(values: Floats, edges: Floats, group: int, finest: int) -> tuple[Floats, tuple[float, float]]:
    """The rows on an even grid, and the first and last edge of that grid."""
    if _even(edges):
        return values, (edges[0], edges[0] + len(values) * group * (edges[1] - edges[0]))
    grid = np.linspace(edges[0], edges[-1], finest + 1)
    rows = np.searchsorted(edges, (grid[1:] + grid[:-1]) / 2, side="right") - 1
    return values[rows], (edges[0], edges[-1])

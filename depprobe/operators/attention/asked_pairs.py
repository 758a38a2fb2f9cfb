"""Which norms are asked for, and where those of a tile's pairs belong among them.

Rows are targets t, columns sources k, or lags t - k where all pairs have few.
Shapes: R targets, W columns; a tile has T groups of c targets with m keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.operators.attention.heads import Tile


class AskedPairs:
    """The norms of some rows and columns.

    Parameters
    ----------
    targets : (R,) ascending.
    columns : (W,) ascending, sources, or lags where ``by_lag``.
    keys : number of keys, of which the first n are sources.
    """

    def __init__(
        self,
        targets: NDArray[np.int64],
        columns: NDArray[np.int64],
        *,
        by_lag: bool,
        n: int,
        keys: int,
        device: torch.device,
    ) -> None:
        self.targets, self.shape = targets, (len(targets), len(columns))
        self._n, self.by_lag = n, by_lag
        self._targets, self._columns = (torch.from_numpy(z).to(device) for z in (targets, columns))
        self._row_of = torch.full((n,), -1, device=device)
        self._row_of[self._targets] = torch.arange(len(targets), device=device)
        # a negative lag stands at the far end
        self._column_of = torch.full((2 * n if by_lag else keys,), -1, device=device)
        self._column_of[self._columns] = torch.arange(len(columns), device=device)
        #: whether any block k = t is among them
        self.own = by_lag or bool(np.isin(targets, columns).any())

    def places(self, tile: Tile, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which pairs are asked for, which are k = t, and their places from row ``first`` on: (T, c, m)."""
        t, k = tile.targets[:, :, None], tile.keys[:, None]
        row, column = self._row_of[t] - first, self._column_of[t - k if self.by_lag else k]
        own = torch.zeros(row.shape[0], row.shape[1], k.shape[2], dtype=torch.bool, device=k.device)
        own.scatter_(2, tile.own()[..., None], True)
        # a block k = t is there even if the mask hides the key: the query moves with x_t
        there = (tile.seen() & (t != k) & (k < self._n)) | own
        there &= (row >= 0) & (row < tile.asked) & (column >= 0)
        return there, own, torch.where(there, row * self.shape[1] + column, tile.asked * self.shape[1])

    def laid(self, values: Tensor, place: Tensor, count: int, rest: float) -> Tensor:
        """Values of pairs (T, c, m) as ``count`` rows (count, W), ``rest`` where there is no pair."""
        flat = values.new_full((count * self.shape[1] + 1,), rest)
        return flat.scatter_(0, place.flatten(), values.flatten())[:-1].view(count, -1)

    def outside(self, first: int, count: int) -> Tensor:
        """Which of some rows' lags lead outside the sequence: (count, W)."""
        source = self.sources(self._targets[first : first + count, None], slice(None))
        return (source < 0) | (source >= self._n)

    def sources(self, t: Tensor | int, columns: Tensor | slice) -> Tensor:
        """The sources of some columns of target t."""
        found = self._columns[columns]
        return t - found if self.by_lag else found


def picked(values: NDArray[np.float64], places: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Rows and columns in the order asked for; the array itself where they stand in it."""
    for axis, place in enumerate(places):
        if not np.array_equal(place, np.arange(values.shape[axis])):
            values = values.take(place, axis)
    return values

r"""Sums over the blocks of one layer from which every distance follows, unit by unit.

    share_t(k) = ||J[t,k]||^p / sum_k ||J[t,k]||^p        p = the power; each target's shares add up to 1

With p = 2 this is the normalised squared norm of the block; "share" is short for it here.

A unit is what is drawn again when resampling: consecutive targets of one sample and seed. Lags L and -L are
pooled as the distance |lag|, unless one side is zero throughout: the future of a causal layer is not counted.

Shapes: U units, m distances with some non-zero or unknown block, B weightings of the units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from depprobe.curves.align import Blocks, Floats, Ints
from depprobe.errors import BadInput


@dataclass(frozen=True)
class Units:
    """What each unit contributes.

    Attributes
    ----------
    distance : (m,) distances, ascending.
    empty : (z,) further distances, where all blocks are zero, ascending.
    log_square : (U, m) natural log of the sum of squared norms.
    log_sum : (U, m) sum of the natural logs of norms, exact zeros left out.
    known, zeros : (U, m) numbers of blocks that are not NaN, and of exact zeros among them.
    share : (U, m) shares summed over targets.
    first : (U,) shares of source 0 summed over targets.
    rows : (U,) number of targets that have a share: some block known and not zero.
    furthest : (U, 2) furthest past and future lag with a non-zero block, as distances; -inf where none,
        minus the distance where even the furthest lies on the other side.
    blocks : (m, K) natural logs of all norms at each distance, NaN where there is none.
    owner : (K,) unit of each column of ``blocks``.
    """

    distance: Ints
    empty: Ints
    log_square: Floats
    log_sum: Floats
    known: Floats
    zeros: Floats
    share: Floats
    first: Floats
    rows: Floats
    furthest: Floats
    blocks: Floats
    owner: Ints


@dataclass(frozen=True)
class Curves:
    """B pooled curves over the same distances.

    Attributes
    ----------
    distance, empty : as in ``Units``.
    log_rms, zero_share, share : (B, m); NaN where nothing is known. ``log_rms`` is the log of the median or
        geometric mean instead where these were asked for.
    first : (B,) share of source 0.
    furthest : (B, 2).
    """

    distance: Ints
    empty: Ints
    log_rms: Floats
    zero_share: Floats
    share: Floats
    first: Floats
    furthest: Floats

    def moved(self, change: Floats, power: int) -> Curves:
        """These curves (B=1) with (B, m) added to their log norms."""
        with np.errstate(divide="ignore"):
            log_share = np.log(self.share) + power * change
        share = np.exp(log_share - log_share.max(1, keepdims=True, initial=-np.inf))
        return replace(
            self,
            log_rms=self.log_rms + change,
            zero_share=np.broadcast_to(self.zero_share, change.shape),
            share=share / share.sum(1, keepdims=True),
            first=np.broadcast_to(self.first, len(change)),
            furthest=np.broadcast_to(self.furthest, (len(change), 2)),
        )


def collect(blocks: Blocks, power: int, starts: Ints, skip_lags: int = 0) -> Units:
    """Sums over units that begin at the targets ``starts`` (first 0).

    Distances below ``skip_lags`` have no part in the shares; raises ``BadInput`` where these are all.
    """
    lags, values = blocks.lags, blocks.values
    farthest = int(np.abs(np.concatenate([lags, blocks.zero_lags])).max(initial=0))
    if skip_lags > farthest:
        raise BadInput(f"skip_lags={skip_lags} leaves no lag: the largest is {farthest}; use that or less")
    logs = np.where(np.isnan(values), -np.inf, values)

    def per_unit(cells: Floats) -> Floats:
        return np.add.reduceat(cells, starts, axis=-2).reshape(
            *cells.shape[:-2], len(starts) * values.shape[2]
        )

    share, rows = _shares(np.where(np.abs(lags)[:, None, None] < skip_lags, -np.inf, logs), power)
    distance = np.unique(np.abs(lags))
    at = np.searchsorted(distance, np.abs(lags))
    # where a target sits, its lag to source 0
    to_first = (lags[:, None] == blocks.here[None, :])[:, :, None]

    def fold(cells: Floats) -> Floats:
        folded = np.zeros((len(distance), cells.shape[1]))
        np.add.at(folded, at, cells)
        return folded.T

    peak = np.maximum.reduceat(logs, starts, axis=1)
    shift = np.where(np.isfinite(peak), peak, 0.0)
    runs = np.diff(np.append(starts, values.shape[1]))
    square = per_unit(np.exp(2 * (logs - np.repeat(shift, runs, axis=1))))
    log_square = np.full((len(distance), square.shape[1]), -np.inf)
    with np.errstate(divide="ignore"):
        np.logaddexp.at(log_square, at, np.log(square) + 2 * shift.reshape(square.shape))

    sides = np.full((len(distance), 2, *values.shape[1:]), np.nan)
    sides[at, (lags < 0).astype(int)] = values
    live = (peak > -np.inf).reshape(square.shape)
    furthest = [
        np.max(np.where(live, side[:, None], -np.inf), axis=0, initial=-np.inf) for side in (lags, -lags)
    ]
    return Units(
        distance,
        _empty(blocks, distance),
        log_square.T,
        fold(per_unit(np.where(np.isfinite(values), values, 0.0))),
        fold(per_unit((~np.isnan(values)).astype(np.float64))),
        fold(per_unit((values == -np.inf).astype(np.float64))),
        fold(per_unit(share)),
        per_unit((share * to_first).sum(0)),
        per_unit(rows),
        np.stack(furthest, axis=1),
        sides.reshape(len(distance), 2 * values.shape[1] * values.shape[2]),
        np.tile(np.arange(square.shape[1]).reshape(len(starts), -1).repeat(runs, 0).ravel(), 2),
    )


def weigh(units: Units, weights: Floats, pooling: str = "rms") -> Curves:
    """Curves of the units taken ``weights`` (B, U) times each, pooled as one of ``vocabulary.POOLINGS``."""
    known, zeros = weights @ units.known, weights @ units.zeros
    rows = weights @ units.rows
    with np.errstate(divide="ignore", invalid="ignore"):
        if pooling == "rms":
            pooled = 0.5 * (log_weighted(weights, units.log_square) - np.log(known))
        elif pooling == "geometric":
            pooled = np.where(zeros > 0, -np.inf, weights @ units.log_sum / known)
        else:
            pooled = _median(units.blocks, weights[:, units.owner])
        return Curves(
            units.distance,
            units.empty,
            pooled,
            zeros / known,
            (weights @ units.share) / rows[:, None],
            weights @ units.first / rows,
            np.stack([_furthest(weights, side) for side in units.furthest.T], axis=1),
        )


def _median(blocks: Floats, weights: Floats) -> Floats:
    """Natural log of the weighted median of norms (m, K), half way between the middle two: (B, m)."""
    order = np.argsort(blocks, axis=1)
    ranked = np.take_along_axis(blocks, order, 1)
    found = []
    for weight in weights:
        mass = np.cumsum(np.where(np.isnan(ranked), 0.0, weight[order]), axis=1)
        half = mass[:, -1:] / 2
        middle = [(mass >= half * (1 - 1e-12)).argmax(1), (mass > half * (1 + 1e-12)).argmax(1)]
        low, high = (np.take_along_axis(ranked, at[:, None], 1)[:, 0] for at in middle)
        found.append(np.where(half[:, 0] > 0, np.logaddexp(low, high) - np.log(2), np.nan))
    return np.array(found)


def _shares(logs: Floats, power: int) -> tuple[Floats, Floats]:
    """Shares (lags, T, R) of every target, and whether it has any (T, R)."""
    peak = np.max(logs, axis=0, initial=-np.inf)
    rows = peak > -np.inf
    mass = np.exp(power * (logs - np.where(rows, peak, 0.0)))
    return mass / np.where(rows, mass.sum(0), 1.0), rows.astype(np.float64)


def _empty(blocks: Blocks, distance: Ints) -> Ints:
    """Distances at which all blocks are zero, on the sides where the layer looks."""
    sides = {int(s) for s in np.sign(blocks.lags)} - {0} or {-1, 1}
    lags = blocks.zero_lags
    return np.setdiff1d(np.abs(lags[np.isin(np.sign(lags), list(sides))]), distance)


def log_weighted(weights: Floats, logs: Floats) -> Floats:
    """Natural log of weights (B, U) times exp(logs (U, m)), also where a draw leaves out what is largest."""
    peak = np.max(logs, axis=0, initial=-np.inf)
    shift = np.where(np.isfinite(peak), peak, 0.0)
    total = weights @ np.exp(logs - shift)
    with np.errstate(divide="ignore"):
        result = np.log(total) + shift
    live = (weights > 0).astype(np.float64) @ (logs > -np.inf) > 0
    # what lost its digits to underflow is summed again about its own largest term
    for b, column in np.argwhere(live & (total < np.finfo(float).tiny / np.finfo(float).eps)):
        chosen = weights[b] > 0
        result[b, column] = np.logaddexp.reduce(logs[chosen, column] + np.log(weights[b, chosen]))
    return result


def _furthest(weights: Floats, side: Floats) -> Floats:
    return np.where(weights > 0, side, -np.inf).max(1)

r"""Shapes of a decay curve with parameters that enter nonlinearly, fitted to many curves at once.

    g(L) = ln sum_j exp(w_j + h_j(L)),    w_1 = 0

    exponential  h = -e^k L        Gaussian   h = -e^k L^2       floor  h = 0
    power law    h = -e^k ln L     stretched  h = -exp(k + e^q ln(L / L_0)),    L_0 the middle of ln L

A form is a sum of norms of one or two of these and, where it has one, a floor; e^q is the exponent of a
stretched exponential. Fit: Levenberg-Marquardt (Marquardt 1963, SIAM Journal 11, 431) on residuals whitened
as ``noise`` says, from starts that straight lines through parts of the curve give, first without correlation,
then with each.
Shapes: B curves at once, m distances, p parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from depprobe.curves.align import Floats, Ints
from depprobe.curves.noise import RESOLUTION, Bools, Whitening, regress

#: parts of a curve, as shares of its points, on which components start, by their number
_BREAKS = {
    1: ((),),
    2: ((0.1,), (0.3,), (0.6,)),
    3: ((0.05, 0.3), (0.2, 0.5), (0.4, 0.8)),
}
#: exponents of a stretched exponential to start from
_STRETCHES = (0.3, 0.7, 1.4)
#: bounds of k, ln of a rate, and of q, ln of a stretch
_RATES, _EXPONENTS = (-30.0, 8.0), (np.log(0.05), np.log(4.0))
#: most steps of all starts, of the best one, under each correlation, and from what is given
_FIRST, _FULL, _NEXT, _NEAR = 6, 40, 8, 3


class Shape(NamedTuple):
    """Components of a form and what its parameters are."""

    components: tuple[str, ...]

    @property
    def linear(self) -> bool:
        """Whether the form is a straight line in some function of L; its parameter is then the slope."""
        return len(self.components) < 2 and "stretched" not in self.components

    @property
    def size(self) -> int:
        """Number of parameters without the level."""
        return sum({"floor": 0, "stretched": 2}.get(c, 1) for c in self.components) + max(
            len(self.components) - 1, 0
        )

    def __call__(self, theta: Floats, distance: Ints) -> tuple[Floats, Floats]:
        """The form (B, m) and its derivatives (B, p, m) at theta (B, p)."""
        L = distance.astype(np.float64)
        if self.linear:
            x = np.stack([against(name, L) for name in self.components] or [np.zeros_like(L)])
            return theta @ x[: self.size], np.broadcast_to(x[: self.size], (*theta.shape, len(L)))
        log = np.log(L)
        middle = log - 0.5 * (log[0] + log[-1])
        columns = iter(theta.T[:, :, None])
        heights, slopes, owners = [], [], []
        for j, name in enumerate(self.components):
            weight = next(columns) if j else 0.0
            if j:
                slopes.append(np.ones_like(L))
                owners.append(j)
            if name == "floor":
                h = np.zeros((len(theta), 1))
            elif name == "stretched":
                k, q = next(columns), next(columns)
                h = -np.exp(np.minimum(k + np.exp(q) * middle, 300))
                slopes += [h, h * np.exp(q) * middle]
                owners += [j, j]
            else:
                h = -np.exp(next(columns)) * against(name, L)
                slopes.append(h)
                owners.append(j)
            heights.append(np.broadcast_to(weight + h, (len(theta), len(L))))
        each = np.stack(heights, 1)
        top = each.max(1, keepdims=True)
        part = np.exp(each - top)
        total = part.sum(1, keepdims=True)
        part /= total
        g = (top + np.log(total))[:, 0]
        return g, np.stack([part[:, j] * slope for j, slope in zip(owners, slopes, strict=True)], 1)

    def slope(self, theta: Floats, distance: Ints) -> Floats:
        """Slope (B,) of what decays: in ln rms, against L, ln L or L^2; of the slower of two; -1 / tau."""
        if not self.size:
            return np.zeros(len(theta))
        if self.linear:
            return theta[:, 0]
        if "stretched" in self.components:
            middle = 0.5 * np.log(float(distance[0]) * float(distance[-1]))
            return -np.exp(theta[:, 0] * np.exp(-theta[:, 1]) - middle)
        rates = theta[:, [0, 2]] if self.components[:2] == ("exponential",) * 2 else theta[:, :1]
        return -np.exp(rates.min(1))

    def bounds(self, spread: Floats) -> tuple[Floats, Floats]:
        """Lowest and highest theta (B, p) for curves that span ``spread`` (B,)."""
        low, high = [], []
        for j, name in enumerate(self.components):
            if j:
                low.append(-2 * spread - 20)
                high.append(2 * spread + 20)
            if name == "floor":
                continue
            low.append(np.full_like(spread, _RATES[0]))
            high.append(np.full_like(spread, _RATES[1]))
            if name == "stretched":
                low.append(np.full_like(spread, _EXPONENTS[0]))
                high.append(np.full_like(spread, _EXPONENTS[1]))
        return np.stack(low, 1), np.stack(high, 1)

    def starts(self, distance: Ints, y: Floats, seen: Bools) -> list[Floats]:
        """Parameters (B, p) from straight lines through parts of the curves."""
        L = distance.astype(np.float64)
        found = []
        stretches = _STRETCHES if "stretched" in self.components else (1.0,)
        edges = len(distance)
        for breaks in _BREAKS[len(self.components)]:
            cuts = [0, *(max(2, round(edges * b)) for b in breaks), edges]
            for beta in stretches:
                theta, first = [], np.zeros(len(y))
                for j, name in enumerate(self.components):
                    x = L**beta if name == "stretched" else against(name, L)
                    part = slice(cuts[j], max(cuts[j + 1], cuts[j] + 2))
                    level, slope = line(x[part], y[:, part], seen[:, part], flat=name == "floor")
                    if j:
                        theta.append(level - first)
                    else:
                        first = level
                    if name == "floor":
                        continue
                    k = np.log(np.maximum(-slope, 1e-9 / max(x[-1], 1.0)))
                    if name == "stretched":
                        theta += [k + beta * 0.5 * np.log(L[0] * L[-1]), np.full(len(y), np.log(beta))]
                    else:
                        theta.append(k)
                found.append(np.stack(theta, 1))
        return found


def against(name: str, L: Floats) -> Floats:
    """The function of L in which a component is a straight line."""
    return {"power law": np.log(L), "Gaussian": L**2}.get(name, L)


def line(x: Floats, y: Floats, seen: Bools, flat: bool = False) -> tuple[Floats, Floats]:
    """Level at x = 0 (the mean where ``flat``) and slope (B,) of least squares of y (B, m) on x (m,)."""
    weight = seen / np.maximum(seen.sum(1, keepdims=True), 1)
    mean, at = (weight * y).sum(1), (weight * x).sum(1)
    dx = x - at[:, None]
    power = (weight * dx**2).sum(1)
    slope = (weight * dx * y).sum(1) / np.where(power > 0, power, 1.0)
    return (mean, slope) if flat else (mean - slope * at, slope)


def _descend(
    shape: Shape, theta: Floats, distance: Ints, y: Floats, noise: Whitening, steps: int
) -> tuple[Floats, Floats]:
    """Parameters (B, p) after so many steps, and the sums of squares of whitened residuals (B,)."""
    spread = np.where(noise.seen, y, -np.inf).max(1) - np.where(noise.seen, y, np.inf).min(1)
    low, high = shape.bounds(np.nan_to_num(spread, posinf=0, neginf=0))
    theta = np.clip(theta, low, high)
    damping, stalled = np.full(len(theta), 1e-3), np.zeros(len(theta), np.int64)
    arrived = np.zeros(len(theta), bool)
    g, slopes = shape(theta, distance)
    r = noise(y - g)
    best = (r**2).sum(1)
    for _ in range(steps):
        J = noise(np.moveaxis(slopes, 1, 0)).swapaxes(0, 1)
        gram = np.einsum("bpm,bqm->bpq", J, J)
        force = np.einsum("bpm,bm->bp", J, r)
        size = np.einsum("bpp->bp", gram)
        size = size + 1e-12 * size.max(1, keepdims=True) + 1e-30
        gram = gram + np.einsum("b,bp,pq->bpq", damping, size, np.eye(theta.shape[1]))
        gram += 1e-12 * np.einsum("bp,pq->bpq", size, np.eye(theta.shape[1]))
        step = np.linalg.solve(gram, force[..., None])[..., 0]
        new = np.clip(theta + np.clip(step, -2, 2), low, high)
        g_new, slopes_new = shape(new, distance)
        r_new = noise(y - g_new)
        square = (r_new**2).sum(1)
        # a curve that has arrived stays, so that it does not depend on which others are fitted with it
        better = (square < best) & ~arrived
        stalled = np.where(better & (square < (1 - 1e-7) * best), 0, stalled + 1)
        theta = np.where(better[:, None], new, theta)
        r = np.where(better[:, None], r_new, r)
        slopes = np.where(better[:, None, None], slopes_new, slopes)
        best = np.where(better, square, best)
        damping = np.where(better, damping / 5, damping * 4)
        arrived = (stalled > 3) | (best < noise.points * RESOLUTION**2 / 100)
        if arrived.all():
            break
    return theta, best


def fit_shape(
    shape: Shape, distance: Ints, y: Floats, noise: Whitening, start: Floats | None = None
) -> tuple[Floats, Floats]:
    """Best parameters (P, B, p) under each of P correlations, and -2 ln likelihood (P, B).

    ``noise`` whitens P B curves, those of one correlation together. ``start`` (B, p) goes in place of starts
    from the curves.
    """
    rows = len(noise.seen) // len(y)
    every = np.tile(y, (rows, 1))
    if shape.linear:
        _, tangents = shape(np.zeros((len(every), shape.size)), distance)
        u, designs = noise(every), noise(np.moveaxis(tangents, 1, 0)).swapaxes(0, 1)
        theta, r = regress(u, designs)
        if shape.components == ("Gaussian",):
            rises = theta > 0
            theta, r = np.where(rises, 0.0, theta), np.where(rises, u, r)
        square = (r**2).sum(1)
    else:
        steps = _NEXT if start is None else _NEAR
        if start is None:
            start = _started(shape, distance, y, noise.seen[: len(y)])
        theta, square = _descend(shape, np.tile(start, (rows, 1)), distance, every, noise, steps)
    return theta.reshape(rows, len(y), -1), noise.criterion(square, shape.size).reshape(rows, len(y))


def _started(shape: Shape, distance: Ints, y: Floats, seen: Bools) -> Floats:
    """Parameters (B, p) that are best for uncorrelated residuals, from the best of several starts."""
    starts = shape.starts(distance, y, seen)
    every = Whitening(distance, np.tile(seen, (len(starts), 1)), 0.0)
    theta, square = _descend(
        shape, np.concatenate(starts), distance, np.tile(y, (len(starts), 1)), every, _FIRST
    )
    best = square.reshape(len(starts), -1).argmin(0)
    theta = theta.reshape(len(starts), len(y), -1)[best, np.arange(len(y))]
    return _descend(shape, theta, distance, y, Whitening(distance, seen, 0.0), _FULL)[0]

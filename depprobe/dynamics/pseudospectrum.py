r"""The smallest singular value of zI - W on a grid of z, from the Schur form of W.

    sigma_min(zI - W) = sigma_min(zI - T),    1 / sigma_min^2 = largest eigenvalue of (A^H A)^-1,  A = zI - T

Its contours bound the eps-pseudospectra: z where some perturbation of norm eps makes an eigenvalue of W.
Lanczos iteration on (A^H A)^-1 takes two triangular solves a step, d^2 operations for each z; all z are
solved together, block by block of T, so that nearly all the work is in matrix products.
Source: Trefethen and Embree 2005, chapter 39 (Lui 1997).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

_BLOCK = 32
#: bytes that the vectors of one batch of z may take
_BATCH_BYTES = 32 << 20
#: steps after which the iteration stops, and the residual at which it may stop earlier: an eigenvalue of
#: (A^H A)^-1 lies so near, relative to it. A small change from step to step would not tell: where the
#: eigenvalues are close the iteration rests and goes on
_STEPS, _TOLERANCE = 60, 1e-3


def smallest_singular_values(T: Complex, z: Complex) -> Real:
    """ln sigma_min(zI - T) at each z, any shape; values below round-off, eps ||T||, are given as that.

    Parameters
    ----------
    T : (d, d), upper triangular.
    z : points of the complex plane.

    Examples
    --------
    >>> T = np.array([[0.0, 1.0], [0.0, 0.0]], complex)
    >>> np.exp(smallest_singular_values(T, np.array([1.0 + 0j]))).round(4)
    array([0.618])
    """
    d = len(T)
    # near 1, squares stay in range; a power of two rounds nothing
    shift = math.frexp(float(max(np.abs(T).max(), np.abs(z).max())))[1]
    T, flat = T * math.ldexp(1.0, -shift), z.ravel() * math.ldexp(1.0, -shift)
    floor = np.finfo(np.float64).eps * max(float(np.linalg.norm(T)), np.finfo(np.float64).tiny)
    batch = max(1, _BATCH_BYTES // (64 * d))
    parts = [_smallest(T, flat[i : i + batch], floor) for i in range(0, len(flat), batch)]
    return np.log(np.maximum(np.concatenate(parts), floor)).reshape(z.shape) + shift * math.log(2)


def _smallest(T: Complex, z: Complex, floor: float) -> Real:
    d = len(T)
    rng = np.random.default_rng(0)
    v = np.repeat((rng.standard_normal(d) + 1j * rng.standard_normal(d))[:, None], len(z), 1)
    v /= np.linalg.norm(v, axis=0)
    pivots = z[None, :] - np.diag(T)[:, None]
    # an eigenvalue on the grid: as near to singular as round-off can tell
    pivots = np.where(np.abs(pivots) < floor, floor, pivots)
    before, beta = np.zeros_like(v), np.zeros(len(z))
    alphas: list[Real] = []
    betas: list[Real] = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(min(_STEPS, d + 2)):
            w = _solve(T, pivots, _solve_adjoint(T, pivots, v)) - beta * before
            alpha = np.real(np.sum(v.conj() * w, axis=0))
            w -= alpha * v
            alphas.append(alpha)
            top, end = _top(alphas, betas)
            beta = np.linalg.norm(w, axis=0)
            if not (beta * end > _TOLERANCE * top)[np.isfinite(top)].any():
                break
            betas.append(beta)
            before, v = v, w / np.where(beta > 0, beta, 1.0)
        # beyond the floats: 1 / sigma^2 overflows where sigma is far below round-off
        return np.where(np.isfinite(top) & (top > 0), 1 / np.sqrt(np.abs(top)), 0.0)


def _top(alphas: list[Real], betas: list[Real]) -> tuple[Real, Real]:
    """Largest eigenvalue of the tridiagonal matrix at each z, and |last entry| of its eigenvector.

    The eigenvalue is inf where an entry is not finite.
    """
    size, count = len(alphas), len(alphas[0])
    matrix = np.zeros((count, size, size))
    index = np.arange(size)
    matrix[:, index, index] = np.stack(alphas, 1)
    if betas:
        matrix[:, index[1:], index[:-1]] = np.stack(betas, 1)
    finite = np.isfinite(matrix).all((1, 2))
    top, end = np.full(count, np.inf), np.ones(count)
    if finite.any():
        values, vectors = np.linalg.eigh(matrix[finite])
        top[finite], end[finite] = values[:, -1], np.abs(vectors[:, -1, -1])
    return top, end


def _solve(T: Complex, pivots: Complex, b: Complex) -> Complex:
    """Columns x with (z_j I - T) x_j = b_j."""
    x = b.copy()
    for stop in range(len(T), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        for i in range(stop - 1, start - 1, -1):
            x[i] /= pivots[i]
            x[start:i] += T[start:i, i, None] * x[i]
        x[:start] += T[:start, start:stop] @ x[start:stop]
    return x


def _solve_adjoint(T: Complex, pivots: Complex, b: Complex) -> Complex:
    """Columns x with (z_j I - T)^H x_j = b_j."""
    x = b.copy()
    for start in range(0, len(T), _BLOCK):
        stop = min(len(T), start + _BLOCK)
        for i in range(start, stop):
            x[i] /= pivots[i].conj()
            x[i + 1 : stop] += T[i, i + 1 : stop, None].conj() * x[i]
        x[stop:] += T[start:stop, stop:].conj().T @ x[start:stop]
    return x

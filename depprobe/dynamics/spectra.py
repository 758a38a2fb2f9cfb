r"""The spectrum of a square matrix W (d, d): eigenvalues, singular values, and how far it is from normal.

    Schur        W = Q T Q^H,  T upper triangular with the eigenvalues on its diagonal
    Henrici      dep(W) = (||W||_F^2 - sum |lambda|^2)^(1/2) = norm_F of T above its diagonal
    growth       max over k >= 0 of ||W^k||_2;  once ||W^K|| <= 1 no later power exceeds the largest so far

Dense to ``DENSE`` rows; beyond that the leading modes by Arnoldi and Lanczos iteration (ARPACK), from
products with W and W^T alone. Sources: Henrici 1962 (departure); Trefethen and Embree 2005 (growth).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from depprobe.errors import BadInput, DepprobeError

#: widest matrix whose spectrum is computed whole
DENSE = 1024

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Spectrum:
    """What is known of one matrix.

    Attributes
    ----------
    eigenvalues : by falling modulus, then real part, the upper one of a conjugate pair first.
    singular_values : falling.
    henrici : departure from normality over norm_F, 0 (normal) to 1; NaN where only leading modes are known.
    log_condition : ln of largest over smallest singular value; inf where singular, NaN where not known.
    log_growth, growth_power : ln of the largest norm of a power within those tried, and that power.
    growth_settled : whether no later power can exceed it.
    residual : largest ||W v - lambda v|| and ||W v - sigma u|| over the largest singular value; NaN if dense.
    triangular : T (d, d), None where only leading modes are known.
    """

    eigenvalues: Complex
    singular_values: Real
    henrici: float
    log_condition: float
    log_growth: float
    growth_power: int
    growth_settled: bool
    residual: float
    triangular: Complex | None

    def leading(self, modes: int | None) -> Spectrum:
        """The same with no more than some leading modes; None for all."""
        values, singular = self.eigenvalues[:modes], self.singular_values[:modes]
        return replace(self, eigenvalues=values, singular_values=singular)


def spectrum_of(W: Real, powers: int) -> Spectrum:
    """The whole spectrum of a matrix (d, d), float64.

    Examples
    --------
    >>> found = spectrum_of(np.array([[0.5, 2.0], [0.0, 0.5]]), powers=20)
    >>> found.eigenvalues.tolist(), found.growth_power, round(math.exp(found.log_growth), 3)
    ([(0.5+0j), (0.5+0j)], 1, 2.118)
    """
    # near 1, squares stay in range; a power of two rounds nothing
    shift = math.frexp(float(np.abs(W).max()))[1]
    T, _ = scipy.linalg.schur(np.ldexp(W, -shift), output="real")
    singular = np.asarray(np.linalg.svd(W, compute_uv=False), dtype=np.float64)
    largest, smallest = float(singular[0]), float(singular[-1])
    # a singular matrix comes out of the decomposition with a smallest value at round-off, not at zero
    lost = smallest <= np.finfo(np.float64).eps * len(W) * largest
    log_condition = math.inf if lost else math.log(largest) - math.log(smallest)
    triangular, _ = scipy.linalg.rsf2csf(T, np.zeros_like(T))
    log_growth, power, settled = _growth(lambda V: W @ V, np.eye(len(W)), powers)
    total, back = float(np.linalg.norm(T)), math.ldexp(1.0, shift)
    return Spectrum(
        ordered(_eigenvalues(T) * back),
        singular,
        _departure(T) / total if total else 0.0,
        log_condition,
        log_growth,
        power,
        settled,
        math.nan,
        np.asarray(triangular, dtype=np.complex128) * back,
    )


def leading_spectrum(W: LinearOperator, modes: int, powers: int) -> Spectrum:
    """The leading eigenvalues and singular values of a real operator (d, d), by its products alone.

    Raises
    ------
    BadInput : as many modes as the matrix has rows, less two.
    DepprobeError : the iteration did not converge.
    """
    d = W.shape[0]
    if not 1 <= modes < d - 2:
        raise BadInput(f"modes must lie between 1 and d - 3 = {d - 3} for leading modes, not {modes}")
    start = np.random.default_rng(0).standard_normal(d)
    try:
        values, vectors = scipy.sparse.linalg.eigs(W, k=modes, which="LM", v0=start)
        left, singular, right = scipy.sparse.linalg.svds(W, k=modes, which="LM", v0=start, solver="arpack")
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        raise DepprobeError(f"the {modes} leading modes did not converge: {error}; ask for fewer") from None
    real = W.matmat(np.ascontiguousarray(vectors.real))
    imag = W.matmat(np.ascontiguousarray(vectors.imag))
    top = float(singular.max())
    off = np.linalg.norm(real + 1j * imag - vectors * values, axis=0).max()
    off = max(off, np.linalg.norm(W.matmat(np.ascontiguousarray(right.T)) - left * singular, axis=0).max())
    log_growth, power, settled = _leading_growth(W, powers, start)
    return Spectrum(
        ordered(values),
        np.asarray(np.sort(singular)[::-1], dtype=np.float64),
        math.nan,
        math.nan,
        log_growth,
        power,
        settled,
        float(off) / top if top else 0.0,
        None,
    )


def ordered(values: Complex) -> Complex:
    """Eigenvalues by falling modulus, then real part, then imaginary part."""
    # conjugates from the real Schur form are exact mirror images, so their moduli tie exactly
    order = np.lexsort((-values.imag, -values.real, -np.abs(values)))
    return np.asarray(values[order], dtype=np.complex128)


def _eigenvalues(T: Real) -> Complex:
    """Eigenvalues of a real Schur form; LAPACK leaves its 2 x 2 blocks as [[a, b], [c, a]] with b c < 0."""
    values = np.diag(T).astype(np.complex128)
    below, above = np.diag(T, -1), np.diag(T, 1)
    for i in np.flatnonzero(below):
        half = math.sqrt(abs(above[i])) * math.sqrt(abs(below[i]))
        values[i], values[i + 1] = complex(T[i, i], half), complex(T[i, i], -half)
    return values


def _departure(T: Real) -> float:
    """norm_F of the complex triangular form above its diagonal, from the real one, without cancellation."""
    strict = np.triu(T, 1)
    for i in np.flatnonzero(np.diag(T, -1)):
        strict[i, i + 1] = abs(T[i, i + 1]) - abs(T[i + 1, i])
    return float(np.linalg.norm(strict))


def _growth(times: Callable[[Real], Real], power: Real, powers: int) -> tuple[float, int, bool]:
    """ln of the largest norm among powers 0 to ``powers``, which power, and whether none can exceed it."""
    log_scale, best, at = 0.0, 0.0, 0
    round_off = np.finfo(np.float64).eps * len(power)
    start = np.random.default_rng(0).standard_normal(len(power))
    for k in range(1, powers + 1):
        power = times(power)
        peak = float(np.abs(power).max())
        if peak == 0:
            return best, at, True
        # a power of two, so that scaling rounds nothing
        shift = math.frexp(peak)[1]
        power = np.ldexp(power, -shift)
        log_scale += shift * math.log(2)
        log_norm = log_scale + math.log(_norm(power, start))
        if log_norm > best + round_off:
            best, at = log_norm, k
        if log_norm <= round_off:
            return best, at, True
    return best, at, False


def _norm(P: Real, start: Real) -> float:
    if len(P) < 200:
        return float(np.linalg.norm(P, 2))
    return float(
        scipy.sparse.linalg.svds(P, k=1, v0=start, tol=1e-8, solver="arpack", return_singular_vectors=False)[
            0
        ]
    )


def _leading_growth(W: LinearOperator, powers: int, start: Real) -> tuple[float, int, bool]:
    """As ``_growth``, each norm by Lanczos iteration on the power as an operator."""
    best, at, log_unit = 0.0, 0, None
    for k in range(1, powers + 1):

        def forth(v: Real, k: int = k, unit: float = log_unit or 0.0) -> Real:
            for _ in range(k):
                v = W.matvec(v) * math.exp(-unit)
            return v

        def back(v: Real, k: int = k, unit: float = log_unit or 0.0) -> Real:
            for _ in range(k):
                v = W.rmatvec(v) * math.exp(-unit)
            return v

        operator = LinearOperator(W.shape, matvec=forth, rmatvec=back, dtype=np.float64)
        norm = float(
            scipy.sparse.linalg.svds(
                operator, k=1, v0=start, tol=1e-6, solver="arpack", return_singular_vectors=False
            )[0]
        )
        if norm == 0:
            return best, at, True
        log_norm = math.log(norm) + k * (log_unit or 0.0)
        # the mean growth a step so far keeps the products of the next power in range
        log_unit = log_norm / k
        if log_norm > best + 1e-6:
            best, at = log_norm, k
        if log_norm <= 0:
            return best, at, True
    return best, at, False

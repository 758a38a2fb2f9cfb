"""Which output positions a Jacobian is taken at: ``last``, ``all``, ``every:M``, ``random:K`` or a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depprobe.errors import BadInput

CHOICES = "last, all, every:M, random:K or a list such as 9,99,999"


def wanted_positions(targets: str | int | Sequence[int], n: int, seed: int = 0) -> NDArray[np.int64]:
    """Input positions that targets ask for, ascending: (T,), each in [0, n).

    ``every:M`` is M - 1, 2 M - 1, ...: the last position of every run of M. ``random:K`` draws one from each
    of K runs of nearly equal length, from ``seed``. Negative numbers count from the end. Raises ``BadInput``
    for anything else.

    Examples
    --------
    >>> wanted_positions("every:3", 10).tolist()
    [2, 5, 8]
    >>> wanted_positions("0,-1", 10).tolist()
    [0, 9]
    >>> wanted_positions("random:3", 30)
    array([ 5, 18, 29])
    """
    if isinstance(targets, str):
        if targets == "last":
            return np.array([n - 1])
        if targets == "all":
            return np.arange(n)
        try:
            if targets.startswith("every:"):
                step = int(targets.removeprefix("every:"))
                if not 1 <= step <= n:
                    raise BadInput(f"targets {targets!r}: the step must lie between 1 and n = {n}")
                return np.arange(step - 1, n, step)
            if targets.startswith("random:"):
                count = int(targets.removeprefix("random:"))
                if not 1 <= count <= n:
                    raise BadInput(f"targets {targets!r}: the number must lie between 1 and n = {n}")
                edges = np.linspace(0, n, count + 1).astype(np.int64)
                return np.random.default_rng([seed, 3]).integers(edges[:-1], edges[1:])
            targets = [int(part) for part in targets.split(",")]
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"targets must be {CHOICES}, not {targets!r}") from None
    chosen = [targets] if isinstance(targets, int) else list(targets)
    if not chosen:
        raise BadInput(f"targets must be {CHOICES}, not an empty list")
    for t in chosen:
        if not -n <= t < n:
            raise BadInput(f"target {t} lies outside the {n} positions; use -{n} to {n - 1}")
    return np.unique([t % n for t in chosen])


def nearest_outputs(wanted: NDArray[np.int64], position: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each input position wanted, the output that sits nearest to it (the earlier of two): (T,)."""
    return np.abs(position[None, :] - wanted[:, None]).argmin(1)

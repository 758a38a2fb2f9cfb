r"""Products of a recorded pass in one of its variables: rows, what they come to, and where paths lead.

What a backward pass gives the other variables is kept until they are asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.arguments import HALF, bits_of
from depprobe.core.scaled import Scaled, log_norm_of_logs
from depprobe.operators.autograd.recording import Recording, bytes_of


class Gathered:
    """What is kept of rows (r, n_in, d_in) that come in chunks: norms of the chunks, and the first rows.

    Attributes
    ----------
    logs : ln norms (columns,) of the blocks of each chunk.
    rows : at most ``most`` rows (r, columns, d_in), in chunks.
    """

    def __init__(self, columns: NDArray[np.int64], most: int) -> None:
        self.logs: list[Tensor] = []
        self.rows: list[Tensor] = []
        self._columns, self._left = columns, most

    def add(self, part: Tensor) -> None:
        part = part[:, self._columns]
        part = part.float() if part.dtype in HALF else part  # squares and sums would not fit
        self.logs.append(Scaled.plain(part).log_norm((0, 2)))
        if self._left > 0:
            self.rows.append(part[: self._left])
            self._left -= len(part)

    @property
    def log_norm(self) -> Tensor:
        """ln of the Frobenius norms of the blocks (columns,)."""
        return log_norm_of_logs(torch.stack(self.logs), (0,))[0]


class Products:
    """The products of a recorded pass in one of its variables.

    Parameters
    ----------
    recording : the pass.
    at : number of the variable.
    """

    def __init__(self, recording: Recording, at: int = 0) -> None:
        self._recording, self._at = recording, at
        self.narrowest = recording.narrowest[at]
        self._last: int | None = None

    @property
    def chunk(self) -> int:
        """How many products fit at once."""
        return self._recording.chunk

    @contextlib.contextmanager
    def up_to(self, last: int) -> Iterator[None]:
        """Rows of targets up to ``last``: a causal forward is passed so far, and no farther."""
        self._last = last
        try:
            yield
        finally:
            self._last = None

    def row(self, t: int, cotangents: Tensor) -> Iterator[Tensor]:
        """v^T J[t,:] for rows v of (m, d_out), in chunks: (chunk, n_in, d_in)."""
        return (part for (part,) in self._chunks(t, cotangents, slice(self._at, self._at + 1)))

    def _chunks(self, t: int, cotangents: Tensor, which: slice) -> Iterator[Sequence[Tensor]]:
        recording = self._recording
        points, y = (recording.points, recording.y) if self._last is None else recording.up_to(self._last, t)
        beyond = len(recording.y) - len(y)
        for part in cotangents.split(min(self.chunk, len(cotangents))):
            full = torch.zeros(len(part), *y.shape, dtype=part.dtype, device=part.device)
            full[:, t] = part
            found = recording.many(full, points[which], y)
            yield [nn.functional.pad(one, (0, 0, 0, beyond)) for one in found] if beyond else found

    def gathered(self, t: int, cotangents: Tensor, columns: NDArray[np.int64], most: int = 0) -> Gathered:
        """What rows of ``row`` come to, at most so many of them kept."""
        kept = sum(map(bytes_of, self._recording.points)) * min(most, len(cotangents))
        if 2 * kept > self._recording.memory or self._recording.shared.askers == 1:
            found = Gathered(columns, most)
            for part in self.row(t, cotangents):
                found.add(part)
            return found

        def work() -> list[Gathered]:
            every = [Gathered(columns, most) for _ in self._recording.points]
            for parts in self._chunks(t, cotangents, slice(None)):
                for one, part in zip(every, parts, strict=True):
                    one.add(part)
            return every

        key = "rows", t, most, columns.tobytes(), _digest(cotangents)
        return self._recording.shared.of(key, self._at, work)

    def single(self, cotangent: Tensor, graph: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """One product: (n_out, d_out) to (n_in, d_in); of another recorded (leaf, y) where that is given."""
        if graph is not None:
            return self._recording.single(cotangent, graph[:1], graph[1])[0]
        return self._single("plain", cotangent, self._recording.points, self._recording.y)

    def under(self, noise: Callable[[], Any], cotangent: Tensor) -> Tensor:
        """One product of a pass under a mode that changes numbers."""
        return self._single("noisy", cotangent, *self._recording.noisy(noise))

    def _single(self, kind: str, cotangent: Tensor, points: Sequence[Tensor], y: Tensor) -> Tensor:
        if self._recording.shared.askers == 1:
            return self._recording.single(cotangent, points, y)[0]
        key = kind, _digest(cotangent)
        return self._recording.shared.of(key, self._at, lambda: self._recording.single(cotangent, points, y))

    def structure(self, t: int) -> NDArray[np.bool_] | None:
        """Which inputs a path leads to from output t, (n_in,), as structure tells; None where it does not."""
        lives = self._recording.lives(t)
        return None if lives is None else lives[self._at]

    def reaches(self, t: int) -> NDArray[np.bool_]:
        """Which inputs a path leads to from output t, (n_in,): a cotangent of NaN arrives there."""
        cotangent = torch.zeros_like(self._recording.y)
        cotangent[t] = torch.nan
        every = np.ones(len(self._recording.points[self._at]), dtype=bool)
        try:
            arrived = self.single(cotangent).isnan().any(1)
        except Exception:  # code of the user's that takes no NaN: every path is possible
            return every
        return every if self._recording.python else arrived.cpu().numpy()


def _digest(x: Tensor) -> bytes:
    return hashlib.blake2b(bits_of(x)).digest()

r"""Products of a recorded pass in one of its variables: rows, what they come to, and where paths lead.

What a backward pass gives the other variables is kept until they are asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.arguments import HALF, bits_of
from depprobe.core.memory import bytes_of
from depprobe.core.scaled import Scaled, log_norm_of_logs
from depprobe.core.under_way import pieces
from depprobe.operators.autograd.recording import Recording
from depprobe.operators.last_bits import Repeat


class Gathered:
    """What is kept of rows (r, n_in, d_in) that come in chunks: norms of the chunks, and the first rows.

    Attributes
    ----------
    logs : ln norms (columns,) of the blocks of each chunk.
    rows : at most ``most`` rows (r, columns, d_in), in chunks.
    total : the sum of all rows (n, d_in), n <= n_in, nothing standing behind, where it is asked for.
    """

    def __init__(self, columns: NDArray[np.int64], most: int, summed: bool = False) -> None:
        self.logs: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.total: Tensor | None = None
        self._columns, self._left, self._summed = columns, most, summed
        self._places: Tensor | None = None
        self._all = np.array_equal(columns, np.arange(len(columns)))

    def add(self, part: Tensor) -> None:
        """Rows (r, n, d_in) of the first n positions; of those behind they are zero."""
        if self._summed:
            total = part.sum(0)
            self.total = total if self.total is None else self.total + total
        chosen = self._chosen(part)
        chosen = chosen.float() if chosen.dtype in HALF else chosen  # squares and sums would not fit
        self.logs.append(self._wide(Scaled.plain(chosen).log_norm((0, 2)), -math.inf))
        if self._left > 0:
            self.rows.append(self._wide(chosen[: self._left].movedim(1, 0), 0.0).movedim(0, 1))
            self._left -= len(chosen)

    def state(self) -> dict[str, Any]:
        """What the chunks so far have come to, but for rows."""
        found = {"total": self.total} if self.total is not None else {}
        found |= {"logs": torch.stack(self.logs)} if self.logs else {}
        return {name: value.to(torch.float64).cpu().numpy() for name, value in found.items()}

    def resume(self, kept: Mapping[str, Any], like: Tensor) -> None:
        """Take that up, sums in the dtype of ``like``."""
        arrays = {name: torch.from_numpy(value).to(like.device) for name, value in kept.items()}
        self.logs = list(arrays.get("logs", ()))
        self.total = arrays["total"].to(like) if "total" in arrays else None

    def _chosen(self, part: Tensor) -> Tensor:
        """The columns, or the first of them where they are all positions in turn."""
        if self._all:
            return part[:, : len(self._columns)]
        if self._places is None:
            self._places = torch.from_numpy(self._columns).to(part.device)
        beyond = max(0, int(self._columns.max()) + 1 - part.shape[1])
        return nn.functional.pad(part, (0, 0, 0, beyond))[:, self._places]

    def _wide(self, found: Tensor, rest: float) -> Tensor:
        """(columns, ...) from the first of them."""
        missing = len(self._columns) - len(found)
        return torch.cat([found, found.new_full((missing, *found.shape[1:]), rest)]) if missing else found

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
        self._together: list[int] = []

    @property
    def chunk(self) -> int:
        """How many products fit at once."""
        return self._recording.chunk

    @property
    def alone(self) -> bool:
        """Whether no products in other variables share their passes."""
        return self._recording.shared.askers == 1

    @property
    def weight(self) -> Tensor | None:
        """Of the linear map behind the output, where that is wider than what it reads."""
        return self._recording.weight

    def make_room(self) -> None:
        """Keep no recorded pass, where something else needs the room."""
        self._recording.give_up()

    @contextlib.contextmanager
    def up_to(self, targets: Sequence[int]) -> Iterator[None]:
        """Rows of some targets: a causal forward is passed up to the last of them, and no farther."""
        before, self._together = self._together, list(targets)
        try:
            yield
        finally:
            self._together = before

    def _length(self) -> int | None:
        return self._recording.length(self._together) if self._together else None

    def row(self, t: int, cotangents: Tensor) -> Iterator[Tensor]:
        """v^T J[t,:] for rows v of (m, d_out), in chunks: (chunk, n_in, d_in)."""
        n = len(self._recording.points[self._at])
        for _, (part,) in self._chunks([t], cotangents[None], slice(self._at, self._at + 1)):
            yield nn.functional.pad(part, (0, 0, 0, n - part.shape[1]))

    def _chunks(
        self, targets: Sequence[int], cotangents: Tensor, which: slice, chunks: Iterable[int] | None = None
    ) -> Iterator[tuple[range, Sequence[Tensor]]]:
        """Rows of (g, m, d_out) at g targets, target by target: their numbers, and (chunk, n, d_in).

        ``chunks`` are numbers of those to take, by default all.
        """
        points, y = self._recording.passed(self._length())
        flat, m = cotangents.flatten(0, 1), cotangents.shape[1]
        at = torch.tensor(targets, device=flat.device).repeat_interleave(m)
        readout = self._recording.readout(y, points)
        start = y if readout is None else readout.edge
        flat = flat if readout is None else flat @ readout.weight
        for first in range(0, len(flat), self.chunk) if chunks is None else (self.chunk * i for i in chunks):
            part = flat[first : first + self.chunk]
            full = torch.zeros(len(part), len(y), part.shape[1], dtype=part.dtype, device=part.device)
            full[torch.arange(len(part), device=part.device), at[first : first + len(part)]] = part
            yield range(first, first + len(part)), self._recording.many(full, points[which], start)

    def gathered(
        self,
        targets: Sequence[int],
        cotangents: Tensor,
        columns: NDArray[np.int64],
        most: int = 0,
        summed: bool = False,
    ) -> list[Gathered]:
        """What rows of (g, m, d_out) at g targets come to, at most so many of each kept, or their sum."""
        recording, (g, m) = self._recording, cotangents.shape[:2]
        kept = bytes_of(recording.points) * (min(most, m) + summed) * g
        alone = 2 * kept > recording.memory or recording.shared.askers == 1
        which = slice(self._at, self._at + 1) if alone else slice(None)

        def work() -> list[list[Gathered]]:
            every = [[Gathered(columns, most, summed) for _ in targets] for _ in recording.points[which]]
            flat = [one for each in every for one in each]

            def state() -> dict[str, Any]:
                return {
                    f"{i}/{key}": value for i, one in enumerate(flat) for key, value in one.state().items()
                }

            def resume(kept: Mapping[str, Any]) -> None:
                for i, one in enumerate(flat):
                    one.resume(
                        {key.partition("/")[2]: kept[key] for key in kept if key.startswith(f"{i}/")}, y
                    )

            y = recording.y
            # rows are not kept
            ways = (None, None) if most else (state, resume)
            work_of = f"{which} {[*targets]} {m} {summed} {_digest(cotangents).hex()}"
            numbered = pieces(work_of, g * m, self.chunk, *ways)
            for numbers, parts in self._chunks(targets, cotangents, which, numbered):
                for i in range(numbers[0] // m, numbers[-1] // m + 1):
                    mine = slice(max(0, i * m - numbers[0]), (i + 1) * m - numbers[0])
                    for one, part in zip(every, parts, strict=True):
                        one[i].add(part[mine])
            return every

        if alone:
            return work()[0]
        key = "rows", tuple(targets), most, summed, columns.tobytes(), _digest(cotangents)
        return recording.shared.of(key, self._at, work)

    def single(self, cotangent: Tensor, graph: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """One product: (n_out, d_out) to (n_in, d_in), or its first positions where nothing stands behind; of
        another recorded (leaf, y) where that is given.
        """
        if graph is not None:
            return self._recording.single(cotangent, graph[:1], graph[1])[0]
        points, y = self._recording.passed(self._length())
        return self._single("plain", cotangent[: len(y)], points, y)

    def rows(self, at: Sequence[int], vectors: Tensor, repeat: Repeat | None = None) -> Iterator[Tensor]:
        """Products with vectors (m, d_out) that stand on positions ``at`` (m,), in turn; of a pass whose
        numbers are changed if ``repeat`` is given.
        """
        for t, vector in zip(at, vectors, strict=True):
            cotangent = torch.zeros_like(self._recording.y)
            cotangent[t] = vector
            if repeat is None:
                yield self.single(cotangent)
                continue
            length = self._length()
            points, y = self._recording.noisy(repeat, length)
            with repeat.backward():
                found = self._single("noisy", cotangent[:length], points, y)
            yield found

    def _single(self, kind: str, cotangent: Tensor, points: Sequence[Tensor], y: Tensor) -> Tensor:
        if self._recording.shared.askers == 1:
            return self._recording.single(cotangent, points, y)[0]
        key = kind, _digest(cotangent)
        return self._recording.shared.of(key, self._at, lambda: self._recording.single(cotangent, points, y))

    def structure(self, t: int) -> NDArray[np.bool_] | None:
        """Which inputs a path leads to from output t, (n_in,), as structure tells; None where it does not."""
        lives = self._recording.lives([*self._together, t])
        return None if lives is None else lives[-1][self._at]

    def reaches(self, t: int) -> NDArray[np.bool_]:
        """Which inputs a path leads to from output t, (n_in,): a cotangent of NaN arrives there."""
        cotangent = torch.zeros_like(self._recording.y)
        cotangent[t] = torch.nan
        every = np.ones(len(self._recording.points[self._at]), dtype=bool)
        try:
            arrived = self.single(cotangent).isnan().any(1)
        except Exception:  # code of the user's that takes no NaN: every path is possible
            return every
        if self._recording.python:
            return every
        return np.pad(arrived.cpu().numpy(), (0, len(every) - len(arrived)))


def _digest(x: Tensor) -> bytes:
    return hashlib.blake2b(bits_of(x)).digest()

r"""Sweeping row blocks backwards through a chain of steps.

    R_t = (rows on the state s_t),   J[t,k] = R_k ds_k/dx_k,   R_{k-1} = R_k ds_k/ds_{k-1}

Layers of a stack are swept top down inside each step: what reaches the input of layer l joins the cotangent
on h of layer l - 1 at the same k. Rows carry exponents, restored to range after each run of steps; a run in
which rows lost digits is taken again in shorter ones. A step costs (r, S) x (S, d_h + d_in) a layer.

Where the host would have to wait for the device to see whether rows lost digits, it looks in the end, and
sweeps again, looking after every run, if they did.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depprobe.core.device import Recorder, waits
from depprobe.operators.chain import runs
from depprobe.operators.chain.cells import CellChain, SweptChain
from depprobe.operators.chain.compression import RowBlock, Step, first_rows, middle
from depprobe.operators.chain.reading import SingleReading
from depprobe.operators.chain.rounding import ROWS, Noise, Riding, Told
from depprobe.operators.chain.runs import Found, Run, State

#: steps between two rescalings, as far as buffers allow, and where calls take longer than products; the first
#: run; steps before the first compression, which costs as much as many steps, and between two at least
RUN, _LONG_RUN, FIRST_RUN, FIRST_COMPRESSION, NEXT_COMPRESSION = 32, 64, 16, 24, 12
#: where runs are recorded: bytes of buffers; the fewest rows that are worth compressing, the most that are
#: halved instead of decomposed, steps before that is first tried
_DEVICE_BUFFER_BYTES, _DEVICE_ROWS, _DEVICE_WIDE, _DEVICE_COMPRESSION = 1 << 30, 160, 300, 96
_BUFFER_BYTES = 48 << 20
#: how far rows may fall or rise between two rescalings where float32 is to hold what is read from them
_SINGLE_RANGE = 1e-20, 1e20
_recorder = Recorder(256)


class _Lost(Exception):
    """Rows lost digits in a run that nobody looked at."""


def sweep(
    stack: Sequence[SweptChain],
    targets: Sequence[int],
    stop: int,
    wrt: str,
    threshold: float,
    visit: Callable[[int, Step], None],
    of: str = "h",
    single: bool = False,
    norm: str | None = "fro",
) -> float:
    """Sweep rows of dh_t or dc_t (``of``, top layer) from all targets t down to source ``stop`` together.

    Step Jacobians, most of the work of a row whose rank has fallen, are made once for all targets.

    Parameters
    ----------
    wrt : ``x``; ``h`` or ``c`` for the state after step k (all layers, bottom first; held in the pair (h, c)
        as torch hands it on); or ``cell`` for c with h = o tanh(c) following it.
    threshold : share of the norm that one compression may discard; 0 for none.
    visit : called with the index of a target and each run of its row; what it is told last of a source holds.
    single : where states and inputs are wide, take what the lowest layer reads in float32 (``reading.py``)
        and carry rows of low share in it (``compression.py``).
    norm : ``fro`` or ``spectral``, that is read; None to be handed taps alone.

    Returns the standard deviation of relative errors of norms that float32 was seen to make; 0 without it.
    """
    looks = [True] if not waits(stack[0].size.device) else [False, True]
    with _recorder.held(stack[0].size.device):
        for look in looks:
            with contextlib.suppress(_Lost):
                return _Sweep(stack, wrt, threshold, visit, of, single, norm, look).down(targets, stop)
    raise AssertionError("a sweep that looks after every run ends")


@dataclass
class _Row:
    """The row of one target on its way down."""

    index: int
    t: int
    block: RowBlock
    riding: Riding
    next_compression: int


class _Sweep:
    """One sweep down a stack; ``look``: whether each run is looked at before the next begins."""

    def __init__(
        self,
        stack: Sequence[SweptChain],
        wrt: str,
        threshold: float,
        visit: Callable[[int, Step], None],
        of: str,
        single: bool,
        norm: str | None,
        look: bool,
    ) -> None:
        self._stack, self._wrt, self._threshold, self._visit = stack, wrt, threshold, visit
        self._of, self._norm, self._look = of, norm, look
        dtype, self._device = stack[0].size.dtype, stack[0].size.device
        # with few inputs there is little to gain, and few rounding errors to average
        wide = stack[0].width > runs.NARROW and stack[0].d_in >= runs.NARROW // 2
        single = single and wide and wrt == "x" and dtype == torch.float64 and not waits(self._device)
        whole = [cell for cell in stack if isinstance(cell, CellChain)]
        single = single and len(whole) == len(stack) and (stack[0].room is None or stack[0].room.copies)
        self._reading = SingleReading(whole[0]) if single else None
        self._limits = _SINGLE_RANGE if single else middle(dtype)
        self._dtype, self._chains = dtype, dict[torch.dtype, list[SweptChain]]({dtype: list(stack)})
        if single:
            self._chains = {
                dtype: [whole[0].columns("h", dtype), *stack[1:]],
                torch.float32: [cell.to(torch.float32) for cell in whole],
            }
        wide = len(first_rows(stack, of)) > _DEVICE_WIDE
        self._first = _DEVICE_COMPRESSION if waits(self._device) and not wide else FIRST_COMPRESSION
        self._noise, self._sound = Noise(stack), list[Tensor]()
        #: runs that nobody was told of yet: source, steps, what was found in each precision
        self._runs: list[tuple[int, int, dict[torch.dtype, Found]]] = []
        self._handed = self._reading is not None or norm != "fro"
        self._bare = {kind: tuple(cell.bare() for cell in cells) for kind, cells in self._chains.items()}
        self._state = dict[torch.dtype, State]()
        # what is recorded has to keep its own room
        keeps = not waits(self._device)
        self._space = {kind: dict[int, Tensor]() if keeps else None for kind in self._chains}
        self._widest = max(cell.width + cell.d_in for cell in stack)

    def down(self, targets: Sequence[int], stop: int) -> float:
        waiting = sorted(range(len(targets)), key=lambda index: targets[index])
        active: list[_Row] = []
        k, run = max(targets), FIRST_RUN
        while k >= stop:
            if waiting and targets[waiting[-1]] == k and self._state:
                self._settle(active)
            while waiting and targets[waiting[-1]] == k:
                first = first_rows(self._stack, self._of)
                riding = Riding(first, self._noise)
                active.append(_Row(waiting.pop(), k, RowBlock(first), riding, self._first))
                run = FIRST_RUN
            # a run ends where the next target joins
            until = max(stop, targets[waiting[-1]] + 1) if waiting else stop
            steps = self._steps(active, min(run, k - until + 1))
            if (room := self._stack[0].room) is not None and room.growth is not None:
                room.growth.settle()
            found = {kind: self._taken(active, kind, k, steps) for kind in self._kinds(active)}
            self._runs.append((k, steps, found))
            if self._look or self._handed:
                told = self._told()
                if steps > 1 and self._look and not all(bool(part[0, -1]) for part in told.values()):
                    self._runs.clear()
                    run = max(1, steps // 4)
                    continue
                self._show(active, told)
            for kind, left in found.items():
                self._state[kind] = self._state[kind]._replace(tensors=list(left[:5]))
            if self._handed:
                self._give(active)
            run = min(self._longest(active), 2 * run)
            k -= steps
            due = [row for row in active if row.t - k >= row.next_compression and self._is_worth(row)]
            if due and self._threshold:
                self._settle(active)
                for row in due:
                    halve = waits(self._device) and len(row.block.parts[0].rows) <= _DEVICE_WIDE
                    row.block.compress(self._threshold, self._reading is not None, halve)
                    row.riding.rotated(self._noise)
                    lag = row.t - k
                    gap = max(NEXT_COMPRESSION, lag // 6)
                    if waits(self._device):
                        gap = lag if halve else _LONG_RUN
                    row.next_compression = lag + gap
        self._show(active, self._told())
        if not self._look and not bool(torch.cat(self._sound).all()):
            raise _Lost
        return self._reading.deviation if self._reading else 0.0

    def _longest(self, active: Sequence[_Row]) -> int:
        """Most steps of a run: more where calls take longer than products."""
        if not waits(self._device):
            return RUN if runs.is_wide(self._stack) else _LONG_RUN
        return RUN if any(len(row.block.parts[0].rows) > _DEVICE_WIDE for row in active) else _LONG_RUN

    def _is_worth(self, row: _Row) -> bool:
        return not waits(self._device) or len(row.block.parts[0].rows) > _DEVICE_ROWS

    def _kinds(self, active: Sequence[_Row]) -> list[torch.dtype]:
        """Precisions of rows, the chain's own first."""
        found = {part.rows.dtype for row in active for part in row.block.parts}
        return [kind for kind in self._chains if kind in found]

    def _steps(self, active: Sequence[_Row], wanted: int) -> int:
        parts = [part.rows for row in active for part in row.block.parts]
        largest = max(
            sum(len(rows) for rows in parts if rows.dtype == kind) * kind.itemsize for kind in self._chains
        )
        room = _DEVICE_BUFFER_BYTES if waits(self._device) else _BUFFER_BYTES
        steps = min(wanted, max(1, room // max(1, largest * self._widest)))
        if self._stack[0].room is not None:
            width = sum(cell.width + cell.d_in for cell in self._stack) * self._dtype.itemsize
            fit = self._stack[0].room.buffers // ((sum(map(len, parts)) + 3 * ROWS * len(active)) * width)
            steps = min(steps, max(1, int(fit) - 1))
        # few lengths where each is recorded
        return 1 << (steps.bit_length() - 1) if waits(self._device) else steps

    def _taken(self, active: Sequence[_Row], kind: torch.dtype, k: int, steps: int) -> Found:
        """All rows of one precision taken down some steps; with the first go s and e."""
        main = kind == self._dtype
        if kind not in self._state:
            riding = [row.riding for row in active] if main else []
            self._state[kind] = State.of([row.block for row in active], riding, kind)
        state = self._state[kind]
        given = list(state.tensors)
        for level, cell in enumerate(self._chains[kind]):
            given += [cell.packed(k - steps + 1, k + 1, main), *cell.constants()]
            given += self._noise.given(level, steps) if main else []
        reading = self._reading if main else None
        cells = self._bare[kind]
        run = Run(cells, steps, self._wrt, state.targets, self._handed, self._space[kind])
        if reading is not None:
            run = replace(run, reading=lambda states: reading.taps(k, states))
        key = (tuple(cell.kind() for cell in cells), steps, self._wrt, state.targets, self._handed)
        found = Found.of(_recorder(key, run, given, len(state.tensors)), len(cells))
        if reading is not None:
            parts = [part for row in active for part in row.block.parts if part.rows.dtype == kind]
            reading.compare(k, found.taps[1][0], found.taps[0][0], parts)
        if not waits(self._device):
            return found
        return found.kept() if self._look else found._replace(read=[part.clone() for part in found.read])

    def _told(self) -> dict[torch.dtype, Tensor]:
        """What the runs since the last time read, those of each precision one after another."""
        told = {}
        for kind, state in self._state.items() if self._runs else ():
            tell = Told(tuple(steps for _, steps, _ in self._runs), state.targets, self._limits)
            told[kind] = tell(
                [state.lengths, *(part for *_, found in self._runs for part in found[kind].read)]
            )[0]
        return told

    def _show(self, active: Sequence[_Row], told: dict[torch.dtype, Tensor]) -> None:
        """Show each target what the runs read of it."""
        first = 0
        for k, steps, found in self._runs:
            last, targets = told[self._dtype], len(found[self._dtype].s)
            here, at = slice(first, first + steps), dict.fromkeys(found, (0, 0))
            first += steps
            for place, row in enumerate(active):
                taps, logs, own = [], [], at[self._dtype][1]
                for part in row.block.parts:
                    kind = part.rows.dtype
                    start, group = at[kind]
                    stop = start + len(part.rows)
                    at[kind] = stop, group + len(part.of)
                    if found[kind].taps:
                        logs.append(told[kind][here, group : group + len(part.of)])
                        taps.append(found[kind].taps[0][:, start:stop])
                read = row.block.read(logs, taps, self._norm) if taps and self._norm else None
                self._visit(row.index, Step(k, row.block, last, here, own, place, targets, read, taps))
        if self._runs and not self._look:
            self._sound.append(told[self._dtype][:, -1].clone())  # alone, not the whole table
        self._runs.clear()

    def _settle(self, active: Sequence[_Row]) -> None:
        """Show what was read, and give each target its rows, before other targets or ranks come."""
        self._show(active, self._told())
        self._give(active)
        self._state.clear()

    def _give(self, active: Sequence[_Row]) -> None:
        """Give each target its rows."""
        at = dict.fromkeys(self._state, 0)
        for place, row in enumerate(active):
            for part in row.block.parts:
                kind = part.rows.dtype
                rows, scale, s, e, scales = self._state[kind].tensors
                here = slice(at[kind], at[kind] + len(part.rows))
                part.rows, part.scale = rows[here], scale[here]
                if waits(self._device):
                    # the next run overwrites them, and what it read is asked for after that
                    part.rows, part.scale = part.rows.clone(), part.scale.clone()
                if kind == self._dtype:
                    row.riding.s, row.riding.e, row.riding.scale = s[place], e[place], scales[place]
                at[kind] = here.stop

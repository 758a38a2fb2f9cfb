r"""Sweeping row blocks backwards through a chain of steps.

    R_t = (rows on the state s_t),   J[t,k] = R_k ds_k/dx_k,   R_{k-1} = R_k ds_k/ds_{k-1}

Layers of a stack are swept top down inside each step: what reaches the input of layer l joins the
cotangent on h of layer l - 1 at the same k. Every row carries its own exponent, restored to range after
each run of steps; a run in which a row fell or rose so far that digits were at stake is taken again in
shorter runs. Cost per step: one product (r, S) x (S, d_h + d_in) a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, log_norm_of_logs, peaks
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.compression import ROWS, Carried, Injection, Noise, Riding, RowBlock
from depprobe.operators.chain.reading import SingleReading

#: steps between two rescalings, as far as buffers allow; the first run; steps before the first compression,
#: which costs as much as many steps while the rank is full, and between two at least
RUN, FIRST_RUN, FIRST_COMPRESSION, NEXT_COMPRESSION = 32, 16, 24, 12
_BUFFER_BYTES = 48 << 20
_MATRIX_BYTES = 4 << 20
#: widest state whose steps are taken by one product with the whole step Jacobian
_NARROW = 256
#: how far rows may fall or rise between two rescalings where float32 is to hold what is read from them
_SINGLE_RANGE = 1e-20, 1e20


class Step(NamedTuple):
    """What one run of the sweep hands over of the row of one target, from source ``start`` down.

    ``taps`` are, for each of the block's parts, its rows on the quantity asked for at source ``start - j``:
    (steps, r + q, width), standing for ``taps[j] * exp(scale)``.
    """

    start: int
    taps: list[Tensor]
    block: RowBlock
    #: ln norms of the rounding errors of the taps, and of the rows on the state, (steps,)
    rounding: Tensor
    growth: Tensor


def sweep(
    stack: Sequence[CellChain],
    targets: Sequence[int],
    stop: int,
    wrt: str,
    threshold: float,
    visit: Callable[[int, Step], None],
    of: str = "h",
    single: bool = False,
) -> float:
    """Sweep the rows of dh_t or dc_t (top layer) from each target t down to source ``stop``, all together.

    Step Jacobians are made once for all targets, which is most of the work of a row whose rank has fallen.

    Parameters
    ----------
    stack : the layers, bottom first.
    wrt : ``x``, or ``h`` or ``c`` for the state after step k (all layers, bottom first; state held in
        the pair (h, c) as torch hands it on), or ``cell`` for c with h = o tanh(c) following it.
    threshold : share of the norm that one compression may discard; 0 for none.
    visit : called with the index of a target and each run of its row.
    of : ``h`` or ``c``, the state of the top layer at t whose rows are swept.
    single : where states and inputs are wide, take what the lowest layer reads in float32 (``reading.py``)
        and carry rows of low share in it (``compression.py``).

    Returns
    -------
    The standard deviation of the relative errors of norms that float32 was seen to make; 0 without it.
    """
    dtype = stack[0].matrices(0, 1).dtype
    # with few inputs there is little to gain, and few rounding errors to average
    wide = stack[0].width > _NARROW and stack[0].d_in >= _NARROW // 2
    single = single and wide and wrt == "x" and dtype == torch.float64
    reading = SingleReading(stack[0]) if single else None
    limits = _SINGLE_RANGE if reading else _middle(dtype)
    chains = {dtype: list(stack)}
    if reading is not None:
        chains = {
            dtype: [stack[0].columns("h", dtype), *stack[1:]],
            torch.float32: [cell.to(torch.float32) for cell in stack],
        }
    noise = Noise(stack)
    waiting = sorted(range(len(targets)), key=lambda index: targets[index])
    active: list[_Row] = []
    k, run = max(targets), FIRST_RUN
    while k >= stop:
        while waiting and targets[waiting[-1]] == k:
            first = _first_rows(stack, k, of)
            active.append(_Row(waiting.pop(), k, RowBlock(first), Riding(first, noise)))
            run = FIRST_RUN
        # a run ends where the next target joins
        until = max(stop, targets[waiting[-1]] + 1) if waiting else stop
        carried = {
            kind: [part for row in active for part in row.block.parts if part.rows.dtype == kind]
            for kind in chains
        }
        together = {
            kind: torch.cat([part.rows for part in parts]) for kind, parts in carried.items() if parts
        }
        pairs = torch.stack([row.riding.rows for row in active]).unflatten(1, (2, ROWS))
        together[dtype] = torch.cat([together[dtype], pairs.transpose(0, 1).flatten(0, 2)])
        scales = torch.stack([row.riding.scale for row in active])
        steps = min(run, k - until + 1, *(_run_length(stack, rows) for rows in together.values()))
        swept: dict[Carried, tuple[Tensor, Tensor]] = {}
        for kind, rows in together.items():
            sizes = [len(part.rows) for part in carried[kind]]
            if kind == dtype:
                taps, rows, states = advance(
                    chains[kind], rows, k, steps, wrt, noise=noise, extra=ROWS * len(active)
                )
                if reading is not None:
                    taps = reading.taps(k, states[0])
                    reading.compare(k, states[0][0, : sum(sizes)], taps[0, : sum(sizes)], carried[kind])
                mixed = slice(sum(sizes), sum(sizes) + ROWS * len(active))
                sizes_of = [
                    Scaled(part[:, mixed].unflatten(1, (-1, ROWS)), scales).log_norm((2, 3))
                    for part in states
                ]
                growth = log_norm_of_logs(torch.stack(sizes_of), (0,))[0]
                last = taps[:, -ROWS * len(active) :].unflatten(1, (-1, ROWS))
                floor = scales.amax((1, 2)) + math.log(2 * torch.finfo(dtype).tiny)
                rounded = torch.logaddexp(Scaled(last, scales).log_norm((2, 3)), floor)
                ridden = rows[sum(sizes) :].unflatten(0, (2, -1, ROWS)).transpose(0, 1).flatten(1, 2)
            else:
                taps, rows, _ = advance(chains[kind], rows, k, steps, wrt)
            split = zip(
                carried[kind],
                taps[:, : sum(sizes)].split(sizes, 1),
                rows[: sum(sizes)].split(sizes),
                strict=True,
            )
            swept |= {part: (tap, after) for part, tap, after in split}
        if steps > 1 and any(_out_of_range(tap, after, part, limits) for part, (tap, after) in swept.items()):
            run = max(1, steps // 4)
            continue
        run = min(RUN, 2 * run)
        for row, lost, grown in zip(active, rounded.T, growth.T, strict=True):
            visit(row.index, Step(k, [swept[part][0] for part in row.block.parts], row.block, lost, grown))
        k -= steps
        for row, rows in zip(active, ridden, strict=True):
            row.riding.rows = rows
            row.riding.rescale(noise)
        for part, (_, after) in swept.items():
            part.rows = after
            part.rescale()
        for row in active:
            if threshold and row.t - k >= row.next_compression:
                row.block.compress(threshold, reading is not None)
                row.riding.rotated(noise)
                row.next_compression = row.t - k + max(NEXT_COMPRESSION, (row.t - k) // 6)
    return reading.deviation if reading else 0.0


def is_wide(stack: Sequence[CellChain]) -> bool:
    """Whether products of rows and step Jacobians take much longer than the calls to them."""
    return max(cell.width for cell in stack) > _NARROW


@dataclass
class _Row:
    """The row of one target on its way down."""

    index: int
    t: int
    block: RowBlock
    riding: Riding
    next_compression: int = FIRST_COMPRESSION


def _first_rows(stack: Sequence[CellChain], t: int, of: str) -> Tensor:
    """Unit rows on the top layer's h or c, over the states of all layers."""
    top, width = stack[-1], sum(cell.width for cell in stack)
    weight = top.matrices(t, t + 1)
    height, left = (top.d_c, width - top.width) if of == "c" else (top.d_h, width - top.d_h)
    first = weight.new_zeros(height, width)
    first[:, left : left + height] = torch.eye(height, dtype=weight.dtype, device=weight.device)
    return first


def _run_length(stack: Sequence[CellChain], rows: Tensor) -> int:
    width = max(cell.width + cell.d_in for cell in stack)
    each = rows.shape[0] * width * rows.element_size()
    return max(1, min(RUN, _BUFFER_BYTES // each))


def advance(
    stack: Sequence[CellChain],
    rows: Tensor,
    k: int,
    steps: int,
    wrt: str = "x",
    arriving: Tensor | None = None,
    noise: Noise | None = None,
    extra: int = 0,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Take steps down from source k: the taps (steps, rows, width), the rows on s_{k - steps}, and those on
    the state of each layer at k, k - 1, ... (steps, rows, S), the lowest's being what the taps are read of.

    ``arriving`` (steps, rows, d_h) or (steps, rows, S) joins the rows on the top layer's h, or on its state,
    at k, k - 1, ... With ``noise``, the last 2 ``extra`` rows are s and e of ``compression.py``.
    """
    # one buffer a layer; columns (c, h, x) so that each product writes the next state in place
    count = len(rows)
    buffers = [rows.new_empty(steps + 1, count + extra, cell.width + cell.d_in) for cell in stack]
    left = 0
    for cell, buffer in zip(stack, buffers, strict=True):
        buffer[0, :count, : cell.width] = rows[:, left : left + cell.width]
        left += cell.width
    injections = [
        Injection(noise, level, buffer, k, extra) if noise else None for level, buffer in enumerate(buffers)
    ][::-1]
    views = [
        (
            buffer.unbind(0),
            buffer[:, :, : cell.width].unbind(0),
            buffer[:, :, cell.d_c :].unbind(0),
            buffer[:, :, cell.d_c : cell.width].unbind(0),
            buffer[:, :, cell.width :].unbind(0),
        )
        for cell, buffer in zip(stack, buffers, strict=True)
    ]
    layers = list(zip(stack, views, strict=True))[::-1]
    size = sum(cell.width * (cell.d_h + cell.d_in) for cell in stack) * rows.element_size()
    batch = max(1, min(steps, _MATRIX_BYTES // size))
    taps: list[Tensor] = []
    for first in range(0, steps, batch):
        last = min(first + batch, steps)
        matrices = [
            (cell.full_matrices if cell.width <= _NARROW else cell.matrices)(
                k - last + 1, k - first + 1
            ).unbind(0)
            for cell, _ in layers
        ]
        for j in range(first, last):
            if wrt != "x":
                # before what the layer above reads at k joins in: the state handed on is the variable here
                parts = [cell.part(wrt, k - j, state[j]) for cell, (_, state, *_) in reversed(layers)]
                taps.append(torch.cat(parts, 1))
            if arriving is not None:
                cell, (_, state, _, hidden, _) = layers[0]
                (state if arriving.shape[2] == cell.width else hidden)[j].add_(arriving[j])
            above: Tensor | None = None
            for (cell, (whole, state, through, hidden, inputs)), M, errors in zip(
                layers, matrices, injections, strict=True
            ):
                if above is not None:
                    hidden[j].add_(above)
                if errors is not None:
                    errors.before(j)
                if cell.width <= _NARROW:
                    torch.mm(state[j], M[last - 1 - j], out=whole[j + 1])
                else:
                    torch.mm(state[j], M[last - 1 - j], out=through[j + 1])
                    cell.add_direct(k - j, state[j], state[j + 1])
                if errors is not None:
                    errors.after(j)
                above = inputs[j + 1]
    states = torch.cat(
        [buffer[-1, :count, : cell.width] for cell, buffer in zip(stack, buffers, strict=True)], 1
    )
    read = [buffer[:-1, :count, : cell.width] for cell, buffer in zip(stack, buffers, strict=True)]
    found = buffers[0][1:, :, stack[0].width :] if wrt == "x" else torch.stack(taps)
    return found[:, :count], states, read


def _middle(dtype: torch.dtype) -> tuple[float, float]:
    """Entries that can be squared, and some way to go still."""
    limits = torch.finfo(dtype)
    return math.sqrt(limits.tiny) * 1e3, math.sqrt(limits.max) * 1e-3


def _out_of_range(taps: Tensor, rows: Tensor, part: Carried, limits: tuple[float, float]) -> bool:
    """Whether the rows left these limits since they were last scaled to 1."""
    low, high = limits
    for found in (rows, taps[-1]):
        peak = peaks(found, (1,))[part.alive] if found.shape[1] else found
        if peak.numel() and not (float(peak.min()) >= low and float(peak.max()) <= high):
            return True
    return False

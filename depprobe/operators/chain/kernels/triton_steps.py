"""The kernels of ``steps.py`` in Triton, which torch's builds for CUDA bring along."""
# mypy: ignore-errors
# ruff: noqa: D103

import triton
import triton.language as tl

next_power_of_2 = triton.next_power_of_2


@triton.jit
def matrices(
    W, slopes, to_m, out, d, columns, per_step, per_gate, per_m, per_out, per_row, BLOCK: tl.constexpr
):
    k, row = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < columns
    at = slopes + k * per_step + row
    w = W + row * columns + c
    gate = d * columns
    cell = tl.load(at) * tl.load(w, mask=inside)
    cell += tl.load(at + per_gate) * tl.load(w + gate, mask=inside)
    cell += tl.load(at + 2 * per_gate) * tl.load(w + 2 * gate, mask=inside)
    hidden = tl.load(at + 3 * per_gate) * tl.load(w + 3 * gate, mask=inside)
    hidden += tl.load(to_m + k * per_m + row) * cell
    into = out + k * per_out + row * per_row + c
    tl.store(into, cell, mask=inside)
    tl.store(into + d * per_row, hidden, mask=inside)


@triton.jit
def moved(block, after, keep, to_m, row, c, d, width, per_block, per_after, inside, KIND: tl.constexpr):
    value = tl.load(after + row * per_after + c, mask=inside)
    if KIND == 1:
        cell = inside & (c < d)
        before = block + row * per_block + c
        through = tl.load(before, mask=cell) * tl.load(keep + c, mask=cell)
        through += tl.load(before + d, mask=cell) * tl.load(to_m + c, mask=cell)
        value = tl.where(cell, through, value)
    if KIND == 2:
        state = inside & (c < width)
        kept = tl.load(block + row * per_block + c, mask=state, other=0.0)
        value += kept * tl.load(keep + c, mask=state, other=0.0)
    return value


@triton.jit
def between(
    block, after, keep, to_m, b, w, v, first, plain, q, signs, d, width, columns,
    per_block, per_after, per_b, per_v, KIND: tl.constexpr, MORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = first + tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < columns
    value = moved(block, after, keep, to_m, row, c, d, width, per_block, per_after, inside, KIND)
    tl.store(after + row * per_after + c, value, mask=inside)
    if row >= plain:
        here = (row - plain) % signs
        e = moved(block, after, keep, to_m, row + q, c, d, width, per_block, per_after, inside, KIND)
        u = moved(block, after, keep, to_m, row + 2 * q, c, d, width, per_block, per_after, inside, KIND)
        e += tl.load(v + here * per_v + c, mask=inside) * u
        if MORE == 1:
            state = inside & (c < width)
            e += tl.load(b + here * per_b + c, mask=state, other=0.0) * value
            u = tl.where(state, tl.load(w + here * per_b + c, mask=state, other=0.0) * value, u)
        tl.store(after + (row + q) * per_after + c, e, mask=inside)
        tl.store(after + (row + 2 * q) * per_after + c, u, mask=inside)


@triton.autotune(
    [triton.Config({}, num_warps=warps) for warps in (4, 8, 16)], ["width", "columns"], restore_value=["rows"]
)
@triton.jit
def run(
    matrices, rows, b, w, v, steps, count, q, signs, width, columns,
    per_matrix, per_line, per_step, per_row, LINES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    here = rows + place * per_row
    line, c = tl.arange(0, LINES), tl.arange(0, BLOCK)
    known, state, whole = line < width, c < width, c < columns
    inside = known[:, None] & whole[None, :]
    tile = matrices + (steps - 1) * per_matrix + line[:, None] * per_line + c[None, :]
    m = tl.load(tile, mask=inside, other=0.0)
    if place < count:
        for j in range(steps):
            x = tl.load(here + line, mask=known, other=0.0)
            moved = tl.sum(x[:, None] * m, 0)
            # the next matrix hangs on nothing: it is on its way while this step ends
            tile -= per_matrix
            m = tl.load(tile, mask=inside & (j + 1 < steps), other=0.0)
            here += per_step
            tl.store(here + c, moved, mask=whole)
            tl.debug_barrier()
    else:
        sign = (place - count) % 4
        s = tl.load(here + c, mask=state, other=0.0)
        e = tl.load(here + q * per_row + c, mask=state, other=0.0)
        for j in range(steps):
            at = (j * 4 + sign) * width + c
            e += tl.load(b + at, mask=state, other=0.0) * s
            u = tl.load(w + at, mask=state, other=0.0) * s
            tl.store(here + q * per_row + c, e, mask=state)
            tl.store(here + 2 * q * per_row + c, u, mask=state)
            tl.debug_barrier()
            s = tl.sum(tl.load(here + line, mask=known, other=0.0)[:, None] * m, 0)
            e = tl.sum(tl.load(here + q * per_row + line, mask=known, other=0.0)[:, None] * m, 0)
            u = tl.sum(tl.load(here + 2 * q * per_row + line, mask=known, other=0.0)[:, None] * m, 0)
            tile -= per_matrix
            m = tl.load(tile, mask=inside & (j + 1 < steps), other=0.0)
            e += tl.load(v + (j * 4 + sign) * signs + c, mask=whole, other=0.0) * u
            here += per_step
            tl.store(here + c, s, mask=whole)
            tl.store(here + q * per_row + c, e, mask=whole)
            tl.store(here + 2 * q * per_row + c, u, mask=whole)
            tl.debug_barrier()


@triton.jit
def rescale(rows, scale, into, into_scale, into_peak, width, per_row, BLOCK: tl.constexpr):
    row, c = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(rows + row * per_row + c, mask=c < width, other=0.0)
    lost = tl.sum((x != x).to(tl.int32), 0) > 0
    peak = tl.max(tl.abs(x), 0)
    usable = (peak > 0) & (peak < float("inf")) & (lost == 0)
    safe = tl.where(usable, peak, 1.0)
    tl.store(into + row * width + c, x / safe, mask=c < width)
    moved = tl.load(scale + row) + tl.log(safe.to(tl.float64))
    tl.store(into_scale + row, tl.where((peak == 0) & (lost == 0), -float("inf"), moved))
    tl.store(into_peak + row, tl.where(lost, float("nan"), peak))


@triton.jit
def settle(rows, scale, w, into, into_scale, q, width, per_row, TINY: tl.constexpr, BLOCK: tl.constexpr):
    target, c = tl.program_id(0), tl.arange(0, BLOCK)
    line = tl.arange(0, 8)
    # four rows of s, then four of e
    at = (line // 4) * q + target * 4 + line % 4
    inside = (c < width)[None, :]
    x = tl.load(rows + at[:, None] * per_row + c[None, :], mask=inside, other=0.0)
    lost = tl.sum(tl.sum((x != x).to(tl.int32), 1), 0) > 0
    peak = tl.max(tl.max(tl.abs(x), 1), 0)
    usable = (peak > 0) & (peak < float("inf")) & (lost == 0)
    safe = tl.where(usable, peak, 1.0)
    sign = tl.load(w + (line % 4)[:, None] * width + c[None, :], mask=inside, other=0.0)
    of_range = tl.full([8, BLOCK], TINY, x.dtype)
    of_range = tl.where(sign > 0, of_range, -of_range)
    out = x / safe + tl.where((line >= 4)[:, None], of_range, 0.0)
    to = (line // 4) * q + target * 4 + line % 4
    tl.store(into + to[:, None] * width + c[None, :], out.to(x.dtype), mask=inside)
    tl.store(into_scale + target, tl.load(scale + target) + tl.log(safe.to(tl.float64)))

r"""The temporal Jacobian of softmax attention in closed form, all blocks at the cost of a few forward passes.

    J_tk = sum_h a^h_tk O_h (W_V^h + (v^h_k - o^h_t) p_t^hT),  p_t^h = W_K^hT q_t^h / sqrt(e)       k != t
    J_tt = the same, plus sum_h O_h sum_j a^h_tj (v^h_j - o^h_t)(W_Q^hT k_j^h)^T / sqrt(e)

Norms come from Gram products of the small factors, blocks from the factors themselves; weights are carried as
ln a, so that a weight of 1e-400 is not a zero. Where a squared norm is a small difference of its terms, the
block is made and measured instead.

Shapes: x (n, d), H heads, e = d / H. Equation 1 of Vaswani et al. 2017, differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.known import is_plain
from depprobe.core.device import HostArray, memory_of
from depprobe.core.options import DEFAULT_MEMORY, Options, require
from depprobe.core.scaled import Scaled, log_norms, with_rounding
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.errors import BadInput
from depprobe.layers.attention import Attention
from depprobe.operators.attention.asked_pairs import AskedPairs, picked
from depprobe.operators.attention.heads import Dense, Heads, Support, Tile, masks_of
from depprobe.operators.attention.products import is_sharp, jvp, pull, vjp
from depprobe.operators.attention.row import Row
from depprobe.operators.attention.tile_norms import TileNorms
from depprobe.operators.dispatch import register_jacobian
from depprobe.units import counted

#: pairs times heads in one tile of the norms, and how many times as many on a GPU
_PAIRS, _WIDER = 1 << 21, 32
#: heads that what is kept of a pair beside its weights takes as much as
_HEADS = 8
#: share of the memory, one over this, that one number for each pair of a tile takes in products
_OF_PRODUCTS = 64
#: numbers that belong to a tile's targets alone, as a multiple of its pairs
_FACTORS = 4
#: share of the sum of bounds that bounds the error, up to a width of 16 and from 64 on, where more of
#: the errors cancel in a Frobenius norm
_SURE = 0.25, 0.125
#: norm, error and whether it is known, of blocks that are all made in full
_UNMEASURED = torch.float64, torch.float64, torch.bool
#: elements of the blocks made at once
_BLOCKS = 1 << 23
#: blocks times (d + 20)^3 up to which singular values are computed: minutes
_SINGULAR_WORK = 1e12


def share_of_bounds(d: int, norm: str) -> float:
    """Share of the sum of first-order bounds that errors reach."""
    least = _SURE[1] / _SURE[0]
    return float(_SURE[0] * (np.clip(math.sqrt(16 / d), least, 1) if norm == "fro" else 1))


class AttentionJacobian(TemporalJacobian):
    """Temporal Jacobian of softmax attention at one input.

    Parameters
    ----------
    heads : projections and weights at the input.
    support : which keys each target sees.
    memory : bytes that the job may take.

    Raises
    ------
    OverBudget : the constant products would not fit.
    """

    method = "attention"

    def __init__(self, heads: Heads, support: Support, *, memory: int = DEFAULT_MEMORY) -> None:
        n, H, e = heads.q.shape
        d = heads.W_O.shape[1]
        self.shape = (n, d, n, d)
        self._heads, self._support, self._memory = heads, support, memory
        constants = 8 * (H * e) ** 2 + len(heads.k) * (6 * d + 2 * H * H)
        each = H * max(e * e, 2 * H * (e + H + 1))  # moments of a target, or its left factors
        size, room = heads.q.element_size(), memory_of(heads.q.device)
        self._pairs = _PAIRS
        if room is not None:
            affordable = (min(memory, room) // size - constants) // (6 + _FACTORS)
            self._pairs = max(_PAIRS, min(_PAIRS * _WIDER, affordable))
        self._most = max(1, _FACTORS * self._pairs // each)
        self._tile = max(1, self._pairs // max(H, _HEADS))
        pairs, factors = max(H, _HEADS) * min(self._tile, n * len(heads.k)), min(self._most, n) * each
        needed = (constants + 6 * pairs + factors) * size
        require(needed, memory, f"attention over {n} positions", "use a smaller n or d, or --dtype float32")
        self._closed: TileNorms | None = None
        self._double: tuple[Heads, Tensor, Tensor] | None = None

    # -- norms ---------------------------------------------------------------------------------------

    def log_norms(
        self,
        targets: Sequence[int],
        sources: Sequence[int] | None = None,
        norm: str = "fro",
        *,
        own: bool = True,
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k], over lags for several targets of a pattern made of few lags.

        ``own=False`` leaves the blocks k = t out (NaN there); they take most of the time.
        """
        n = self.shape[0]
        wanted, rows = np.unique(np.asarray(targets, dtype=np.int64), return_inverse=True)
        lags = self._support.lags() if sources is None and len(targets) > 1 else None
        by_lag = lags is not None and len(lags) < n
        columns = lags if by_lag else range(n) if sources is None else sources
        kept, places = np.unique(np.asarray(columns, dtype=np.int64), return_inverse=True)
        keys, device = len(self._heads.k), self._heads.q.device
        asked = AskedPairs(wanted, kept, by_lag=by_lag, n=n, keys=keys, device=device)
        values, error = (picked(z, (rows, places)) for z in self._collect(asked, norm, own))
        return LogNorms(values, error, lags=kept if by_lag else None)

    def _collect(self, asked: AskedPairs, norm: str, own: bool) -> list[NDArray[np.float64]]:
        """The norms asked for and bounds on their errors, (R, W) each.

        Nothing is looked at on the host until all tiles are under way.
        """
        d, rows, width = self.shape[1], *asked.shape
        affordable = int(_SINGULAR_WORK / (d + 20) ** 3)
        if norm != "fro" and rows * width > affordable:
            raise BadInput(
                f"spectral norms of {rows} x {width} blocks of {d} x {d} would take hours; ask for "
                f"{affordable} blocks at most (fewer targets or sources), or norm='fro'"
            )
        targets = asked.targets.tolist()
        self._support.check(targets)
        sure = share_of_bounds(d, norm)
        out = [HostArray(asked.shape, self._heads.q.device) for _ in range(2)]
        again, first = [], 0
        for tile in self._support.tiles(targets, self._tile, min(self._most, self._tile // width)):
            there, own_key, place = asked.places(tile, first)
            if norm == "fro":
                norms, share, known = self._constants().of(tile, own and asked.own)
            else:
                norms, share, known = (torch.zeros_like(there, dtype=z) for z in _UNMEASURED)
            if not own:
                norms, known = norms.masked_fill(own_key, math.nan), known | own_key
            values = asked.laid(norms, place, tile.asked, -math.inf)
            if asked.by_lag:
                values.masked_fill_(asked.outside(first, tile.asked), math.nan)
            share = asked.laid(share, place, tile.asked, 0.0)
            for host, part in zip(out, with_rounding(values, sure * share), strict=True):
                host.put(slice(first, first + tile.asked), part)
            again.append(asked.laid(~known & there, place, tile.asked, False))
            first += tile.asked
        arrays = [host.array() for host in out]
        for row, columns in _marked(torch.cat(again)):
            t = int(asked.targets[row])
            made, share = self._made(t, asked.sources(t, columns), norm)
            for array, part in zip(arrays, with_rounding(made, sure * share), strict=True):
                array[row, columns.cpu().numpy()] = part.cpu().numpy()
        return arrays

    def _made(self, t: int, sources: Tensor, norm: str) -> tuple[Tensor, Tensor]:
        """ln norms of some blocks of one target, each made in full, and relative errors."""
        unit, row = math.log(torch.finfo(self._heads.q.dtype).eps / 2), self._row_of(t)
        norms, shares = [], []
        for part in sources.split(max(1, _BLOCKS // self.shape[1] ** 2)):
            norms.append(log_norms(row.blocks(part), norm))
            shares.append((row.rounding(part) + unit - norms[-1]).exp())
        return torch.cat(norms), torch.cat(shares)

    def _constants(self) -> TileNorms:
        if self._closed is None:
            self._closed = TileNorms(self._heads, self._pairs)
        return self._closed

    # -- blocks --------------------------------------------------------------------------------------

    def _row(self, tile: Tile) -> Row:
        if self._double is None:
            H, d = len(self._heads.W_O), self.shape[1]
            remedy = "use a smaller d or fewer heads, or method='autograd'"
            require(16 * H * d * d, self._memory, f"blocks of {counted(H, 'head')} at d = {d}", remedy)
            heads = self._heads.double()
            out_norms = log_norms(Scaled.plain(heads.W_O), "spectral").exp()
            self._double = heads, heads.W_O @ heads.W_V, out_norms
        return Row(*self._double, tile)

    def _tile_of(self, t: int) -> Tile:
        self._support.check([t])
        tile = next(iter(self._support.tiles([t], 1, 1)))
        i, r = (tile.targets == t).nonzero()[0].tolist()
        return tile.only(i, r)

    def _row_of(self, t: int) -> Row:
        return self._row(self._tile_of(t))

    def support(self, t: int) -> NDArray[np.bool_]:
        """Which inputs output t reads: the keys that it sees, and itself, (n,)."""
        n, row = self.shape[0], self._tile_of(t)
        keys = row.keys[0][row.seen()[0, 0]].cpu().numpy()
        out = np.zeros(n, dtype=bool)
        out[keys[keys < n]] = out[t] = True
        return out

    def row(self, t: int) -> Scaled:
        """Row t: values (d, n, d), log_scale (1, n, 1)."""
        n, d = self.shape[:2]
        require(16 * n * d * d, self._memory, f"the row of {n} blocks", "ask for norms or for single blocks")
        row, dtype = self._row_of(t), self._heads.q.dtype
        device = self._heads.q.device
        values = torch.zeros(d, n, d, dtype=dtype, device=device)
        log_scale = torch.zeros(1, n, 1, dtype=torch.float64, device=device)
        seen = torch.cat([row.keys[row.keys < n], torch.tensor([t], device=device)]).unique()
        for part in seen.split(max(1, _BLOCKS // d**2)):
            blocks = row.blocks(part)
            values[:, part] = blocks.values.transpose(0, 1).to(dtype)
            log_scale[0, part] = blocks.log_scale[:, 0]
        return Scaled(values, log_scale)

    def block(self, t: int, k: int) -> Scaled:
        """Block J[t,k]: values (d, d), log_scale (1, 1)."""
        values, log_scale = self._row_of(t).blocks(torch.tensor([k], device=self._heads.q.device))
        return Scaled(values[0].to(self._heads.q.dtype), log_scale[0])

    # -- products ------------------------------------------------------------------------------------

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n, d) to (n, d)."""
        return self._vjps(cotangent[None])[0]

    def pull(self, rows: Scaled) -> Scaled:
        """Rows through the Jacobian; of sharp weights none underflows, and no difference cancels."""
        if not self._is_sharp:
            return super().pull(rows)
        found = pull(self._heads.double(), self._every(), rows._replace(values=rows.values.double()))
        return found._replace(values=found.values.to(rows.values))

    @cached_property
    def _is_sharp(self) -> bool:
        return is_sharp(self._heads, self._every())

    def _vjps(self, cotangents: Tensor) -> Tensor:
        return vjp(self._heads, self._every(), cotangents.to(self._heads.q))

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n, d) to (n, d)."""
        return jvp(self._heads, self._every(), tangent.to(self._heads.q))

    def _every(self) -> Any:
        self._support.check(range(self.shape[0]))
        H, size = len(self._heads.W_Q), self._heads.q.element_size()
        pairs = max(1, min(self._tile, self._memory // (_OF_PRODUCTS * H * size)))
        return self._support.tiles(range(self.shape[0]), pairs, self.shape[0])


@register_jacobian(nn.MultiheadAttention)
def multihead_jacobian(module: nn.MultiheadAttention, x: Tensor, options: Options) -> TemporalJacobian | None:
    """In closed form, under the masks in ``options.forward``."""
    if options.wrt != "x" or module.in_proj_weight is None:
        return None
    check_width(module, x)
    forward = dict(options.forward)
    padding = forward.get("key_padding_mask")
    if isinstance(padding, Tensor) and padding.ndim == 2 and len(padding) == 1:
        forward["key_padding_mask"] = padding[0]
    return AttentionJacobian(Heads.of(module, x), masks_of(module, x, forward), memory=options.memory)


@register_jacobian(Attention)
def attention_jacobian(module: Attention, x: Tensor, options: Options) -> TemporalJacobian | None:
    """In closed form."""
    if options.wrt != "x" or options.forward or not is_plain(module.weights.out_proj, nn.Linear):
        return None
    check_width(module.weights, x)
    return AttentionJacobian(
        Heads.of(module.weights, x), Dense(x.shape[0], causal=module.causal, like=x), memory=options.memory
    )


def _marked(rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows of a mask that hold any mark, and where."""
    for row in rows.any(1).nonzero()[:, 0].tolist():
        yield row, rows[row].nonzero()[:, 0]


def check_width(module: nn.MultiheadAttention, x: Tensor) -> None:
    """Refuse an input of another width than the module's, in one line."""
    if x.shape[1] != module.embed_dim:
        raise BadInput(f"x has width {x.shape[1]} and the attention takes embed_dim = {module.embed_dim}")

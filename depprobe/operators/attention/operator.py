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
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.known import is_plain
from depprobe.core.options import DEFAULT_MEMORY, Options, require
from depprobe.core.scaled import Scaled, log_norms, log_norms_of_squares, with_rounding
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.errors import BadInput
from depprobe.layers.attention import Attention
from depprobe.operators.attention.closed_form import Gram, QueryPart
from depprobe.operators.attention.heads import Dense, Heads, Support, Tile, masks_of
from depprobe.operators.attention.products import jvp, vjp
from depprobe.operators.attention.row import Row
from depprobe.operators.dispatch import register_jacobian

#: pairs times heads in one tile of the norms
_PAIRS = 1 << 21
#: relative error that rounding may leave in a norm from Gram products; beyond it the block is made
_ACCURACY = {torch.float32: 1e-4, torch.float64: 1e-11}
#: share of the sum of bounds that bounds the error, up to a width of 16 and from 64 on, where more of
#: the errors cancel in a Frobenius norm
_SURE = 0.25, 0.125
#: elements of the blocks made at once
_BLOCKS = 1 << 23
#: blocks times (d + 20)^3 up to which singular values are computed: minutes
_SINGULAR_WORK = 1e12


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
        pairs = min(_PAIRS, H * n * len(heads.k))
        needed = (8 * (H * e) ** 2 + len(heads.k) * (6 * d + 2 * H * H) + 6 * pairs) * heads.q.element_size()
        require(needed, memory, f"attention over {n} positions", "use a smaller n or d, or --dtype float32")
        self._query: QueryPart | None = None
        self._double: tuple[Heads, Tensor] | None = None

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
        if lags is not None and len(lags) < n:
            band = np.asarray(lags, dtype=np.int64)
            column_of = np.full(2 * n, -1)
            column_of[band] = np.arange(len(band))  # a negative lag stands at the far end
            values, error = self._collect(wanted, lambda t, k: column_of[t - k], len(band), norm, own)
            outside = wanted[:, None] - band
            values[(outside < 0) | (outside >= n)] = np.nan
            return LogNorms(values[rows], error[rows], lags=band)
        columns = np.arange(n) if sources is None else np.asarray(sources, dtype=np.int64)
        kept, places = np.unique(columns, return_inverse=True)
        column_of = np.full(len(self._heads.k), -1)
        column_of[kept] = np.arange(len(kept))
        values, error = self._collect(wanted, lambda t, k: column_of[k + 0 * t], len(kept), norm, own)
        return LogNorms(values[rows][:, places], error[rows][:, places])

    def _collect(
        self, wanted: NDArray[np.int64], column_of: Any, width: int, norm: str, own: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Norms of the targets wanted and bounds on their errors, (wanted, width) each.

        ``column_of(t, k)`` is a pair's column, or -1.
        """
        n, d = self.shape[:2]
        affordable = int(_SINGULAR_WORK / (d + 20) ** 3)
        if norm != "fro" and len(wanted) * width > affordable:
            raise BadInput(
                f"spectral norms of {len(wanted)} x {width} blocks of {d} x {d} would take hours; ask for "
                f"{affordable} blocks at most (fewer targets or sources), or norm='fro'"
            )
        self._support.check(wanted.tolist())
        out, row_of = np.full((len(wanted), width), -np.inf), np.full(n, -1)
        share = np.zeros_like(out)
        row_of[wanted] = np.arange(len(wanted))
        for tile in self._support.tiles(wanted.tolist(), _PAIRS // self._heads.q.shape[1]):
            t, k = tile.targets.cpu().numpy()[:, :, None], tile.keys.cpu().numpy()[:, None]
            column, row = column_of(t, k), row_of[t] + 0 * k
            self_key = np.zeros(row.shape, dtype=bool)
            np.put_along_axis(self_key, tile.own().cpu().numpy()[:, :, None], True, 2)
            # a block k = t is there even if the mask hides the key: the query moves with x_t
            there = (tile.seen().cpu().numpy() & (t != k) & (k < n)) | self_key
            there &= (row >= 0) & (column >= 0)
            use = there if own else there & ~self_key
            asked = torch.from_numpy(use).to(tile.keys.device)
            found, lost = self._tile_norms(tile, asked) if norm == "fro" else self._made(tile, asked, norm)
            out[row[use], column[use]] = found.cpu().numpy()[use]
            share[row[use], column[use]] = lost.cpu().numpy()[use]
            if not own:
                hidden = there & self_key
                out[row[hidden], column[hidden]] = np.nan
        sure = np.clip(math.sqrt(16 / self.shape[1]), _SURE[1] / _SURE[0], 1) if norm == "fro" else 1
        return with_rounding(out, _SURE[0] * sure * share)

    def _tile_norms(self, tile: Tile, asked: Tensor) -> tuple[Tensor, Tensor]:
        """ln Frobenius norms of a tile and relative errors: (T, c, m) float64 each, right where asked."""
        heads, query = self._heads, self._constants()
        log_a = heads.log_weights(tile)
        mixed = torch.einsum("thcm,tmhe->tche", log_a.exp(), heads.v[tile.keys])
        value, bound, peak, rounding = query.gram.squares(tile, log_a, mixed)
        accuracy = _ACCURACY[value.dtype]
        norms, known = log_norms_of_squares(value, bound, accuracy)
        share = rounding * (-norms).exp() + 8 * bound / value.clamp_min(torch.finfo(value.dtype).tiny)
        norms += peak
        own = tile.own()[..., None]
        if bool(asked.gather(2, own).any()):
            log_own = log_a.gather(3, own[:, None].expand(-1, log_a.shape[1], -1, -1))[..., 0]
            extra = query.through(tile, log_a, mixed, log_own)
            scale = peak.gather(2, own).exp().flatten()
            total = value.gather(2, own).flatten() * scale**2 + extra.value
            size = bound.gather(2, own).flatten().sqrt() * scale + extra.size
            logs, sure = log_norms_of_squares(total, size.square(), accuracy)
            limit = accuracy / (8 * torch.finfo(total.dtype).eps)
            sure &= total.clamp_min(0).sqrt() * limit > extra.rounding
            factors = rounding.gather(2, own).flatten() * scale + extra.factors + 8 * extra.rounding
            of_own = factors * (-logs).exp() + 8 * size.square() * (-2 * logs).exp()
            share.scatter_(2, own, of_own.view(own.shape).to(share.dtype))
            norms.scatter_(2, own, logs.view(own.shape))
            known.scatter_(2, own, sure.view(own.shape))
        share = share.double() * (torch.finfo(value.dtype).eps / 2)
        again = asked & ~known
        if bool(again.any()):
            made, lost = self._made(tile, again, "fro")
            norms, share = torch.where(again, made, norms), torch.where(again, lost, share)
        return norms, share

    def _made(self, tile: Tile, asked: Tensor, norm: str) -> tuple[Tensor, Tensor]:
        """ln norms of the blocks asked for, each made in full, and relative errors: (T, c, m) each."""
        unit = math.log(torch.finfo(self._heads.q.dtype).eps / 2)
        share = torch.zeros(asked.shape, dtype=torch.float64, device=asked.device)
        out = torch.full(asked.shape, -torch.inf, dtype=torch.float64, device=asked.device)
        for i, r in asked.any(-1).nonzero().tolist():
            row, columns = self._row(tile.only(i, r)), asked[i, r].nonzero().flatten()
            for part in columns.split(max(1, _BLOCKS // self.shape[1] ** 2)):
                keys = tile.keys[i, part]
                out[i, r, part] = logs = log_norms(row.blocks(keys), norm)
                share[i, r, part] = (row.rounding(keys) + unit - logs).exp()
        return out, share

    def _constants(self) -> QueryPart:
        if self._query is None:
            self._query = QueryPart(Gram(self._heads))
        return self._query

    # -- blocks --------------------------------------------------------------------------------------

    def _row(self, tile: Tile) -> Row:
        if self._double is None:
            H, d = len(self._heads.W_O), self.shape[1]
            remedy = "use a smaller d or fewer heads, or method='autograd'"
            require(16 * H * d * d, self._memory, f"blocks of {H} heads at d = {d}", remedy)
            heads = self._heads.double()
            self._double = heads, heads.W_O @ heads.W_V
        return Row(*self._double, tile)

    def _tile_of(self, t: int) -> Tile:
        self._support.check([t])
        tile = next(iter(self._support.tiles([t], 1)))
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

    def _vjps(self, cotangents: Tensor) -> Tensor:
        return vjp(self._heads, self._every(), cotangents.to(self._heads.q))

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n, d) to (n, d)."""
        return jvp(self._heads, self._every(), tangent.to(self._heads.q))

    def _every(self) -> Any:
        self._support.check(range(self.shape[0]))
        return self._support.tiles(range(self.shape[0]), _PAIRS // self._heads.q.shape[1])


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


def check_width(module: nn.MultiheadAttention, x: Tensor) -> None:
    """Refuse an input of another width than the module's, in one line."""
    if x.shape[1] != module.embed_dim:
        raise BadInput(f"x has width {x.shape[1]} and the attention takes embed_dim = {module.embed_dim}")

r"""A call of attention inside a forward, with queries, keys and values of its own.

    o_t = sum_k a_tk v_k,  ln a_tk = log_softmax_k(scale q_t . k_k + bias_tk);   c_tk = R_t . (v_k - o_t)
    dv_k = sum_t a_tk R_t,  dk_k = scale sum_t a_tk c_tk q_t,  dq_t = scale sum_k a_tk c_tk (k_k - k_h)

Rows carry one exponent s_t a position. The weights of a key are taken over the largest that meets it,
a_tk exp(s_t - m_k) with m_k = max_t (ln a_tk + s_t), so that tiny weights and tiny rows keep their digits.
Where the heaviest key h of a target has nearly all the weight, v_k - o_t is a small difference of large
numbers. So it is taken about h, and the others' weights over their largest, a_tk = exp(L_t) r_tk, r_th = 0:

    g_tk = R_t . v_k - R_t . v_h,    c_tk = g_tk - exp(L_t) sum_j r_tj g_tj

Shapes: H heads, q (H, n, e), k (H, m, e), v (H, m, e_v), bias broadcasting to (H, n, m), rows (r, n, H e_v).
Source: Vaswani et al. 2017, equation 1, differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from depprobe.core.scaled import Scaled
from depprobe.operators.calls import KnownCall, LinearisedCall, reads, runs
from depprobe.operators.masks import masked

#: elements of the largest intermediate, a product of rows, heads, targets and keys
_ELEMENTS = 1 << 21


class AttentionCall(LinearisedCall):
    """softmax(scale q k^T + bias) v."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> None:
        self._q, self._k, self._v, self._bias, self._scale = q, k, v, bias, scale

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows (r, n, H e_v) on the output as rows on q, k and v."""
        values, log_scale = rows[0]
        log_scale = log_scale.expand(len(values), values.shape[1], 1)
        stands = ~log_scale[..., 0].isneginf()
        T = (live[0].any(0) & stands.any(0)).nonzero()[:, 0]
        log_a = self._log_weights(T)
        least = torch.where(log_a.isneginf(), math.inf, log_a).amin((0, 1))
        sizes = runs(log_scale[:, T, 0], log_a.amax((0, 1)) - least if len(T) else None, values.dtype)
        parts = []
        for of_run, over, at in zip(
            values.split(sizes), log_scale.split(sizes), stands[:, T].split(sizes), strict=True
        ):
            here = at.any(0) if len(sizes) > 1 else slice(None)
            parts.append(self._pulled(Scaled(of_run, over), T[here], log_a[:, here]))
        found = (
            Scaled(*(torch.cat(z) for z in zip(*port, strict=True))) for port in zip(*parts, strict=True)
        )
        return list(zip(found, self.reach(live), strict=True))

    def _pulled(self, rows: Scaled, T: Tensor, log_a: Tensor) -> list[Scaled]:
        """The same of one run of rows, at the positions T that they stand on."""
        values, log_scale = rows
        q, k, v = self._q, self._k, self._v
        H, n, _ = q.shape
        s = log_scale.amax(0)[:, 0]
        R = Scaled(values[:, T], log_scale[:, T]).relative_to(s[None, T, None])
        R = R.unflatten(2, (H, -1)).transpose(1, 2)
        joint = log_a + s[T, None]
        m = joint.amax((0, 1)) if len(T) else joint.new_full((joint.shape[-1],), -math.inf)
        over = (joint - torch.where(m.isneginf(), 0, m)).exp().to(values.dtype)
        heaviest = log_a.argmax(-1, keepdim=True)  # (H, T, 1)
        rest = log_a.scatter(-1, heaviest, -math.inf)
        L = rest.amax(-1, keepdim=True)
        r = (rest - torch.where(L.isneginf(), 0, L)).exp().to(values.dtype)
        of_rest = L.exp().to(values.dtype)
        # of all heads of a position
        peak = L.amax(0)
        lower = (L - torch.where(peak.isneginf(), 0, peak)).exp().to(values.dtype)
        k_h = k.gather(1, heaviest.expand(-1, -1, k.shape[2]))
        mean_key = k_h + of_rest * (r @ k - r.sum(-1, keepdim=True) * k_h)
        dq = values.new_zeros(len(values), H, n, q.shape[2])
        dk, dv = (values.new_empty(len(values), *z.shape) for z in (k, v))
        step = max(1, _ELEMENTS // max(1, over.numel()))
        for first in range(0, len(values), step):
            here = slice(first, first + step)
            part = R[here]
            c = part @ v.mT
            c -= c.gather(-1, heaviest.expand(len(part), -1, -1, -1))
            rc = r * c
            shared = rc.sum(-1, keepdim=True)
            dq[here, :, T] = self._scale * lower * (rc @ k - shared * mean_key)
            c -= of_rest * shared
            dk[here] = self._scale * ((over * c).mT @ q[:, T])
            dv[here] = over.mT @ part
        of_q = torch.full_like(s, -math.inf)
        of_q[T] = s[T] + peak[:, 0]
        scales = [z[None, :, None].expand(len(values), -1, 1) for z in (of_q, m, m)]
        return [
            Scaled(z.transpose(1, 2).flatten(2), scale) for z, scale in zip((dq, dk, dv), scales, strict=True)
        ]

    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """Live queries, and the keys that any head of one sees."""
        (alive,) = live
        if self._seen is None:
            reach = alive.any(1, keepdim=True).expand(-1, self._k.shape[1])
        else:
            reach = (alive.to(torch.float32) @ self._seen.to(torch.float32)) > 0
        return [alive, reach, reach]

    @cached_property
    def _seen(self) -> Tensor | None:
        """Which keys any head of each target sees, (n, m); None where all are seen."""
        every = slice(None)
        return None if self._bias is None else (~self._masked(every).isneginf()).any(0)

    def _masked(self, T: Tensor | slice) -> Tensor:
        """The bias of some targets, -inf at what is masked."""
        assert self._bias is not None
        bias = self._bias[(None,) * (3 - self._bias.ndim)]
        return masked(bias.expand(len(bias), self._q.shape[1], self._k.shape[1])[:, T])

    def _log_weights(self, T: Tensor) -> Tensor:
        """ln a (H, T, m) float64."""
        scores = self._scale * self._q[:, T] @ self._k.mT
        if self._bias is not None:
            scores = scores + self._masked(T)
        # of a row without any key torch gives zeros
        return scores.double().log_softmax(-1).nan_to_num(nan=-math.inf, neginf=-math.inf)


class MultiheadCall(LinearisedCall):
    """Projections of query, key and value around attention: ``multi_head_attention_forward``."""

    def __init__(self, attention: AttentionCall, W: Sequence[Tensor], W_O: Tensor) -> None:
        self._attention, self._W, self._W_O = attention, W, W_O

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows (r, n, d) on the output as rows on query, key and value."""
        within = Scaled(rows[0].values @ self._W_O, rows[0].log_scale)
        pulled = self._attention.pull([within], live)
        return [
            (Scaled(found.values @ W, found.log_scale), reach)
            for (found, reach), W in zip(pulled, self._W, strict=True)
        ]

    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """As that of the attention inside."""
        return self._attention.reach(live)


def additive(mask: Tensor | None, like: Tensor, hidden: bool) -> Tensor | None:
    """A mask as a bias; ``hidden`` is the value of boolean masks where a key is not seen."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask == hidden, -math.inf)


@reads(F.scaled_dot_product_attention)
def _read_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> KnownCall | None:
    if dropout_p > 0 or query.ndim < 2 or query.is_nested:
        return None
    lead = query.shape[:-2]
    n, m, e = query.shape[-2], key.shape[-2], query.shape[-1]
    groups = lead[-1] // key.shape[-3] if enable_gqa and lead else 1
    if any(z.shape[:-2] != (*lead[:-1], *(x // groups for x in lead[-1:])) for z in (key, value)):
        return None
    bias = additive(attn_mask, query, hidden=False)
    if is_causal:
        bias = query.new_zeros(n, m).masked_fill_(query.new_ones(n, m).tril() == 0, -math.inf)
    heads = math.prod(lead)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )

    def linearise(inputs: Sequence[Tensor]) -> LinearisedCall:
        q, k, v = (
            z.unflatten(1, (-1, width)).transpose(0, 1) for z, width in zip(inputs, widths, strict=True)
        )
        wide = None if bias is None else bias.detach().expand(*lead, n, m).reshape(heads, n, m)
        k, v = (z.repeat_interleave(groups, 0) for z in (k, v))
        call = AttentionCall(q, k, v, wide, factor)
        return call if groups == 1 else _Grouped(call, groups)

    widths = (e, key.shape[-1], value.shape[-1])
    factor = 1 / math.sqrt(e) if scale is None else scale
    axes = [z.ndim - 2 for z in (query, key, value)]
    return KnownCall([query, key, value], axes, run, axes[:1], linearise, [attn_mask])


class _Grouped(LinearisedCall):
    """Attention whose keys and values serve ``groups`` heads each."""

    def __init__(self, attention: AttentionCall, groups: int) -> None:
        self._attention, self._groups = attention, groups

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        of_q, *shared = self._attention.pull(rows, live)
        H = len(self._attention._q)
        return [of_q] + [
            (
                Scaled(
                    z.values.unflatten(2, (H // self._groups, self._groups, -1)).sum(3).flatten(2),
                    z.log_scale,
                ),
                mask,
            )
            for z, mask in shared
        ]

    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """As that of the attention inside."""
        return self._attention.reach(live)


@reads(F.multi_head_attention_forward)
def _read_multihead(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> KnownCall | None:
    plain = bias_k is None and not add_zero_attn and static_k is None and static_v is None
    batch_of_one = query.ndim == 2 or query.shape[1] == 1  # the module hands over (n, batch, d)
    if not plain or not batch_of_one or (training and dropout_p > 0):
        return None
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = separate if use_separate_proj_weight else in_proj_weight.chunk(3)  # type: ignore[union-attr]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return F.multi_head_attention_forward(
            q, k, v, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v,
            add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, training, key_padding_mask,
            need_weights, attn_mask, use_separate_proj_weight, *separate, static_k, static_v,
            average_attn_weights, is_causal,
        )  # fmt: skip

    def linearise(inputs: Sequence[Tensor]) -> LinearisedCall:
        W = [weight.detach() for weight in weights if weight is not None]
        biases = [None] * 3 if in_proj_bias is None else in_proj_bias.detach().chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(1, (num_heads, -1)).transpose(0, 1)
            for x, w, b in zip(inputs, W, biases, strict=True)
        )
        padding = additive(key_padding_mask, q, hidden=True)
        bias = additive(attn_mask, q, hidden=True)
        if is_causal and key_padding_mask is None and not need_weights:
            # torch drops the mask itself for the hint
            bias = q.new_zeros(q.shape[1], k.shape[1]).masked_fill_(
                q.new_ones(q.shape[1], k.shape[1]).tril() == 0, -math.inf
            )
        if padding is not None:
            padding = padding.reshape(1, 1, -1)
            bias = padding if bias is None else bias + padding
        call = AttentionCall(q, k, v, bias, 1 / math.sqrt(q.shape[-1]))
        return MultiheadCall(call, W, out_proj_weight.detach())

    fixed = [*weights, in_proj_bias, out_proj_weight, out_proj_bias, attn_mask, key_padding_mask]
    return KnownCall([query, key, value], [0, 0, 0], run, [0], linearise, fixed)

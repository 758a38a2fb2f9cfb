r"""Levels whose layer has an operator of its own, which they ask for rows.

    recurrence    a backward sweep with exponents (``pull.py``)
    others        the closed form of a single row, R_t J[t,:]; else batched vector-Jacobian products, of rows
                  with exponents bucket by bucket:  R = sum_b exp(base_b) R_b,  each R_b in plain floats

Shapes: rows R (P, r, d_out) at P positions; J[t,:] (d_out, n_in, d_in).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from depprobe.core.recorded_graph import backward_bytes
from depprobe.core.rows import Rows, gathered
from depprobe.core.scaled import Scaled
from depprobe.core.temporal_jacobian import TemporalJacobian, anchors
from depprobe.operators.chain.operator import RecurrentJacobian
from depprobe.operators.composed.levels.level import Level, Positions

#: exponents this far apart are pulled separately by a level that works in plain floats
_BUCKET = {torch.float32: 40.0, torch.float64: 300.0}

#: pairs of positions up to which a level of any pattern remembers what each output reads
_KNOWN_READS = 1 << 24


class Recurrence(Level):
    """An RNN, GRU or LSTM: its own sweep, which carries exponents."""

    def __init__(self, jacobian: RecurrentJacobian, both: bool) -> None:
        self.jacobian, self.both = jacobian, both
        self.n, self.width = jacobian.shape[0], jacobian.shape[3]
        self.work = 8.0 * jacobian.shape[1] * (jacobian.shape[1] + self.width)

    def zeros_are_exact(self) -> bool:
        """No: it rounds on its way."""
        return False

    def support(self, where: Positions) -> Positions:
        """The past, and the future too where it reads both ways."""
        return np.arange(self.n if self.both else where.max() + 1)

    def pull(self, rows: Rows) -> Rows:
        """The backward sweep, over the positions up to the last that carries anything."""
        values, log_scale = self.jacobian._pull(rows.dense(self.n))
        stop = self.n if self.both else int(rows.where.max()) + 1
        where = torch.arange(stop, device=rows.where.device)
        return Rows(
            values[:, :stop].transpose(0, 1), log_scale[:, :stop].expand(-1, stop, 1).transpose(0, 1), where
        )


@dataclass(eq=False)
class Mixing(Level):
    """Any other layer with an operator of its own: its row where one position asks, else products."""

    jacobian: TemporalJacobian
    function: Callable[[Tensor], Tensor]
    x: Tensor
    memory: int
    _reads: dict[int, Positions] = field(default_factory=dict)

    @cached_property
    def width(self) -> int:  # type: ignore[override]
        """d_in of the layer."""
        return self.jacobian.shape[3]

    @cached_property
    def placing(self) -> tuple[float, float]:  # type: ignore[override]
        """Evenly over the inputs where lengths differ."""
        n_out, _, n_in, _ = self.jacobian.shape
        return (0.5 * n_in / n_out - 0.5, n_in / n_out) if n_out != n_in else (0.0, 1.0)

    @cached_property
    def work(self) -> float:  # type: ignore[override]
        """Multiply-adds of a pull, for each row and position."""
        return 4.0 * self.jacobian.shape[2] * self.jacobian.shape[1]

    def zeros_are_exact(self) -> bool:
        """No: it rounds on its way."""
        return False

    def support(self, where: Positions) -> Positions:
        """What the operator says that the outputs given read; everything where that would fill memory."""
        n_out, _, n_in, _ = self.jacobian.shape
        if len(where) > 1 and n_out * n_in > _KNOWN_READS:
            return np.arange(n_in)
        missing = [t for t in where.tolist() if t not in self._reads]
        if missing:
            norms = self.jacobian.log_norms(missing)
            position = self.jacobian.position
            position = np.arange(n_out, dtype=np.float64) if position is None else position
            anchor = anchors(position)[missing]
            for t, at, values in zip(missing, anchor, norms.values, strict=True):
                source = np.arange(n_in) if norms.lags is None else at - norms.lags
                self._reads[t] = source[(source >= 0) & (source < n_in) & ~np.isneginf(values)]
        return np.unique(np.concatenate([self._reads[t] for t in where.tolist()]))

    def pull(self, rows: Rows) -> Rows:
        """Rows times the operator's row, or vector-Jacobian products."""
        if len(rows.where) == 1:
            row = self.jacobian.row(int(rows.where[0]))
            where = torch.from_numpy(self.support(rows.where.cpu().numpy())).to(rows.where.device)
            common = row.log_scale.amax(0, keepdim=True).expand(1, row.values.shape[1], 1)
            safe = torch.where(common.isneginf(), 0, common)
            values = torch.einsum("ro,opi->pri", rows.values[0], row.relative_to(safe)[:, where])
            scale = safe.transpose(0, 1)[where] + rows.log_scale[:1]
            if bool((safe == 0).all()):
                scale = rows.log_scale[:1]
            return Rows(values, scale, where).settled()
        values, log_scale = rows.dense(self.jacobian.shape[0])
        peak = log_scale.amax(1, keepdim=True)
        depth = ((peak - log_scale) / _BUCKET[values.dtype]).nan_to_num(nan=torch.inf, posinf=1e9).long()
        where = torch.from_numpy(self.support(rows.where.cpu().numpy())).to(values.device)
        parts = []
        with torch.enable_grad():
            leaf = self.x.clone().requires_grad_()
            y = self.function(leaf)
        chunk = max(1, self.memory // max(1, backward_bytes(y, leaf)))
        for bucket in depth[log_scale.isfinite()].unique().tolist():
            base = peak - bucket * _BUCKET[values.dtype]
            chosen = torch.where(depth == bucket, Scaled(values, log_scale).relative_to(base), 0)
            pulled = torch.cat([self._products(y, leaf, part) for part in chosen.split(chunk)])
            parts.append(Rows(pulled[:, where].transpose(0, 1), base.transpose(0, 1), where).settled())
        return gathered(parts).settled()

    def _products(self, y: Tensor, leaf: Tensor, cotangents: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(
            y, leaf, cotangents, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        return pulled

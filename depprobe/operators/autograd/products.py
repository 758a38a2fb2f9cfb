r"""Vector-Jacobian products of one recorded pass, in chunks that fit a memory budget.

    (r, n_out, d_out) -> (r, n_in, d_in),     v -> v^T J

Batched by ``vmap`` where it can take what the graph holds, one by one where it cannot (custom functions that
ask for numbers, reentrant checkpoints, sparse weights). How many fit is read off the graph that is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.passes import TIMES
from depprobe.core.function import SequenceFunction
from depprobe.core.options import readable, require
from depprobe.core.recorded_graph import GraphFacts, backward_bytes, graph_facts, is_simple
from depprobe.errors import BadInput


class Products:
    """The products of one function, its graph held.

    Parameters
    ----------
    function : recorded once, here.
    memory : bytes that graph and products may take.

    Raises
    ------
    OverBudget : not even one product would fit.
    """

    def __init__(self, function: SequenceFunction, memory: int) -> None:
        self._function = function
        self._leaf, self._y = function.record()
        # where n by n numbers many times over would fit, the graph need not be measured
        ample = n_by_n_bytes(function)
        rows = max(1, self._y.shape[1])
        simple = (rows + 1) * ample <= memory and is_simple(self._y, self._leaf)
        facts = GraphFacts(self._y.dtype, ample, ample, False) if simple else graph_facts(self._y, self._leaf)
        if not facts.total:
            who = type(function.module).__name__
            raise BadInput(
                f"the output of {who} does not depend on the input through differentiable operations"
            )
        self.narrowest = facts.narrowest
        self._batched, self._whole = True, False
        self._doubtful = self._python = facts.has_python
        self.chunk = self._chunk(facts, memory)

    def _chunk(self, facts: GraphFacts, memory: int) -> int:
        """Products at once. All gradients of a pass are a bound; those alive at one time a closer one."""
        ends = self._y.numel() * self._y.element_size() + 3 * self._leaf.numel() * self._leaf.element_size()
        each = facts.total + ends
        if max(1, self._y.shape[1]) * each + facts.total > memory:
            each = backward_bytes(self._y, self._leaf) + ends
        enough = readable(1.1 * (each + facts.total)).replace(" ", "")
        require(
            each + facts.total,
            memory,
            "one vector-Jacobian product",
            f"use a smaller n or d, --dtype float32, or --memory {enough}",
        )
        return int(max(1, (memory - facts.total) // max(1, each)))

    def __getstate__(self) -> dict[str, Any]:
        # a graph does not travel; it is recorded again
        return vars(self) | {"_leaf": None, "_y": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._leaf, self._y = self._function.record()

    def row(self, t: int, cotangents: Tensor) -> Iterator[Tensor]:
        """v^T J[t,:] for rows v of (m, d_out), in chunks: (chunk, n_in, d_in)."""
        for part in cotangents.split(min(self.chunk, len(cotangents))):
            full = torch.zeros(len(part), *self._y.shape, dtype=part.dtype, device=part.device)
            full[:, t] = part
            yield self.many(full)

    def single(self, cotangent: Tensor, graph: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """One product: (n_out, d_out) to (n_in, d_in); of another recorded (leaf, y) where that is given."""
        try:
            with self._function.held():
                return self._pulled(cotangent, *(graph or (self._leaf, self._y)))
        except (torch.OutOfMemoryError, MemoryError, BadInput):
            raise
        except Exception as error:
            raise BadInput(backward_failure(self._function.module, error)) from error

    def _pulled(self, cotangent: Tensor, leaf: Tensor, y: Tensor) -> Tensor:
        if not self._whole:
            try:
                return torch.autograd.grad(y, leaf, cotangent, retain_graph=True, materialize_grads=True)[0]
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                self._whole = True
        # a reentrant checkpoint takes part only where all gradients are asked for; they are put back
        torch.autograd.backward(y, cotangent, retain_graph=True)
        found, leaf.grad = leaf.grad, None
        return torch.zeros_like(leaf) if found is None else found

    def many(self, cotangents: Tensor) -> Tensor:
        """Products of a batch of cotangents."""
        if self._batched:
            try:
                found = self._at_once(cotangents)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception:  # vmap says in many ways that it cannot: one by one shows whether torch can
                self._batched = False
            else:
                if not self._doubtful or self._agrees(found, cotangents):
                    return found
                self._batched = False
        return torch.stack([self.single(one) for one in cotangents])

    def reaches(self, t: int) -> NDArray[np.bool_]:
        """Which inputs a path leads to from output t, (n_in,): a cotangent of NaN arrives there."""
        cotangent = torch.zeros_like(self._y)
        cotangent[t] = torch.nan
        try:
            arrived = self.single(cotangent).isnan().any(1)
        except Exception:  # code of the user's that takes no NaN: every path is possible
            return np.ones(len(self._leaf), dtype=bool)
        return arrived.cpu().numpy() if not self._python else np.ones(len(self._leaf), dtype=bool)

    def _at_once(self, cotangents: Tensor) -> Tensor:
        with self._function.held():
            (grad,) = torch.autograd.grad(
                self._y,
                self._leaf,
                cotangents,
                retain_graph=True,
                is_grads_batched=True,
                materialize_grads=True,
            )
        return grad

    def _agrees(self, found: Tensor, cotangents: Tensor) -> bool:
        """Whether Python code in the graph means the same to a batch as to one: asked once."""
        self._doubtful = False
        truth = self.single(cotangents[-1])
        return torch.allclose(found[-1], truth, rtol=1e-4, atol=float(truth.abs().max()) * 1e-6)


def n_by_n_bytes(function: SequenceFunction) -> int:
    """Bytes of n by n numbers, or n by d, a few times over: more than most passes hold at once."""
    return TIMES * max(function.shape) * max(function.shape[0], function.shape[2]) * function.y.element_size()


def backward_failure(module: nn.Module, error: Exception) -> str:
    """What went wrong on the way back through a module, in one line."""
    who = type(module).__name__
    if "modified by an inplace operation" in str(error):
        return f"{who} was changed after its Jacobian was asked for; ask for it again"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"the backward pass of {who} fails: {first}"

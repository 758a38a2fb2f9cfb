r"""What a forward pass of sparse attention costs as the sequence grows, measured.

    FLOPs of the pairs = those counted less the projections, 8 n d^2; a pair needs 4 d

The largest tensor tells whether anything of n x n is made. Times are processor seconds, taken in turn.
Shapes: x (n, d), float32, batch 1, one thread. Source: Child et al. 2019, section 5 (cost of patterns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from depprobe.complexity import complexity
from depprobe.costs.flops import count_flops
from depprobe.costs.interleaved_timing import interleaved_seconds
from depprobe.costs.memory import tensor_bytes
from depprobe.costs.passes import FORWARD, one_pass
from depprobe.ledger.patterns.cost_exponents import ORDERS, WINDOW
from depprobe.registry import layers


class Largest(TorchDispatchMode):
    """Elements of the largest storage that any operation returns while this is on."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def pattern_costs(
    lengths: Sequence[int], d: int, heads: int, rounds: int, report: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Costs of a forward pass of each pattern at each length, float32, batch 1, one thread.

    Returns
    -------
    ``pairs``, ``flops_core`` (counted, projections apart), ``peak_bytes`` and ``largest_tensor`` (elements)
    over (layer, n); ``times`` over (layer, n, round), processor seconds taken in turn.
    """
    shape = (len(ORDERS), len(lengths))
    found: dict[str, np.ndarray] = {
        name: np.zeros(shape) for name in ("pairs", "flops_core", "peak_bytes", "largest_tensor")
    }
    runs: dict[str, Callable[[], object]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for i, name in enumerate(ORDERS):
            options = {"window": WINDOW} if name == "sliding-window" else {}
            module = layers[name].build(d, heads=heads, **options).eval()
            for j, n in enumerate(lengths):
                report(f"{name} at n = {n}")
                x, formula = torch.randn(n, d), complexity(module, n)
                assert formula is not None
                assert formula.pairs is not None
                run = one_pass(module, x, FORWARD)
                found["pairs"][i, j] = formula.pairs
                found["flops_core"][i, j] = count_flops(module, x) - 8 * n * d * d
                with Largest() as largest:
                    found["peak_bytes"][i, j] = tensor_bytes(module, x, FORWARD).peak
                found["largest_tensor"][i, j] = largest.elements
                runs[f"{i} {j}"] = run
    report("times, in turn")
    times = interleaved_seconds(runs, rounds)
    found["times"] = np.array([[times[f"{i} {j}"] for j in range(shape[1])] for i in range(shape[0])])
    return found

"""FLOPs of a pass, counted in the products that torch carries out.

``torch.utils.flop_counter`` sees products as they are dispatched, and nothing of what a fused kernel does
inside: it counts 0 for the fused LSTM and the fused attention of a CPU. So fused kernels are off while it
counts, and the pass runs on fake tensors, which have shapes only, unless it is short. Of a recurrence, whose
steps are all alike, two short sequences are counted and the line through them is continued. Elementwise work
is not counted; a multiply-add is 2 FLOPs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from depprobe.complexity import complexity
from depprobe.core.memory import fake_tensors
from depprobe.costs.operation_flops import formulas
from depprobe.costs.passes import BACKWARD, FORWARD, one_pass
from depprobe.errors import DepprobeError

#: steps that follow one another from which a pass on real tensors is faster than one on fake ones
_MANY_STEPS = 64
#: positions times positions and weights, up to which it is faster too
_FEW_PRODUCTS = 10**7


def count_flops(module: nn.Module, x: Tensor, *, backward: bool = False, layout: str | None = None) -> int:
    """FLOPs of matrix products and convolutions in one pass.

    At x (n, d_in); with ``backward`` the gradients in x and in the parameters too. Raises ``DepprobeError``
    where products were carried out that the counter does not see, in an operation it does not know.

    Examples
    --------
    >>> count_flops(nn.LSTM(3, 5), torch.zeros(7, 3)), 2 * 7 * 4 * 5 * (3 + 5)
    (2240, 2240)
    """
    phase = BACKWARD if backward else FORWARD
    formula = complexity(module, len(x))
    if _grows_by_steps(module, len(x)):
        short, long = (
            count_flops(module, x[:length], backward=backward, layout=layout)
            for length in (_MANY_STEPS, 2 * _MANY_STEPS)
        )
        return long + (long - short) // _MANY_STEPS * (len(x) - 2 * _MANY_STEPS)
    found = None
    if not _is_short(module, len(x)) and (formula is None or formula.sequential_steps < _MANY_STEPS):
        # what cannot run on shapes alone is counted as it runs
        with contextlib.suppress(Exception), fake_tensors() as mode:
            found = _counted(one_pass(module, mode.from_tensor(x.detach()), phase, layout))
    if found is None:
        found = _counted(one_pass(module, x, phase, layout))
    if found == 0 and any(p.ndim > 1 for p in module.parameters()):
        name = type(module).__name__
        raise DepprobeError(
            f"{name} works with weights and 0 FLOPs were counted: it calls operations that torch's counter "
            "does not know"
        )
    return found


def _is_short(module: nn.Module, n: int) -> bool:
    return n * (n + sum(p.numel() for p in module.parameters())) <= _FEW_PRODUCTS


def _grows_by_steps(module: nn.Module, n: int) -> bool:
    """Whether every position beyond the first ones adds the same step of a recurrence."""
    if n <= 2 * _MANY_STEPS:
        return False
    found = [complexity(module, length) for length in (_MANY_STEPS, 2 * _MANY_STEPS, n)]
    if any(one is None or one.sequential_steps < _MANY_STEPS for one in found):
        return False
    short, long, whole = (one.total for one in found if one is not None)
    return (whole - long) * _MANY_STEPS == (long - short) * (n - 2 * _MANY_STEPS)


def _counted(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=formulas())
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]
    with _products_only(), counter:
        run()
    return int(counter.get_total_flops())


class _OneModule(contextlib.nullcontext):
    """In place of torch's tracker of modules, whose hooks fail on weights that are computed."""

    parents = ("Global",)


@contextlib.contextmanager
def _products_only() -> Iterator[None]:
    """Without kernels that take several products in one."""
    # the public context managers set precisions too, and warn of them
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])
        torch.backends.mha.set_fastpath_enabled(fast)

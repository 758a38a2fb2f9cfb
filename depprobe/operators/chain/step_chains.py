"""The step Jacobians of a torch recurrent module along one input: one chain a stacked layer and direction."""

from __future__ import annotations

from torch import Tensor, nn

from depprobe.core.calling.arguments import check
from depprobe.core.calling.weights_in_effect import recurrence_in_effect
from depprobe.core.options import DEFAULT_MEMORY, require
from depprobe.errors import BadInput
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.recurrence import RecurrentWeights


def step_chains(
    module: nn.RNNBase, x: Tensor, *, memory: int = DEFAULT_MEMORY
) -> list[tuple[CellChain, ...]]:
    """The chains of every stacked layer, bottom first, each with one entry a direction.

    Parameters
    ----------
    module : ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``, with the forward that torch gives it.
    x : (n, d_in), n >= 2, of the module's dtype and device; the state before it is zero.
    memory : bytes that the trajectory may take.

    Returns
    -------
    For each layer, the chain in reading order and, where bidirectional, the one that reads backwards (its
    step k stands at position n - 1 - k).

    Raises
    ------
    BadInput : another module, or an input that does not fit.
    OverBudget : the gates of all steps would not fit.

    Examples
    --------
    >>> import torch
    >>> chains = step_chains(nn.LSTM(3, 5, num_layers=2), torch.randn(9, 3))
    >>> len(chains), chains[0][0].full_matrices(4, 6).shape
    (2, torch.Size([2, 10, 13]))
    """
    known = recurrence_in_effect(module)
    if known is None:
        changed = " with a forward or hooks of its own" if isinstance(module, nn.RNNBase) else ""
        raise BadInput(
            f"{type(module).__name__}{changed} has no known step; it must be nn.RNN, nn.GRU or nn.LSTM"
        )
    module = known
    check(module, x)
    if x.shape[1] != module.input_size:
        raise BadInput(f"x is {x.shape[1]} wide and the module reads {module.input_size}")
    chains = (1 + module.bidirectional) * module.num_layers
    gates = 32 * x.shape[0] * module.hidden_size * chains * x.element_size()
    require(
        gates, memory, f"the trajectory of {x.shape[0]} steps", "use a smaller n or d, or --dtype float32"
    )
    return [tuple(layer) for layer in RecurrentWeights.of_module(module).chains(x.detach())]

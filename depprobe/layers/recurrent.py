r"""RNN, GRU and LSTM: one state carried through time.

    RNN    h_t = phi(W_ih x_t + W_hh h_{t-1} + b)
    GRU    r, z = sigma(...), n_t = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn)),
           h_t = (1 - z) * n_t + z * h_{t-1}
    LSTM   i, f, o = sigma(...), g = tanh(...), c_t = f * c_{t-1} + i * g, h_t = o * tanh(c_t)

Shapes: x (n, d_in), h and c (n, d), W_ih (gates d, d_in), W_hh (gates d, d).
The modules are torch's own, with their default weights unless an option says otherwise.
Source: Hochreiter and Schmidhuber 1997 (LSTM), Gers et al. 2000 (forget gate), Cho et al. 2014 (GRU).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from depprobe.complexity import Complexity, checked, complexity
from depprobe.errors import BadInput
from depprobe.registry import layers


def _set_weights(module: nn.RNNBase, gain: float | None, orthogonal: bool) -> None:
    """Draw every gate's W_hh anew: N(0, gain^2/d), or gain times an orthogonal matrix."""
    if gain is None and not orthogonal:
        return
    gain = 1.0 if gain is None else gain
    if not (math.isfinite(gain) and gain >= 0):
        raise BadInput(f"gain must be a finite number >= 0, not {gain}")
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.split(weight.shape[1]):
                    if orthogonal:
                        nn.init.orthogonal_(gate, gain)
                    else:
                        gate.normal_(0.0, gain / math.sqrt(gate.shape[1]))


def _build(
    kind: type[nn.RNN] | type[nn.GRU] | type[nn.LSTM],
    d: int,
    d_in: int | None,
    depth: int,
    bidirectional: bool,
    bias: bool,
    gain: float | None,
    orthogonal: bool,
    **options: Any,
) -> nn.RNNBase:
    if depth < 1:
        raise BadInput(f"depth must be at least 1, not {depth}")
    module = kind(
        d_in or d,
        d,
        num_layers=depth,
        bias=bias,
        bidirectional=bidirectional,
        batch_first=True,
        **options,
    )
    _set_weights(module, gain, orthogonal)
    return module


def _one_way(bidirectional: bool = False, **options: object) -> bool:
    return not bidirectional


@layers.register(
    "rnn",
    equation="h_t = phi(W_ih x_t + W_hh h_{t-1} + b)",
    citation="Elman 1990",
    causal=_one_way,
    examples=(
        "rnn:nonlinearity=relu",
        "rnn:gain=1.2,orthogonal=true",
        "rnn:depth=2",
        "rnn:bidirectional=true",
    ),
)
def rnn(
    d: int,
    *,
    d_in: int | None = None,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    gain: float | None = None,
    orthogonal: bool = False,
    depth: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
) -> nn.Module:
    """Plain recurrence with tanh or relu (torch's nn.RNN)."""
    return _build(nn.RNN, d, d_in, depth, bidirectional, bias, gain, orthogonal, nonlinearity=nonlinearity)


@layers.register(
    "gru",
    equation="h_t = (1 - z_t) * n_t + z_t * h_{t-1}",
    citation="Cho et al. 2014, in torch's variant (reset gate after the product)",
    causal=_one_way,
    examples=("gru:gain=0.5", "gru:depth=2,bidirectional=true"),
)
def gru(
    d: int,
    *,
    d_in: int | None = None,
    gain: float | None = None,
    orthogonal: bool = False,
    depth: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
) -> nn.Module:
    """Gated recurrent unit (torch's nn.GRU)."""
    return _build(nn.GRU, d, d_in, depth, bidirectional, bias, gain, orthogonal)


@layers.register(
    "lstm",
    equation="c_t = f_t * c_{t-1} + i_t * g_t,  h_t = o_t * tanh(c_t)",
    citation="Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000",
    causal=_one_way,
    examples=("lstm:forget_bias=2", "lstm:depth=2", "lstm:proj_size=3", "lstm:bidirectional=true,depth=2"),
)
def lstm(
    d: int,
    *,
    d_in: int | None = None,
    forget_bias: float | None = None,
    gain: float | None = None,
    orthogonal: bool = False,
    depth: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    proj_size: int = 0,
) -> nn.Module:
    """Long short-term memory (torch's nn.LSTM); forget_bias is the sum of torch's two biases."""
    if not 0 <= proj_size < d:
        raise BadInput(f"proj_size must lie between 0 (off) and d - 1 = {d - 1}, not {proj_size}")
    if orthogonal and proj_size:
        raise BadInput("orthogonal=true needs square recurrent weights; leave out proj_size")
    if forget_bias is not None and not bias:
        raise BadInput("forget_bias needs bias=true")
    if forget_bias is not None and not math.isfinite(forget_bias):
        raise BadInput(f"forget_bias must be finite, not {forget_bias}")
    module = _build(nn.LSTM, d, d_in, depth, bidirectional, bias, gain, orthogonal, proj_size=proj_size)
    if forget_bias is not None:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.startswith("bias"):  # torch stores the gates as i, f, g, o
                    parameter[d : 2 * d] = forget_bias if name.startswith("bias_ih") else 0.0
    return module


@complexity.register
def _(module: nn.RNNBase, n: int) -> Complexity:
    directions = 2 if module.bidirectional else 1
    width, state = module.hidden_size, module.proj_size or module.hidden_size
    inputs = recurrent = projections = constant = 0
    chain, d_in = 0, module.input_size
    for level in range(module.num_layers):
        rows = getattr(module, f"weight_ih_l{level}").shape[0]  # which parametrisations may compute
        inputs += 2 * checked(n) * directions * rows * d_in
        recurrent += 2 * n * directions * rows * state
        constant += 2 * directions * rows * state
        projections += 2 * n * directions * width * module.proj_size
        chain += 2 * d_in
        d_in = directions * state
    step = 2 * (state + (width if module.proj_size else 0))
    # layers follow one another step by step; both directions together must wait for a whole sequence
    steps = module.num_layers * n if module.bidirectional else n + module.num_layers - 1
    parts = {"input": inputs, "recurrent": recurrent}
    if projections:
        parts["projection"] = projections
    kept = state + (width if isinstance(module, nn.LSTM) else 0)
    return Complexity(
        parts,
        chain=chain + steps * step,
        sequential_steps=steps,
        path_length=n - 1 + module.num_layers - 1,
        n_out=n,
        reach=None,
        state=None if module.bidirectional else module.num_layers * kept,
        constant=constant,
    )

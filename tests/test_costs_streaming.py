"""One token after another gives the rows of a whole pass, and keeps what the formula says."""

from __future__ import annotations

import pytest
import torch
from conftest import tolerance
from torch import nn

from depprobe.complexity import complexity
from depprobe.core.calling.passes import call_once as call
from depprobe.costs.streaming import NoStream, prepared_step, state_bytes, stream
from depprobe.registry import Spec, layers

F64 = torch.float64
N, D, D_IN = 37, 8, 5
CAUSAL = [
    spec
    for name, entry in layers.items()
    for spec in (name, *entry.examples, f"{name}:causal=true")
    if ("causal" in entry.options or "causal=true" not in spec)
    and entry.causal(**Spec.parse(spec).options())
    and "stride" not in spec
] + [
    "attention:causal=true,fused=false,heads=2,bias=false",
    "sliding-window:causal=true,window=5,heads=2",
    "block-attention:causal=true,block=5",
    "conv:causal=true,kernel=3,dilation=4",
    "conv:causal=true,kernel=1",
    "conv:causal=true,kernel=3,padding_mode=replicate",
    "dilated-conv:depth=3,kernel=2,base=3,residual=true",
]


def built(text, n=N):
    spec = Spec.parse(text)
    entry = layers[spec.name]
    widths = {"d_in": D_IN} if entry.reads_any_width else {}
    module = entry.build(D, **widths, **spec.options()).to(F64).eval()
    x = torch.randn(n, widths.get("d_in", D), dtype=F64, generator=torch.Generator().manual_seed(3))
    return module, x


@torch.no_grad()
@pytest.mark.parametrize("text", sorted(set(CAUSAL)))
@pytest.mark.parametrize("n", [N, 36, 2])
def test_every_token_equals_the_row_of_a_whole_pass(text, n):
    if n == 2 and ("window" in text or "block=" in text):
        n = 9
    module, x = built(text, n)
    flow = stream(module, n)
    state, rows = flow.empty(), []
    for t in range(n):
        y, state = flow.step(x[t], t, state)
        rows.append(y)
    torch.testing.assert_close(torch.stack(rows), call(module, x), rtol=tolerance(), atol=tolerance())


@pytest.mark.parametrize("text", sorted(set(CAUSAL)))
def test_state_has_the_size_of_the_formula(text):
    module, x = built(text)
    formula = complexity(module, N)
    _, state = prepared_step(stream(module, N), x)
    assert state_bytes(state) == 8 * formula.state


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (layers["attention"].build(8), "sees later ones; use causal=true"),
        (layers["sliding-window"].build(8), "sees later ones"),
        (layers["conv"].build(8), "same padding sees later positions"),
        (layers["conv"].build(8, causal=True, stride=2), "a stride gives no output"),
        (nn.GRU(3, 4, bidirectional=True), "backward direction starts at the last token"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(0)), "no stream is known for Softmax"),
    ],
)
def test_what_has_no_stream_says_why(module, match):
    with pytest.raises(NoStream, match=match):
        stream(module, 16)


def test_a_step_can_be_taken_again_and_leaves_weights_without_gradients():
    module, x = built("attention:causal=true")
    step, _ = prepared_step(stream(module, N), x)
    first, _ = step()
    again, _ = step()
    assert torch.equal(first, again)
    assert not first.requires_grad

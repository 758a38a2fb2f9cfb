"""Forwards of a user's own, cut at the calls that are known: blocks, zeros, exponents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tolerance
from own_modules import (
    TCN,
    BiGRUAttention,
    CellLoop,
    Eager,
    Encoder,
    Fused,
    Handoff,
    HandWritten,
    InPlace,
    LengthDecides,
    PreLN,
    Tagger,
    Tied,
    TwoCells,
    TwoLSTMs,
    WeightsInUse,
)
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

import depprobe
from depprobe.core.scaled import Scaled, added
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.operators.composed import traces
from depprobe.operators.composed.glue import Glue
from depprobe.operators.composed.operator import GraphJacobian
from depprobe.operators.composed.pieces.views import below_parts
from depprobe.vocabulary import STATUS

F64 = torch.float64


def window(x):
    """A boolean mask of the three nearest past positions."""
    at = torch.arange(x.shape[1])
    lag = at[:, None] - at
    return (lag >= 0) & (lag < 3)


def padding(x):
    """An additive mask at the lowest number of the dtype, on the first two positions from row 2 on."""
    mask = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    mask[2:, :2] = torch.finfo(x.dtype).min
    return mask


CASES = {
    "LSTM, Linear": (lambda: Tagger(), 5),
    "RNN, Linear": (lambda: Tagger(kind=nn.RNN), 5),
    "relu RNN, Linear": (lambda: Tagger(kind=nn.RNN, nonlinearity="relu"), 5),
    "GRU both ways, Linear": (lambda: Tagger(kind=nn.GRU, bidirectional=True), 5),
    "RNN both ways, Linear": (lambda: Tagger(kind=nn.RNN, bidirectional=True), 5),
    "deep GRU both ways, Linear": (lambda: Tagger(kind=nn.GRU, num_layers=2, bidirectional=True), 5),
    "LSTM with projections, Linear": (lambda: Tagger(d=4, d_out=3, proj_size=0, bias=False), 5),
    "two LSTMs, residual": (TwoLSTMs, 6),
    "sums in place": (InPlace, 6),
    "states handed on": (Handoff, 5),
    "states handed on by a GRU": (lambda: Handoff(kind=nn.GRU, num_layers=1), 5),
    "GRU both ways, attention": (BiGRUAttention, 6),
    "attention weights in use": (WeightsInUse, 6),
    "encoder, pre-LN, causal": (lambda: Encoder(), 6),
    "encoder, post-LN, causal": (lambda: Encoder(norm_first=False), 6),
    "encoder, not causal": (lambda: Encoder(causal=False), 6),
    "pre-LN written out": (PreLN, 6),
    "fused attention, causal": (lambda: Fused(), 6),
    "fused attention, grouped": (lambda: Fused(causal=False, groups=2), 6),
    "fused attention, window": (lambda: Fused(causal=False, mask=window), 6),
    "fused attention, lowest number": (lambda: Fused(causal=False, mask=padding), 6),
    "TCN": (TCN, 6),
    "LSTMCell loop": (lambda: CellLoop(), 5),
    "GRUCell loop": (lambda: CellLoop(nn.GRUCell), 5),
    "RNNCell loop": (lambda: CellLoop(nn.RNNCell), 5),
    "LSTMCell that reads its output": (lambda: CellLoop(feedback=True), 5),
    "two cells": (TwoCells, 5),
    "written by hand": (HandWritten, 5),
    "length decides": (LengthDecides, 6),
    "tied": (Tied, 6),
    "eager, masked_fill": (lambda: Eager(), 6),
    "eager, lowest number": (lambda: Eager(hidden="lowest"), 6),
}


def made(name, n=11):
    build, d = CASES[name]
    torch.manual_seed(0)
    return build().to(F64).eval(), torch.randn(n, d, dtype=F64)


def truth(module, x):
    """All blocks by one autograd.grad an output unit: (n_out, d_out, n, d)."""
    leaf = x.clone().requires_grad_()
    y = getattr(module, "written_out", module)(leaf[None])[0]
    rows = [torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in y.flatten()]
    return torch.stack(rows).view(*y.shape, *x.shape)


@pytest.mark.parametrize("name", CASES)
def test_blocks_zeros_and_products_are_those_of_plain_autograd(name):
    module, x = made(name)
    expected = truth(module, x)
    J = depprobe.temporal_jacobian(module, x, layout="b n d")
    assert J.shape == tuple(expected.shape)
    targets = range(J.shape[0])
    norms = J.log_norms(targets)
    sizes = expected.transpose(1, 2).flatten(2).norm(dim=2)
    for t in targets:
        found = J.row(t).dense()
        gap = (found - expected[t]).norm(dim=(0, 2))
        assert (gap <= tolerance() * sizes[t]).all(), t
        values, status = norms.values[t], norms.status[t]
        np.testing.assert_array_equal(status == STATUS["zero"], (sizes[t] == 0).numpy())
        known = status == STATUS["finite"]
        assert (known | (status == STATUS["zero"])).all()
        np.testing.assert_allclose(values[known], sizes[t].log().numpy()[known], atol=1e-9, rtol=0)
    v = torch.randn(J.shape[:2], dtype=F64)
    torch.testing.assert_close(J.vjp(v), torch.einsum("to,tond->nd", v, expected), rtol=1e-9, atol=1e-11)
    rows = torch.randn(2, *J.shape[:2], dtype=F64)
    pulled = J.pull(Scaled.plain(rows)).dense()
    torch.testing.assert_close(pulled, torch.einsum("rto,tonk->rnk", rows, expected), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["LSTM, Linear", "fused attention, causal", "two cells"])
def test_spectral_norms_are_those_of_the_blocks(name):
    module, x = made(name)
    expected = truth(module, x)
    t = x.shape[0] // 2
    found = depprobe.temporal_jacobian(module, x).log_norms([t], None, "spectral").values[0]
    sizes = torch.linalg.matrix_norm(expected[t].transpose(0, 1), 2)[: t + 1]
    np.testing.assert_allclose(found[: t + 1], sizes.log().numpy(), atol=1e-9)


FAR = {
    "LSTM, Linear": (lambda: Tagger(16, 24, 3), 16),
    "two LSTMs, residual": (lambda: TwoLSTMs(16), 16),
    "GRU both ways, attention": (lambda: BiGRUAttention(8, 8), 8),
    "encoder, pre-LN, causal": (lambda: Encoder(8), 8),
    "encoder, post-LN, causal": (lambda: Encoder(8, norm_first=False), 8),
    "TCN": (lambda: TCN(6), 6),
    "states handed on": (lambda: Handoff(5, 8), 5),
}


@pytest.mark.parametrize("name", FAR)
def test_no_norm_is_unknown_at_a_thousand_positions(name):
    """Of float32 nor, since its zeros and norms are the same, of float64."""
    build, d = FAR[name]
    torch.manual_seed(1)
    module, x = build().eval(), torch.randn(1000, d)
    found = depprobe.temporal_jacobian(module, x).log_norms([999])
    assert np.isin(found.status, (STATUS["finite"], STATUS["zero"])).all()
    wide = depprobe.temporal_jacobian(module.to(F64), x.to(F64)).log_norms([999])
    assert (found.status == wide.status).all()
    finite = np.isfinite(wide.values)
    # float32 errs by its own rounding along the trajectory, some 1e-7 a step
    np.testing.assert_allclose(found.values[finite], wide.values[finite], atol=5e-3, rtol=0)


def test_exponents_agree_with_the_chain_of_the_same_lstm():
    torch.manual_seed(2)
    tagger = Tagger(8, 8, 8).to(F64)
    nn.init.eye_(tagger.out.weight)
    with torch.no_grad():
        tagger.rnn.bias_hh_l0[8:16] -= 2  # forgets fast
    x = torch.randn(900, 8, dtype=F64)
    found = depprobe.temporal_jacobian(tagger, x).log_norms([899]).values[0]
    plain = depprobe.temporal_jacobian(tagger.rnn, x, tolerance=0).log_norms([899]).values[0]
    assert plain[0] < -1000
    np.testing.assert_allclose(found, plain, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loop_of_cells_is_its_recurrence(dtype):
    torch.manual_seed(3)
    loop, twin = CellLoop().to(dtype), nn.LSTM(5, 6, batch_first=True).to(dtype)
    twin.load_state_dict({f"{name}_l0": value for name, value in loop.cell.state_dict().items()})
    x = torch.randn(300, 5, dtype=dtype)
    found = depprobe.temporal_jacobian(loop, x).log_norms([299]).values[0]
    known = depprobe.temporal_jacobian(twin, x, tolerance=0).log_norms([299]).values[0]
    np.testing.assert_allclose(found, known, atol=1e-9 if dtype == F64 else 1e-3)


@pytest.mark.parametrize("dim", [0, 1, -1, -3])
@pytest.mark.parametrize("cut", ["unbind", "chunk", "split"])
def test_gradients_on_parts_are_one_on_the_whole(cut, dim):
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    whole = 2 * x
    sizes = [1, whole.shape[dim] - 1]
    ways = {"unbind": (), "chunk": (3,), "split": (sizes,)}
    parts = getattr(whole, cut)(*ways[cut], dim=dim)
    # the last part has none
    edges = [get_gradient_edge(part) for part in parts[:-1]] + [get_gradient_edge(x)]
    grads = [torch.randn(2, *part.shape, dtype=torch.float64) for part in (*parts[:-1], x)]
    joined, sums = below_parts([(edge.node, edge.output_nr) for edge in edges], grads)
    assert len(joined) == 2
    for row in range(2):
        (truth,) = torch.autograd.grad(edges, x, [grad[row] for grad in grads], retain_graph=True)
        found = torch.autograd.grad(
            [GradientEdge(*edge) for edge in joined], x, [one[row] for one in sums], retain_graph=True
        )
        assert torch.equal(found[0], truth)


def test_a_recurrence_written_by_hand_does_not_underflow():
    torch.manual_seed(4)
    module, x = HandWritten(scale=0.01).float(), torch.randn(160, 5)
    found = depprobe.temporal_jacobian(module, x).log_norms([159])
    assert (found.status == STATUS["finite"]).all()
    module.requires_grad_(False)
    W, U = module.W.weight.double(), module.U.weight.double()
    h, slopes = torch.zeros(6, dtype=F64), []
    for x_t in x.double():
        h = torch.tanh(0.01 * W @ h + U @ x_t + module.U.bias.double())
        slopes.append(1 - h**2)
    R, expected, scale = torch.eye(6, dtype=F64), np.empty(160), 0.0
    for k in range(159, -1, -1):
        R = R * slopes[k]
        expected[k] = float((R @ U).norm().log()) + scale
        R = R @ (0.01 * W)
        scale += float(R.norm().log())
        R = R / R.norm()
    assert expected[0] < -700
    np.testing.assert_allclose(found.values[0], expected, atol=1e-3)


def test_an_operator_of_ones_own_serves_inside_a_forward():
    class Fade(nn.Module):
        """y_t = sum over k of rate^(t - k) x_k, in floats that underflow."""

        def forward(self, x):
            lag = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-2])
            return torch.where(lag >= 0, 0.01 ** lag.clamp_min(0).to(x.dtype), 0) @ x

    class FadeJacobian(TemporalJacobian):
        method = "fade"

        def __init__(self, n, d, dtype):
            self.shape, self.dtype = (n, d, n, d), dtype

        def row(self, t):
            n, d = self.shape[:2]
            eye = torch.eye(d, dtype=self.dtype)[:, None].expand(d, n, d).clone()
            eye[:, t + 1 :] = 0
            lag = t - torch.arange(n)
            scale = torch.where(lag >= 0, lag * np.log(0.01), -torch.inf)
            return Scaled(eye, scale[None, :, None].expand(d, n, 1).double())

        def log_norms(self, targets, sources=None, norm="fro"):
            rows = [self.row(t).log_norm((0, 2)).numpy() for t in targets]
            return LogNorms(np.stack(rows))

        def pull(self, rows):
            nothing = rows.values.new_zeros(len(rows.values), *self.shape[2:])
            total = Scaled(nothing, torch.full_like(nothing[..., :1], -torch.inf, dtype=F64))
            for t in (rows.values != 0).any(2).any(0).nonzero()[:, 0].tolist():
                scale = self.row(t).log_scale[:1] + rows.log_scale[:, t : t + 1]
                values = rows.values[:, t : t + 1].expand(-1, self.shape[0], -1)
                part = Scaled(torch.where(scale.isneginf(), 0, values), scale)
                total = added(total, part)
            return total

        def vjp(self, cotangent):
            raise NotImplementedError

        def jvp(self, tangent):
            raise NotImplementedError

    @depprobe.register_jacobian(Fade)
    def _(module, x, options):
        return FadeJacobian(*x.shape, x.dtype)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.fade, self.out = Fade(), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(torch.tanh(self.fade(2 * x)))

    torch.manual_seed(5)
    module, x = Own().to(F64).requires_grad_(False), torch.randn(400, 4, dtype=F64)
    J = depprobe.temporal_jacobian(module, x)
    assert isinstance(J, GraphJacobian)
    found = J.log_norms([399])
    y = torch.tanh(module.fade(2 * x))[399]
    size = float((module.out.weight * (1 - y**2)).norm().log()) + np.log(2)
    np.testing.assert_allclose(found.values[0], size + np.arange(399, -1, -1) * np.log(0.01), atol=1e-9)
    assert (found.status == STATUS["finite"]).all()
    assert "forward" not in vars(module.fade)


def test_a_model_that_ignores_what_follows_is_traced_up_to_the_target():
    module, x = made("pre-LN written out", 40)
    J = depprobe.temporal_jacobian(module, x)
    short, whole = J.log_norms([7]), J.log_norms([39, 7])
    assert J._traces._short
    np.testing.assert_allclose(short.values[0], whole.values[1], atol=1e-11)
    expected = truth(module, x)[7].transpose(0, 1).flatten(1).norm(dim=1)
    np.testing.assert_allclose(short.values[0][:8], expected[:8].log(), atol=1e-9)


def test_operators_say_what_they_are():
    module, x = made("two LSTMs, residual")
    assert repr(depprobe.temporal_jacobian(module, x)) == "GraphJacobian(TwoLSTMs, 2 cuts, 2 joins)"


@pytest.mark.parametrize("make", [PreLN, TCN, TwoLSTMs, lambda: Tagger(d_in=6, d_out=6)])
def test_rows_of_later_chunks_travel_alone(make, monkeypatch):
    """Which entries are live is told by the first; nothing is carried for what was lost where nothing was."""
    torch.manual_seed(0)
    module, x = make().double().eval(), torch.randn(12, 6, dtype=F64)
    at = [11, 7, 0]
    whole = depprobe.operators.temporal_jacobian(module, x, layout="b n d").log_norms(at)
    pushed: list[int] = []
    products = Glue._products

    def spy(self, segment, edges, grads):
        pushed.append(len(grads[0]))
        return products(self, segment, edges, grads)

    monkeypatch.setattr(traces, "pulled_at_once", lambda *given: 2)
    jacobian = depprobe.operators.temporal_jacobian(module, x, layout="b n d")
    monkeypatch.setattr(GraphJacobian, "_repeat", lambda *given: None)
    jacobian.log_norms([11])
    monkeypatch.setattr(Glue, "_products", spy)
    jacobian.log_norms([11])
    # three chunks of two rows: with the first goes one of marks
    assert sorted(set(pushed)) == [2, 3]
    assert pushed.count(2) == 2 * pushed.count(3)
    found = jacobian.log_norms(at)
    np.testing.assert_array_equal(found.status, whole.status)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-12)
    assert (whole.status == STATUS["zero"]).any()


class Loop(nn.Module):
    """A recurrence written by hand, its steps reading one tensor in one of several ways."""

    def __init__(self, reading, factor=1.0):
        super().__init__()
        self.reading, self.factor = reading, factor
        self.of_x, self.of_h = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        whole = self.of_x(x) if self.reading == "of a map" else x
        parts = x.unbind(1) if self.reading == "unbind" else [whole[:, t] for t in range(x.shape[1])]
        h, out = x.new_zeros(len(x), 4), []
        for t, part in enumerate(parts):
            z = part if whole is not x else self.of_x(part)
            if self.reading == "twice":
                z = z * self.of_x(x[:, t]).sin()
            h = torch.tanh(z + self.factor * self.of_h(h))
            out.append(h)
        return torch.stack(out, 1)


@pytest.mark.parametrize("factor", [1.0, 1e-4], ids=["", "fading"])
@pytest.mark.parametrize("reading", ["x", "twice", "of a map", "unbind"])
def test_no_segment_of_a_loop_leads_past_its_own_steps(reading, factor):
    """To what all steps read leads one segment, or the engine would run every earlier step for each."""
    torch.manual_seed(0)
    n = 48
    module, x = Loop(reading, factor).double(), torch.randn(n, 3, dtype=F64)
    J = depprobe.temporal_jacobian(module, x, layout="b n d")
    assert isinstance(J, GraphJacobian)
    led = [edge for step in J._graph.partition.steps for edge in getattr(step, "targets", ())]
    assert len(led) > n
    assert max(len([node for node, _ in led if node == one]) for one, _ in led) < n / 4
    leaf = x.clone().requires_grad_()
    units = module(leaf[None])[0, -1]
    truth = torch.stack([torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in units])
    sizes = (truth * 2.0**500).norm(dim=(0, 2)).log().numpy() - 500 * np.log(2.0)
    np.testing.assert_allclose(J.log_norms([n - 1]).values[0], sizes, rtol=1e-9)
    found = depprobe.jacobian(module.float(), x.float(), layout="b n d")
    np.testing.assert_allclose(found.log_norm[0].values, sizes, atol=1e-3)


class Decoder(nn.Module):
    """Attends one position after another to all before it, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 12)

    def forward(self, x):
        keys, found = [], []
        for t in range(x.shape[1]):
            q, k, v = self.qkv(x[:, t : t + 1])[:, None].chunk(3, -1)
            keys.append((k, v))
            found.append(
                nn.functional.scaled_dot_product_attention(
                    q, *(torch.cat(z, 2) for z in zip(*keys, strict=True))
                )
            )
        return torch.cat(found, 2)[:, 0]


def test_rows_pass_by_the_calls_behind_their_target():
    """A call that no row stands on is passed by: a single row ended in an error there, and errors in NaN."""
    torch.manual_seed(0)
    module, x = Decoder().double(), torch.randn(9, 3, dtype=torch.float64)
    J = depprobe.temporal_jacobian(module, x, layout="b n d")
    cotangent = torch.zeros(9, 4, dtype=torch.float64)
    cotangent[3] = 1
    expected = depprobe.temporal_jacobian(module, x, layout="b n d", method="autograd").vjp(cotangent)
    torch.testing.assert_close(J.vjp(cotangent), expected)
    found = J.log_norms(range(9))
    known = found.status == STATUS["finite"]
    assert known.sum() == 45
    assert (found.error[known] < 1e-12).all()

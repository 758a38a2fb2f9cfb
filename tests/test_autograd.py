"""The autograd operator: probes, memory budget, and zeros that are proved or left unknown."""

from __future__ import annotations

from collections import UserList

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.core.function import SequenceFunction
from depprobe.core.memory import OWN
from depprobe.core.recorded_graph import backward_bytes, graph_facts
from depprobe.errors import BadInput, OverBudget
from depprobe.operators import temporal_jacobian
from depprobe.operators.autograd.recording import Recording
from depprobe.operators.known_lags import beyond, telling

F64 = torch.float64
#: lengths of inputs that a forward ran on: in an object of the standard library, which is left as it is
LENGTHS: UserList[int] = UserList()


class Attention(nn.Module):
    """Plain softmax attention over positions, reading 5 and writing 3 wide."""

    def __init__(self):
        super().__init__()
        self.q, self.v = nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x):
        q = self.q(x)
        return (q @ q.transpose(-1, -2)).softmax(-1) @ self.v(x)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.fixture
def case():
    return Attention().to(F64), torch.randn(21, 5, dtype=F64)


def test_probes_spread_around_the_exact_norms_as_their_standard_error_says(case):
    module, x = case
    exact = temporal_jacobian(module, x, method="autograd").log_norms([20, 3]).values
    for probes in (1, 2):
        found = [
            temporal_jacobian(module, x, method="probes", probes=probes, seed=seed).log_norms([20, 3])
            for seed in range(60)
        ]
        values = np.array([one.values for one in found])
        # squares are unbiased, as logs are not
        spread = np.exp(2 * (values - exact))
        assert abs(spread.mean() - 1) < 5 * spread.std() / np.sqrt(60)
        stated = np.median([one.stderr for one in found], 0)
        np.testing.assert_allclose(np.median(values.std(0) / stated), 1, atol=0.25)
        assert 1 <= found[0].rank.min() <= found[0].rank.max() <= 3


def test_as_many_orthonormal_probes_as_outputs_are_exact(case):
    module, x = case
    exact = temporal_jacobian(module, x, method="autograd").log_norms([20, 3]).values
    for probes in (3, 400):
        operator = temporal_jacobian(module, x, method="probes", probes=probes)
        found = operator.log_norms([20, 3])
        assert operator.probes == 3
        np.testing.assert_allclose(found.values, exact, atol=1e-13)
        assert (found.stderr == 0).all()


def test_rows_do_not_depend_on_the_chunks_that_the_budget_allows(case):
    module, x = case
    generous = temporal_jacobian(module, x, method="autograd")
    tight = temporal_jacobian(module, x, method="autograd", memory=OWN + 500_000)
    assert tight._products.chunk == 1
    assert generous._products.chunk > 21
    np.testing.assert_allclose(tight.log_norms([9]).values, generous.log_norms([9]).values, atol=1e-13)


def test_too_large_a_job_is_refused_before_it_allocates():
    with pytest.raises(OverBudget, match=r"the forward pass needs .* budget is 13 MiB; use a smaller n"):
        temporal_jacobian(Attention(), torch.randn(30_000, 5), method="autograd", memory=OWN + (1 << 20))


def test_what_a_product_takes_is_bounded_from_the_graph():
    from depprobe.core.memory import StorageTracker

    module, x = Attention().to(F64), torch.randn(201, 5, dtype=F64)
    leaf = x.clone().requires_grad_()
    y = module(leaf[None])[0]
    with StorageTracker() as tracker:
        torch.autograd.grad(y, leaf, torch.ones(3, *y.shape, dtype=F64), is_grads_batched=True)
    bound, facts = 3 * backward_bytes(y, leaf), graph_facts(y, leaf)
    assert tracker.peak <= bound <= 3 * tracker.peak
    assert facts.largest <= backward_bytes(y, leaf) <= 2 * facts.total


def test_zeros_are_proved_or_unknown():
    class Banded(nn.Module):
        def forward(self, x):
            past = torch.cat([torch.zeros_like(x[:, :2]), x[:, :-2]], 1)
            return x + past * 1e-320  # an influence that underflows

    x = torch.randn(12, 3, dtype=F64)
    values, plain = (
        temporal_jacobian(Banded(), x, method=method).log_norms([8]).values[0]
        for method in ("auto", "autograd")
    )
    assert np.isfinite(values[8])
    assert np.isnan(plain[6]), "an influence below the normal numbers is not a zero"
    np.testing.assert_allclose(values[6], np.log(1e-320) + 0.5 * np.log(3), rtol=0, atol=1e-9)
    assert np.isneginf(np.delete([values, plain], [6, 8], 1)).all()


def test_a_module_that_swallows_nan_is_not_taken_for_independent():
    class Swallows(nn.Module):
        def forward(self, x):
            return torch.nan_to_num(x, nan=0.0).cumsum(-2)

    function = SequenceFunction(Swallows(), torch.randn(9, 2, dtype=F64))
    assert function.ignores(5, torch.arange(9)).tolist() == [False] * 6 + [True] * 3


def test_what_cannot_be_answered_is_said_in_one_line(case):
    module, x = case
    with pytest.raises(BadInput, match="gives the norm fro or fisher, not 'spectral'"):
        temporal_jacobian(module, x, method="probes").log_norms([0], None, "spectral")
    with pytest.raises(BadInput, match="probes must be at least 1"):
        temporal_jacobian(module, x, method="probes", probes=0)
    with pytest.raises(BadInput, match="a relative error such as 10%, not '300%'"):
        temporal_jacobian(module, x, method="probes", probes="300%")
    with pytest.raises(BadInput, match="no structured operator serves Attention"):
        temporal_jacobian(module, x, method="structured")
    with pytest.raises(BadInput, match="does not depend on the input"):
        temporal_jacobian(Detached(), x)
    with pytest.raises(BadInput, match=r"x is torch.float32 .* but the module is torch.float64"):
        temporal_jacobian(module, x.float())
    with pytest.raises(
        BadInput, match=r"fails on x of shape \(21, 4\), given as \(1, 21, 4\): mat1 and .*layout="
    ):
        temporal_jacobian(module, x[:, :4])
    with pytest.raises(BadInput, match="x is 5 wide and the module reads 6"):
        temporal_jacobian(nn.GRU(6, 3).to(F64), x)


class Causal(nn.Module):
    """A Transformer of one's own, whose mask is added to the scores."""

    def __init__(self, ahead=0):
        super().__init__()
        self.ahead = ahead
        layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        n = x.shape[-2]
        mask = torch.full((n, n), -torch.inf, dtype=x.dtype).triu(1 + self.ahead)
        return self.encoder(x, mask=mask)


def test_a_causal_module_has_exact_zeros_ahead():
    x = torch.randn(13, 6, dtype=F64)
    for module, zeros in ((Causal(), 78), (Causal(ahead=12), 0)):
        values = temporal_jacobian(module.to(F64).eval(), x).log_norms(range(13)).values
        assert np.isneginf(values).sum() == zeros
        assert np.isfinite(values).sum() == 169 - zeros
    # two layers that each look one position ahead
    values = temporal_jacobian(Causal(ahead=1).to(F64).eval(), x).log_norms([4]).values[0]
    assert np.isfinite(values[:7]).all()
    assert np.isneginf(values[7:]).all()


def test_what_fades_backwards_in_time_is_no_zero():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(3, 4, bidirectional=True)
            with torch.no_grad():
                # one step back is a bit of the output, two are not
                self.rnn.weight_hh_l0_reverse *= 1e-10

        def forward(self, x):
            return self.rnn(x)[0]

    x = torch.randn(400, 3, dtype=F64)
    values = (
        temporal_jacobian(Backwards().to(F64), x, method="autograd", layout="n d").log_norms([2, 200]).values
    )
    assert np.isnan(values[0, -50:]).all()
    assert not np.isneginf(values).any()


class Inner(nn.Module):
    """A recurrence of one's own; torch's default layout has time first."""

    def __init__(self, batch_first):
        super().__init__()
        self.rnn = nn.GRU(6, 10, batch_first=batch_first)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize("wrapped", [lambda m: m, lambda m: nn.Sequential(nn.Linear(6, 6), m).to(F64)])
def test_time_in_the_place_of_the_batch_is_refused(wrapped):
    x = torch.randn(9, 6, dtype=F64)
    right, wrong = (wrapped(Inner(first).to(F64)) for first in (True, False))
    whole = temporal_jacobian(right, x).log_norms([8]).values
    alone = temporal_jacobian(right, x, layout="n d").log_norms([8]).values
    np.testing.assert_allclose(whole, alone, atol=1e-12)
    for layout in ("n d", "n b d"):
        assert np.isfinite(temporal_jacobian(wrong, x, layout=layout).log_norms([8]).values).all()
    with pytest.raises(BadInput, match=r"runs on \(1, 9, 6\) and on \(9, 6\) with different results"):
        temporal_jacobian(wrong, x)
    with pytest.raises(BadInput, match=r"does not take \(batch, n, d\) in layout 'b n d'"):
        temporal_jacobian(wrong, x, layout="b n d")


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "wrapped", [lambda m: m, nn.Sequential, lambda m: nn.TransformerEncoder(m, 2, enable_nested_tensor=False)]
)
def test_transformers_of_torch_in_either_layout(batch_first, wrapped):
    module = wrapped(nn.TransformerEncoderLayer(6, 2, 12, batch_first=batch_first)).to(F64).eval()
    x = torch.randn(9, 6, dtype=F64)
    J = temporal_jacobian(module, x)
    inner = module[0] if isinstance(module, nn.Sequential) else module
    truth = torch.autograd.functional.jacobian(inner, x)
    for t, k in ((8, 0), (0, 8), (4, 4)):
        block = J.block(t, k)
        torch.testing.assert_close(
            block.values * block.log_scale.exp(), truth[t, :, k], rtol=1e-10, atol=1e-12
        )


def test_a_module_that_draws_random_numbers_is_refused():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + 1e-3 * torch.randn_like(x)

    x = torch.randn(9, 6)
    for module in (Noisy(), nn.Sequential(nn.Linear(6, 6), Noisy())):
        with pytest.raises(BadInput, match="draws random numbers"):
            temporal_jacobian(module, x)


def test_train_mode_with_dropout_or_statistics_is_refused():
    x = torch.randn(9, 5)
    for child in (nn.Dropout(0.3), nn.LSTM(5, 5, 2, dropout=0.2), nn.MultiheadAttention(5, 1, dropout=0.1)):
        with pytest.raises(BadInput, match=r"dropout 0\.\d of .* is active"):
            temporal_jacobian(child, x)
        temporal_jacobian(child.eval(), x)
    with pytest.raises(BadInput, match="updates its statistics"):
        temporal_jacobian(nn.Sequential(nn.BatchNorm1d(5)), x)
    broken = nn.Linear(5, 5)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    with pytest.raises(BadInput, match="weight 'weight' holds NaN or Inf"):
        temporal_jacobian(broken, x)
    with pytest.raises(BadInput, match="x holds NaN or Inf"):
        temporal_jacobian(nn.Linear(5, 5), x * torch.inf)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return x + self.out(torch.tanh(self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]))


def test_neighbouring_targets_share_passes_and_few_products_are_overhead(monkeypatch):
    module, x = Block().to(F64).eval(), torch.randn(128, 8, dtype=F64)
    targets = list(range(1, 128, 2))
    rows, many, single = [], Recording.many, Recording.single

    def counted(self, cotangents, points, y):
        rows.append(len(cotangents) * len(y))
        return many(self, cotangents, points, y)

    def alone(self, cotangent, points, y):
        rows.append(len(y))
        return single(self, cotangent, points, y)

    forward, lengths = Block.forward, LENGTHS
    monkeypatch.setattr(Block, "forward", lambda self, x: LENGTHS.append(x.shape[1]) or forward(self, x))
    operator = temporal_jacobian(module, x, method="probes", probes=1)
    lengths.clear()
    monkeypatch.setattr(Recording, "many", counted)
    monkeypatch.setattr(Recording, "single", alone)
    found = operator.log_norms(targets)
    # rows of whole length: products cropped at their targets, and 0.7 of that for pilots, repeats and to show
    # that shorter passes serve
    assert sum(rows) < 1.7 * sum(t + 1 for t in targets)
    # a pass for every eight targets, up to the last of them; the structure and repeats take a few more
    assert 128 * 8 / 2 < sum(lengths) < 128 * (8 / 2 + 0.5 + 3)
    monkeypatch.undo()
    for t in (targets[0], targets[29], targets[-1]):
        one = temporal_jacobian(module, x, method="probes", probes=1).log_norms([t])
        np.testing.assert_allclose(found.values[targets.index(t)], one.values[0], atol=1e-12)
    assert np.isfinite(found.error).all()
    assert (np.isfinite(found.rank) == np.isfinite(found.values)).all()


def test_targets_may_come_in_any_order_and_twice(case):
    module, x = case
    operator = temporal_jacobian(module, x, method="probes", probes=3)
    np.testing.assert_array_equal(
        operator.log_norms([9, 3, 9], [4, 2]).values, operator.log_norms([3, 9], [4, 2]).values[[1, 0, 1]]
    )


def test_errors_and_ranks_beyond_what_was_repeated_are_wider():
    lags = np.arange(10)
    assert telling({9: lags}, [], (99, -99)) == [9]
    assert telling({29: np.arange(28)}, [lags], (99, -99)) == []
    assert telling({29: np.arange(29)}, [lags], (99, -99)) == [29]
    # one of the farthest that there are
    assert telling({29: np.arange(28)}, [lags], (29, -99)) == [29]
    assert telling({0: -np.arange(28)}, [lags, -lags], (99, -29)) == [0]
    np.testing.assert_array_equal(beyond(np.array([18, 9, 0, -4]), np.array([9, 0, -2])), [2, 1, 1, 2])


def test_probes_of_an_output_of_one_number_are_exact():
    module, x = nn.GRU(3, 1).to(F64), torch.randn(9, 3, dtype=F64)
    exact = temporal_jacobian(module, x).log_norms([8, 4]).values
    found = temporal_jacobian(module, x, method="probes").log_norms([8, 4]).values
    np.testing.assert_allclose(found, exact, atol=1e-9)

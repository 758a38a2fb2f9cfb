"""Outputs that are not a number: no derivative, a word of its own, and where the first stands."""

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.cli.summaries.jacobian import summary
from depprobe.store.labelled import completed
from depprobe.vocabulary import STATUS

NAN, ZERO = STATUS["not_a_number"], STATUS["zero"]


class Quotient(nn.Module):
    """0/0 at the positions where x rests, behind a recurrence."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 3, batch_first=True, dtype=torch.float64)

    def forward(self, x):
        moved = x.diff(dim=1, prepend=x[:, :1] - 1)[..., :1]
        return self.rnn(x)[0] * (moved / moved)


class Logarithm(nn.Module):
    def forward(self, x):
        return torch.log(x)


class Difference(nn.Module):
    """inf - inf where x is large."""

    def forward(self, x):
        large = (2e3 * x.relu()).exp()
        return large - large


def resting():
    x = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[4] = x[3]
    return x


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("module", [Quotient(), Logarithm(), Difference()])
def test_a_nan_output_is_no_overflow(module, method):
    x = resting()
    nan = module(x[None])[0].isnan().any(1).numpy()
    assert nan.any()
    assert not nan.all()
    ds = depprobe.jacobian(module, x, layout="b n d", targets="all", method=method)
    status = ds["log_norm_status"].values
    assert np.isin(status[nan], [NAN, ZERO]).all()
    assert (status.diagonal()[nan] == NAN).all()
    assert not (status[~nan] == NAN).any()


def test_a_line_of_convolutions_has_no_norms_at_nan_outputs():
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Conv1d(2, 2, 3, padding=1, dtype=torch.float64) for _ in range(3)))
    module.insert(2, nn.GELU())
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1e200)
    x = torch.randn(9, 2, dtype=torch.float64)
    assert module(x.T).isnan().all()
    status = depprobe.jacobian(module, x, targets="all")["log_norm_status"].values
    far = abs(np.subtract.outer(np.arange(9), np.arange(9))) > 3
    assert (status[far] == ZERO).all()
    assert (status[~far] == NAN).all()


def test_the_summary_says_where_the_first_stands():
    found = summary(depprobe.jacobian(Quotient(), resting(), layout="b n d", targets="all"))
    assert any("not a number (NaN) at 1 target, the first at t = 4" in line for line in found.notes)
    assert found.columns[0][-1].endswith("5 not a number")
    assert found.records[0]["not_a_number"] == 5


def test_a_status_written_before_there_was_the_word_is_read(tmp_path):
    ds = depprobe.jacobian("lstm", n=5, d=3)
    flags = dict(ds["log_norm_status"].attrs)
    older = flags | {
        "flag_values": flags["flag_values"][:-1],
        "flag_meanings": flags["flag_meanings"].removesuffix(" not_a_number"),
    }
    ds["log_norm_status"].attrs = older
    assert completed(ds)["log_norm_status"].attrs == flags
    ds["log_norm_status"].attrs = older | {"flag_meanings": "fine 0 1 2 3 4"}
    assert completed(ds) is ds

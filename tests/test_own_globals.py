"""What a forward changes outside its module: variables of the user's own files, counters, generators."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch import nn

import depprobe
from depprobe.errors import BadInput

COUNT, SEEN, CACHE, TOTAL = 0, [], {}, torch.zeros(3)
COUNTER = itertools.count()
METHODS = ("auto", "autograd", "probes")


def note(h):
    """A helper that the forward calls."""
    SEEN.append(h)
    TOTAL.add_(h.detach().sum((0, 1)))


class Meter:
    """An object of one's own, made and used by a method that the forward names."""

    def __call__(self, h):
        CACHE["last"] = h


class Assigns(nn.Module):
    """A forward that changes global variables itself, by helpers, by methods and in nested code."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.meter = Meter()

    def forward(self, x):
        global COUNT, FIRST
        COUNT += 1
        FIRST = next(COUNTER)
        note(self.linear(x))
        return self._step(self.linear(x))

    def _step(self, h):
        self.meter(h)
        return sum(one.cumsum(1) + 0 * COUNT for one in [h])

    def never(self):
        global COUNT
        COUNT = NEVER.pop()


#: large, and named by a method alone that the forward does not name
NEVER = [torch.zeros(3)]


@pytest.mark.parametrize("method", METHODS)
def test_global_variables_are_put_back(method):
    module, counter = Assigns(), COUNTER
    depprobe.jacobian(module, torch.randn(9, 3), layout="b n d", method=method)
    assert (COUNT, SEEN, CACHE) == (0, [], {})
    assert TOTAL.tolist() == [0.0] * 3
    assert "FIRST" not in globals()
    assert COUNTER is counter
    assert repr(COUNTER) == "count(0)"


def test_costs_leave_global_variables_as_they_were():
    depprobe.cost(Assigns(), torch.randn(9, 3))
    assert (COUNT, SEEN, CACHE, repr(COUNTER)) == (0, [], {}, "count(0)")
    assert TOTAL.tolist() == [0.0] * 3


def test_each_call_sees_what_the_first_saw():
    """A count that scales the output: the Jacobian is that of the module as it stands."""

    class Scaled(nn.Module):
        def forward(self, x):
            global COUNT
            COUNT += 1
            return COUNT * x.cumsum(1)

    found = depprobe.jacobian(Scaled(), torch.randn(5, 1, dtype=torch.float64), layout="b n d")
    assert found["log_norm"].values.tolist() == [[0.0] * 5]


def test_variables_of_imported_files_are_put_back_and_those_of_installed_packages_left(tmp_path, monkeypatch):
    own, installed = tmp_path / "own", tmp_path / "site-packages"
    source = "calls = 0\nkept = []\ndef note(x):\n    global calls\n    calls += 1\n    kept.append(x)\n"
    for folder, name in ((own, "own_settings"), (installed, "installed_settings")):
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setitem(globals(), name, importlib.import_module(name))
    ours, theirs = own_settings, installed_settings  # noqa: F821

    class Notes(nn.Module):
        def forward(self, x):
            own_settings.note(x)  # noqa: F821
            own_settings.calls += 1  # noqa: F821
            installed_settings.note(x)  # noqa: F821
            return x.cumsum(1)

    depprobe.jacobian(Notes(), torch.randn(5, 2), layout="b n d")
    assert (ours.calls, ours.kept) == (0, [])
    assert theirs.calls == len(theirs.kept) > 0


class Holds(nn.Module):
    """A forward that goes on with an iterator that it holds."""

    def __init__(self, iterator):
        super().__init__()
        self.ticks = iterator

    def forward(self, x):
        next(self.ticks[0] if isinstance(self.ticks, tuple) else self.ticks)
        return x.cumsum(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "make", [lambda: itertools.count(4, 3), lambda: iter(range(40)), lambda: iter([*"abc" * 20])]
)
def test_counters_are_put_back(make, method):
    module, (whole, rest) = Holds(make()), (make(), make())
    held = module.ticks
    depprobe.jacobian(module, torch.randn(5, 2), layout="b n d", method=method)
    assert module.ticks is held
    assert next(held) == next(whole)
    assert next(held) == [next(rest), next(rest)][1]


@pytest.mark.parametrize(
    ("iterator", "name"),
    [
        ((i for i in range(9)), "'ticks'"),
        ((None for _ in [0] * 9), "'ticks'"),
        ((itertools.count(),), "held without a name"),
    ],
)
def test_a_generator_that_a_forward_takes_from_is_refused(iterator, name):
    match = f"Holds takes from a generator or iterator, {name}, that cannot be wound back"
    with pytest.raises(BadInput, match=match):
        depprobe.jacobian(Holds(iterator), torch.randn(5, 2), layout="b n d")


def test_a_generator_that_no_call_takes_from_is_none_of_our_business():
    module = Holds(itertools.count())
    module.others = (i for i in range(3))
    depprobe.jacobian(module, torch.randn(5, 2), layout="b n d")
    assert list(module.others) == [0, 1, 2]

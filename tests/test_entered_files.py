"""How many of the package's files a reader has to open to follow one call of ``depprobe.jacobian``."""

from __future__ import annotations

import pytest
import torch
from entered_files import entered_files

import depprobe
from depprobe.registry import layers

#: files entered by a second call, given the module; by spec string so many more
MOST = {"lstm": 20, "conv-attention": 20}
BY_NAME = 3


@pytest.fixture(scope="module", params=MOST)
def entered(request):
    spec, n, d = request.param, 9, 8
    module = torch.nn.LSTM(d, d) if spec == "lstm" else layers[spec].build(d)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    by_module = entered_files(lambda: depprobe.jacobian(module, x))
    return spec, by_module, entered_files(lambda: depprobe.jacobian(spec, n=n, d=d))


def test_a_call_enters_few_files(entered):
    spec, by_module, _ = entered
    assert len(by_module) <= MOST[spec], by_module


def test_a_name_costs_few_files_more(entered):
    _, by_module, by_spec = entered
    assert len(by_spec) <= len(by_module) + BY_NAME, sorted(set(by_spec) - set(by_module))


def test_the_count_sees_functions_of_the_package_alone(entered):
    _, by_module, _ = entered
    assert {"probes/jacobian.py", "operators/dispatch.py"} <= set(by_module)
    assert entered_files(lambda: sorted([3, 1])) == []

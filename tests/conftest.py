"""Shared by all tests: one tolerance, scaled to the dtype."""

from __future__ import annotations

import pytest
import torch


def tolerance(dtype: torch.dtype = torch.float64) -> float:
    """Relative tolerance of two routes to one number: 1e-10 in float64, in proportion elsewhere."""
    return 1e-10 * torch.finfo(dtype).eps / torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)

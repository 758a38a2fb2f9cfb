"""How numbers and their errors are written: no digit that is not known, and no small number as zero."""

from __future__ import annotations

import math

import pytest

from depprobe.cli.output import with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.25, 0.5, "1.25 ± 0.50"),
        (123456.0, 200.0, "123456 ± 200"),
        (0.495, 2.3e-6, "0.495000 ± 0.000002"),
        (0.4954123, 2.3e-8, "0.495412300 ± 2.3e-08"),
        (3.1e-12, 4.4e-13, "3.10e-12 ± 4.4e-13"),
        (-3.1e-12, 4.4e-11, "-3.1e-12 ± 4.4e-11"),
        (0.0, 4.4e-11, "0.0 ± 4.4e-11"),
        (1.0, 1e-12, "1"),
        (2.0, math.nan, "2"),
        (math.inf, math.nan, "inf"),
        (-math.inf, math.nan, "-inf"),
        (math.nan, 0.1, "-"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(value, error, text):
    assert with_error(value, error) == text

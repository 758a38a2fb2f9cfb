"""Numbers with exponents, against exact arithmetic."""

from __future__ import annotations

import math
from itertools import chain

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpmath import mpf

from depprobe.core.scaled import (
    Scaled,
    added,
    gathered,
    log_hypot,
    log_norm_of_logs,
    log_norms,
    log_norms_of_squares,
    peaks,
    singular_values,
)

DTYPES = st.sampled_from([torch.float32, torch.float64])
#: what a float can hold: zeros, subnormal numbers, squares that underflow wholly or in part, ordinary ones
SIZES = st.one_of(
    st.just(0.0),
    st.sampled_from([5e-324, 1e-310, 1e-300, 1e-160, 1e-45, 1e-30, 1.0, 1e30, 1e200]),
    st.floats(-162, -154).map(lambda power: 10.0**power),
    st.floats(0.1, 10),
)
ENTRIES = st.tuples(SIZES, st.sampled_from([1.0, -1.0])).map(math.prod)
EXPONENTS = st.one_of(st.floats(-1e6, 1e6), st.floats(-800, 800), st.just(0.0))
quickly = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def matrices(draw, shape=None, dtype=None):
    """Matrices (r, c) with an exponent for each row, each column, each entry, or one for all."""
    r, c = shape or (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    values = draw(st.lists(ENTRIES, min_size=r * c, max_size=r * c))
    kind = dtype or draw(DTYPES)
    tensor = torch.tensor(values, dtype=torch.float64).view(r, c)
    # beyond the range of float32 the entry is infinite; kept out here, tested below
    tensor = tensor.clamp(-1e38, 1e38).to(kind) if kind == torch.float32 else tensor
    rows, columns = draw(st.sampled_from([(r, 1), (1, c), (1, 1), (r, c)]))
    scale = draw(st.lists(EXPONENTS, min_size=rows * columns, max_size=rows * columns))
    return Scaled(tensor, torch.tensor(scale, dtype=torch.float64).view(rows, columns))


def exact(x: Scaled) -> list[list[mpf]]:
    """The entries (r, c) as numbers of 60 digits."""
    scale = x.log_scale.expand(x.values.shape)
    return [
        [mpf(v) * mpmath.exp(mpf(s)) if v else mpf(0) for v, s in zip(*rows, strict=True)]
        for rows in zip(x.values.tolist(), scale.tolist(), strict=True)
    ]


def by_row(x: Scaled) -> Scaled:
    """The same values with one exponent for each row."""
    return Scaled(x.values, x.log_scale.amax(1, keepdim=True).expand(len(x.values), 1))


def length(numbers) -> mpf:
    return mpmath.sqrt(sum(number**2 for number in numbers))


def assert_log(found: float, true: mpf) -> None:
    """ln of ``true``; an exponent of 1e6 holds ten digits behind the point."""
    if true == 0:
        assert found == -math.inf
    else:
        expected = float(mpmath.log(true))
        assert abs(found - expected) <= 1e-15 * (800 + abs(expected))


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(60):
        yield


@quickly
@given(matrices())
def test_frobenius_norms(x):
    with mpmath.workdps(60):
        true = exact(x)
        assert_log(float(x.log_norm()), length([*chain.from_iterable(true)]))
        for found, row in zip(x.log_norm(1).tolist(), true, strict=True):
            assert_log(found, length(row))
        for found, column in zip(x.log_norm((0,)).tolist(), zip(*true, strict=True), strict=True):
            assert_log(found, length(column))
        for found, number in zip(
            x.log_norm(()).flatten().tolist(), [*chain.from_iterable(true)], strict=True
        ):
            assert_log(found, abs(number))


@quickly
@given(matrices((2, 3)))
def test_spectral_norms_and_singular_values(x):
    """Of two rows: the roots of a quadratic."""
    with mpmath.workdps(60):
        a, b = exact(x)
        trace, apart = length(a) ** 2 + length(b) ** 2, length(a) ** 2 - length(b) ** 2
        cross = sum(p * q for p, q in zip(a, b, strict=True))
        top = mpmath.sqrt((trace + mpmath.sqrt(apart**2 + 4 * cross**2)) / 2)
        assert_log(float(log_norms(x, "spectral")), top)
        assert_log(float(log_norms(Scaled(x.values.T, x.log_scale.T), "spectral", (0, 1))), top)
        found = singular_values(x)
        assert_log(float(found.values[0].log() + found.log_scale), top)


def assert_close(found: Scaled, true: list[list[mpf]], sizes: list[list[mpf]], dtype: torch.dtype) -> None:
    """Rows within rounding of the largest number that went into each."""
    for close, row, size in zip(exact(found), true, sizes, strict=True):
        most = max(size)
        # an exponent is the sum of two logs, of which one may be as large as that of the smallest float
        rounding = 8 * torch.finfo(dtype).eps + (1e-15 * (abs(mpmath.log(most)) + 800) if most else 0)
        assert all(abs(p - q) <= rounding * most for p, q in zip(close, row, strict=True))


@quickly
@given(st.data())
def test_sums(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    a, b = data.draw(matrices(shape)), data.draw(matrices(shape))
    with mpmath.workdps(60):
        p, q = exact(a), exact(b)
        true = [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(p, q, strict=True)]
        sizes = [[max(abs(x), abs(y)) for x, y in zip(*rows, strict=True)] for rows in zip(p, q, strict=True)]
        narrow = torch.float32 if torch.float32 in (a.values.dtype, b.values.dtype) else torch.float64
        # what shares an exponent is added relative to the largest of all that share it
        shared = [[max(max(row) for row in sizes)]] * len(sizes)
        assert_close(added(a, b), true, shared, narrow)
        a, b = by_row(a), by_row(b)
        p, q = exact(a), exact(b)
        true = [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(p, q, strict=True)]
        sizes = [[max(abs(x), abs(y)) for x, y in zip(*rows, strict=True)] for rows in zip(p, q, strict=True)]
        assert_close(added(a, b), true, sizes, narrow)


@quickly
@given(matrices())
def test_rescaled_and_settled_are_the_same_number(x):
    with mpmath.workdps(60):
        x = by_row(x)
        true = exact(x)
        sizes = [[abs(number) for number in row] for row in true]
        for found in (x.rescaled((1,)), x.settled((1,)), x.rescaled(())):
            assert_close(found, true, sizes, x.values.dtype)
        peak = x.rescaled((1,))
        alive = (x.values != 0).any(1)
        assert peak.log_scale[~alive].isneginf().all()
        assert torch.equal(peaks(peak.values, (1,))[:, 0], alive.to(x.values.dtype))
        middle = peaks(x.settled((1,)).values, (1,))[alive]
        assert ((middle > 1e-70) & (middle < 1e70)).all()


@quickly
@given(matrices(), st.floats(-1e6, 1e6))
def test_relative_to_is_the_float_nearest_by(x, base):
    found = x.relative_to(torch.tensor(base, dtype=torch.float64)).double()
    limits = torch.finfo(x.values.dtype)
    assert not found.isnan().any()
    with mpmath.workdps(60):
        for row, true in zip(found.tolist(), exact(x), strict=True):
            for number, wanted in zip(row, true, strict=True):
                wanted = wanted * mpmath.exp(-mpf(base))
                if abs(wanted) > 2 * limits.max:
                    assert math.isinf(number)
                elif abs(wanted) < limits.max / 2:
                    most = 16 * limits.eps + 1e-15 * (abs(base) + float(x.log_scale.abs().max()))
                    assert (
                        abs(number - wanted) <= most * abs(wanted) + 4 * limits.smallest_normal * limits.eps
                    )


@quickly
@given(st.data())
def test_gathered_is_a_sum_at_positions(data):
    count = data.draw(st.integers(1, 3))
    parts, true, sizes = [], {}, {}
    with mpmath.workdps(60):
        for _ in range(count):
            x = by_row(data.draw(matrices((2, 3), torch.float64)))
            where = torch.tensor(data.draw(st.permutations([0, 1, 2, 5])))[:2]
            parts.append((Scaled(x.values[:, None], x.log_scale[:, None]), where))
            for position, row in zip(where.tolist(), exact(x), strict=True):
                before = true.get(position, [mpf(0)] * 3)
                true[position] = [p + q for p, q in zip(before, row, strict=True)]
                sizes[position] = max([sizes.get(position, mpf(0)), *map(abs, row)])
        found, where = gathered(parts)
        assert where.tolist() == sorted(true)
        rows = Scaled(found.values[:, 0], found.log_scale[:, 0])
        wanted = [true[position] for position in sorted(true)]
        assert_close(rows, wanted, [[sizes[position]] for position in sorted(true)], torch.float64)


@quickly
@given(matrices((2, 3), torch.float64), st.lists(st.floats(-10, 10), min_size=6, max_size=6))
def test_products_with_plain_matrices(x, numbers):
    matrix = torch.tensor(numbers, dtype=torch.float64).view(3, 2)
    x = by_row(x).rescaled((1,))
    with mpmath.workdps(60):
        true = mpmath.matrix(exact(x)) * mpmath.matrix(matrix.tolist())
        sizes = [[30 * max(abs(number) for number in row)] for row in exact(x)]
        assert_close(x.times(matrix), true.tolist(), sizes, torch.float64)


@quickly
@given(st.lists(st.one_of(EXPONENTS, st.just(-math.inf)), min_size=1, max_size=6))
def test_norms_of_what_is_known_by_its_logs(logs):
    with mpmath.workdps(60):
        true = length([mpmath.exp(mpf(log)) if log > -math.inf else mpf(0) for log in logs])
        assert_log(float(log_norm_of_logs(torch.tensor(logs, dtype=torch.float64), (0,))), true)
        total = np.array([-np.inf])
        for log in logs:
            total = log_hypot(total, np.array([log]))
        assert_log(float(total[0]), true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("scale", [-2000.0, 0.0, 2000.0])
def test_what_overflowed_never_has_a_norm_of_zero(dtype, bad, scale):
    values = torch.tensor([[1.0, bad], [0.0, 2.0]], dtype=dtype)
    x = Scaled(values, torch.full((2, 1), scale, dtype=torch.float64))
    for y in (x, x.rescaled((1,)), x.settled((1,)), added(x, x), added(x, Scaled.plain(values))):
        for norm in (y.log_norm(), log_norms(y, "spectral"), y.log_norm(1)[0]):
            assert norm.isnan() or norm.isposinf()
        assert y.log_norm(1)[1].isfinite()
    assert singular_values(x).values.isnan().all()


def test_a_zero_does_not_set_the_exponent_of_a_sum():
    nothing = Scaled.plain(torch.zeros(1, 2, dtype=torch.float64))
    far = Scaled(torch.ones(1, 2, dtype=torch.float64), torch.tensor([[-5000.0]], dtype=torch.float64))
    assert float(added(nothing, far).log_norm()) == pytest.approx(0.5 * math.log(2) - 5000)
    here = torch.tensor([3])
    total, _ = gathered([(Scaled(x.values[None], x.log_scale[None]), here) for x in (nothing, far)])
    assert float(total.log_norm()) == pytest.approx(0.5 * math.log(2) - 5000)


def test_squares_that_lost_their_digits_are_known():
    squares = torch.tensor([4.0, 1e-20, 1e-320, 0.0, math.nan, math.inf], dtype=torch.float64)
    bound = torch.tensor([4.0, 1.0, 1e-320, 0.0, 1.0, math.inf], dtype=torch.float64)
    logs, known = log_norms_of_squares(squares, bound, 1e-11)
    assert known.tolist() == [True, False, False, False, False, False]
    assert float(logs[0]) == pytest.approx(math.log(2))


def test_nothing_at_all_has_a_norm_of_zero():
    for shape in ((0, 3), (3, 0)):
        x = Scaled.plain(torch.empty(shape, dtype=torch.float64))
        assert [float(log_norms(x, norm)) for norm in ("fro", "spectral")] == [-math.inf] * 2
    assert Scaled.plain(torch.zeros(4, 2, 0)).log_norm((1, 2)).tolist() == [-math.inf] * 4


def test_long_tensors_are_taken_in_parts():
    x = torch.randn(3, 1 << 20, generator=torch.Generator().manual_seed(0)) * 1e-30
    x[:, :8] = torch.arange(1, 9) * 1e-45
    for values, dim in ((x, (1,)), (x.T, (0,)), (x.view(3, 1024, 1024), (0, 2))):
        true = values.double().square().sum(dim).sqrt().log()
        torch.testing.assert_close(Scaled.plain(values).log_norm(dim), true, rtol=1e-13, atol=1e-13)

"""Exact sums against fractions: every type, every magnitude, every way of cutting, and one rounding at the end."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ndbatch.remotes.base import Array
from ndbatch.steps.measure.exact_sums import SLAB, Limbs, carried, deposit, deviations, moments, quotients

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")


@st.composite
def samples(draw: st.DrawFn) -> tuple[Array, Array]:
    """Return finite values of any type and magnitude, and where segments of them begin."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    values = draw(npst.arrays(dtype, st.integers(1, 40), elements=elements))
    cuts = draw(st.sets(st.integers(1, max(1, len(values) - 1)), max_size=4)) if len(values) > 1 else set()
    return values, np.array([0, *sorted(cuts)])


def exact(values: Array) -> list[Fraction]:
    return [Fraction(value) for value in values.tolist()]


def worth(limbs: Limbs, row: int) -> Fraction:
    """Return what a row of limbs stands for."""
    return sum((int(digits[row]) * Fraction(2) ** (32 * k) for k, digits in limbs.items()), Fraction(0))


def rounded_root(value: Fraction) -> float:
    """Return the square root, rounded once; 4000 more bits than float64 has cannot lie on a tie."""
    return (2 * math.isqrt((value.numerator << 8000) // value.denominator) + 1) / (1 << 4001) if value else 0.0


@settings(max_examples=300, deadline=None)
@given(samples())
def test_sums_and_squares_are_exact_and_rounded_once(sample: tuple[Array, Array]) -> None:
    values, starts = sample
    sums, squares = moments(values, starts)
    counts = np.diff(starts, append=len(values))
    means, spreads = quotients(sums, counts), deviations(sums, squares, counts)
    for row, part in enumerate(np.split(values, starts[1:])):
        known, n = exact(part), len(part)
        total, square = sum(known), sum(v * v for v in known)
        assert worth(sums, row) == total
        assert worth(squares, row) == square
        assert means[row] == float(total / n)
        assert spreads[row] == rounded_root(square / n - (total / n) ** 2)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(-4, 4), st.lists(st.integers(-(2**62), 2**62), min_size=3, max_size=3), min_size=1))
def test_carrying_changes_no_sum_and_leaves_small_limbs(given_limbs: dict[int, list[int]]) -> None:
    limbs = {k: np.array(digits) for k, digits in given_limbs.items()}
    result = carried(limbs)
    assert [worth(result, row) for row in range(3)] == [worth(limbs, row) for row in range(3)]
    for k, digits in result.items():
        low, high = (0, 2**32 - 1) if k < max(result) else (-(2**31), 2**32 - 1)
        assert low <= digits.min()
        assert digits.max() <= high


@given(st.integers(-(2**53), 2**53), st.integers(-2000, 2000))
def test_a_total_may_be_added_at_any_power_of_two(total: int, bits: int) -> None:
    limbs: Limbs = {}
    deposit(limbs, np.array([total]), bits)
    assert worth(limbs, 0) == total * Fraction(2) ** bits


def test_extreme_doubles_neither_overflow_nor_vanish() -> None:
    largest, smallest = np.finfo(float).max, np.finfo(float).smallest_subnormal
    values = np.array([largest, largest, smallest, -largest, -largest])
    sums, squares = moments(values, np.zeros(1, np.int64))
    counts = np.array([5])
    assert worth(sums, 0) == Fraction(smallest)
    assert worth(squares, 0) == 4 * Fraction(largest) ** 2 + Fraction(smallest) ** 2
    assert deviations(sums, squares, counts)[0] == pytest.approx(largest * math.sqrt(0.8), rel=1e-15)


def test_a_full_slab_of_the_largest_integers_does_not_overflow() -> None:
    values = np.full(SLAB, 2**64 - 1, np.uint64)
    sums, squares = moments(values, np.zeros(1, np.int64))
    assert worth(sums, 0) == SLAB * (2**64 - 1)
    assert worth(squares, 0) == SLAB * (2**64 - 1) ** 2
    with pytest.raises(ValueError, match="at a time"):
        moments(np.zeros(SLAB + 1), np.zeros(1, np.int64))


def test_nothing_counted_is_no_number() -> None:
    limbs = {0: np.array([0, 6])}
    assert np.isnan(quotients(limbs, np.array([0, 2]))[0])
    assert quotients(limbs, np.array([0, 2]))[1] == 3.0
    assert np.isnan(deviations(limbs, limbs, np.array([0, 6]))[0])

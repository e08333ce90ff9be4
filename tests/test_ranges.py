"""Ranges are sets of integers: every operation equals Python's own on sets."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.ranges import Ranges

numbers = st.sets(st.integers(0, 60), max_size=30)


def of(values: set[int]) -> Ranges:
    return Ranges.of([np.array(sorted(values), np.int64)])


@given(numbers)
def test_holds_what_it_is_given(values: set[int]) -> None:
    ranges = of(values)
    assert list(ranges) == sorted(values)
    assert len(ranges) == len(values)
    assert all((n in ranges) == (n in values) for n in range(62))


@given(numbers)
def test_pairs_never_touch(values: set[int]) -> None:
    pairs = of(values).pairs
    assert all(a < b for a, b in pairs)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(pairs))


@given(st.lists(st.lists(st.integers(0, 40), max_size=10), max_size=6))
def test_merges_parts_in_any_order_with_repeats(parts: list[list[int]]) -> None:
    merged = Ranges.of([np.array(part, np.int64) for part in parts])
    assert list(merged) == sorted({n for part in parts for n in part})


@given(numbers, numbers)
def test_minus(a: set[int], b: set[int]) -> None:
    assert list(of(a).minus(of(b))) == sorted(a - b)


@given(numbers, st.integers(0, 40))
def test_take_splits_in_order(values: set[int], count: int) -> None:
    head, rest = of(values).take(count)
    assert list(head) == sorted(values)[:count]
    assert list(rest) == sorted(values)[count:]


def test_a_hundred_million_numbers_are_one_pair() -> None:
    everything = Ranges.upto(10**8)
    assert len(everything) == 10**8
    assert everything.minus(Ranges(((5, 10),))).pairs == ((0, 5), (10, 10**8))

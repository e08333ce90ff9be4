"""Counted values: the same pairs from any cut and any order, and numpy's percentiles from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ndbatch.remotes.base import Array
from ndbatch.steps.measure.value_counts import ValueCounts, tally

DTYPES = ("uint8", "int8", "uint16", "int32", "uint32", "uint64", "int64", "float32", "float64")
GROUPS = 4


@st.composite
def samples(draw: st.DrawFn) -> tuple[Array, Array]:
    """Return groups and values; groups may be empty."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    if dtype.kind != "f" and draw(st.booleans()):
        low = draw(st.sampled_from([np.iinfo(dtype).min, np.iinfo(dtype).max - 9]))
        elements = {"min_value": low, "max_value": low + 9}
    values = draw(npst.arrays(dtype, st.integers(0, 60), elements=elements))
    owners = draw(npst.arrays(np.int64, len(values), elements=st.integers(0, GROUPS - 1)))
    return owners, values + dtype.type(0)


def same(a: ValueCounts, b: ValueCounts) -> bool:
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ("values", "counts", "offsets"))


@settings(max_examples=300, deadline=None)
@given(samples(), st.integers(0, 60), st.floats(0, 100))
def test_pairs_are_numpys_and_do_not_depend_on_cuts(sample: tuple[Array, Array], cut: int, percent: float) -> None:
    owners, values = sample
    whole = tally(owners, values, GROUPS)
    halves = [tally(o, v, GROUPS) for o, v in zip(np.split(owners, [cut]), np.split(values, [cut]), strict=True)]
    again = tally(
        np.concatenate([half.owners() for half in halves]),
        np.concatenate([half.values for half in halves]),
        GROUPS,
        np.concatenate([half.counts for half in halves]),
    )
    assert same(whole, again)
    assert same(whole, tally(owners[::-1], values[::-1], GROUPS))
    found = whole.percentiles([percent])[0]
    for group in range(GROUPS):
        of_group, pairs = values[owners == group], slice(*whole.offsets[group : group + 2])
        numbers, counts = np.unique(of_group, return_counts=True)
        np.testing.assert_array_equal(whole.values[pairs], numbers)
        np.testing.assert_array_equal(whole.counts[pairs], counts)
        if len(of_group) == 0:
            assert np.isnan(found[group])
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                expected = np.percentile(of_group.astype(np.float64), percent)
            # Where the difference of two values leaves float64, numpy has no answer.
            assert found[group] == expected or (not np.isfinite(expected) and np.isfinite(found[group]))


@pytest.mark.parametrize("values", [np.array([7, 60007], np.uint16), np.array([-3, 2**31 - 1], np.int32)])
def test_bins_and_sorting_give_the_same(values: Array) -> None:
    many = np.tile(values, 50_000)
    owners = np.arange(len(many)) % 3
    binned, sorted_ = tally(owners, many, 3), tally(owners, many, 3, np.ones(len(many), np.int64))
    assert same(binned, sorted_)
    assert sorted(binned.counts.tolist()) == [16666, 16666, 16667, 16667, 16667, 16667]

"""`histogram`: what numpy counts in the whole array, for every way of cutting it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.histogram import Histogram
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(3)
IMAGE = RNG.gamma(2.0, 300, (21, 33, 29)).astype(np.uint16)


def make(**fields: Any) -> Histogram:
    return Histogram.model_validate({"input": "a", "output": "counts", **fields})


def counted(array: Array, block: tuple[int, ...] = (5, 6, 7), axes: str | None = None, **fields: Any) -> pa.Table:
    table: pa.Table = run_operation(make(**fields), {"a": array}, block, axes=axes)["counts"]
    return table


class OfImage(StepSuite):
    image: Array = IMAGE
    fields: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}

    @pytest.fixture
    def step(self) -> Step:
        return make(**self.fields)


class TestValues(OfImage):
    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        values, counts = np.unique(self.image, return_counts=True)
        return {"counts": pa.table({"value": values.astype(np.int64), "count": counts.astype(np.int64)})}


class TestSignedValues(TestValues):
    image = RNG.normal(0, 40, (14, 15, 16)).astype(np.int8)


class TestBins(OfImage):
    fields: ClassVar[dict[str, Any]] = {"bins": 40}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        counts, edges = np.histogram(self.image.astype(np.float64), 40)
        return {"counts": pa.table({"low": edges[:-1], "high": edges[1:], "count": counts.astype(np.int64)})}


class TestBinsOfFloat(TestBins):
    image = RNG.normal(size=(20, 22, 24)).astype(np.float32) * 1e5


class TestBinsOfLongIntegers(TestBins):
    image = RNG.integers(2**62, 2**64 - 1, (9, 10, 11), dtype=np.uint64)


def test_times_and_channels_are_counted_each_by_itself() -> None:
    array = RNG.integers(0, 4, (2, 3, 4, 5, 6), dtype=np.uint8)
    array[1, 2] = 9
    found = counted(array, (1, 2, 3, 4, 5), "tczyx").to_pydict()
    expected: dict[str, list[int]] = {name: [] for name in ("t", "c", "value", "count")}
    for t, c in np.ndindex(2, 3):
        for value, count in zip(*np.unique(array[t, c], return_counts=True), strict=True):
            for name, entry in zip(expected, (t, c, value, count), strict=True):
                expected[name].append(int(entry))
    assert found == expected


def test_slices_share_their_bins() -> None:
    array = np.arange(4 * 3 * 5, dtype=np.float64).reshape(4, 3, 5)
    found = counted(array, (3, 2, 2), per="slice", bins=6)
    edges = np.histogram_bin_edges(array, 6)
    assert found["z"].to_pylist() == np.repeat(np.arange(4), 6).tolist()
    assert np.array_equal(found["low"], np.tile(edges[:-1], 4))
    for z in range(4):
        assert found["count"].to_pylist()[6 * z : 6 * z + 6] == np.histogram(array[z], edges)[0].tolist()


def test_a_range_leaves_out_what_is_beyond() -> None:
    array = np.array([[[0, 1, 2, 3, 4, 9]]], np.uint8)
    assert counted(array, range=[1, 4]).to_pydict() == {"value": [1, 2, 3, 4], "count": [1, 1, 1, 1]}
    assert counted(array, range=[1, 4], bins=3)["count"].to_pylist() == [1, 1, 2]


def test_wide_integers_and_floats_have_256_bins_unless_told() -> None:
    for dtype in ("uint32", "float32"):
        assert counted(RNG.integers(0, 1000, (5, 6, 7)).astype(dtype)).num_rows == 256


def test_what_is_not_finite_does_not_count() -> None:
    array = np.array([[[0.0, np.nan, 1.0, np.inf, -np.inf, 0.5]]])
    found = counted(array, bins=2)
    assert found.to_pydict() == {"low": [0.0, 0.5], "high": [0.5, 1.0], "count": [1, 2]}
    with pytest.raises(PlanError, match=r"no voxel of the image is finite.*range"):
        counted(np.full((2, 3, 4), np.nan))
    empty = counted(np.full((2, 3, 4), np.nan), bins=2, range=[0, 1])
    assert empty["count"].to_pylist() == [0, 0]


def test_one_value_has_bins_around_it() -> None:
    found = counted(np.full((2, 3, 4), 7, np.float32), bins=4)
    assert (found["low"][0].as_py(), found["high"][3].as_py()) == (6.5, 7.5)
    assert found["count"].to_pylist() == [0, 0, 24, 0]


def test_mask() -> None:
    array = RNG.random((6, 7, 8)) < 0.25
    number = int(array.sum())
    assert counted(array).to_pydict() == {"value": [0, 1], "count": [array.size - number, number]}


@settings(max_examples=25, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from(["uint8", "int16", "uint32", "int64", "float32", "float64"]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    ),
    bins=st.integers(1, 9),
)
def test_any_voxels_are_counted_once(array: Array, bins: int) -> None:
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return
    whole = counted(array, array.shape, bins=bins)
    assert counted(array, (2, 3, 2), bins=bins).equals(whole)
    assert sum(whole["count"].to_pylist()) == finite.size


def test_wrong_ones_are_refused() -> None:
    for fields, words in (
        ({"range": [3, 3]}, "range: 3 is not below 3"),
        ({"bins": 0}, "bins"),
        ({"bins": "many"}, "bins"),
    ):
        with pytest.raises(ValidationError, match=words):
            make(**fields)
    with pytest.raises(PlanError, match="histogram: a is complex64"):
        counted(np.zeros((2, 2, 2), np.complex64))

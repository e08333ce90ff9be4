"""Filled holes: scipy's for one object, a plain search for many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.fill import Fill
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(51)
SOLID = ndimage.gaussian_filter(RNG.normal(size=(22, 30, 31)), 3) > -0.02
MASK = (SOLID & (RNG.random(SOLID.shape) > 0.08)).astype(np.uint8)
LABELS = ndimage.label(SOLID)[0].astype(np.uint64) * np.uint64(2**40 + 3) * MASK


def make(**fields: Any) -> Fill:
    return Fill.model_validate({"input": "a", "output": "f", **fields})


def filled(labels: Array, size: tuple[int, ...]) -> Array:
    """Every piece of background looked at by itself, on the whole array."""
    pieces, _ = ndimage.label(labels == 0)
    result = labels.copy()
    for number, where in enumerate(ndimage.find_objects(pieces), 1):
        if any(
            s.start == 0 or s.stop == n or s.stop - s.start > m
            for s, n, m in zip(where, labels.shape, size, strict=True)
        ):
            continue
        piece = pieces == number
        around = np.unique(labels[ndimage.binary_dilation(piece) & ~piece])
        if len(around) == 1:
            result[piece] = around[0]
    return result


class OfArray(StepSuite):
    image: Array = MASK

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestMask(OfArray):
    @pytest.fixture
    def step(self) -> Step:
        return make(size=4)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": filled(self.image, (4, 4, 4))}


class TestLabels(TestMask):
    image = LABELS


class TestAnisotropic(OfArray):
    voxel_size = (1.0, 0.5, 0.5)

    @pytest.fixture
    def step(self) -> Step:
        return make(size="1.6 um")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": filled(self.image, (1, 3, 3))}


class TestBySlice(OfArray):
    image = LABELS.astype(np.int64)

    @pytest.fixture
    def step(self) -> Step:
        return make(size=6, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": np.stack([filled(plane, (6, 6)) for plane in self.image])}


class TestTimesAndChannels(OfArray):
    axes = "tczyx"
    image = np.stack([np.stack([MASK[:9, :12, :10], MASK[9:18, 3:15, 3:13]])] * 2)

    @pytest.fixture
    def step(self) -> Step:
        return make(size=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": np.stack([np.stack([filled(channel, (3, 3, 3)) for channel in time]) for time in self.image])}


@settings(max_examples=100, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.integers(0, 2)),
    size=st.integers(1, 4),
    block=st.integers(1, 5),
)
def test_any_labels_in_any_blocks(labels: Array, size: int, block: int) -> None:
    made = run_operation(make(size=size), {"a": labels}, (block,) * labels.ndim)["f"]
    np.testing.assert_array_equal(made, filled(labels, (size,) * labels.ndim))


def test_small_holes_are_filled_as_scipy_fills_them() -> None:
    made = run_operation(make(size=31), {"a": MASK}, (11, 11, 11))["f"]
    np.testing.assert_array_equal(made, ndimage.binary_fill_holes(MASK).astype(np.uint8))


def test_size_below_a_voxel_is_refused() -> None:
    with pytest.raises(PlanError, match="less than a voxel along z; make it larger, or use per: slice"):
        run_operation(make(size="1 um"), {"a": MASK}, MASK.shape, voxel_size=(2.0, 0.5, 0.5))
    with pytest.raises(PlanError, match="neither a mask nor labels"):
        run_operation(make(size=3), {"a": MASK.astype(np.float32)}, MASK.shape)

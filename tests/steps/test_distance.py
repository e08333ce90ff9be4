"""Distances: scipy's on the whole array, cut off at the limit, and the same bits for every block."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import ndimage

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.distance import Distance
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(61)
SPOTS = ndimage.gaussian_filter(RNG.normal(size=(22, 30, 31)), 2.5)
MASK = (SPOTS > -0.01).astype(np.uint8)
LABELS = (ndimage.label(SPOTS > 0.02)[0] + 1).astype(np.uint64) * np.uint64(2**40) * (SPOTS > -0.03)
SIZE = (1.24, 0.29, 0.33)


def make(**fields: Any) -> Distance:
    return Distance.model_validate({"input": "a", "output": "d", **fields})


def measured(mask: Array, limit: float, size: tuple[float, ...]) -> Array:
    return np.minimum(ndimage.distance_transform_edt(mask, sampling=size), limit).astype(np.float32)


class OfArray(StepSuite):
    image: Array = MASK
    rtol: ClassVar[float] = 1e-6

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestMask(OfArray):
    rtol = 1e-7

    @pytest.fixture
    def step(self) -> Step:
        return make(limit=6)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"d": measured(self.image, 6, (1, 1, 1))}


class TestAnisotropic(OfArray):
    voxel_size = SIZE

    @pytest.fixture
    def step(self) -> Step:
        return make(limit="2.5 um", signed=True)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"d": measured(self.image, 2.5, SIZE) - measured(self.image == 0, 2.5, SIZE)}


class TestBitsOfAnisotropic(OfArray):
    """Blocks against one block."""

    voxel_size = SIZE
    rtol = 0.0

    @pytest.fixture
    def step(self) -> Step:
        return make(limit="2.5 um", signed=True, to="boundary")


class TestBoundary(OfArray):
    image = LABELS

    @pytest.fixture
    def step(self) -> Step:
        return make(limit=5, to="boundary")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = np.zeros(self.image.shape, np.float32)
        for label in np.unique(self.image)[1:]:
            result += measured(self.image == label, 5, (1, 1, 1))
        return {"d": result}


class TestBySlice(OfArray):
    @pytest.fixture
    def step(self) -> Step:
        return make(limit=4, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"d": np.stack([measured(plane, 4, (1, 1)) for plane in self.image])}


class TestTimesAndChannels(OfArray):
    axes = "tczyx"
    image = np.stack([np.stack([MASK[:9, :12, :10], MASK[9:18, 3:15, 3:13]])] * 2)

    @pytest.fixture
    def step(self) -> Step:
        return make(limit=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"d": np.stack([np.stack([measured(m, 3, (1, 1, 1)) for m in time]) for time in self.image])}


def test_nothing_near_is_the_limit() -> None:
    full = np.ones((6, 6, 6), bool)
    assert (run_operation(make(limit=3), {"a": full}, (4, 4, 4))["d"] == 3).all()
    assert (run_operation(make(limit=3, signed=True), {"a": ~full}, (4, 4, 4))["d"] == -3).all()


@pytest.mark.parametrize(
    ("fields", "dtype", "words"),
    [
        ({"limit": 0.5}, "float32", r"limit 0\.5 is less than a voxel"),
        ({"limit": 5, "signed": True}, "uint8", "holds no negative distance"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], dtype: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        run_operation(make(**fields), {"a": MASK}, MASK.shape, dtypes={"d": dtype})

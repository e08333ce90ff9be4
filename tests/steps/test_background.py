"""Backgrounds: what scipy and scikit-image make of the whole array, subtracted or kept."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from skimage import morphology, restoration

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.background.step import Background
from ndbatch.steps.base import Step
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(41)
IMAGE = (RNG.gamma(2.0, 60, (20, 27, 25)) + 200 * np.sin(np.arange(25) / 6) + 300).astype(np.uint16)


def make(**fields: Any) -> Background:
    return Background.model_validate({"input": "a", "output": "b", **fields})


class OfImage(StepSuite):
    image: Array = IMAGE

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestOpening(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(radius=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"b": morphology.white_tophat(self.image, np.ones((7, 7, 7)))}


class TestOpeningOfWideIntegers(TestOpening):
    image = IMAGE.astype(np.int64) * 2**47 - 2**62

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        low = (self.image + 2**62) // 2**47
        return {"b": morphology.white_tophat(low.astype(np.uint16), np.ones((7, 7, 7))).astype(np.int64) * 2**47}


class TestBallOpeningKept(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(radius=3, shape="ball", keep="background")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"b": morphology.opening(self.image, morphology.ball(3))}


class TestRollingBall(OfImage):
    dtypes: ClassVar[dict[str, str]] = {"b": "float64"}

    @pytest.fixture
    def step(self) -> Step:
        return make(method="rolling_ball", radius=4, keep="background")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"b": restoration.rolling_ball(self.image.astype(np.float64), radius=4)}

    atol = 1e-9


class TestFlatRollingBall(OfImage):
    voxel_size = (1.0, 0.5, 0.5)
    image = IMAGE.astype(np.float32)
    rtol, atol = 1e-6, 1e-4

    @pytest.fixture
    def step(self) -> Step:
        return make(method="rolling_ball", radius="3 um", height=50, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        y, x = np.ogrid[-6:7, -6:7]
        part = (y / 6) ** 2 + (x / 6) ** 2
        kernel = np.where(part > 1, np.inf, 50 * np.sqrt(np.clip(1 - part, 0, None)))
        planes = [plane - restoration.rolling_ball(plane, kernel=kernel) for plane in self.image]
        return {"b": np.stack(planes)}


class TestGaussian(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(method="gaussian", radius=2)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        below = ndimage.gaussian_filter(self.image, 2, output=np.float32)
        return {"b": np.rint(np.maximum(self.image - below, 0)).astype(np.uint16)}


class TestGaussianOfSigned(TestGaussian):
    image = IMAGE.astype(np.int16)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        below = ndimage.gaussian_filter(self.image, 2, output=np.float32)
        return {"b": np.rint(self.image - below).astype(np.int16)}


class TestMedianBySlice(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(method="median", radius=2, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        below = ndimage.median_filter(self.image, (1, 5, 5)).astype(np.int64)
        return {"b": np.maximum(self.image - below, 0).astype(np.uint16)}


class TestMedianOfSigned(OfImage):
    image = IMAGE.astype(np.int32)

    @pytest.fixture
    def step(self) -> Step:
        return make(method="median", radius=1)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"b": self.image - ndimage.median_filter(self.image, 3)}


class TestTimesAndChannels(OfImage):
    axes = "tczyx"
    image = RNG.integers(0, 255, (2, 2, 6, 9, 8), np.uint8)

    @pytest.fixture
    def step(self) -> Step:
        return make(method="rolling_ball", radius=2)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = np.empty_like(self.image)
        for place in np.ndindex(2, 2):
            below = restoration.rolling_ball(self.image[place].astype(np.float64), radius=2)
            result[place] = np.rint(self.image[place] - below)
        return {"b": result}


def test_steepest_signed_difference_is_told_not_wrapped() -> None:
    image = np.full((3, 9), -100, np.int8)
    image[1, 4] = 100
    made = run_operation(make(radius=1), {"a": image}, (3, 9), dtypes={"b": "int16"})["b"]
    assert made[1, 4] == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "median", "radius": 1, "height": 3}, "height goes with method rolling_ball"),
        ({"method": "median", "radius": 1, "shape": "ball"}, "shape goes with method opening"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)


def test_wide_integers_that_would_be_rounded_are_refused() -> None:
    with pytest.raises(PlanError, match="use method: opening"):
        run_operation(make(method="median", radius=1), {"a": IMAGE.astype(np.uint64)}, IMAGE.shape)

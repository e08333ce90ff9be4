"""Normalised images: what numpy and scikit-image make of the whole array, each time, channel and slice by itself."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from skimage.exposure import rescale_intensity

from ndbatch.errors import PlanError, StepError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.normalize import Normalize
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(11)
IMAGE = RNG.gamma(2.0, 300, (21, 33, 29)).astype(np.uint16)


def make(**fields: Any) -> Normalize:
    return Normalize.model_validate({"input": "a", "output": "n", **fields})


def stretched(image: Array, low: float, high: float, to: tuple[float, float], dtype: Any) -> Array:
    wide = image.astype(np.float64)
    part = np.clip((wide - low) / (high - low), 0, 1) * (to[1] - to[0]) + to[0]
    return (np.rint(part) if np.dtype(dtype).kind in "ui" else part).astype(dtype)


class OfImage(StepSuite):
    image: Array = IMAGE

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestScore(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(method="zscore")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        wide = self.image.astype(np.float64)
        return {"n": ((wide - wide.mean()) / wide.std()).astype(np.float32)}


class TestScoreOfFloat(TestScore):
    image = RNG.normal(size=(20, 22, 24)).astype(np.float32) + 1000
    rtol, atol = 1e-6, 1e-6  # numpy's own mean and deviation are not rounded once


class TestScoreBySlice(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(method="zscore", per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        wide = self.image.astype(np.float64)
        mean, std = (f(wide, axis=(1, 2), keepdims=True) for f in (np.mean, np.std))
        return {"n": ((wide - mean) / std).astype(np.float32)}

    rtol, atol = 1e-6, 1e-6


class TestRange(OfImage):
    dtypes: ClassVar[dict[str, str]] = {"n": "uint8"}

    @pytest.fixture
    def step(self) -> Step:
        return make(method="minmax")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"n": stretched(self.image, self.image.min(), self.image.max(), (0, 255), np.uint8)}


class TestPercentile(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(low=2, high=99.5, range=[-1, 1])

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        low, high = np.percentile(self.image, [2, 99.5])
        return {"n": stretched(self.image, low, high, (-1, 1), np.float32)}


class TestPercentileBySlice(OfImage):
    image = RNG.normal(100, 20, (12, 31, 27)).astype(np.float32) * np.arange(1, 13, dtype=np.float32)[:, None, None]

    @pytest.fixture
    def step(self) -> Step:
        return make(low=1, high=99, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        ends = [np.percentile(plane.astype(np.float64), [1, 99]) for plane in self.image]
        planes = zip(self.image, ends, strict=True)
        return {"n": np.stack([stretched(plane, *end, (0, 1), np.float32) for plane, end in planes])}


class TestTimesAndChannels(OfImage):
    axes = "tczyx"
    image = RNG.gamma(2.0, 300, (2, 2, 9, 14, 15)).astype(np.uint16) * np.array([1, 3], np.uint16)[:, None, None, None]

    @pytest.fixture
    def step(self) -> Step:
        return make(low=1, high=99)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = np.empty(self.image.shape, np.float32)
        for place in np.ndindex(2, 2):
            volume = self.image[place]
            result[place] = stretched(volume, *np.percentile(volume, [1, 99]), (0, 1), np.float32)
        return {"n": result}


@settings(max_examples=40, deadline=None)
@given(
    image=st.sampled_from(["uint8", "int16", "int32", "uint64"]).flatmap(
        lambda dtype: hnp.arrays(dtype, (3, 5, 4), elements=st.integers(0, 120))
    )
)
def test_full_range_is_what_scikit_image_makes(image: Array) -> None:
    made = run_operation(make(method="minmax", range=[0, 100]), {"a": image}, (2, 2, 2), dtypes={"n": "float64"})
    if np.ptp(image):
        expected = rescale_intensity(image.astype(np.float64), out_range=(0, 100))
        np.testing.assert_allclose(made["n"], expected, rtol=1e-12, atol=1e-12)
    else:
        assert not made["n"].any()
    assert made.facts == {"low": float(image.min()), "high": float(image.max())}


def test_what_is_not_finite_is_left_out() -> None:
    image = IMAGE.astype(np.float32)
    image[2], image[4, 4, 4] = np.nan, np.inf
    seen = image[np.isfinite(image)].astype(np.float64)
    made = run_operation(make(method="zscore"), {"a": image}, (10, 10, 10))
    assert made.facts == {"mean": pytest.approx(seen.mean(), 1e-12), "deviation": pytest.approx(seen.std(), 1e-12)}
    assert np.isnan(made["n"][2]).all()
    by_slice = run_operation(make(per="slice"), {"a": image}, (10, 10, 10))["n"]
    assert np.isnan(by_slice[2]).all()
    assert np.isfinite(by_slice[3:]).all()
    with pytest.raises(StepError, match="NaN"):
        run_operation(make(per="slice"), {"a": image}, (10, 10, 10), dtypes={"n": "uint8"})


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
def test_nothing_finite_is_refused(method: str) -> None:
    with pytest.raises(PlanError, match="no voxel of the image is finite"):
        run_operation(make(method=method), {"a": np.full((4, 4, 4), np.nan, np.float32)}, (2, 4, 4))


def test_one_value_everywhere() -> None:
    for method in ("zscore", "minmax", "percentile"):
        assert not run_operation(make(method=method), {"a": np.full((4, 4, 4), 9, np.uint8)}, (2, 4, 4))["n"].any()


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StepError, match="does not fit uint8"):
        run_operation(make(method="zscore"), {"a": IMAGE}, (21, 33, 29), dtypes={"n": "uint8"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "zscore", "low": 3}, "go with method percentile"),
        ({"method": "zscore", "range": [0, 1]}, "not with zscore"),
        ({"low": 50, "high": 50}, "low: 50 is not below high: 50"),
        ({"range": [1, 0]}, "range: 1 is not below 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)


def test_range_beyond_the_dtype_is_refused() -> None:
    with pytest.raises(PlanError, match="0 to 300 is beyond uint8"):
        run_operation(make(range=[0, 300]), {"a": IMAGE}, (21, 33, 29), dtypes={"n": "uint8"})

"""Thresholds: those that scikit-image and numpy find in the whole array, whatever the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage
from skimage import filters

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.statistics.percentiles import order_key, value_of_key
from ndbatch.steps.threshold import Threshold, above
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(4)
SMOOTH = ndimage.gaussian_filter(RNG.normal(size=(22, 35, 31)), 1.5)
SMOOTH = (SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)


def make(**fields: Any) -> Threshold:
    return Threshold.model_validate({"input": "a", "output": "m", **fields})


class OfImage(StepSuite):
    image: Array = (SMOOTH * 4000 + 100).astype(np.uint16)

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestFixed(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(value=2000.5)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": (self.image > 2000.5).astype(np.uint8)}


class TestOtsu(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make()

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": (self.image > filters.threshold_otsu(self.image)).astype(np.uint8)}


class TestOtsuOfFloat(TestOtsu):
    image = SMOOTH.astype(np.float32)


class TestOtsuOfDouble(TestOtsu):
    image = SMOOTH * 1e-9 - 5


class TestOtsuOfWideIntegers(TestOtsu):
    image = (SMOOTH * 1e5).astype(np.int32) - 70_000


class TestPercentile(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(percentile=83.7)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": (self.image > np.percentile(self.image.astype(np.float64), 83.7)).astype(np.uint8)}


class TestPercentileOfFloat(TestPercentile):
    image = (SMOOTH - 0.5).astype(np.float32)


class TestPercentileOfDouble(TestPercentile):
    image = SMOOTH - 0.5


class TestHysteresis(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make(low=2200, high=3000)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": filters.apply_hysteresis_threshold(self.image, 2200, 3000).astype(np.uint8)}


class TestHysteresisBetweenFoundValues(OfImage):
    image = SMOOTH.astype(np.float32)

    @pytest.fixture
    def step(self) -> Step:
        return make(low="otsu", high={"percentile": 98})

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        high = np.percentile(self.image.astype(np.float64), 98)
        low = filters.threshold_otsu(self.image)
        return {"m": filters.apply_hysteresis_threshold(self.image, low, high).astype(np.uint8)}


def test_dark_objects() -> None:
    image = (SMOOTH * 255).astype(np.uint8)
    made = run_operation(make(value=100, objects="dark"), {"a": image}, (9, 9, 9), dtypes={"m": "bool"})
    np.testing.assert_array_equal(made["m"], image <= 100)


@settings(max_examples=60, deadline=None)
@given(
    image=st.sampled_from(["uint8", "int8", "uint16", "int16", "bool"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9))
    ),
    percentile=st.floats(0, 100),
)
def test_integers_give_the_very_numbers_of_the_libraries(image: Array, percentile: float) -> None:
    block = (4,) * image.ndim
    plain = image.view(np.uint8) if image.dtype == bool else image
    made = run_operation(make(method="otsu"), {"a": image}, block)
    expected = filters.threshold_otsu(plain[..., None] if plain.ndim > 2 else plain)
    assert made.facts == {"threshold": float(expected)}
    made = run_operation(make(percentile=percentile), {"a": image}, block)
    assert made.facts == {"threshold": float(np.percentile(plain.astype(np.int64), percentile))}


def test_a_percentile_between_far_apart_integers_does_not_wrap_around() -> None:
    image = np.array([[-1, 32767]], "int16")
    assert run_operation(make(percentile=50), {"a": image}, (1, 1)).facts == {"threshold": 16383.0}


@settings(max_examples=60, deadline=None)
@given(
    image=st.sampled_from(["uint32", "int64", "uint64", "float16", "float32", "float64"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
            elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False, allow_subnormal=False)
            if dtype.startswith("float")
            else st.integers(-(2**61), 2**61)  # beyond, numpy's own difference wraps around
            if dtype == "int64"
            else None,
        )
    ),
    percentile=st.sampled_from([0.0, 12.5, 50.0, 99.9, 100.0]),
)
def test_percentiles_are_exact_for_every_dtype(image: Array, percentile: float) -> None:
    made = run_operation(make(percentile=percentile), {"a": image}, (4, 4, 4))
    values = image.astype(np.float64) if image.dtype.kind == "f" else image
    with np.errstate(over="ignore", invalid="ignore"):
        expected = float(np.percentile(values, percentile))
    if np.isfinite(expected):
        assert made.facts == {"threshold": expected}


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32, allow_nan=False)))
def test_keys_sort_as_values(values: Array) -> None:
    keys = order_key(values)
    np.testing.assert_array_equal(np.sort(values), values[np.argsort(keys, kind="stable")])
    assert [value_of_key(int(k), values.dtype) for k in keys] == list(values)


@given(st.floats(-10, 300), hnp.arrays(np.float32, 20, elements=st.floats(-20, 300, width=32)))
def test_above_is_exact(threshold: float, values: Array) -> None:
    np.testing.assert_array_equal(above(values, threshold), values.astype(np.float64) > threshold)
    whole = np.clip(values, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(above(whole, threshold), whole.astype(np.float64) > threshold)


def test_above_where_rounding_would_cross() -> None:
    tenth = np.float32(0.1)
    assert float(tenth) > 0.1
    assert above(np.array([tenth]), 0.1).all()
    assert not above(np.array([300], np.uint16), 1e300).any()


def test_voxels_that_are_not_finite_are_left_out() -> None:
    image = SMOOTH.astype(np.float32)
    image[3, :4], image[5, 5, 5], image[6, 6, 6] = np.nan, np.inf, -np.inf
    seen = image[np.isfinite(image)]
    made = run_operation(make(), {"a": image}, (10, 10, 10))
    assert made.facts["threshold"] == float(filters.threshold_otsu(seen))
    assert not made["m"][3, :4].any()
    made = run_operation(make(percentile=70), {"a": image}, (10, 10, 10))
    assert made.facts["threshold"] == float(np.percentile(seen.astype(np.float64), 70))


@pytest.mark.parametrize("fields", [{}, {"percentile": 50}])
def test_no_finite_voxel_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="no voxel of the image is finite"):
        run_operation(make(**fields), {"a": np.full((4, 4, 4), np.nan, np.float32)}, (2, 4, 4))


def test_one_value_everywhere() -> None:
    for dtype in ("uint8", "int32", "float32"):
        made = run_operation(make(), {"a": np.full((6, 6, 6), 7, dtype)}, (4, 4, 4))
        assert made.facts == {"threshold": 7.0}
        assert not made["m"].any()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "fixed"}, "method fixed needs value"),
        ({"method": "hysteresis", "low": 3}, "method hysteresis needs high"),
        ({"value": 3, "percentile": 50}, "method fixed does not go with percentile"),
        ({"method": "otsu", "value": 3}, "method otsu does not go with value"),
        ({"low": 5, "high": 3}, "low: 5 is above high: 3"),
        ({"low": 3, "high": 5, "objects": "dark"}, "dark does not go with hysteresis"),
        ({"value": 3, "connectivity": 6}, "connectivity does not go with method fixed"),
        ({"percentile": 101}, "less than or equal to 100"),
        ({"value": float("nan")}, "finite"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)

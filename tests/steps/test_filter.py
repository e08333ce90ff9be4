"""Filters: to the bit what scipy makes of the whole array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from skimage.morphology import white_tophat

from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Patch, Step
from ndbatch.steps.filter import Filter
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 4000, (23, 34, 37), np.uint16)
SIZE = (0.5, 0.25, 0.2)


def make(method: str, **fields: Any) -> Filter:
    return Filter.model_validate({"input": "a", "output": "f", "method": method, **fields})


class OfImage(StepSuite):
    image: Array = IMAGE

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestGaussian(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make("gaussian", sigma=1.7)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": ndimage.gaussian_filter(self.image, 1.7, output=np.float32)}


class TestGaussianOfFloat(TestGaussian):
    image = RNG.normal(size=(22, 25, 28)).astype(np.float32)


class TestAnisotropicGaussian(OfImage):
    voxel_size = SIZE

    @pytest.fixture
    def step(self) -> Step:
        return make("gaussian", sigma="0.4 um", truncate=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        sigma = [0.4 / s for s in SIZE]
        return {"f": ndimage.gaussian_filter(self.image, sigma, output=np.float32, truncate=3.0)}


class TestDifferenceOfGaussians(OfImage):
    voxel_size = SIZE

    @pytest.fixture
    def step(self) -> Step:
        return make("dog", sigma=1.5)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        sigma = np.array([1.5 * 0.2 / s for s in SIZE])
        fine, coarse = (ndimage.gaussian_filter(self.image, s, output=np.float32) for s in (sigma, 1.6 * sigma))
        return {"f": fine - coarse}


class TestLaplacianOfGaussian(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make("log", sigma=1.5)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": ndimage.gaussian_laplace(self.image, 1.5, output=np.float32)}


class TestMedian(OfImage):
    voxel_size = (0.5, 0.2, 0.2)

    @pytest.fixture
    def step(self) -> Step:
        return make("median", radius="0.4 um")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": ndimage.median_filter(self.image, (3, 5, 5))}


class TestTophat(OfImage):
    @pytest.fixture
    def step(self) -> Step:
        return make("tophat", radius=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": white_tophat(self.image, np.ones((7, 7, 7)), mode="reflect")}


class TestTophatOfFloat(TestTophat):
    image = RNG.normal(size=(22, 25, 28))


class TestPlane(OfImage):
    axes = "yx"
    image = IMAGE[5]

    @pytest.fixture
    def step(self) -> Step:
        return make("tophat", radius=2)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": ndimage.white_tophat(self.image, (5, 5))}


class TestChannels(OfImage):
    """Time and channels are not smoothed, and their voxel size of 1 scales nothing."""

    axes = "tcyx"
    voxel_size = (1.0, 1.0, 3.0, 2.0)
    image = RNG.integers(0, 255, (2, 3, 26, 31), np.uint8)

    @pytest.fixture
    def step(self) -> Step:
        return make("gaussian", sigma=1.5)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"f": ndimage.gaussian_filter(self.image, (0, 0, 1.0, 1.5), output=np.float32)}


@pytest.mark.parametrize("fields", [
    {"method": "gaussian", "sigma": 1.3}, {"method": "dog", "sigma": 1.1}, {"method": "log", "sigma": 1.3},
    {"method": "median", "radius": 3}, {"method": "tophat", "radius": 3},
])  # fmt: skip
def test_the_halo_is_no_larger_than_needed(fields: dict[str, Any]) -> None:
    """The last voxel of the context still matters; that nothing beyond it does, the suite shows."""
    info = ArrayInfo(Box.of_shape((1, 1, 99)), np.dtype(np.float32), "zyx")
    operation = make(**fields).bind({"input": info}, {})
    reach = operation.halo[2]
    core = Box((0, 0, 50), (1, 1, 51))
    box = core.grow((0, 0, reach))
    # Half the line is bright: the box of an opening just fits, half the voxels of a median are bright.
    bright, shorter = np.zeros((2, *box.shape), np.float32)
    bright[..., reach:] = shorter[..., reach:-1] = 1
    results = [operation.apply({"input": Patch(a, box)}, core, Block(0, core), {})["output"] for a in (bright, shorter)]
    assert results[0] != results[1]


@pytest.mark.parametrize("dtype", ["bool", "float16", "int8", "uint32", "float64"])
@pytest.mark.parametrize("method", ["gaussian", "median", "tophat"])
def test_every_dtype(dtype: str, method: str) -> None:
    image = RNG.integers(0, 2, (9, 12, 11)).astype(dtype)
    step = make(method, sigma=1.0) if method == "gaussian" else make(method, radius=1)
    made = run_operation(step, {"a": image}, (4, 5, 6), dtypes=None if method == "gaussian" else {"f": "float32"})
    whole = image.astype(np.float32)
    expected = {
        "gaussian": lambda: ndimage.gaussian_filter(whole, 1.0),
        "median": lambda: ndimage.median_filter(whole, 3),
        "tophat": lambda: ndimage.white_tophat(whole, (3, 3, 3)),
    }[method]()
    np.testing.assert_array_equal(made["f"], expected)


def test_output_dtypes() -> None:
    made = run_operation(make("gaussian", sigma=1), {"a": IMAGE}, (20, 20, 20), dtypes={"f": "uint16"})
    np.testing.assert_array_equal(made["f"], np.rint(ndimage.gaussian_filter(IMAGE, 1, output=np.float32)))
    with pytest.raises(StepError, match=r"f: the value .* does not fit uint8"):
        run_operation(make("gaussian", sigma=1), {"a": IMAGE}, (20, 20, 20), dtypes={"f": "uint8"})


@pytest.mark.parametrize(
    ("fields", "dtype", "words"),
    [
        ({"method": "gaussian", "sigma": "1 um"}, "uint8", "the volume has no voxel size"),
        ({"method": "gaussian", "sigma": "much"}, "uint8", "sigma: 'much' is not a length"),
        ({"method": "gaussian", "sigma": -1}, "uint8", "sigma: -1 is not above 0"),
        ({"method": "dog", "sigma": 2, "high_sigma": 1}, "uint8", "high_sigma 1 is not above sigma 2"),
        ({"method": "median", "radius": 0.4}, "uint8", "changes nothing"),
        ({"method": "tophat", "radius": 3}, "uint64", "put a copy step before it"),
        ({"method": "gaussian", "sigma": 1}, "complex64", "use integers or floating point"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], dtype: str, words: str) -> None:
    info = ArrayInfo(Box.of_shape((4, 4, 4)), np.dtype(dtype), "zyx")
    with pytest.raises(PlanError, match=words):
        make(**fields).bind({"input": info}, {})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "gaussian"}, "method gaussian needs sigma"),
        ({"method": "median", "sigma": 2}, "method median needs radius"),
        ({"method": "tophat", "sigma": 2, "radius": 2}, "takes radius, not sigma"),
        ({"method": "log", "sigma": 2, "high_sigma": 3}, "high_sigma goes with method dog"),
        ({"method": "blur"}, "Input should be"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)

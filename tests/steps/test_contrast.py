"""Contrast: scikit-image's stretch and gamma, and CLAHE held against a plain computation and against scikit-image."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from skimage import exposure

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.contrast.clahe import Tiling
from ndbatch.steps.contrast.step import Contrast
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(31)
SMOOTH = ndimage.gaussian_filter(RNG.normal(size=(16, 32, 32)), 2.0)
SMOOTH = (SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)
IMAGE = (SMOOTH * 9000 + 100).astype(np.uint16)


def make(**fields: Any) -> Contrast:
    return Contrast.model_validate({"input": "a", "output": "c", **fields})


class OfImage(StepSuite):
    image: Array = IMAGE

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestStretch(OfImage):
    rtol, atol = 0.0, 1.0  # scikit-image truncates where ndbatch rounds

    @pytest.fixture
    def step(self) -> Step:
        return make(low=1, high=99)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        ends = tuple(np.percentile(self.image, [1, 99]))
        return {"c": exposure.rescale_intensity(self.image, in_range=ends, out_range="dtype")}


class TestGammaBySlice(OfImage):
    dtypes: ClassVar[dict[str, str]] = {"c": "float32"}
    rtol, atol = 1e-6, 1e-6

    @pytest.fixture
    def step(self) -> Step:
        return make(gamma=0.5, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        planes = []
        for plane in self.image.astype(np.float64):
            ends = tuple(np.percentile(plane, [0.35, 99.65]))
            planes.append(exposure.adjust_gamma(exposure.rescale_intensity(plane, ends, (0, 1)), 0.5))
        return {"c": np.stack(planes).astype(np.float32)}


def plain_clahe(image: Array, tiles: tuple[int, ...], limit: float, bins: int = 256) -> Array:
    """CLAHE of one array, tile after tile and corner after corner, in float64."""
    wide = image.astype(np.float64)
    span = np.ptp(wide)
    level = np.clip(np.floor((wide - wide.min()) / span * bins), 0, bins - 1).astype(int)
    edges = [np.arange(n + 1) * extent // n for n, extent in zip(tiles, image.shape, strict=True)]
    curves = np.empty((*tiles, bins))
    for tile in np.ndindex(tiles):
        part = level[tuple(slice(e[k], e[k + 1]) for e, k in zip(edges, tile, strict=True))]
        counts = np.bincount(part.ravel(), minlength=bins).astype(float)
        most = limit * part.size
        low, high = 0.0, part.size  # what every bin is given, by bisection
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if np.minimum(counts + middle, most).sum() < part.size else (low, middle)
        curves[tile] = np.cumsum(np.minimum(counts + high, most) if counts.max() > most else counts) / part.size
    places = [
        np.interp(np.arange(extent), (e[:-1] + e[1:] - 1) / 2, np.arange(n))
        for e, n, extent in zip(edges, tiles, image.shape, strict=True)
    ]
    grids = np.meshgrid(*places, indexing="ij")
    result = np.zeros(image.shape)
    for corner in np.ndindex((2,) * image.ndim):
        index, weight = [], 1.0
        for place, side, n in zip(grids, corner, tiles, strict=True):
            lower = np.floor(place).astype(int)
            index.append(np.minimum(lower + side, n - 1))
            weight = weight * (place - lower if side else 1 - (place - lower))
        result += weight * curves[(*index, level)]
    return result


class TestEqualised(OfImage):
    dtypes: ClassVar[dict[str, str]] = {"c": "float64"}
    rtol, atol = 0.0, 2e-6

    @pytest.fixture
    def step(self) -> Step:
        return make(method="clahe", tile=8, clip_limit=0.02)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"c": plain_clahe(self.image, (2, 4, 4), 0.02)}


class TestEqualisedExactly(OfImage):
    """Blocks against one block, to the bit."""

    image = IMAGE[:, :29, :27].astype(np.float32)

    @pytest.fixture
    def step(self) -> Step:
        return make(method="clahe", tile=7, low=1, high=99, gamma=1.2)


class TestEqualisedBySlice(OfImage):
    voxel_size = (1.0, 0.5, 0.5)
    dtypes: ClassVar[dict[str, str]] = {"c": "float32"}
    rtol, atol = 0.0, 2e-6

    @pytest.fixture
    def step(self) -> Step:
        return make(method="clahe", tile="5 um", per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"c": np.stack([plain_clahe(plane, (3, 3), 0.01) for plane in self.image]).astype(np.float32)}


class TestTimesAndChannels(OfImage):
    axes = "tczyx"
    image = RNG.integers(0, 255, (2, 2, 6, 13, 12), np.uint8)

    @pytest.fixture
    def step(self) -> Step:
        return make(method="clahe", tile=5)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = np.empty_like(self.image)
        for place in np.ndindex(2, 2):
            result[place] = run_operation(make(method="clahe", tile=5), {"a": self.image[place]}, (6, 13, 12))["c"]
        return {"c": result}


def test_local_contrast_is_that_of_scikit_image() -> None:
    """Its tiles lie half a voxel elsewhere, and it computes in 2^14 whole levels."""
    plane = ndimage.gaussian_filter(RNG.random((96, 120)), 3)
    step = make(method="clahe", tile=24, clip_limit=0.02)
    made = run_operation(step, {"a": plane}, (50, 50))["c"]
    made = (made - made.min()) / np.ptp(made)
    theirs = exposure.equalize_adapthist(plane, kernel_size=24, clip_limit=0.02)
    assert np.abs(made - theirs).mean() < 0.02
    assert np.corrcoef(made.ravel(), theirs.ravel())[0, 1] > 0.995


def test_tiles_fill_the_volume() -> None:
    tiling = Tiling.near(Box((5, 0), (105, 7)), (30.0, 9.0))
    assert tiling.counts == (3, 1)
    assert tiling.edges(0).tolist() == [5, 38, 71, 105]
    assert tiling.halo == (52, 7)


def test_halo_is_flat_by_slice() -> None:
    info = ArrayInfo(Box.of_shape((64, 256, 256)), np.dtype("uint8"), "zyx")
    assert make(method="clahe", tile=32, per="slice").bind({"input": info}, {}).halo == (0, 49, 49)


def test_one_value_and_what_is_not_finite() -> None:
    for method in ("stretch", "clahe"):
        flat = run_operation(make(method=method), {"a": np.full((6, 6, 6), 9, np.uint8)}, (4, 4, 4))["c"]
        assert len(np.unique(flat)) == 1
    image = SMOOTH.astype(np.float32)
    image[3, 3, 3] = np.nan
    assert np.isfinite(run_operation(make(method="clahe", tile=8), {"a": image}, (8, 24, 20))["c"]).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tile": 8}, "tile go with method clahe"),
        ({"low": 99.9, "high": 10}, r"low: 99\.9 is not below high: 10"),
        ({"gamma": 0}, "greater than 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)


def test_wide_integers_are_refused() -> None:
    with pytest.raises(PlanError, match="use at most 32 bits"):
        run_operation(make(), {"a": IMAGE.astype(np.uint64)}, IMAGE.shape)

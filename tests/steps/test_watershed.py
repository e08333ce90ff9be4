"""Watershed: scikit-image's on the whole array, in blocks too where objects are no larger than promised."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.watershed import Watershed
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(91)
SHAPE = (20, 34, 33)


def blobs(shape: tuple[int, ...], number: int) -> tuple[Array, Array, Array]:
    """Return a mask of balls, some of which touch, an image that is darkest in their middle, and a seed in each."""
    where = np.indices(shape)
    centres = np.array([RNG.integers(3, n - 3, number) for n in shape]).T
    away = np.min([np.sqrt(((where.T - c).T ** 2).sum(axis=0)) for c in centres], axis=0)
    mask = away < 3.2
    pieces = ndimage.label(mask)[0]
    for number, part in enumerate(ndimage.find_objects(pieces), 1):
        if max(s.stop - s.start for s in part) > 14:
            mask[part][pieces[part] == number] = False  # larger than the bound of the tests
    seeds = np.zeros(shape, np.uint64)
    seeds[tuple(centres.T)] = RNG.permutation(len(centres)).astype(np.uint64) * np.uint64(2**44) + np.uint64(7)
    return mask.astype(np.uint8), (away * 100 + RNG.random(shape) * 30).astype(np.uint16), seeds * mask


MASK, IMAGE, SEEDS = blobs(SHAPE, 34)


def make(**fields: Any) -> Watershed:
    return Watershed.model_validate({"output": "w", "size": 14, **fields})


def flooded(surface: Array, seeds: Array, mask: Array, connectivity: int = 1) -> Array:
    ids, numbers = np.unique(np.append(seeds.ravel(), 0), return_inverse=True)
    small = numbers[:-1].reshape(seeds.shape).astype(np.int32)
    return ids[watershed(surface, small, connectivity=connectivity, mask=mask > 0)].astype(seeds.dtype)


class TestFromSeeds(StepSuite):
    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"i": IMAGE, "s": SEEDS, "m": MASK}

    @pytest.fixture
    def step(self) -> Step:
        return make(image="i", seeds="s", mask="m")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"w": flooded(IMAGE, SEEDS, MASK)}


class TestBrightOverCorners(TestFromSeeds):
    @pytest.fixture
    def step(self) -> Step:
        return make(image="i", seeds="s", mask="m", bright=True, connectivity=18)

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"i": 6000 - IMAGE, "s": SEEDS, "m": MASK}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        corners = ndimage.label(MASK, ndimage.generate_binary_structure(3, 2))[0]
        assert max(s.stop - s.start for part in ndimage.find_objects(corners) for s in part) <= 14
        return {"w": flooded(IMAGE.astype(float), SEEDS, MASK, 2)}


def by_distance(mask: Array, spacing: int, size: tuple[float, ...] = (1, 1, 1)) -> Array:
    """The whole array: deepest voxels, the first of equals, and their floods."""
    depth = ndimage.distance_transform_edt(mask, sampling=size).astype(np.float32)
    lower = np.where(mask > 0, -depth, np.inf)
    z, y, x = np.ogrid[tuple(slice(-spacing, spacing + 1) for _ in range(3))]
    ball = z**2 + y**2 + x**2 <= spacing**2
    lowest = (lower == ndimage.minimum_filter(lower, footprint=ball, mode="constant", cval=np.inf)) & (mask > 0)
    numbers = np.where(lowest, np.arange(1, mask.size + 1, dtype=np.float64).reshape(mask.shape), np.inf)
    first = ndimage.minimum_filter(numbers, footprint=ball, mode="constant", cval=np.inf)
    seeds = np.where(lowest & (numbers == first), numbers, 0).astype(np.uint64)
    return flooded(-depth, seeds, mask)


class TestByDistance(StepSuite):
    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"m": MASK}

    @pytest.fixture
    def step(self) -> Step:
        return make(mask="m", spacing=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"w": by_distance(MASK, 3)}


class TestBySlice(StepSuite):
    """Blocks against one block."""

    voxel_size: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.5)

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"m": MASK}

    @pytest.fixture
    def step(self) -> Step:
        return make(mask="m", spacing="1.1 um", size="7 um", per="slice")


def test_times_and_channels_never_mix() -> None:
    masks = np.stack([np.stack([MASK[:10, :16, :15], MASK[10:, 18:, 18:]])] * 2)
    made = run_operation(make(mask="m", spacing=3), {"m": masks}, (1, 1, 5, 8, 8), axes="tczyx")["w"]
    for place in np.ndindex(2, 2):
        one = run_operation(make(mask="m", spacing=3), {"m": masks[place]}, masks[place].shape)["w"]
        number = np.uint64((place[0] * 2 + place[1]) * one.size)
        np.testing.assert_array_equal(made[place], np.where(one > 0, one + number, 0))


def test_seeds_are_the_peaks_that_scikit_image_finds() -> None:
    plain = ndimage.gaussian_filter(RNG.random((24, 24)), 2)
    made = run_operation(make(image="i", spacing=3, bright=True), {"i": plain}, (24, 24))["w"]
    peaks = peak_local_max(plain, footprint=np.hypot(*np.ogrid[-3:4, -3:4]) <= 3, exclude_border=False, min_distance=1)
    assert {int(made[tuple(p)]) for p in peaks} == {int(y * 24 + x + 1) for y, x in peaks}
    assert len(np.unique(made)) == len(peaks)


def test_what_it_promises_is_said() -> None:
    info = ArrayInfo(Box.of_shape((40, 40, 40)), np.dtype("uint8"), "zyx", (1.0, 0.5, 0.5))
    operation = make(mask="m", spacing="2 um", size="10 um").bind({"mask": info}, {})
    assert not operation.block_independent
    assert "more than 10 um" in operation.caveat
    assert operation.halo == (10 + 4 + 6, 20 + 8 + 11, 20 + 8 + 11)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seeds": "s"}, "nothing says what is flooded"),
        ({"image": "i"}, "give seeds"),
        ({"image": "i", "seeds": "s", "spacing": 3}, "one of them"),
        ({"mask": "m", "spacing": 3, "bright": True}, "bright says how image"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match="m is float64; mask is made of integers"):
        run_operation(make(mask="m", spacing=3), {"m": MASK.astype(float)}, MASK.shape)
    with pytest.raises(PlanError, match="holds ids"):
        run_operation(make(mask="m", spacing=3), {"m": MASK}, MASK.shape, dtypes={"w": "float32"})

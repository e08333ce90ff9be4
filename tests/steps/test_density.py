"""`density` against scipy over whole arrays, and the block-independence suite."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import ndimage

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.density import Density
from ndbatch.tables.counting import Counts
from ndbatch.testing.steps import StepSuite, run_operation


def objects(shape: Shape = (24, 40, 50), count: int = 90) -> Array:
    """Return boxes of labels that overwrite each other, some of them in two pieces, and single voxels."""
    rng = np.random.default_rng(5)
    labels = np.zeros(shape, np.uint32)
    for label in rng.permutation(np.arange(1, count + 1)) * 7:
        corner = [rng.integers(0, n) for n in shape]
        labels[tuple(slice(c, c + rng.integers(1, 9)) for c in corner)] = label
    labels[0, 0, 0] = labels[-1, -1, -1] = 5
    return labels


def expected(labels: Array, factors: Shape, sigma: tuple[float, ...]) -> Array:
    """Return the map by scipy's own centres of mass and its filter over the whole array."""
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, [i for i in np.unique(labels) if i]))
    counts = np.zeros(tuple(-(-n // f) for n, f in zip(labels.shape, factors, strict=True)))
    np.add.at(counts, tuple(np.floor((centres + 0.5) / factors).astype(int).T), 1)
    return np.asarray(ndimage.gaussian_filter(counts, sigma), np.float32)


class TestCounts(StepSuite):
    """Not smoothed."""

    windows: ClassVar[Shape] = (3, 5, 5)
    voxel_size: ClassVar[tuple[float, ...]] = (5.0, 3.0, 3.0)
    kinds: ClassVar[dict[str, Kind]] = {"labels": Kind.LABELS}

    @pytest.fixture
    def step(self) -> Step:
        return Density(labels="labels", voxel_size="15 um", output="map")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"labels": objects()}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Any]:
        return {"map": expected(arrays["labels"], (3, 5, 5), (0, 0, 0))}


class TestSmoothed(TestCounts):
    """Along z the kernel reaches beyond the whole volume, and is mirrored at both ends; still the same to the bit."""

    @pytest.fixture
    def step(self) -> Step:
        return Density(labels="labels", voxel_size="15 um", smooth="24 um", output="map")

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Any]:
        return {"map": expected(arrays["labels"], (3, 5, 5), (1.6, 1.6, 1.6))}


@pytest.mark.parametrize("smooth", [None, "9 um", "200 um"])
def test_total_is_the_number_of_objects(smooth: str | None) -> None:
    labels = objects()
    step = Density(labels="labels", voxel_size="10 um", smooth=smooth, output="map")
    made = run_operation(step, {"labels": labels}, (10, 11, 12), voxel_size=(2.0, 1.0, 1.0), dtypes={"map": "float64"})
    number = len(np.unique(labels)) - 1
    assert made.facts == {"objects": number}
    assert made["map"].sum() == pytest.approx(number, rel=1e-12)
    assert made["map"].min() >= 0


def test_bind_declares_the_map() -> None:
    info = ArrayInfo(Box.of_shape((3, 1, 40, 41)), np.dtype(np.uint8), "tzyx", (1.0, 4.0, 2.0, 2.5), Kind.LABELS)
    operation = Density(labels="a", voxel_size="20 um", output="b").bind({"labels": info}, {})
    made = operation.arrays["output"]
    # Neither frames nor an axis of one voxel are made coarser.
    assert operation.scale == (1, 1, 10, 8)
    assert (made.domain.shape, made.voxel_size) == ((3, 1, 4, 6), (1.0, 4.0, 20.0, 20.0))
    assert made.dtype == np.float32
    assert made.kind is Kind.IMAGE


def test_frames_are_not_mixed() -> None:
    labels = np.zeros((2, 8, 8, 8), np.uint8)
    labels[0, :2, :2, :2], labels[1, 6:, 6:, 6:] = 1, 2
    step = Density(labels="labels", voxel_size=4, smooth=2, output="map")
    made = run_operation(step, {"labels": labels}, (1, 4, 8, 8), axes="tzyx")["map"]
    assert made.sum(axis=(1, 2, 3)) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("keys", "dtype", "size", "said"),
    [
        ({"voxel_size": "50 um"}, "float32", (1.0,) * 3, "told apart by whole numbers"),
        ({"voxel_size": "1.2 um"}, "uint8", (1.0,) * 3, "not larger than the voxels"),
        ({"voxel_size": "50 um"}, "uint8", None, "has no voxel size"),
        ({"voxel_size": "wide"}, "uint8", (1.0,) * 3, "is not a length"),
        ({"voxel_size": 4, "smooth": -1}, "uint8", None, "is not above 0"),
    ],
)
def test_refusals(keys: dict[str, Any], dtype: str, size: tuple[float, ...] | None, said: str) -> None:
    info = ArrayInfo(Box.of_shape((30, 30, 30)), np.dtype(dtype), "zyx", size, Kind.LABELS)
    with pytest.raises(PlanError, match=said):
        Density(labels="a", output="b", **keys).bind({"labels": info}, {})


def test_any_box_gives_the_same_bits() -> None:
    rng = np.random.default_rng(2)
    domain = Box((-4, 3), (60, 75))
    counts = Counts.of(rng.integers((-6, 0), (62, 80), (500, 2)), domain, (2.3, 0.7))
    whole = counts.within(domain)
    assert whole.sum() == pytest.approx(counts.total)
    assert counts.total < 500
    for _ in range(30):
        ends = np.sort(rng.integers(domain.start, domain.stop, (2, 2)), axis=0)
        box = Box(tuple(ends[0].tolist()), tuple((ends[1] + 1).tolist()))
        np.testing.assert_array_equal(counts.around(box).within(box), whole[box.slices(domain.start)])

"""Expanded labels: every label compared with every voxel, ties included, and scikit-image where there are none."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import expand_labels

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import Step
from ndbatch.steps.expand import ExpandLabels
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(71)
SEEDS = np.zeros((18, 26, 27), np.uint32)
SEEDS[tuple(RNG.integers(0, n, 60) for n in SEEDS.shape)] = RNG.permutation(60) * 977 + 5


def make(**fields: Any) -> ExpandLabels:
    return ExpandLabels.model_validate({"input": "a", "output": "e", **fields})


def expanded(labels: Array, distance: str, sizes: tuple[str, ...]) -> Array:
    """In fractions: the nearest label within the distance, of equally near ones the smallest."""
    squares = [Fraction(s) ** 2 for s in sizes]
    unit = np.lcm.reduce([s.denominator for s in squares])
    weights = np.array([int(s * unit) for s in squares])
    limit = Fraction(distance) ** 2 * int(unit)
    seeds = np.argwhere(labels)
    ids = labels[labels != 0]
    order = np.argsort(ids, kind="stable")
    seeds, ids = seeds[order], ids[order]
    result = labels.copy()
    holes = np.argwhere(labels == 0)
    if len(ids) and len(holes):
        away = sum(w * np.subtract.outer(h, t) ** 2 for w, h, t in zip(weights, holes.T, seeds.T, strict=True))
        nearest = away.argmin(axis=1)  # the first of the smallest, whose id is the smallest
        near = away[np.arange(len(holes)), nearest] <= int(limit)
        result[tuple(holes[near].T)] = ids[nearest[near]]
    return result


class OfLabels(StepSuite):
    image: Array = SEEDS
    kinds: ClassVar[dict[str, Kind]] = {"a": Kind.LABELS}

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestCubes(OfLabels):
    @pytest.fixture
    def step(self) -> Step:
        return make(distance=5)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"e": expanded(self.image, "5", ("1", "1", "1"))}


class TestWideIds(TestCubes):
    image = np.where(SEEDS > 0, SEEDS.astype(np.uint64) * np.uint64(2**45 + 1), np.uint64(0))


class TestAnisotropic(OfLabels):
    voxel_size = (1.24, 0.29, 0.33)

    @pytest.fixture
    def step(self) -> Step:
        return make(distance="1.5 um")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"e": expanded(self.image, "1.5", ("1.24", "0.29", "0.33"))}


class TestBySlice(OfLabels):
    @pytest.fixture
    def step(self) -> Step:
        return make(distance=4.5, per="slice")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"e": np.stack([expanded(plane, "4.5", ("1", "1")) for plane in self.image])}


class TestTimesAndChannels(OfLabels):
    axes = "tczyx"
    image = np.stack([np.stack([SEEDS[:9, :12, :10], SEEDS[9:, 3:15, 3:13]])] * 2)

    @pytest.fixture
    def step(self) -> Step:
        return make(distance=3)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"e": np.stack([np.stack([expanded(v, "3", ("1",) * 3) for v in time]) for time in self.image])}


def test_but_for_ties_it_is_scikit_image() -> None:
    made = run_operation(make(distance=7), {"a": SEEDS}, (9, 9, 9))["e"]
    theirs = expand_labels(SEEDS, 7)
    np.testing.assert_array_equal(made > 0, theirs > 0)
    for label in np.unique(made[made != theirs]):
        away, others = (ndimage.distance_transform_edt(mask) for mask in (label != SEEDS, SEEDS == 0))
        np.testing.assert_array_equal(away[made == label], others[made == label])


FEW = st.integers(0, 40).map(lambda n: n % 9 if n < 12 else 0)


@settings(max_examples=100, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=7), elements=FEW),
    distance=st.sampled_from(["1", "1.5", "2.2361", "4"]),
    sizes=st.lists(st.sampled_from(["1", "0.5", "2", "0.2"]), min_size=3, max_size=3),
    block=st.integers(1, 4),
)
def test_any_labels_in_any_blocks(labels: Array, distance: str, sizes: list[str], block: int) -> None:
    size = tuple(sizes[: labels.ndim])
    assume(min(map(float, size)) <= float(distance))
    made = run_operation(
        make(distance=f"{distance} um"), {"a": labels}, (block,) * labels.ndim, voxel_size=tuple(map(float, size))
    )
    np.testing.assert_array_equal(made["e"], expanded(labels, distance, size))


def test_distance_below_a_voxel_is_refused() -> None:
    with pytest.raises(PlanError, match="reaches no neighbouring voxel"):
        run_operation(make(distance="0.1 um"), {"a": SEEDS}, SEEDS.shape, voxel_size=(0.5, 0.2, 0.2))

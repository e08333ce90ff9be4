"""Erosion, dilation, opening and closing: scikit-image's for images, label by label for labels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import morphology

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Patch, Step
from ndbatch.steps.extremes import Element, extreme
from ndbatch.steps.morphology import Close, Dilate, Erode, Morphology, Open
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(21)
IMAGE = RNG.integers(0, 60000, (21, 26, 29), np.uint16)
SPOTS = ndimage.gaussian_filter(RNG.normal(size=(22, 30, 31)), 1.6)
LABELS = ndimage.label(SPOTS > 0.04)[0].astype(np.uint32)
LABELS *= np.uint32(7919)  # ids with gaps, in another order than the raster's below
STEPS = {"erode": Erode, "dilate": Dilate, "open": Open, "close": Close}
GREY = {
    "erode": morphology.erosion, "dilate": morphology.dilation, "open": morphology.opening, "close": morphology.closing,
}  # fmt: skip


def make(kind: str, **fields: Any) -> Morphology:
    return STEPS[kind].model_validate({"input": "a", "output": "m", **fields})


class OfArray(StepSuite):
    action: ClassVar[str] = "open"
    image: Array = IMAGE

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestBall(OfArray):
    fields: ClassVar[dict[str, Any]] = {"radius": 3}
    footprint: Array = morphology.ball(3)

    @pytest.fixture
    def step(self) -> Step:
        return make(self.action, **self.fields)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": GREY[self.action](self.image, self.footprint)}


class TestErodedBox(TestBall):
    action = "erode"
    fields: ClassVar[dict[str, Any]] = {"radius": 4, "shape": "box"}
    footprint = np.ones((9, 9, 9), np.uint8)


class TestClosedBoxOfFloat(TestBall):
    action = "close"
    image = RNG.normal(size=(20, 21, 22)).astype(np.float32)
    fields: ClassVar[dict[str, Any]] = {"radius": 2, "shape": "box"}
    footprint = np.ones((5, 5, 5), np.uint8)


class TestAnisotropicBall(TestBall):
    action = "dilate"
    voxel_size = (0.5, 0.2, 0.2)
    fields: ClassVar[dict[str, Any]] = {"radius": "1 um"}
    z, y, x = np.ogrid[-2:3, -5:6, -5:6]
    footprint = ((z * 0.5) ** 2 + (y * 0.2) ** 2 + (x * 0.2) ** 2 <= 1 + 1e-9).astype(np.uint8)


class TestBySlice(TestBall):
    action = "close"
    fields: ClassVar[dict[str, Any]] = {"radius": 2, "per": "slice"}
    footprint = morphology.disk(2)[None]


class TestMask(TestBall):
    image = LABELS
    fields: ClassVar[dict[str, Any]] = {"radius": 2, "mode": "binary"}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": morphology.opening((self.image > 0).astype(np.uint8), morphology.ball(2))}


def by_label(action: str, labels: Array, footprint: Array) -> Array:
    """Each label by itself with scikit-image; where several come, the smallest id."""
    if action == "close":
        grown = by_label("dilate", labels, footprint)
        return np.where(labels != 0, labels, by_label("erode", grown, footprint))
    result = np.zeros_like(labels)
    for one in np.unique(labels)[1:]:
        there = GREY[action]((labels == one).astype(np.uint8), footprint) > 0
        result[there & (result == 0)] = one
    return np.where(labels != 0, labels, result) if action == "dilate" else result


class OfLabels(TestBall):
    image = LABELS
    kinds: ClassVar[dict[str, Kind]] = {"a": Kind.LABELS}
    fields: ClassVar[dict[str, Any]] = {"radius": 2}
    footprint = morphology.ball(2)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"m": by_label(self.action, self.image, self.footprint)}


class TestErodedLabels(OfLabels):
    action = "erode"
    fields: ClassVar[dict[str, Any]] = {"radius": 1}
    footprint = morphology.ball(1)


class TestDilatedLabels(OfLabels):
    action = "dilate"


class TestOpenedLabels(OfLabels):
    action = "open"


class TestClosedLabels(OfLabels):
    action = "close"


class TestDilatedWideLabels(OfLabels):
    action = "dilate"
    image = LABELS.astype(np.uint64) + np.where(LABELS > 0, np.uint64(2**63 + 1), np.uint64(0))


class TestTimesAndChannels(OfArray):
    axes = "tczyx"
    image = RNG.integers(0, 200, (2, 3, 6, 9, 8), np.uint8)

    @pytest.fixture
    def step(self) -> Step:
        return make("open", radius=1)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = np.empty_like(self.image)
        for place in np.ndindex(2, 3):
            result[place] = morphology.opening(self.image[place], morphology.ball(1))
        return {"m": result}


@settings(max_examples=60, deadline=None)
@given(
    image=st.sampled_from(["uint8", "int64", "uint64", "bool"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=8))
    ),
    radii=st.lists(st.floats(0.1, 3.4) | st.just(0.0), min_size=3, max_size=3),
    shape=st.sampled_from(["ball", "box"]),
    smallest=st.booleans(),
)
def test_extremes_are_those_of_every_window(image: Array, radii: list[float], shape: Any, smallest: bool) -> None:
    element = Element(tuple(radii[: image.ndim]), shape)
    box = Box.of_shape(image.shape)
    made = extreme(Patch(image, box), box, element, smallest)
    everywhere = np.indices(image.shape).reshape(image.ndim, -1).T
    for here in everywhere:
        off = np.abs(everywhere - here)
        if shape == "box":
            near = (off <= element.reach).all(axis=1)
        else:
            part = [np.where(d == 0, 0, d / r if r else np.inf) for d, r in zip(off.T, element.radii, strict=True)]
            near = np.sum(np.square(part), axis=0) <= 1 + 1e-9
        values = image.reshape(-1)[near]
        assert made[tuple(here)] == (values.min() if smallest else values.max())


def test_smallest_id_wins_where_two_labels_meet() -> None:
    labels = np.array([[9, 0, 0, 0, 4, 0, 0, 9]], np.int64)
    made = run_operation(make("dilate", radius=2), {"a": labels}, (1, 3), kinds={"a": Kind.LABELS})["m"]
    np.testing.assert_array_equal(made, [[9, 9, 4, 4, 4, 4, 4, 9]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"radius 0\.4 reaches no neighbouring voxel"):
        run_operation(make("erode", radius=0.4), {"a": IMAGE}, IMAGE.shape)
    with pytest.raises(PlanError, match="neither a mask nor labels"):
        run_operation(make("erode", radius=1, mode="labels"), {"a": IMAGE.astype(np.float32)}, IMAGE.shape)


def test_halo_is_what_the_element_reaches() -> None:
    info = ArrayInfo(Box.of_shape((9, 9, 9)), np.dtype("uint8"), "zyx", (0.5, 0.2, 0.2))
    assert make("erode", radius="1 um").bind({"input": info}, {}).halo == (2, 5, 5)
    assert make("open", radius="1 um").bind({"input": info}, {}).halo == (4, 10, 10)

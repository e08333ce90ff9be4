"""Masking: by an array, by labels, by boxes; kept or cleared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.mask import Mask
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(4)
IMAGE = RNG.integers(1, 60000, (18, 22, 25), np.uint16)
LABELS = RNG.integers(0, 6, IMAGE.shape).astype(np.uint64) * 10**12


class TestByLabels(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return Mask(input="image", mask="labels", labels=(10**12, 3 * 10**12, -4), output="out", fill=7)

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": IMAGE, "labels": LABELS}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": np.where((LABELS == 10**12) | (LABELS == 3 * 10**12), IMAGE, 7).astype(np.uint16)}


class TestCleared(TestByLabels):
    """What is inside the mask is cleared."""

    @pytest.fixture
    def step(self) -> Step:
        return Mask(input="image", mask="labels", output="out", mode="clear")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": np.where(LABELS != 0, 0, IMAGE).astype(np.uint16)}


@pytest.mark.parametrize("block", [(18, 22, 25), (5, 7, 9)])
def test_boxes_and_a_mask_together(block: tuple[int, ...]) -> None:
    boxes: Any = ({"z": (2, 9), "x": ("2 um", "5 um")}, {"y": (20, 40)})
    step = Mask(input="image", mask="labels", boxes=boxes, output="out")
    made = run_operation(step, {"image": IMAGE, "labels": LABELS}, block, voxel_size=(1.0, 0.5, 0.5), offset=(-1, 2, 0))
    inside = LABELS != 0
    inside[3:10, :, 4:10] = True
    inside[:, 18:] = True
    np.testing.assert_array_equal(made["out"], np.where(inside, IMAGE, 0))


def test_labels_of_the_input_itself() -> None:
    made = run_operation(Mask(input="a", labels=(2 * 10**12, 2**70), output="b"), {"a": LABELS}, (9, 9, 9))["b"]
    np.testing.assert_array_equal(made, np.where(LABELS == 2 * 10**12, LABELS, 0))
    assert made.dtype == np.uint64


def test_nan_fills_floating_point() -> None:
    made = run_operation(
        Mask(input="a", mask="m", output="b", fill=float("nan")), {"a": np.ones((4, 4)), "m": np.eye(4)}, (2, 4)
    )
    np.testing.assert_array_equal(np.isnan(made["b"]), np.eye(4) == 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"boxes": ({"q": (0, 1)},)}, "a box names 'q'; the axes are z, y, x"),
        ({"boxes": ({"z": (3, 3)},)}, "is empty"),
        ({"boxes": ({"z": (0.5, 3)},)}, "0.5 is not a whole voxel"),
        ({"boxes": ({"z": ("1 um", "2 um")},)}, "no voxel size"),
        ({"mask": "m", "fill": 1.5}, "1.5 is not a value of uint16"),
        ({"mask": "m", "fill": -1}, "-1.* does not fit uint16"),
        ({"mask": "f", "labels": (1,)}, "f is float32; labels are found in integers alone"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], words: str) -> None:
    arrays = {"a": IMAGE, "m": LABELS, "f": IMAGE.astype(np.float32)}
    with pytest.raises(PlanError, match=words):
        run_operation(Mask(input="a", output="b", **fields), arrays, IMAGE.shape)


def test_something_must_be_inside() -> None:
    with pytest.raises(ValidationError, match="give mask, labels or boxes"):
        Mask(input="a", output="b")

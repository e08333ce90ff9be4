"""Axes t and c are stacks: each step makes of every volume along them what it makes of that volume alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.arithmetic.step import Arithmetic
from ndbatch.steps.base import Step
from ndbatch.steps.components.step import Components
from ndbatch.steps.copy import Copy
from ndbatch.steps.filter import Filter
from ndbatch.steps.mask import Mask
from ndbatch.steps.measure.step import Measure
from ndbatch.steps.threshold import Threshold
from ndbatch.testing.steps import run_operation

IMAGE = np.random.default_rng(2).integers(0, 250, (2, 3, 9, 12, 11), np.uint8)
PLACES = [(t, c) for t in range(IMAGE.shape[0]) for c in range(IMAGE.shape[1])]
BLOCKS = [IMAGE.shape, (1, 2, 5, 12, 6)]

STEPS: list[Step] = [
    Copy(input="image", output="made"),
    Filter(input="image", output="made", sigma=1.3),
    Filter(input="image", output="made", method="dog", sigma=1.0),
    Filter(input="image", output="made", method="log", sigma=1.0),
    Filter(input="image", output="made", method="median", radius=1),
    Filter(input="image", output="made", method="tophat", radius=2),
    Threshold(input="image", output="made", method="fixed", value=200),
    Arithmetic(expression="sqrt(a) > 10", inputs={"a": "image"}, output="made"),
    Mask(input="image", output="made", boxes=({"z": (1, 4), "x": (0, 9)},), fill=3),
]


@pytest.mark.parametrize("block", BLOCKS, ids=["whole", "parts"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.kind}-{getattr(step, 'method', '')}")
def test_each_volume_is_as_it_were_alone(step: Step, block: tuple[int, ...]) -> None:
    made = run_operation(step, {"image": IMAGE}, block, axes="tczyx")["made"]
    for place in PLACES:
        alone = run_operation(step, {"image": IMAGE[place]}, IMAGE.shape[2:])["made"]
        np.testing.assert_array_equal(made[place], alone, err_msg=str(place))


@pytest.mark.parametrize("block", BLOCKS, ids=["whole", "parts"])
def test_objects_do_not_reach_into_another_time_or_channel(block: tuple[int, ...]) -> None:
    mask = (IMAGE > 150).astype(np.uint8)
    kinds = {"mask": Kind.LABELS}
    made = run_operation(Components(input="mask", output="ids"), {"mask": mask}, block, axes="tczyx", kinds=kinds)[
        "ids"
    ]
    seen: set[int] = set()
    for place in PLACES:
        alone = run_operation(
            Components(input="mask", output="ids"), {"mask": mask[place]}, mask.shape[2:], kinds=kinds
        )["ids"]
        assert _same_parts(made[place], alone)
        own = set(np.unique(made[place]).tolist()) - {0}
        assert not own & seen
        seen |= own


def _same_parts(a: Array, b: Array) -> bool:
    """Return whether two label arrays cut the voxels alike, whatever the ids."""
    pairs = {(int(x), int(y)) for x, y in np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).T}
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


def test_objects_are_measured_where_they_are() -> None:
    labels = np.zeros(IMAGE.shape, np.uint32)
    for number, place in enumerate(PLACES, 1):
        labels[place][2:4, 3:5, 3:7] = number
    step = Measure(labels="labels", intensity="image", output="table")
    fields: dict[str, Any] = {"axes": "tczyx", "kinds": {"labels": Kind.LABELS}}
    table = run_operation(step, {"labels": labels, "image": IMAGE}, BLOCKS[1], **fields)["table"]
    assert table["voxels"].to_pylist() == [16] * len(PLACES)
    expected = [IMAGE[place][2:4, 3:5, 3:7].mean() for place in PLACES]
    np.testing.assert_allclose(table["intensity_mean"].to_numpy(), expected)

"""Steps of images and labels take no more memory than they declare: noise, in which everything is at its worst."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndbatch.geometry import Block, Box, Grid
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Patch
from ndbatch.steps.registry import step_class

RNG = np.random.default_rng(101)
SHAPE = (80, 100, 110)
NOISE = RNG.integers(0, 2**16, SHAPE, np.uint16)
MASK = (RNG.random(SHAPE) < 0.72).astype(np.uint8)
LABELS = (RNG.integers(0, 2**40, SHAPE) * (RNG.random(SHAPE) < 0.6)).astype(np.uint64)
MOST = 5 * 2**20
"""Bytes that do not grow with the block: slabs and tables."""

CASES: list[tuple[str, dict[str, Any], Array]] = [
    ("normalize", {"method": "zscore"}, NOISE),
    ("normalize", {"per": "slice"}, NOISE.astype(np.float32)),
    ("contrast", {}, NOISE),
    ("contrast", {"method": "clahe", "tile": 16}, NOISE),
    ("contrast", {"method": "clahe", "tile": 64, "bins": 1024}, NOISE),
    ("background", {"radius": 4}, NOISE),
    ("background", {"radius": 4, "shape": "ball", "keep": "background"}, NOISE.astype(np.float32)),
    ("background", {"radius": 2, "method": "gaussian"}, NOISE),
    ("background", {"radius": 2, "method": "rolling_ball"}, NOISE),
    ("erode", {"radius": 2}, NOISE),
    ("open", {"radius": 3, "shape": "box"}, NOISE),
    ("close", {"radius": 2, "mode": "binary"}, LABELS),
    ("erode", {"radius": 1}, LABELS),
    ("dilate", {"radius": 2}, LABELS),
    ("close", {"radius": 1}, LABELS),
    ("fill", {"size": 6}, MASK),
    ("fill", {"size": 6}, LABELS),
    ("distance", {"limit": 5, "signed": True}, MASK),
    ("distance", {"limit": 5, "to": "boundary"}, LABELS),
    ("expand_labels", {"distance": 3}, LABELS),
    ("expand_labels", {"distance": 3}, LABELS.astype(np.uint16)),
    ("relabel", {"random": 1}, LABELS),
    ("relabel", {"map": {5: 6}, "missing": "zero"}, LABELS),
    ("watershed", {"size": 6, "spacing": 2}, MASK),
]


@pytest.mark.parametrize(("kind", "fields", "image"), CASES, ids=[f"{k}-{n}" for n, (k, _, _) in enumerate(CASES)])
def test_no_more_than_declared(kind: str, fields: dict[str, Any], image: Array, tmp_path: Path) -> None:
    role = "mask" if kind == "watershed" else "input"
    step = step_class(kind).model_validate({role: "a", "output": "b", **fields})
    domain = Box.of_shape(SHAPE)
    meaning = Kind.IMAGE if image.dtype.kind == "f" or image.dtype == np.uint16 else Kind.LABELS
    operation = step.bind({role: ArrayInfo(domain, image.dtype, "zyx", kind=meaning)}, {})
    inputs, block = {role: Patch(image, domain)}, Block(0, domain)
    states: dict[str, Any] = {}
    peaks = []
    for own in operation.passes:
        payload, peak = _measured(lambda own=own: own.map(inputs, block, states))  # type: ignore[misc]
        state = own.reduce([(block, payload)], Grid.over(domain, SHAPE), tmp_path)
        states[own.name] = state.select(block, domain)
        peaks.append(peak)
    made, peak = _measured(lambda: operation.apply(inputs, domain, block, states))
    peaks.append(peak - sum(array.nbytes for array in made.values()))
    assert max(peaks) <= operation.working_bytes * image.size + MOST, max(peaks) / image.size


def _measured(call: Any) -> tuple[Any, int]:
    call()  # what is imported and kept at the first call does not count
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

"""Connected components: whatever the blocks, the ids of the whole array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import measure

from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.components.labelling import Adjacency, extents, label, marked, relabel
from ndbatch.steps.components.merge import roots
from ndbatch.steps.components.step import Components
from ndbatch.testing.steps import StepSuite, run_operation

DATA = Path(__file__).parents[2].parent / "shared/data/em_fib25_medulla/fib25_250.h5"
RNG = np.random.default_rng(3)
NOISE = RNG.random((24, 33, 29)) < 0.25
PATCHWORK = np.kron(RNG.integers(0, 4, (8, 9, 10)), np.ones((3, 4, 3), int)).astype(np.uint32)


def whole(array: Array, rank: int) -> Array:
    """Label the whole array as scikit-image does: equal nonzero values connect; ids in raster order."""
    labels: Array = measure.label(array, connectivity=rank, background=0)
    found, first = np.unique(labels, return_index=True)
    ids = np.zeros(int(labels.max()) + 1, np.uint32)
    # scikit-image leaves the raster order where an axis has one voxel.
    ids[found[found > 0][np.argsort(first[found > 0])]] = np.arange(1, 1 + np.count_nonzero(found))
    numbered: Array = ids[labels]
    return numbered


class TestMask26(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return Components(input="mask", output="ids")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"mask": NOISE.astype(np.uint8) * 7}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"ids": ndimage.label(NOISE, np.ones((3, 3, 3)))[0].astype(np.uint32)}


class TestMask18(TestMask26):
    @pytest.fixture
    def step(self) -> Step:
        return Components(input="mask", connectivity=18, output="ids")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"ids": ndimage.label(NOISE, ndimage.generate_binary_structure(3, 2))[0].astype(np.uint32)}


class TestMask6To64Bit(TestMask26):
    dtypes = {"ids": "uint64"}  # noqa: RUF012

    @pytest.fixture
    def step(self) -> Step:
        return Components(input="mask", connectivity=6, output="ids")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"ids": ndimage.label(NOISE)[0].astype(np.uint64)}


class TestLabels(StepSuite):
    kinds = {"seg": Kind.LABELS}  # noqa: RUF012

    @pytest.fixture(params=[6, 18, 26])
    def neighbours(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def step(self, neighbours: int) -> Step:
        return Components.model_validate({"input": "seg", "connectivity": neighbours, "output": "ids"})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"seg": PATCHWORK}

    @pytest.fixture
    def reference(self, neighbours: int) -> dict[str, Any]:
        return {"ids": whole(PATCHWORK, {6: 1, 18: 2, 26: 3}[neighbours])}


class TestDust(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return Components(input="mask", connectivity=6, dust=5, output="ids")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"mask": NOISE}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        labels = ndimage.label(NOISE)[0]
        kept = np.bincount(labels.ravel()) >= 5
        kept[0] = False
        return {"ids": np.where(kept, np.cumsum(kept), 0)[labels].astype(np.uint32)}


class TestPlane(StepSuite):
    axes = "yx"

    @pytest.fixture
    def step(self) -> Step:
        return Components(input="mask", connectivity=4, output="ids")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"mask": RNG.random((70, 61)) < 0.5}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Any]:
        return {"ids": ndimage.label(arrays["mask"])[0].astype(np.uint32)}


class TestChannels(StepSuite):
    """Time points and channels never connect."""

    axes = "tcyx"

    @pytest.fixture
    def step(self) -> Step:
        return Components(input="mask", output="ids")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"mask": RNG.random((3, 2, 40, 31)) < 0.3}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Any]:
        structure = np.zeros((3, 3, 3, 3))
        structure[1, 1] = 1
        return {"ids": ndimage.label(arrays["mask"], structure)[0].astype(np.uint32)}


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 3)),
    block=st.tuples(*[st.integers(1, 5)] * 3),
    rank=st.integers(1, 3),
    binary=st.booleans(),
)
@example(array=np.array([[[0, 0, 0, 0, 1, 0, 1]]], np.uint16), block=(1, 1, 4), rank=3, binary=True)
def test_any_blocks_of_anything(array: Array, block: tuple[int, int, int], rank: int, binary: bool) -> None:
    connectivity = {1: 6, 2: 18, 3: 26}[rank]
    step = Components.model_validate(
        {"input": "a", "connectivity": connectivity, "multilabel": not binary, "output": "b"}
    )
    made = run_operation(step, {"a": array}, block)
    expected = whole(array != 0 if binary else array, rank)
    np.testing.assert_array_equal(made["b"], expected)
    assert made.facts == {"components": expected.max()}


def test_region_knows_nothing_of_what_connects_outside() -> None:
    bridge = np.ones((6, 6, 6), np.uint8)
    bridge[3:, :3], bridge[:3, 2:4] = 0, 0
    region = Box((0, 0, 0), (3, 6, 6))
    made = run_operation(Components(input="a", output="b"), {"a": bridge}, (2, 2, 2), region=region)
    np.testing.assert_array_equal(made["b"], whole(bridge[:3], 3))


def test_facts_tell_what_was_removed() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[0, 0, 0], mask[4:6, 4:6, 4:6] = 1, 1
    made = run_operation(Components(input="a", dust=8, output="b"), {"a": mask}, (5, 5, 5))
    assert made.facts == {"components": 1, "dust removed": 1}


def test_too_many_components_are_refused_with_the_dtype_that_holds_them() -> None:
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[::2, ::2, ::2] = 1
    with pytest.raises(PlanError, match="1000 components do not fit into b, which is uint8; set dtype: uint16"):
        run_operation(Components(input="a", output="b"), {"a": mask}, (7, 7, 7), dtypes={"b": "uint8"})


@pytest.mark.parametrize(
    ("fields", "dtype", "axes", "asked", "words"),
    [
        ({"connectivity": 8}, "uint8", "zyx", {}, "connectivity: 8 does not fit the axes zyx; use 6 or 18 or 26"),
        ({"connectivity": 26}, "uint8", "yx", {}, "does not fit the axes yx; use 4 or 8"),
        ({}, "float32", "zyx", {}, "put a threshold step before it"),
        ({}, "uint8", "zyx", {"output": np.dtype("float32")}, "b holds ids, which float32 does not"),
    ],
)
def test_what_does_not_fit_is_refused(
    fields: dict[str, Any], dtype: str, axes: str, asked: dict[str, Any], words: str
) -> None:
    info = ArrayInfo(Box.of_shape((4,) * len(axes)), np.dtype(dtype), axes)
    with pytest.raises(PlanError, match=words):
        Components.model_validate({"input": "a", "output": "b", **fields}).bind({"input": info}, asked)


def test_an_input_that_changes_between_looks_is_noticed() -> None:
    info = ArrayInfo(Box.of_shape((4, 4, 4)), np.dtype(np.uint8), "zyx")
    operation = Components(input="a", output="b").bind({"input": info}, {})
    from ndbatch.geometry import Block
    from ndbatch.steps.base import Patch

    patch = Patch(np.ones((4, 4, 4), np.uint8), info.domain)
    with pytest.raises(StepError, match="1 components where the first look found 2"):
        operation.apply({"input": patch}, info.domain, Block(0, info.domain), {"join": np.array([1, 2], np.uint32)})


@pytest.mark.parametrize(("name", "connectivity", "expected"), [
    ("bodies", 26, 554), ("bodies", 18, 554), ("bodies", 6, 559), ("supervoxels", 6, 3337), ("supervoxels", 26, 3337),
])  # fmt: skip
def test_real_segmentation(name: str, connectivity: int, expected: int) -> None:
    if not DATA.exists():
        pytest.skip(f"no real segmentation at {DATA}")
    import h5py

    with h5py.File(DATA) as file:
        array = file[name][:]
    step = Components.model_validate({"input": "seg", "connectivity": connectivity, "output": "ids"})
    made = run_operation(step, {"seg": array}, (64, 100, 128), kinds={"seg": Kind.LABELS})
    assert made.facts == {"components": expected}
    assert len(np.unique(made["ids"][made["ids"] > 0])) == expected


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 19)))
def test_roots_are_the_smallest_node_that_can_be_reached(edges: Array) -> None:
    reach = np.eye(20, dtype=bool)
    for a, b in edges:
        reach[a, b] = reach[b, a] = True
    for _ in range(5):
        reach = reach @ reach
    np.testing.assert_array_equal(roots(20, edges), reach.argmax(axis=1))


def test_local_numbers() -> None:
    labels, count = label(NOISE.view(np.uint8), Adjacency(0, 1, True))
    sizes, first = extents(labels, count)
    np.testing.assert_array_equal(sizes, np.bincount(labels.ravel())[1:])
    np.testing.assert_array_equal(first, np.unique(labels, return_index=True)[1][1:])
    assert (np.diff(first) > 0).all()
    mask = RNG.random(NOISE.shape) < 0.01
    np.testing.assert_array_equal(np.flatnonzero(marked(labels, count, mask)) + 1, np.unique(labels[mask & NOISE]))
    values = RNG.integers(0, 9, count).astype(np.uint16)
    np.testing.assert_array_equal(relabel(labels, values), np.append(values, 0)[labels.astype(int) - 1])

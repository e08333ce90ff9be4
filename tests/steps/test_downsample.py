"""`downsample` and `project` against numpy over windows written out, and the block-independence suite."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Patch, Step
from ndbatch.steps.downsample import Downsample, Project, isotropic_factors
from ndbatch.steps.pooling import Pooling, pool
from ndbatch.testing.steps import StepSuite, run_operation

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
METHODS: tuple[Pooling, ...] = ("mean", "mode", "median", "min", "max", "stride")


def mean(values: Array) -> Any:
    if values.dtype.kind == "f":
        return values.astype(np.float64).mean()
    total, count = sum(map(int, values)), values.size
    quotient, rest = divmod(total, count)
    return quotient + (2 * rest > count or (2 * rest == count and quotient % 2 == 1))


def mode(values: Array) -> Any:
    found, counts = np.unique(values, return_counts=True)
    often = [v for v in found[counts == counts.max()] if v != 0 or values.dtype.kind != "u"]
    return often[0] if often else 0


REFERENCE: dict[str, Callable[[Array], Any]] = {
    "mean": mean,
    "mode": mode,
    "median": lambda values: np.sort(values)[(values.size - 1) // 2],
    "min": np.min,
    "max": np.max,
    "stride": lambda values: values[0],
}


def whole(array: Array, start: Shape, factors: Shape, method: str) -> Array:
    """Return each window, counted from absolute 0, computed by itself in plain numpy."""
    box = Box.of_shape(array.shape, start)
    coarse = box.coarsened(factors)
    result = np.zeros(coarse.shape, array.dtype)
    for place in itertools.product(*(range(n) for n in coarse.shape)):
        corner = tuple(p + s for p, s in zip(place, coarse.start, strict=True))
        window = Box(corner, tuple(c + 1 for c in corner)).refined(factors).intersect(box)
        result[place] = REFERENCE[method](array[window.slices(start)].reshape(-1))
    return result


def noise(dtype: str, shape: Shape = (7, 9, 11), seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith("float"):
        return rng.normal(size=shape).astype(dtype)
    few = rng.integers(0, 4, shape)
    limits = np.iinfo(dtype)
    return np.array([0, limits.max, limits.max - 1, max(limits.min, -3)], dtype)[few]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("factors", "start"),
    [((2, 2, 2), (0, 0, 0)), ((1, 2, 3), (5, -3, 7)), ((3, 1, 2), (-4, 2, 1)), ((9, 4, 1), (2, 1, 0))],
)
def test_every_type_against_numpy(method: Pooling, dtype: str, factors: Shape, start: Shape) -> None:
    array = noise(dtype)
    patch = Patch(array, Box.of_shape(array.shape, start))
    got = pool(patch, patch.box.coarsened(factors), factors, method)
    assert got.dtype == array.dtype
    # The order of a sum is the library's own: float64 differs in the last bit.
    rtol = 1e-12 if (dtype, method) == ("float64", "mean") else 0
    np.testing.assert_allclose(got, whole(array, start, factors, method), rtol=rtol, atol=0)


@pytest.mark.parametrize("method", ["mean", "mode"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
@pytest.mark.parametrize("factors", [(1, 1, 1, 2, 2), (1, 2, 1, 1, 2), (2, 1, 2, 2, 1), (2, 2, 2, 2, 2)])
def test_pairs_along_any_axes(monkeypatch: pytest.MonkeyPatch, method: Pooling, dtype: str, factors: Shape) -> None:
    """Windows of one and of several values, of time and channels, in pieces of one window and of many."""
    monkeypatch.setattr("ndbatch.steps.pooling.SLAB", 100)
    array = np.repeat(np.repeat(noise(dtype, (2, 3, 3, 2, 4), 5), 3, 3), 2, 4)
    array[..., 1] = np.iinfo(dtype).max  # a sum of the largest there are
    patch = Patch(array, Box.of_shape(array.shape, (0, 1, 0, 0, 3)))
    got = pool(patch, patch.box.coarsened(factors), factors, method)
    np.testing.assert_array_equal(got, whole(array, patch.box.start, factors, method))


def test_sums_that_no_type_holds() -> None:
    largest, least = np.iinfo(np.uint64).max, np.iinfo(np.int64).min
    for array, expected in ((np.full((2, 2), largest, np.uint64), largest), (np.full((2, 2), least, np.int64), least)):
        patch = Patch(array, Box.of_shape(array.shape))
        assert pool(patch, Box((0, 0), (1, 1)), (2, 2), "mean").item() == expected


class TestMean(StepSuite):
    """An image, anisotropic."""

    windows: ClassVar[Shape] = (1, 2, 3)

    @pytest.fixture
    def step(self) -> Step:
        return Downsample(input="image", output="small", factors={"y": 2, "x": 3})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": np.random.default_rng(1).integers(0, 60000, (23, 31, 40), dtype=np.uint16)}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Array]:
        return {"small": whole(arrays["image"], (0, 0, 0), (1, 2, 3), "mean")}


class TestMeanOfFloat(StepSuite):
    """The sum of a window has one order, wherever blocks cut."""

    windows: ClassVar[Shape] = (2, 2, 2)

    @pytest.fixture
    def step(self) -> Step:
        return Downsample(input="image", output="small")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": np.random.default_rng(4).normal(size=(23, 31, 40)) * 1e3}


class TestMode(StepSuite):
    """Labels keep their ids."""

    windows: ClassVar[Shape] = (2, 2, 2)
    kinds: ClassVar[dict[str, Kind]] = {"labels": Kind.LABELS}

    @pytest.fixture
    def step(self) -> Step:
        return Downsample(input="labels", output="small")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        rng = np.random.default_rng(2)
        ids = np.array([0, 7, 2**63 + 5, 2**40], np.uint64)[rng.integers(0, 4, (8, 10, 9))]
        return {"labels": np.kron(ids, np.ones((3, 3, 3), np.uint64))[:23, :29, :26]}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Array]:
        return {"small": whole(arrays["labels"], (0, 0, 0), (2, 2, 2), "mode")}


class TestProjection(StepSuite):
    """The maximum along z, in blocks that span it."""

    windows: ClassVar[Shape] = (0, 1, 1)

    @pytest.fixture
    def step(self) -> Step:
        return Project(input="image", output="flat")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": np.random.default_rng(3).integers(0, 255, (19, 31, 40), dtype=np.uint8)}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Array]:
        return {"flat": arrays["image"].max(axis=0, keepdims=True)}


def test_time_and_channel_are_left_alone() -> None:
    image = noise("uint8", (2, 3, 8, 6))
    made = run_operation(Downsample(input="image", output="small"), {"image": image}, (1, 1, 4, 4), axes="tcyx")
    expected = [whole(plane, (0, 0), (2, 2), "mean") for plane in image.reshape(-1, 8, 6)]
    np.testing.assert_array_equal(made["small"], np.array(expected).reshape(2, 3, 4, 3))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, (2, 2, 2)),
        ((1.0, 1.0, 1.0), (2, 2, 2)),
        ((40.0, 4.0, 4.0), (1, 2, 2)),
        ((40.0, 32.0, 32.0), (2, 2, 2)),
        ((40.0, 16.0, 16.0), (1, 2, 2)),
        ((1.0, 2.0, 2.0), (2, 1, 1)),
    ],
)
def test_axes_of_longer_voxels_wait(size: tuple[float, ...] | None, expected: Shape) -> None:
    info = ArrayInfo(Box.of_shape((64, 64, 64)), np.dtype("uint8"), "zyx", size)
    assert isotropic_factors(info) == expected


def test_voxel_size_grows() -> None:
    info = ArrayInfo(Box.of_shape((8, 8, 8), (4, 4, 4)), np.dtype("uint8"), "zyx", (4.0, 1.0, 1.0))
    bound = Downsample(input="a", output="b").bind({"input": info}, {})
    made = bound.arrays["output"]
    assert (bound.scale, made.voxel_size, made.domain) == ((1, 2, 2), (4.0, 2.0, 2.0), Box((4, 2, 2), (12, 6, 6)))
    flat = Project(input="a", output="b", axis="z").bind({"input": info}, {}).arrays["output"]
    assert (flat.voxel_size, flat.domain.shape) == ((32.0, 1.0, 1.0), (1, 8, 8))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Downsample(input="a", output="b", factors={"c": 2}), "axis 'c': the array's axes are z, y, x"),
        (Downsample(input="a", output="b", factors={"y": 1}), "nothing to do"),
        (Project(input="a", output="b", axis="t"), "axis 't'"),
    ],
)
def test_refusals(step: Step, words: str) -> None:
    info = ArrayInfo(Box.of_shape((8, 8, 8)), np.dtype("uint8"), "zyx")
    with pytest.raises(PlanError, match=words):
        step.bind({"input": info}, {})

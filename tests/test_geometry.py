"""Boxes and grids, by property: tilings cover everything exactly once, and every shortcut agrees with counting."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.geometry import Block, Box, Grid, common_multiple

coordinates = st.integers(-20, 20)
dimensions = st.integers(1, 3)


@st.composite
def boxes(draw: Any, ndim: int | None = None, empty: bool = True) -> Box:
    count = draw(dimensions) if ndim is None else ndim
    start = [draw(coordinates) for _ in range(count)]
    return Box.of_shape([draw(st.integers(0 if empty else 1, 12)) for _ in range(count)], start)


@st.composite
def pairs(draw: Any) -> tuple[Box, Box]:
    first = draw(boxes())
    return first, draw(boxes(first.ndim))


@st.composite
def grids(draw: Any) -> Grid:
    bounds = draw(boxes(empty=False))
    block = [draw(st.integers(1, 7)) for _ in range(bounds.ndim)]
    origin = draw(st.none() | st.tuples(*[coordinates] * bounds.ndim))
    return Grid.over(bounds, block, origin)


def voxels(box: Box) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


@given(pairs())
def test_boxes_are_sets_of_voxels(pair: tuple[Box, Box]) -> None:
    a, b = pair
    common = a.intersect(b)
    assert voxels(common) == voxels(a) & voxels(b)
    assert all(stop >= start for start, stop in zip(common.start, common.stop, strict=True))
    assert a.contains(b) == (voxels(b) <= voxels(a))
    assert a.size == len(voxels(a))
    assert a.empty == (not voxels(a))


@given(boxes(), st.data())
def test_growing_shifting_and_slicing(box: Box, data: st.DataObject) -> None:
    by = data.draw(st.tuples(*[st.integers(0, 4)] * box.ndim))
    assert box.grow(by).grow([-n for n in by]) == box
    assert box.grow(by).contains(box)
    assert box.shift(by).shift([-n for n in by]) == box
    assert box.shift(by).shape == box.shape
    around = box.grow(by)
    array = np.zeros(around.shape)
    array[box.slices(around.start)] = 1
    assert array.sum() == box.size


@given(boxes(empty=False), st.data())
def test_alignment(box: Box, data: st.DataObject) -> None:
    step = data.draw(st.tuples(*[st.integers(1, 9)] * box.ndim))
    origin = data.draw(st.tuples(*[coordinates] * box.ndim))
    grown = box.aligned_to(step, origin)
    assert grown.contains(box)
    for a, b, g, h, s, o in zip(box.start, box.stop, grown.start, grown.stop, step, origin, strict=True):
        assert (g - o) % s == 0
        assert (h - o) % s == 0
        assert a - g < s
        assert h - b < s
    assert grown.aligned_to(step, origin) == grown


@given(grids())
def test_blocks_tile_exactly_once(grid: Grid) -> None:
    cores = [voxels(block.core) for block in grid]
    assert sum(map(len, cores)) == grid.bounds.size
    assert set().union(*cores) == voxels(grid.bounds)
    assert all(cores)
    assert [block.index for block in grid] == list(range(len(grid)))


@given(grids())
def test_blocks_are_whole_cells_inside(grid: Grid) -> None:
    for block in grid:
        assert block.core == block.core.aligned_to(grid.block, grid.origin).intersect(grid.bounds)
        assert all(n <= m for n, m in zip(block.core.shape, grid.block, strict=True))


@given(grids(), st.data())
def test_places_and_indices(grid: Grid, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(grid) - 1))
    assert grid.index(grid.position(index)) == index
    assert grid.position(index) == tuple(int(i) for i in np.unravel_index(index, grid.counts))
    voxel = data.draw(st.sampled_from(sorted(voxels(grid[index].core))))
    assert grid.containing(voxel) == index


@given(grids(), st.data())
def test_touching(grid: Grid, data: st.DataObject) -> None:
    box = data.draw(boxes(grid.bounds.ndim))
    expected = [block.index for block in grid if voxels(block.core) & voxels(box)]
    assert list(grid.touching(box)) == expected


@pytest.mark.parametrize("index", [-1, 8])
def test_there_is_no_such_block(index: int) -> None:
    grid = Grid.over(Box.of_shape((4, 4, 4)), (2, 2, 2))
    with pytest.raises(IndexError):
        grid[index]
    with pytest.raises(IndexError):
        grid.index((0, 0, index))


def test_what_is_no_grid_and_no_box() -> None:
    with pytest.raises(ValueError, match="extent below 1"):
        Grid.over(Box.of_shape((4, 4)), (0, 2))
    with pytest.raises(ValueError, match="2 start and 1 stop"):
        Box((0, 0), (1,))


def test_a_huge_grid_is_arithmetic() -> None:
    grid = Grid.over(Box.of_shape((10**6, 10**6, 10**6)), (64, 64, 64))
    assert len(grid) == 15625**3
    assert grid[len(grid) - 1] == Block(len(grid) - 1, Box.of_shape((64, 64, 64), (10**6 - 64,) * 3))
    assert len(list(grid.touching(Box.of_shape((65, 1, 1), (63, 0, 0))))) == 2


def test_an_empty_grid() -> None:
    grid = Grid.over(Box.of_shape((0, 5)), (2, 2))
    assert list(grid) == []
    assert list(grid.touching(Box.of_shape((9, 9)))) == []


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=3))
def test_common_multiple(shapes: list[tuple[int, int]]) -> None:
    common = common_multiple(shapes)
    assert all(c % n == 0 for shape in shapes for c, n in zip(common, shape, strict=True))
    assert common == tuple(int(np.lcm.reduce([shape[i] for shape in shapes])) for i in (0, 1))


def test_messages_name_the_axes() -> None:
    assert Box((0, 3), (64, 9)).describe("yx") == "y: [0, 64], x: [3, 9]"

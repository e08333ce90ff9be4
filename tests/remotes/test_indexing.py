"""Selecting voxels: as numpy where positions begin at 0, absolute where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.errors import PlanError
from ndbatch.remotes.base import ArraySpec
from ndbatch.remotes.indexing import select
from ndbatch.remotes.memory import MemoryVolume

SHAPE = (5, 7, 9)
DATA = np.arange(5 * 7 * 9).reshape(SHAPE)


def spec(offset: tuple[int, ...] = (0, 0, 0)) -> ArraySpec:
    return ArraySpec(SHAPE, np.dtype("int64"), "zyx", (4, 4, 4), offset=offset)


ends = st.none() | st.integers(-12, 12)
parts = st.integers(-5, 4) | st.builds(slice, ends, ends, st.none() | st.integers(1, 4))
keys = st.lists(parts, min_size=0, max_size=3).flatmap(
    lambda chosen: st.integers(0, len(chosen)).map(lambda at: (*chosen[:at], Ellipsis, *chosen[at:]))
)


@given(keys)
def test_it_is_numpy(key: tuple[Any, ...]) -> None:
    volume = MemoryVolume.of("indexing", DATA)
    found, expected = volume[key], DATA[key]
    assert np.shape(found) == np.shape(expected)
    assert np.array_equal(found, expected)


@given(st.tuples(*[st.integers(1, 30)] * 3), keys)
def test_positions_are_absolute(offset: tuple[int, ...], key: tuple[Any, ...]) -> None:
    """Shifting the volume and every position by the same amount selects the same voxels."""

    def moved(part: Any, by: int, extent: int) -> Any:
        if part is Ellipsis:
            return part
        if not isinstance(part, slice):
            return part % extent + by
        start, stop, step = part.indices(extent)
        return slice(start + by, max(start, stop) + by, step)

    at = key.index(Ellipsis)
    places = [*range(at), -1, *range(3 - (len(key) - at - 1), 3)]
    shifted = tuple(moved(p, offset[i], SHAPE[i]) for p, i in zip(key, places, strict=True))
    assert np.array_equal(MemoryVolume.of("moved", DATA, offset=offset)[shifted], DATA[key])


def test_names() -> None:
    box, drop, step = select(spec((10, 20, 30)), {"x": 31, "z": slice(11, 99, 2)})
    assert (box.start, box.stop) == ((11, 20, 31), (15, 27, 32))
    assert (drop, step) == ((False, False, True), (2, 1, 1))


def test_negative_positions_of_a_volume_that_begins_elsewhere() -> None:
    volume = MemoryVolume.of("negative", DATA, offset=(-3, 0, 2))
    assert np.array_equal(volume[-3], DATA[0])
    assert np.array_equal(volume[-1, -1], DATA[2, -1])
    assert volume[:, :, -5:1].shape == (5, 7, 0)
    with pytest.raises(PlanError, match=r"x=-1 lies outside the volume, which is \[2, 11\) along x"):
        volume[0, 0, -1]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (5, r"z=5 lies outside the volume, which is \[0, 5\) along z"),
        (-6, "z=-6 lies outside"),
        ((0, 0, 0, 0), "4 positions for a volume of 3 axes"),
        ((Ellipsis, 0, Ellipsis), "it may stand once"),
        (np.s_[::-1], "a step of -1 is not possible"),
        (np.s_[::0], "a step of 0 is not possible"),
        (1.5, "cannot select voxels by 1.5"),
        (None, "cannot select voxels by None"),
        ([1, 2], r"cannot select voxels by \[1, 2\]"),
        (True, "cannot select voxels by True"),
        (np.s_[1.5:], "cannot select voxels by 1.5"),
        ({"w": 3}, "axis 'w' is not one of z, y, x"),
    ],
)
def test_what_selects_nothing(key: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        select(spec(), key)

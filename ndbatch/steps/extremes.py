"""The smallest and largest values around every voxel: erosion and dilation of anything that can be compared, exactly.

What lies outside the volume is not looked at, which is the same as mirroring it, and what scikit-image does. Windows along
a line are doubled (van Herk's aim by another way: a window of 2^k voxels is two of half its length), so that their cost
grows with the logarithm of their length, runs at the speed of memory, and no dtype is converted on the way: 64-bit labels
stay exact, where scipy goes through float64.

A *ball* (an ellipsoid where voxels are not cubes) is a stack of lines along the last axis, of few different lengths: one
window for each length, then one comparison for each line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch

ElementShape = Literal["ball", "box"]
_NEARLY = 1e-9
"""Lengths are quotients of decimal numbers: a voxel on the surface of a ball belongs to it."""


@dataclass(frozen=True)
class Element:
    """A symmetric structuring element: all voxels within `radii` (voxels along each axis, 0 where it does not reach)."""

    radii: tuple[float, ...]
    shape: ElementShape

    @property
    def reach(self) -> Shape:
        """Voxels that it reaches along each axis: of a box the nearest whole number, of a ball those within it."""
        return tuple(int(r + 0.5) if self.shape == "box" else math.floor(r + _NEARLY) for r in self.radii)

    def lines(self) -> dict[int, list[Shape]]:
        """Return, by half length, where the lines along the last axis lie: offsets along the other axes."""
        *others, last = self.radii
        found: dict[int, list[Shape]] = {}
        for offset in product(*(range(-r, r + 1) for r in self.reach[:-1])):
            rest = 1 + _NEARLY - sum((d / r) ** 2 for d, r in zip(offset, others, strict=True) if d)
            if rest >= 0:
                found.setdefault(math.floor(last * math.sqrt(rest) + _NEARLY), []).append(offset)
        return found


def extreme(patch: Patch, box: Box, element: Element, smallest: bool) -> Array:
    """Return the smallest (or largest) value of `patch` within `element` around each voxel of `box`; the patch's dtype.

    `patch` must cover `box` grown by `element.reach`, clipped to the volume: what is not there is taken to be outside.
    bool, integers, floating point; NaN spreads to all that it is near to.
    """
    wanted = box.grow(element.reach)
    if element.shape == "box":
        data = patch.crop(wanted.intersect(patch.box))
        have = wanted.intersect(patch.box)
        for axis, radius in enumerate(element.reach):
            if radius:
                missing = have.start[axis] - wanted.start[axis], wanted.stop[axis] - have.stop[axis]
                data = window(_padded(data, axis, missing, smallest), axis, radius, smallest)
        return np.ascontiguousarray(data)
    return _over_lines(padded(patch, wanted, smallest), box.shape, element, smallest)


def padded(patch: Patch, box: Box, smallest: bool) -> Array:
    """Return a copy of `patch` on `box`; outside of it a value that no other is beaten by as smallest (or largest)."""
    result = np.full(box.shape, _neutral(patch.data.dtype, smallest))
    common = box.intersect(patch.box)
    result[common.slices(box.start)] = patch.crop(common)
    return result


def opened(patch: Patch, box: Box, element: Element, first: bool = True) -> Array:
    """Return the largest of the smallest values around each voxel of `box`; with `first` False the smallest of the largest.

    `patch` must cover `box` grown by twice `element.reach`, clipped to the volume.
    """
    middle = box.grow(element.reach).intersect(patch.box)
    return extreme(Patch(extreme(patch, middle, element, first), middle), box, element, not first)


def window(data: Array, axis: int, radius: int, smallest: bool) -> Array:
    """Return the smallest (or largest) of each 2 radius + 1 neighbours along `axis`, which is shorter by 2 radius then."""
    if radius == 0:
        return data
    pick = np.minimum if smallest else np.maximum
    width, length = 2 * radius + 1, 1
    extent = data.shape[axis] - 2 * radius
    while 2 * length <= width:
        data = pick(_part(data, axis, 0, -length), _part(data, axis, length, None))
        length *= 2
    rest = width - length
    result: Array = pick(_part(data, axis, 0, extent), _part(data, axis, rest, rest + extent))
    return result


def _over_lines(data: Array, shape: Shape, element: Element, smallest: bool) -> Array:
    """Return the extremes over a stack of lines; `data` is larger than `shape` by the element's reach at every end."""
    pick = np.minimum if smallest else np.maximum
    reach = element.reach
    result = np.full(shape, _neutral(data.dtype, smallest))
    for half, offsets in element.lines().items():
        near = _part(data, -1, reach[-1] - half, data.shape[-1] - (reach[-1] - half))
        along = window(near, data.ndim - 1, half, smallest)
        for offset in offsets:
            at = tuple(slice(r + d, r + d + n) for r, d, n in zip(reach, offset, shape, strict=False))
            pick(result, along[at], out=result)
    return result


def _part(data: Array, axis: int, start: int, stop: int | None) -> Array:
    keep = [slice(None)] * data.ndim
    keep[axis] = slice(start, stop)
    return data[tuple(keep)]


def _padded(data: Array, axis: int, missing: tuple[int, int], smallest: bool) -> Array:
    """Return `data` with so many neutral voxels before and after it along `axis`."""
    if not any(missing):
        return data
    shape = list(data.shape)
    shape[axis] += sum(missing)
    result = np.full(shape, _neutral(data.dtype, smallest))
    _part(result, axis, missing[0], missing[0] + data.shape[axis])[...] = data
    return result


def _neutral(dtype: np.dtype[Any], smallest: bool) -> np.generic:
    """Return the value of `dtype` that no other is beaten by."""
    value: float
    if dtype.kind == "f":
        value = np.inf if smallest else -np.inf
    elif dtype.kind == "b":
        value = smallest
    else:
        value = np.iinfo(dtype).max if smallest else np.iinfo(dtype).min
    neutral: np.generic = dtype.type(value)
    return neutral

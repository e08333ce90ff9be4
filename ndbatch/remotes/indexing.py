"""Numpy-like selection of voxels by absolute position, or by axis name."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import ArraySpec

Selection = tuple[Box, tuple[bool, ...], tuple[int, ...]]


def select(spec: ArraySpec, key: Any) -> Selection:
    """Return the box that `key` selects, which axes it drops, and the step along each.

    `key` is what numpy's basic indexing takes (integers, slices, Ellipsis, a tuple of them), in absolute voxels, or a
    mapping from axis names. Slices are clipped to the volume as numpy does; negative positions count from the end where
    the axis begins at 0. Raises PlanError for integers outside, steps below 1, unknown axes, and anything else.
    """
    parts = _named(spec, key) if isinstance(key, Mapping) else _positional(spec, key)
    start, stop, drop, step = [], [], [], []
    for axis, part, low, extent in zip(spec.axes, parts, spec.offset, spec.shape, strict=True):
        high = low + extent
        if isinstance(part, slice):
            a, b, s = _slice(axis, part, low, high)
        else:
            a = _position(axis, part, low, high)
            b, s = a + 1, 1
        start.append(a)
        stop.append(b)
        drop.append(not isinstance(part, slice))
        step.append(s)
    return Box(tuple(start), tuple(stop)), tuple(drop), tuple(step)


def _named(spec: ArraySpec, key: Mapping[str, Any]) -> list[Any]:
    unknown = [name for name in key if name not in spec.axes]
    if unknown:
        raise PlanError(f"axis {unknown[0]!r} is not one of {', '.join(spec.axes)}")
    return [_checked(key.get(axis, slice(None))) for axis in spec.axes]


def _positional(spec: ArraySpec, key: Any) -> list[Any]:
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise PlanError(f"{len(dots)} times ... in a selection; it may stand once")
    if len(parts) - len(dots) > spec.ndim:
        raise PlanError(f"{len(parts) - len(dots)} positions for a volume of {spec.ndim} axes ({', '.join(spec.axes)})")
    at = dots[0] if dots else len(parts)
    tail = parts[at + 1 :]
    fill = [slice(None)] * (spec.ndim - at - len(tail))
    return [_checked(part) for part in [*parts[:at], *fill, *tail]]


def _checked(part: Any) -> Any:
    """Return a slice as one of integers and None, and anything like an integer as an int."""
    if isinstance(part, slice):
        return slice(*(None if value is None else _integer(value) for value in (part.start, part.stop, part.step)))
    return _integer(part)


def _integer(value: Any) -> int:
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise PlanError(f"cannot select voxels by {value!r}; use integers, slices and ...")


def _position(axis: str, value: int, low: int, high: int) -> int:
    place = value + high if value < 0 and low == 0 else value
    if not low <= place < high:
        raise PlanError(f"{axis}={value} lies outside the volume, which is [{low}, {high}) along {axis}")
    return place


def _slice(axis: str, part: slice, low: int, high: int) -> tuple[int, int, int]:
    step = 1 if part.step is None else part.step
    if step < 1:
        raise PlanError(f"{axis}: a step of {step} is not possible; read the voxels and flip the array")
    ends = []
    for value, default in ((part.start, low), (part.stop, high)):
        place = default if value is None else value
        place = place + high if place < 0 and low == 0 else place
        ends.append(min(max(place, low), high))
    return ends[0], max(ends), step

"""A ball that rolls under the surface that the intensities make (Sternberg, Biomedical image processing, 1983).

The background of a voxel is as high as the top of the ball, under it, can rise: the smallest of all values within the ball,
each with what the ball's surface lacks there to its top. These are the numbers of `skimage.restoration.rolling_ball`.
All voxels of the ball at one height are compared before that is added, in the image's own dtype and some voxels at a time,
which takes a fraction of the time. What lies outside the volume is not looked at.
"""

from __future__ import annotations

import math
from itertools import product
from operator import add

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.extremes import Element, padded

SLAB = 1 << 17
"""Voxels that are computed together: they stay in the cache while the ball's voxels are gone through."""


def ball_top(patch: Patch, box: Box, element: Element, height: float) -> Array:
    """Return float64 of `box`: how high the top of the ball `element` rises, whose radius in intensities is `height`.

    `patch` (integers of up to 32 bits, floating point) must cover `box` grown by `element.reach`, clipped to the volume.
    """
    data = padded(patch, box.grow(element.reach), smallest=True)
    shells = _shells(element, height)
    result = np.full(box.shape, np.inf)
    rows = max(1, SLAB * box.shape[0] // max(1, box.size))
    for begin in range(0, box.shape[0], rows):
        out = result[begin : begin + rows]
        near = data[begin : begin + len(out) + 2 * element.reach[0]]
        for lack, offsets in shells.items():
            smallest = _smallest(near, out.shape, [tuple(map(add, element.reach, o)) for o in offsets])
            np.minimum(out, smallest + np.float64(lack), out=out)
    return result


def _smallest(data: Array, shape: Shape, starts: list[Shape]) -> Array:
    """Return the smallest values of the boxes of `shape` in `data` that begin at `starts`."""
    boxes = [data[Box.of_shape(shape, start).slices()] for start in starts]
    result = boxes[0].copy()
    for values in boxes[1:]:
        np.minimum(result, values, out=result)
    return result


def _shells(element: Element, height: float) -> dict[float, list[Shape]]:
    """Return the ball's voxels by what its surface lacks there to its top."""
    shells: dict[float, list[Shape]] = {}
    for offset in product(*(range(-r, r + 1) for r in element.reach)):
        part = sum((d / r) ** 2 for d, r in zip(offset, element.radii, strict=True) if d)
        if part <= 1 + 1e-9:
            shells.setdefault(height - height * math.sqrt(max(0.0, 1 - part)), []).append(offset)
    return shells

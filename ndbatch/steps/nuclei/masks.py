"""Masks of nuclei: every voxel above half of the height of the nearest nucleus, within reach of it.

A voxel's label follows from the image within `fine_halo` of it and from the nuclei within `reach` of it, so that any
block makes it alike, and labels need no merging across blocks. Arrays are C-order (z, y, x), or (y, x); `diameter` is in
voxels, axis by axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.nuclei.detection import Points, border_level

REACH = 0.9
"""No mask extends further than this many diameters from its seed."""


def reach(diameter: Sequence[float]) -> Shape:
    """Return how far, in voxels, a mask may extend from its seed."""
    return tuple(int(REACH * d) for d in diameter)


def label_masks(
    fine: Array, box: Box, nuclei: Points, ids: Array, diameter: Sequence[float], dtype: np.dtype[np.generic]
) -> Array:
    """Return the labels of `box`, 0 outside masks.

    `fine` is `smooth`ed and covers `box`. `nuclei` are all within `reach` of the box, in ascending order of `ids`, int64;
    of nuclei equally near, the first gets the voxel.
    """
    extent = reach(diameter)
    axes = np.meshgrid(*(np.arange(-e, e + 1) / d for e, d in zip(extent, diameter, strict=True)), indexing="ij")
    template = np.sum([a * a for a in axes], axis=0).astype(np.float32)
    template[template >= REACH * REACH] = np.inf
    nearest = np.full(box.shape, np.float32(np.inf))
    owner = np.zeros(box.shape, np.int32)
    for row, voxel in enumerate(nuclei.voxel, start=1):
        window = Box(tuple(int(v) for v in voxel), tuple(int(v) + 1 for v in voxel)).grow(extent)
        common = window.intersect(box)
        if common.empty:
            continue
        place = common.slices(box.start)
        distance = template[common.slices(window.start)] - nuclei.radius[row - 1] ** 2
        closer = distance < nearest[place]
        np.copyto(nearest[place], distance, where=closer)
        np.copyto(owner[place], row, where=closer)
    limit = np.concatenate([np.array([np.inf], np.float32), border_level(nuclei.inside, nuclei.outside)])
    owner[fine <= limit[owner]] = 0
    return np.concatenate([[0], ids]).astype(dtype)[owner]

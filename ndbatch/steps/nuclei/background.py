"""Evening out an image before nuclei are looked for: its noise alone, or its background too, plane by plane.

Light-sheet and block-face images of whole brains have bright and dim regions, and planes of different exposure. There an image is
divided by its background: the median around every voxel within its own plane, over a window of a few diameters.

    even = sqrt((image - floor + pedestal) / (background - floor + pedestal))

The pedestal keeps the empty space around the tissue from counting as tissue. The medians are those of the means of small
cells, whose lattice belongs to the volume, linearly interpolated: every block has the same bits, and the noise of the background
is well below that of the image (single voxels in place of means made false nuclei of it).

Arrays are C-order (z, y, x), or (y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.nuclei.survey import Level, above_floor, stabilise

STEP = 0.75
"""The side of a cell, in diameters."""
WINDOW = 3
"""Cells on either side that a median is taken of."""


@dataclass(frozen=True)
class Preset:
    """What is known beforehand of a kind of image."""

    local: bool
    """Divide by the background of each plane."""
    elongation: float
    """How many times longer than wide an object looks along z, by the optics."""
    cut: float
    """A nucleus responds at least this fraction of the typical response."""


PRESETS = {"nuclei": Preset(False, 1.0, 0.5), "whole_brain": Preset(True, 2.0, 0.7)}


@dataclass(frozen=True)
class Evening:
    """How the image over `domain` is evened out. `step` is the extent of the background's cells in voxels along each axis;
    None divides by no background."""

    domain: Box
    step: Shape | None

    @staticmethod
    def of(domain: Box, diameter: Sequence[float], local: bool) -> Evening:
        """Return the evening for nuclei of `diameter`, in voxels along each axis; the last two axes are a plane."""
        if not local:
            return Evening(domain, None)
        plane = [min(n, max(1, round(STEP * d))) for n, d in zip(domain.shape[-2:], diameter[-2:], strict=True)]
        return Evening(domain, (1,) * (len(diameter) - 2) + tuple(plane))

    @property
    def halo(self) -> Shape:
        """Context, in voxels, of an even value."""
        if self.step is None:
            return (0,) * self.domain.ndim
        # Cells before and after the voxel, whole ones: 4.5 of them with a window of 3. Planes are looked at alone.
        return tuple(0 if s == 1 and axis < self.domain.ndim - 2 else (2 * WINDOW + 3) * s // 2 + 1
                     for axis, s in enumerate(self.step))  # fmt: skip

    def even(self, image: Array, box: Box, level: Level) -> tuple[Array, Array | None]:
        """Return the even image, float32, and what it was divided by (None: nothing); `image` covers `box`: what is wanted and
        `halo`, clipped to the domain."""
        if self.step is None:
            return stabilise(image, level.floor), None
        lifted = above_floor(image, level.floor)
        ground = self._background(lifted, box)
        lifted += np.float32(level.pedestal)
        ground += np.float32(level.pedestal)
        # No pedestal is left where a volume is empty; nothing is brighter than nothing.
        ratio = np.divide(lifted, ground, out=np.zeros_like(lifted), where=ground > 0)
        return np.sqrt(ratio, out=ratio), ground

    def _background(self, lifted: Array, box: Box) -> Array:
        """Return float32 medians around every voxel, interpolated between the centres of cells."""
        assert self.step is not None
        first = [self._first(axis, box.start[axis]) - box.start[axis] for axis in range(box.ndim)]
        counts = [(n - f) // s for n, f, s in zip(lifted.shape, first, self.step, strict=True)]
        total = np.zeros(counts, np.float32)
        for inside in np.ndindex(*self.step):  # added in this order in every block
            places = zip(first, inside, counts, self.step, strict=True)
            total += lifted[tuple(slice(f + i, f + i + (c - 1) * s + 1, s) for f, i, c, s in places)]
        total /= np.float32(np.prod(self.step))
        sides = (1,) * (box.ndim - 2) + (2 * WINDOW + 1,) * 2
        result: Array = ndimage.median_filter(total, sides, mode="reflect")
        for axis in (box.ndim - 2, box.ndim - 1):
            before, share = _between(first[axis], counts[axis], self.step[axis], lifted.shape[axis])
            wide = share.reshape((-1,) + (1,) * (result.ndim - axis - 1))
            after = np.minimum(before + 1, counts[axis] - 1)
            result = np.take(result, before, axis) * (1 - wide) + np.take(result, after, axis) * wide
        return result

    def _first(self, axis: int, begin: int) -> int:
        """Return the first voxel, from `begin` on, at which a cell begins."""
        assert self.step is not None
        low, step = self.domain.start[axis], self.step[axis]
        return low - (low - begin) // step * step


def _between(first: int, count: int, step: int, extent: int) -> tuple[Array, Array]:
    """Return, for every voxel along an axis, the cell whose centre lies before it and the share of the next one, float32.

    Before the first centre and after the last their own values hold.
    """
    twice = np.clip(2 * (np.arange(extent) - first) - (step - 1), 0, 2 * step * (count - 1))
    before = twice // (2 * step)
    return before, ((twice - before * 2 * step) / (2 * step)).astype(np.float32)

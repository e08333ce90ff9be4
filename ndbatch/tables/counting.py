"""Points counted in the voxels of a grid and smoothed, for any box of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ndbatch.geometry import Box
from ndbatch.remotes.base import Array

TRUNCATE = 4.0
"""Standard deviations after which the Gaussian kernel ends."""


@dataclass(frozen=True)
class Counts:
    """How many points lie in each voxel of `domain`: those voxels that have any.

    `places` (n, axes) int64 are absolute voxels in C-order, each once; `numbers` (n,) int64. `sigma` is the standard
    deviation of the Gaussian that smooths them, in voxels along each axis, 0 for none.
    """

    places: Array
    numbers: Array
    domain: Box
    sigma: tuple[float, ...]

    @staticmethod
    def of(places: Array, domain: Box, sigma: Sequence[float]) -> Counts:
        """Return the counts of points in the voxels `places` (points, axes), integers, in any order; those beyond `domain`
        are left out."""
        inside = np.logical_and(places >= domain.start, places < domain.stop).all(axis=1)
        found, numbers = np.unique(places[inside].astype(np.int64), axis=0, return_counts=True)
        return Counts(found.reshape(-1, domain.ndim), numbers, domain, tuple(sigma))

    @property
    def total(self) -> int:
        """Number of points."""
        return int(self.numbers.sum())

    def around(self, box: Box) -> Counts:
        """Return the counts that `within(box)` needs, of the whole domain or a part of it."""
        near = self._reach(box)
        first, last = np.searchsorted(self.places[:, 0], [near.start[0], near.stop[0]])
        places, numbers = self.places[first:last], self.numbers[first:last]
        inside = np.logical_and(places >= near.start, places < near.stop).all(axis=1)
        return Counts(places[inside], numbers[inside], self.domain, self.sigma)

    def within(self, box: Box) -> Array:
        """Return the smoothed counts in `box`, which lies in the domain, float64: the same, to the bit, for any box.

        The Gaussian (`scipy.ndimage.gaussian_filter`) is mirrored at the domain's ends, so that the total stays: beyond a
        box, only voxels within the kernel's reach count, and true ends are within it wherever they are mirrored.
        """
        from scipy.ndimage import gaussian_filter

        near = self._reach(box)
        counts = np.zeros(near.shape)
        part = self.around(box)
        counts[tuple((part.places - near.start).T)] = part.numbers
        if part.total and any(self.sigma):
            counts = gaussian_filter(counts, self.sigma, mode="reflect", truncate=TRUNCATE)
        return counts[box.slices(near.start)]

    def _reach(self, box: Box) -> Box:
        reach = tuple(int(TRUNCATE * s + 0.5) for s in self.sigma)
        return box.grow(reach).intersect(self.domain)

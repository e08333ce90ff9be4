"""A volume on another voxel grid: nearest neighbour or linear interpolation, the same for any box.

Voxel i along an axis covers [i, i + 1) voxel sizes, offsets included, so its centre lies at (i + 1/2) sizes: two volumes
of one physical space line up whatever their levels. The ratio of two voxel sizes is taken as the nearest fraction of
small integers (0.58 / 0.29 is 2), and positions are computed with integers from it: no rounding depends on the box that
is read. Nearest takes the voxel that the centre lies in (on a border the upper one). Linear interpolates between the
centres of two voxels along z, then y, then x, in double precision, and rounds for integers; beyond the outermost centres it takes
the outermost voxel. A centre outside the source gets the fill value. Nothing is averaged: a coarser grid picks voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.views.view import Geometry

PIECE = 2**20
"""Voxels, of the source or the grid, that are sampled at once: larger boxes are made in pieces, so that memory stays bounded."""

Line = tuple[Array, Array, Array, Array]
"""Along one axis, for each voxel of a box: the source's voxel below, that above, the weight of the upper, and whether the
centre lies in the source."""


@dataclass(frozen=True)
class Resample(Geometry):
    """The source on the grid of `domain` with voxels of `voxel_size` micrometres; t and c, with ratio 1, stay as they are."""

    method: str
    """nearest or linear."""
    domain: Box
    voxel_size: tuple[float, ...]
    fill: float = 0.0

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec on the grid; chunks are those of the source in the new voxels."""
        assert source.voxel_size is not None
        chunks = tuple(
            max(1, min(n, round(c * old / new)))
            for n, c, old, new in zip(self.domain.shape, source.chunks, source.voxel_size, self.voxel_size, strict=True)
        )
        return replace(
            source,
            shape=self.domain.shape,
            chunks=chunks,
            shards=None,
            offset=self.domain.start,
            voxel_size=self.voxel_size,
        )

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the part of the source that the box lies over, and sample it, in pieces that bound the memory."""
        data = np.full(box.shape, self.fill, spec.dtype)
        self._fill_in(source, box, data)
        return data

    def _fill_in(self, source: Volume, box: Box, data: Array) -> None:
        """Set those voxels of `data`, which is that of `box`, whose centre lies in the source."""
        lines = [self._line(step, source, box, i) for i, step in enumerate(self._ratios(source.spec))]
        needed = self._needed(lines, source)
        if needed.empty:
            return
        longest = max(range(box.ndim), key=lambda i: max(needed.shape[i], box.shape[i]) if box.shape[i] > 1 else 0)
        if max(needed.size, box.size) <= PIECE or box.shape[longest] == 1:
            self._sample(source, needed, lines, data)
            return
        middle = (box.start[longest] + box.stop[longest]) // 2
        ends, starts = list(box.stop), list(box.start)
        ends[longest] = starts[longest] = middle
        for half in (Box(box.start, tuple(ends)), Box(tuple(starts), box.stop)):
            self._fill_in(source, half, data[half.slices(box.start)])

    def working_bytes(self, source: ArraySpec) -> float:
        """Return 0: what it takes, some 20 MB for each `PIECE`, does not grow with the box."""
        return 0.0

    def _ratios(self, source: ArraySpec) -> list[Fraction]:
        """Return source voxels a voxel of the grid, along each axis."""
        assert source.voxel_size is not None
        return [ratio(new, old) for new, old in zip(self.voxel_size, source.voxel_size, strict=True)]

    def _line(self, ratio: Fraction, source: Volume, box: Box, axis: int) -> Line:
        """Return where the voxels of `box` along `axis` lie in the source."""
        p, q = ratio.numerator, ratio.denominator
        first, last = source.domain.start[axis], source.domain.stop[axis] - 1
        # Twice the number of the voxel and one: twice the place of its centre, a whole number.
        centre = (2 * np.arange(box.start[axis], box.stop[axis], dtype=np.int64) + 1) * p
        holds = centre // (2 * q)
        inside = (holds >= first) & (holds <= last)
        if self.method == "nearest":
            low = np.clip(holds, first, last)
            return low, low, np.zeros(len(low)), inside
        low = (centre - q) // (2 * q)
        weight = (centre - q - low * 2 * q) / (2 * q)
        return np.clip(low, first, last), np.clip(low + 1, first, last), weight, inside

    def _needed(self, lines: list[Line], source: Volume) -> Box:
        """Return the box of the source that holds every voxel that is sampled; empty where none is."""
        start, stop = list(source.domain.start), []
        for i, (low, high, _, inside) in enumerate(lines):
            if not inside.any():
                return Box(source.domain.start, source.domain.start)
            start[i] = int(low[inside].min())
            stop.append(int(high[inside].max()) + 1)
        return Box(tuple(start), tuple(stop))

    def _sample(self, source: Volume, needed: Box, lines: list[Line], data: Array) -> None:
        """Fill in those voxels of `data` whose centre lies in the source."""
        found = source.read(needed)
        places = np.ix_(*(np.flatnonzero(inside) for *_, inside in lines))
        exact = self.method == "nearest" or found.dtype.kind == "b"
        for axis, (low, high, weight, inside) in enumerate(lines):
            start = needed.start[axis]
            lower = found.take(low[inside] - start, axis)
            part = weight[inside]
            if exact or not part.any():
                found = lower
                continue
            upper = found.take(high[inside] - start, axis)
            share = part.reshape([-1 if i == axis else 1 for i in range(data.ndim)])
            found = lower * (1.0 - share) + upper * share
        if found.dtype != data.dtype:
            found = np.rint(found) if data.dtype.kind in "ui" else found
        data[places] = found


def ratio(new: float, old: float) -> Fraction:
    """Return new / old as the fraction of smallest integers that differs from it by less than one part in a billion."""
    exact = Fraction(new) / Fraction(old)
    for digits in range(1, 7):
        near = exact.limit_denominator(10**digits)
        if near and abs(near - exact) < exact / 10**9:
            return near
    return near or exact


def over_same_space(source: ArraySpec, sizes: tuple[float, ...]) -> Box:
    """Return the smallest box of voxels of `sizes` micrometres that covers the source."""
    assert source.voxel_size is not None
    factors = [ratio(new, old) for new, old in zip(sizes, source.voxel_size, strict=True)]
    domain = source.domain
    start = tuple(math.floor(a / f) for a, f in zip(domain.start, factors, strict=True))
    stop = tuple(math.ceil(b / f) for b, f in zip(domain.stop, factors, strict=True))
    return Box(start, stop)

"""One channel as a pyramid of chunks: which chunks a level is cut into, and the voxels of one of them.

Chunks are those that are stored, where these are of a size that a viewer likes; else cubes. The grid begins at the first voxel
of the volume. Arrays and boxes have the volume's axes, (t?, c?, z, y, x), absolute voxels of the level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.errors import NotFound
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array, ArraySpec, Volume

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel
    from ndbatch.server.service import Service

SIDE = 64
"""Voxels along each side of a chunk where the stored ones are too small or too large."""
SMALLEST, LARGEST = 2**13, 2**21
"""Voxels of a stored chunk that is served as it is."""


@dataclass(frozen=True)
class Pyramid:
    """The levels of a channel, the finest first, and the shape of a chunk of each."""

    channel: Channel
    volumes: tuple[Volume, ...]
    chunks: tuple[Shape, ...]

    @staticmethod
    def of(service: Service, project: str, channel: str) -> Pyramid:
        """Return the pyramid of a channel; NotFound where there is none."""
        found = service.catalogue.channel(project, channel)
        first = service.volume(found)
        volumes = (first, *(service.volume(found, level) for level in range(1, first.levels)))
        return Pyramid(found, volumes, tuple(chunk_shape(one.spec) for one in volumes))

    def spec(self, level: int) -> ArraySpec:
        """Return what a level is as it is served: its chunks in place of the stored ones, and no shards."""
        return replace(self.volumes[level].spec, chunks=self.chunks[level], shards=None)

    def box(self, level: int, place: Shape) -> Box:
        """Return the box of the chunk at `place` in the grid of a level, not cut at the end of the volume."""
        volume, chunk = self.volumes[level], self.chunks[level]
        if len(place) != volume.ndim or any(p * c >= n for p, c, n in zip(place, chunk, volume.shape, strict=True)):
            raise NotFound(
                f"level {level} has no chunk {'/'.join(map(str, place))}; its chunks are {chunk} of {volume.shape}"
            )
        start = tuple(o + p * c for o, p, c in zip(volume.offset, place, chunk, strict=True))
        return Box(start, tuple(s + c for s, c in zip(start, chunk, strict=True)))


def chunk_shape(spec: ArraySpec) -> Shape:
    """Return the chunk that a level is served in: one time, all channels of one, and the stored chunk or a cube along z, y, x."""
    spatial = [axis for axis in spec.axes if axis in "zyx"]
    stored = dict(zip(spec.axes, spec.chunks, strict=True))
    extents = dict(zip(spec.axes, spec.shape, strict=True))
    if SMALLEST <= prod(stored[axis] for axis in spatial) <= LARGEST:
        sides = {axis: min(stored[axis], extents[axis]) for axis in spatial}
    else:
        sides = {axis: min(SIDE, extents[axis]) for axis in spatial}
    return tuple({"t": 1, "c": extents.get("c", 1), **sides}[axis] for axis in spec.axes)


def padded(data: Array, box: Box, whole: Box) -> Array:
    """Return the voxels of `box` (shape of it) within `whole`, zeros around them; `data` itself where there is nothing around."""
    if box == whole:
        return data
    result = np.zeros(whole.shape, data.dtype)
    result[box.slices(whole.start)] = data
    return result

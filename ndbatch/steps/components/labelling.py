"""Connected components of one array, by cc3d: the local half of every global labelling.

Arrays are C-order. The first `leading` axes (t, c) never connect voxels; the one to three axes after them do. Numbers are
consecutive from 1 in the raster order of each component's first voxel, and depend on the array's values alone, so that
labelling the same block again gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ndbatch.geometry import Shape
from ndbatch.remotes.base import Array

SLAB = 1 << 18
"""Voxels looked at together where an intermediate is larger than a voxel: it bounds the memory."""

_CONNECTIVITY = {2: {1: 4, 2: 8, 3: 8}, 3: {1: 6, 2: 18, 3: 26}}


@dataclass(frozen=True)
class Adjacency:
    """Which voxels are connected: those whose positions differ by at most 1 along at most `rank` axes (3-D: 1 is 6, 2 is
    18, 3 is 26 neighbours) and whose values are equal and not 0; with `binary`, whose values are both not 0."""

    leading: int
    rank: int
    binary: bool

    def halo(self, ndim: int) -> Shape:
        """Return the context that shows all neighbours of a block."""
        return tuple(0 if axis < self.leading else 1 for axis in range(ndim))


def foreground(values: Array, binary: bool) -> Array:
    """Return `values` (bool or integers) as contiguous unsigned integers, 0 is background; with `binary`, 0 and 1."""
    if binary and values.dtype.kind != "b":
        return np.not_equal(values, 0, order="C").view(np.uint8)
    # cc3d takes no array that it could not write into, though it does not.
    owned: Array = np.require(values, requirements=["C", "W"])
    result: Array = owned.view(f"u{values.dtype.itemsize}")
    return result


def label(values: Array, adjacency: Adjacency) -> tuple[Array, int]:
    """Return the components of `values` (made by `foreground`, at least one axis after the leading ones), unsigned
    integers, 0 is background, and their number."""
    if adjacency.leading == 0:
        return _label(values, adjacency)
    frames = values.reshape(-1, *values.shape[adjacency.leading :])
    labels = np.zeros(frames.shape, np.uint32)
    total = 0
    for frame, out in zip(frames, labels, strict=True):
        found, count = _label(frame, adjacency)
        np.add(found, np.uint32(total), out=out, where=found != 0, casting="same_kind")
        total += count
    return labels.reshape(values.shape), total


def _label(values: Array, adjacency: Adjacency) -> tuple[Array, int]:
    """Label one frame of up to three axes."""
    import cc3d

    if not values.any():
        return np.zeros(values.shape, np.uint32), 0
    # cc3d wants two axes or three; a plane of one row is a line.
    lifted = values.reshape((1,) * max(0, 2 - values.ndim) + values.shape)
    # Not its binary_image: with 4.1.1 that is no faster, and mislabels or refuses arrays of odd size at full connectivity.
    labels, count = cc3d.connected_components(
        lifted, connectivity=_CONNECTIVITY[lifted.ndim][adjacency.rank], return_N=True
    )
    shaped: Array = labels.reshape(values.shape)
    return shaped, int(count)


def extents(labels: Array, count: int) -> tuple[Array, Array]:
    """Return, for labels 1 to `count`, their voxels and the C-order position of their first voxel; int64, each (count,).

    Works on runs of equal labels, of which there are far fewer than voxels in anything but noise.
    """
    flat = labels.reshape(-1)
    sizes, first = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    # Backwards, so that the write that stays is that of the first voxel.
    for begin in reversed(range(0, flat.size if count else 0, SLAB)):
        slab = flat[begin : begin + SLAB]
        starts = np.concatenate([[0], np.flatnonzero(slab[1:] != slab[:-1]) + 1])
        found = slab[starts]
        np.add.at(sizes, found, np.diff(starts, append=slab.size))
        first[found[::-1]] = starts[::-1] + begin
    return sizes[1:], first[1:]


def marked(labels: Array, count: int, mask: Array) -> Array:
    """Return bool (count,): whether any voxel of the label 1 to `count` is in `mask` (bool, shape of `labels`)."""
    result = np.zeros(count + 1, bool)
    flat, inside = labels.reshape(-1), np.ascontiguousarray(mask).reshape(-1)
    for begin in range(0, flat.size, SLAB):
        result[flat[begin : begin + SLAB][inside[begin : begin + SLAB]]] = True
    return result[1:]


def relabel(labels: Array, values: Array) -> Array:
    """Return `values[label - 1]` for every voxel, 0 where the label is 0; the dtype is that of `values`."""
    table = np.concatenate([np.zeros(1, values.dtype), values])
    result = np.empty(labels.shape, values.dtype)
    flat, out = labels.reshape(-1), result.reshape(-1)
    for begin in range(0, flat.size, SLAB):
        # The mode spares a buffer; labels are never out of range.
        np.take(table, flat[begin : begin + SLAB], out=out[begin : begin + SLAB], mode="clip")
    return result

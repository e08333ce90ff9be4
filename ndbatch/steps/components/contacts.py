"""What a block must tell so that its components can be joined with those of its neighbours.

A block shares a *contact* with each of its neighbours, across a face, an edge or a corner: the voxels of the neighbour
that lie next to the block. Both sides see those voxels: the neighbour owns them, the block reads them as context. So both
split them into the same *patches*, connected pieces within the contact, numbered alike. A patch lies in one component
of the neighbour, since what is connected in a part is connected in the whole. The neighbour tells which one (`lookup`);
the block tells which of its own components touch which patch (`pairs`). No voxel travels: a payload grows with the
number of things that cross, not with the faces.

Every two adjacent voxels of different blocks are seen: their blocks differ by an offset of -1, 0 or 1 along each axis,
and of an offset and its opposite exactly one is forward (its first nonzero entry is 1), so the pair belongs to the contact of
that offset, and to no other. Edges and corners need no care of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.components.labelling import Adjacency, foreground, label

Slices = tuple[slice, ...]


def forward_offsets(ndim: int, adjacency: Adjacency) -> list[Shape]:
    """Return the offsets of the neighbours a block pairs with, in a fixed order: 13 in 3-D with 26 neighbours."""
    choices = [(0,)] * adjacency.leading + [(-1, 0, 1)] * (ndim - adjacency.leading)
    zero = (0,) * ndim
    return [o for o in itertools.product(*choices) if o > zero and sum(map(abs, o)) <= adjacency.rank]


def contacts(patch: Patch, core: Box, values: Array, labels: Array, adjacency: Adjacency) -> dict[str, Array]:
    """Return the parts of a payload that join `core` with its neighbours.

    `patch` is the input on core + 1 voxel, `values` and `labels` the core's own. The result holds `pairs`, uint32 (k, 3):
    number of the offset, own label, patch; `lookup`, uint32: own label by patch, offset after offset; `ends`, int64: where the
    patches of each offset end in `lookup`.
    """
    pairs, lookups = [np.empty((0, 3), np.uint32)], []
    for number, offset in enumerate(forward_offsets(core.ndim, adjacency)):
        back = Box.of_shape(core.shape)
        near = _side(back, offset, own=False)
        lookups.append(_lookup(values[near], labels[near], offset, adjacency))
        beyond = Box(_bounds(core, offset, 0), _bounds(core, offset, 1))
        if patch.box.contains(beyond):
            theirs = foreground(patch.crop(beyond), adjacency.binary)
            side = _side(back, offset, own=True)
            found = _pairs(values[side], labels[side], theirs, offset, adjacency)
            pairs.append(np.column_stack([np.full(len(found), number, np.uint32), found]))
    ends = np.cumsum([len(lookup) for lookup in lookups])
    return {
        "pairs": np.concatenate(pairs).astype(np.uint32),
        "lookup": np.concatenate([np.empty(0, np.uint32), *lookups]).astype(np.uint32),
        "ends": np.asarray(ends, np.int64),
    }


def lookup_of(arrays: Mapping[str, Array], number: int) -> Array:
    """Return the own label by patch (from 1) of offset `number`, out of what `contacts` returned."""
    ends = arrays["ends"]
    part: Array = arrays["lookup"][(ends[number - 1] if number else 0) : ends[number]]
    return part


def _bounds(core: Box, offset: Shape, end: int) -> Shape:
    """Return the first (`end` 0) or last + 1 (`end` 1) corner of the neighbour's voxels next to `core`."""
    return tuple(
        (a, b)[end] if o == 0 else (b + end if o > 0 else a - 1 + end)
        for a, b, o in zip(core.start, core.stop, offset, strict=True)
    )


def _side(box: Box, offset: Shape, *, own: bool) -> Slices:
    """Return the slices of a block's own voxels next to the neighbour at `offset`; with `own` false, of those next to the
    neighbour at the opposite offset. All axes stay."""
    slices = []
    for n, o in zip(box.shape, offset, strict=True):
        last = o > 0 if own else o < 0
        slices.append(slice(None) if o == 0 else slice(n - 1, n) if last else slice(0, 1))
    return tuple(slices)


def _flat(array: Array, offset: Shape) -> Array:
    """Return `array` without the axes along which the offset goes; they have one voxel."""
    return np.ascontiguousarray(array.reshape([n for n, o in zip(array.shape, offset, strict=True) if o == 0]))


def _patches(values: Array, adjacency: Adjacency) -> tuple[Array, int]:
    """Split a contact (leading axes first, up to two after them) into patches; the same for the same values."""
    if values.ndim == adjacency.leading:
        values = values.reshape(*values.shape, 1)
        found, count = label(values, adjacency)
        return found[..., 0], count
    return label(values, adjacency)


def _lookup(values: Array, labels: Array, offset: Shape, adjacency: Adjacency) -> Array:
    patches, count = _patches(_flat(values, offset), adjacency)
    own = np.zeros(count + 1, np.uint32)
    own[patches] = _flat(labels, offset)
    return own[1:]


def _pairs(ours: Array, labels: Array, theirs: Array, offset: Shape, adjacency: Adjacency) -> Array:
    """Return the distinct (own label, patch) that touch across a contact; uint32 (k, 2)."""
    ours, labels, theirs = (_flat(a, offset) for a in (ours, labels, theirs))
    if not (ours.any() and theirs.any()):
        return np.empty((0, 2), np.uint32)
    patches, count = _patches(theirs, adjacency)
    left = adjacency.rank - sum(map(abs, offset))
    choices = [(0,)] * adjacency.leading + [(-1, 0, 1)] * (ours.ndim - adjacency.leading)
    codes = []
    for shift in itertools.product(*choices):
        if sum(map(abs, shift)) > left:
            continue
        here, there = (_shifted(shift, which) for which in (1, -1))
        touching = (ours[here] == theirs[there]) & (ours[here] != 0)
        if any(shift):
            # Where the straight neighbour of either voxel has the same value, it is in the same patch or component,
            # and the straight shift has the pair already.
            touching &= (theirs[here] != ours[here]) & (ours[there] != ours[here])
        codes.append(labels[here][touching].astype(np.int64) * (count + 1) + patches[there][touching])
    found = _distinct(np.concatenate(codes))
    return np.column_stack([found // (count + 1), found % (count + 1)]).astype(np.uint32)


def _shifted(shift: Shape, sign: int) -> Slices:
    """Return the slices of voxels that have a partner at `shift` (`sign` 1), or of the partners (`sign` -1)."""
    return tuple(slice(None) if s == 0 else slice(None, -1) if s * sign > 0 else slice(1, None) for s in shift)


def _distinct(codes: Array) -> Array:
    """Return the sorted distinct values; runs are dropped first, which leaves little to sort."""
    if codes.size > 1:
        codes = codes[np.concatenate([[True], codes[1:] != codes[:-1]])]
    return np.unique(codes)

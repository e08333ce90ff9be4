"""Nuclei as whole objects: found by a network in patches of a lattice, each kept once, painted into any box.

A network's answer for a voxel depends on the patch that it is given. Patches lie on a lattice of the volume (`patches.Lattice`),
never on a block, so that every block that needs a patch gets the same answer. An object belongs to the patch, and to the block,
that hold its centre; a patch sees at least one and a half diameters beyond the part it answers for. What two neighbouring
patches both claim is settled on the merged table. Arrays are C-order (z, y, x), or (y, x).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.function.patches import Lattice
from ndbatch.steps.nuclei.networks import Network
from ndbatch.steps.nuclei.survey import Level, above_floor

MARGIN = 1.5
"""What a patch sees beyond its part, in diameters."""
PART = 96
"""Extent of the part of a patch, in voxels, where the user does not say how large patches are."""
MULTIPLE = 16
"""Patches are a whole number of so many voxels: four poolings of a U-Net."""
SAME = 0.5
"""Two objects are one where this share of the smaller is also in the other."""


@dataclass(frozen=True, slots=True)
class Objects:
    """Rows of one table: `start` and `shape` (n, ndim) int64 of the box of each object, absolute, `centre` (n, ndim) int64,
    `score` (n,) float32; `bits` uint8, their masks one after another, each packed from a whole byte on."""

    start: Array
    shape: Array
    centre: Array
    score: Array
    bits: Array

    def __len__(self) -> int:
        return len(self.score)

    @property
    def offsets(self) -> Array:
        """Where the mask of each begins in `bits`, and the end: int64 (n + 1,)."""
        sizes = -(-self.shape.prod(axis=1) // 8)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def take(self, rows: Array) -> Objects:
        """Return the objects at `rows` (indices), in that order."""
        places = self.offsets
        bits = [self.bits[places[row] : places[row + 1]] for row in rows]
        joined = np.concatenate(bits) if bits else np.zeros(0, np.uint8)
        return Objects(self.start[rows], self.shape[rows], self.centre[rows], self.score[rows], joined)

    def masks(self) -> Iterable[tuple[Box, Array]]:
        """Yield the box and the mask, bool, of each object."""
        places = self.offsets
        for row, (start, shape) in enumerate(zip(self.start.tolist(), self.shape.tolist(), strict=True)):
            packed = self.bits[places[row] : places[row + 1]]
            mask = np.unpackbits(packed, count=math.prod(shape)).reshape(shape).astype(bool)
            yield Box.of_shape(shape, start), mask

    def columns(self) -> dict[str, Array]:
        """Return the arrays by name, as they are packed."""
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def joined(parts: Sequence[Objects], ndim: int) -> Objects:
        """Return the rows of all parts."""
        none = np.zeros((0, ndim), np.int64)
        empty = Objects(none, none, none, np.zeros(0, np.float32), np.zeros(0, np.uint8))
        every = [empty, *parts]
        return Objects(*(np.concatenate([getattr(p, name) for p in every]) for name in Objects.__slots__))


def lattice_of(domain: Box, names: str, diameter: Sequence[float], patch: Mapping[str, int] | None) -> Lattice:
    """Return the lattice of patches. PlanError for patches that leave no part, or of an axis that there is not."""
    margin = [math.ceil(MARGIN * d) for d in diameter]
    wanted = dict(patch or {})
    for name in wanted:
        if name not in names:
            raise PlanError(f"nuclei: patch: axis {name!r} is not one of {', '.join(names)}")
    shape = []
    for name, m in zip(names, margin, strict=True):
        extent = wanted.get(name, -(-(2 * m + PART) // MULTIPLE) * MULTIPLE)
        if extent <= 2 * m:
            raise PlanError(
                f"nuclei: patch: {name}: {extent} leaves nothing beside the {m} voxels of context on either side "
                f"that objects of this diameter need; use {4 * m} or more"
            )
        shape.append(extent)
    return Lattice(domain, tuple(shape), tuple(2 * m for m in margin), "crop")


def find_objects(
    image: Array, box: Box, core: Box, lattice: Lattice, level: Level, network: Network, diameter: Sequence[float]
) -> Objects:
    """Return the objects whose centre lies in `core`, from all patches that answer for a voxel of it.

    `image` covers `box`: core + the lattice's halo, clipped to the domain.
    """
    span = np.float32(level.span**2 or 1.0)
    even = Patch(above_floor(image, level.floor) / span, box)
    parts = []
    for place in lattice.near(core):
        seen, own = lattice.box(place), lattice.part(place).intersect(core)
        labels, scores = network.find(lattice.gather(even, place), diameter)
        parts.append(_kept(labels, scores, seen, own, lattice.domain))
    return Objects.joined(parts, box.ndim)


def _kept(labels: Array, scores: Array, seen: Box, own: Box, domain: Box) -> Objects:
    """Return the objects of one patch whose centre lies in `own`, cut to the domain."""
    rows: list[tuple[Shape, Shape, Array, float, Array]] = []
    inside = domain.intersect(seen)
    for label, found in enumerate(ndimage.find_objects(labels), start=1):
        if found is None:
            continue
        around = Box(tuple(s.start for s in found), tuple(s.stop for s in found)).shift(seen.start).intersect(inside)
        if around.empty:
            continue
        mask = labels[around.slices(seen.start)] == label
        if not mask.any():
            continue
        # Half a voxel up, in whole numbers: the centre of mass of integers is the same wherever the object is found.
        places = np.argwhere(mask)
        centre = (2 * places.sum(axis=0) + len(places)) // (2 * len(places)) + np.array(around.start)
        if (centre >= own.start).all() and (centre < own.stop).all():
            rows.append((around.start, around.shape, centre, float(scores[label - 1]), np.packbits(mask)))
    if not rows:
        return Objects.joined([], seen.ndim)
    start, shape, centres, score, bits = zip(*rows, strict=True)
    return Objects(
        np.array(start, np.int64), np.array(shape, np.int64), np.array(centres, np.int64), np.array(score, np.float32),
        np.concatenate(bits),
    )  # fmt: skip


def settle(found: Objects, diameter: Sequence[float]) -> Objects:
    """Return the objects in C-order of their centres, without those that a better one has a share of SAME of already.

    Better is the higher score, then the first in C-order. Only objects whose centres are within one diameter are compared.
    """
    ordered = found.take(np.lexsort((*found.start.T[::-1], *found.centre.T[::-1])))
    if len(ordered) == 0:
        return ordered
    pairs = cKDTree(ordered.centre / np.array(diameter)).query_pairs(1.0, output_type="ndarray")
    near = np.unique(pairs)
    masks = dict(zip(near.tolist(), ordered.take(near).masks(), strict=True))
    same = [(a, b) for a, b in pairs.tolist() if _share(masks[a], masks[b]) > SAME]
    rank = np.empty(len(ordered), np.int64)
    rank[np.lexsort((np.arange(len(ordered)), -ordered.score.astype(np.float64)))] = np.arange(len(ordered))
    gone = np.zeros(len(ordered), bool)
    for a, b in sorted(same, key=lambda pair: tuple(sorted((int(rank[pair[0]]), int(rank[pair[1]]))))):
        better, worse = (a, b) if rank[a] < rank[b] else (b, a)
        gone[worse] |= not gone[better]
    return ordered.take(np.flatnonzero(~gone))


def _share(a: tuple[Box, Array], b: tuple[Box, Array]) -> float:
    common = a[0].intersect(b[0])
    if common.empty:
        return 0.0
    both = np.count_nonzero(a[1][common.slices(a[0].start)] & b[1][common.slices(b[0].start)])
    return both / min(np.count_nonzero(a[1]), np.count_nonzero(b[1]))


def paint(box: Box, objects: Objects, ids: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return the labels of `box`, 0 outside objects; where two overlap, the higher score, then the lower id, has the voxel."""
    made = np.zeros(box.shape, dtype)
    masks = list(objects.masks())
    for row in np.lexsort((-ids, objects.score)).tolist():
        around, mask = masks[row]
        common = around.intersect(box)
        if not common.empty:
            made[common.slices(box.start)][mask[common.slices(around.start)]] = ids[row]
    return made

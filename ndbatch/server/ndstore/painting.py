"""Voxels of RAMON objects: given, taken away, relabelled and found, block by block, in any number of processes at once.

Boxes are computed from the voxels, not kept: other protocols and programs write the same volumes, and a box is never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid
from ndbatch.ramon.hdf5 import LARGEST, Paint
from ndbatch.remotes.base import Array, Kind, Volume
from ndbatch.remotes.ndstore.frame import cuboid, factor
from ndbatch.server.calls import TooLarge
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.ndstore.cutouts import read
from ndbatch.server.ndstore.grammar import Cutout, require_inside
from ndbatch.server.ndstore.tokens import domain, fitting, spatial
from ndbatch.server.writes import require_writable, written

if TYPE_CHECKING:
    from ndbatch.server.service import Service

SLAB = (64, 512, 512)
"""Voxels, z, y, x, that are looked at together."""
PLACES = 2**26
"""Most voxels of a list that is answered."""
Change = Callable[[Array], Array | None]
RULES: Mapping[str, Callable[[Array, Array, int], Array]] = {
    "overwrite": lambda old, mask, one: np.where(mask, one, old),
    "preserve": lambda old, mask, one: np.where(mask & (old == 0), one, old),
    "reduce": lambda old, mask, one: np.where(mask & (old == one), 0, old),
}
"""What becomes of the voxels `old` where `mask` is set for the object `one`."""


@dataclass(frozen=True)
class Canvas:
    """The voxels of an annotation channel. Places are z, y, x of a level; times after the first are left alone."""

    service: Service
    project: Project
    channel: Channel

    def check(self, paint: Paint, one: int) -> None:
        """Raise PlanError where voxels cannot be given to the object `one`, Denied where nothing may be written."""
        self.require_writable()
        volume, bounds = self._volume(paint.level), domain(self.project, paint.level)
        if one > largest(volume.dtype):
            raise PlanError(f"{self.channel.name} is of {volume.dtype}, which cannot hold the id {one}")
        boxes = [] if paint.box is None else [paint.box]
        if paint.voxels is not None and len(paint.voxels):
            boxes.append(Box(tuple(paint.voxels.min(axis=0).tolist()), tuple((paint.voxels.max(axis=0) + 1).tolist())))
        for box in boxes:
            require_inside(box, bounds)
            require_inside(box, spatial(volume))

    def paint(self, paint: Paint, one: int, rule: str) -> None:
        """Give voxels to the object `one`, or take them away, as `rule` says; `check` was asked before."""
        volume, apply = self._volume(paint.level), RULES[rule]
        if paint.cutout is not None and paint.box is not None:
            for block in Grid.over(paint.box, SLAB, (0, 0, 0)):
                mask = np.asarray(paint.cutout[block.core.slices(paint.box.start)]) != 0
                if mask.any():
                    self._change(volume, block.core, lambda old, mask=mask: apply(old, mask, one).astype(old.dtype))  # type: ignore[misc]
        for box, places in _grouped(paint.voxels, SLAB):
            mask = np.zeros(box.shape, bool)
            mask[tuple((places - box.start).T)] = True
            self._change(volume, box, lambda old, mask=mask: apply(old, mask, one).astype(old.dtype))  # type: ignore[misc]
        self._touched(paint.level)

    def relabel(self, ids: Sequence[int], to: int) -> None:
        """Give the voxels of `ids` to the object `to`, 0 to nobody, at every level."""
        self.require_writable()
        if not ids:
            return
        for level in range(self.channel.levels):
            volume = self._volume(level)
            if to > largest(volume.dtype):
                raise PlanError(f"{self.channel.name} is of {volume.dtype}, which cannot hold the id {to}")
            for block in Grid.over(spatial(volume), SLAB, (0, 0, 0)):
                if among(self._read(volume, block.core), ids).any():
                    self._change(volume, block.core, lambda old: _replaced(old, ids, to))

    def boxes(self, groups: Mapping[int, Sequence[int]], level: int) -> dict[int, Box]:
        """Return the tight box of each group of labels, by its key; groups without a voxel are left out.

        At a level that was not made, the box of level 0 in voxels of that level.
        """
        made = level < fitting(self.service, self.project, self.channel)
        found: dict[int, Box] = {}
        every = [label for labels in groups.values() for label in labels]
        for whole, slab in self._slabs(level if made else 0, groups):
            box = tight_box(among(slab, every), whole)
            if box is None:
                continue
            data = slab[box.slices(whole.start)]
            for key, labels in groups.items():
                if (tight := tight_box(among(data, labels), box)) is not None:
                    found[key] = _around(found[key], tight) if key in found else tight
        by = factor(self.project.scaling, level)
        return found if made else {key: box.coarsened(by) for key, box in found.items()}

    def labels_in(self, level: int, box: Box) -> list[int]:
        """Return the labels in a box, sorted, without 0."""
        found: set[int] = set()
        require_inside(box, domain(self.project, level))
        for block in Grid.over(box, SLAB, (0, 0, 0)):
            found.update(np.unique(self._cutout(level, block.core)).tolist())
        return sorted(found - {0})

    def dense(self, level: int, box: Box, labels: Sequence[int], one: int) -> Array:
        """Return the voxels of `labels` in a box as uint32 `one`, others 0. TooLarge from 2^28 voxels on."""
        if box.size >= LARGEST:
            raise TooLarge(f"the cutout has {box.size} voxels, and less than {LARGEST} are given; ask for a part of it")
        require_inside(box, domain(self.project, level))
        return np.where(among(self._cutout(level, box), labels), one, 0).astype(np.uint32)

    def places(self, labels: Sequence[int], level: int) -> Array:
        """Return the voxels of `labels`, (n, 3) int64, z, y, x. TooLarge for more than 2^26 of them."""
        found, count = [np.empty((0, 3), np.int64)], 0
        for box, data in self._slabs(level, {0: labels}):
            found.append(np.argwhere(among(data, labels)) + np.asarray(box.start))
            count += len(found[-1])
            if count > PLACES:
                raise TooLarge(f"more than {PLACES} voxels; ask for a cutout of a part")
        return np.concatenate(found)

    def cuboids(self, labels: Sequence[int], level: int, one: int) -> list[tuple[Box, Array]]:
        """Return the cuboids that hold voxels of `labels`, each clipped to the level, as `dense` gives them."""
        unit, made, count = cuboid(self.project.scaling, self.project.voxel_size, level), [], 0
        bounds = domain(self.project, level)
        for whole, data in self._slabs(level, {0: labels}):
            if not among(data, labels).any():
                continue
            for block in Grid.over(whole, unit, bounds.start):
                mask = among(data[block.core.slices(whole.start)], labels)
                if mask.any():
                    made.append((block.core, np.where(mask, one, 0).astype(np.uint32)))
                    count += block.core.size
            if count >= LARGEST:
                raise TooLarge(f"the cuboids have more than {LARGEST} voxels; ask for a cutout of a part")
        return made

    def require_writable(self) -> None:
        """Raise Denied where the channel is only read."""
        require_writable(self.channel)
        if self.channel.kind != Kind.LABELS:
            raise PlanError(f"Channel {self.channel.name} is no annotation channel, so that it has no objects")

    def _volume(self, level: int) -> Volume:
        if level >= self.channel.levels:
            raise PlanError(f"level {level} of {self.channel.name} is not there; propagate it")
        return self.service.volume(self.channel, level)

    def _slabs(self, level: int, groups: Mapping[int, Sequence[int]]) -> Iterator[tuple[Box, Array]]:
        """Yield the parts of a level with their voxels; none where no group has a label."""
        if any(groups.values()):
            for block in Grid.over(domain(self.project, level), SLAB, (0, 0, 0)):
                yield block.core, self._cutout(level, block.core)

    def _cutout(self, level: int, box: Box) -> Array:
        """Return voxels as a cutout shows them, also at levels that were not made."""
        return read(self.service, Cutout(self.project, (self.channel,), level, box), self.channel)

    def _read(self, volume: Volume, box: Box) -> Array:
        return volume.read(_timed(volume, box))

    def _change(self, volume: Volume, box: Box, alter: Change) -> None:
        self.service.voxels.change(volume, _timed(volume, box), alter)

    def _touched(self, level: int) -> None:
        """Say that coarser levels no longer follow from the voxels."""
        written(self.service, self.channel, level)


def tight_box(mask: Array, where: Box) -> Box | None:
    """Return the box of what is set in `mask`, which lies at `where`; None where nothing is."""
    if not mask.any():
        return None
    start, stop = [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        start.append(where.start[axis] + int(hit[0]))
        stop.append(where.start[axis] + int(hit[-1]) + 1)
    return Box(tuple(start), tuple(stop))


def _around(one: Box, other: Box) -> Box:
    return Box(
        tuple(map(min, zip(one.start, other.start, strict=True))),
        tuple(map(max, zip(one.stop, other.stop, strict=True))),
    )


def _timed(volume: Volume, box: Box) -> Box:
    """Return a box with the first time, where the volume has times."""
    if not volume.axes.startswith("t"):
        return box
    first = volume.offset[0]
    return Box((first, *box.start), (first + 1, *box.stop))


def _replaced(old: Array, wanted: Sequence[int], to: int) -> Array | None:
    mask = among(old, wanted)
    return np.where(mask, to, old).astype(old.dtype) if mask.any() else None


def among(data: Array, labels: Sequence[int]) -> Array:
    """Return where `data`, any whole numbers, is one of `labels`; those that its type cannot hold are nowhere."""
    held = [label for label in labels if label <= largest(data.dtype)]
    if len(held) == 1:
        found: Array = data == held[0]
        return found
    return np.isin(data, np.array(held, data.dtype)) if held else np.zeros(data.shape, bool)


def largest(dtype: np.dtype[Any]) -> int:
    """Return the largest whole number that a type of voxel holds."""
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


def _grouped(places: Array | None, unit: Sequence[int]) -> Iterator[tuple[Box, Array]]:
    """Yield the places, (n, 3), of each unit of a grid with the box around them."""
    if places is None or not len(places):
        return
    of = places // np.asarray(unit)
    order = np.lexsort(of.T[::-1])
    ordered, of = places[order], of[order]
    ends = np.flatnonzero((np.diff(of, axis=0) != 0).any(axis=1)) + 1
    for part in np.split(ordered, ends):
        yield Box(tuple(part.min(axis=0).tolist()), tuple((part.max(axis=0) + 1).tolist())), part

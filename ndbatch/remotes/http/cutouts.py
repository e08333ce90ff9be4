"""Volumes of services that are asked for boxes: large boxes in parts, several in flight, wherever the volume was moved to."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, Self

import numpy as np

from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.http.client import in_flight
from ndbatch.remotes.http.together import SMALL, Together


class CutoutVolume(Volume):
    """A volume whose boxes, absolute voxels of its axes, travel by one request each, or by one for each of their parts.

    Small boxes that threads ask for, or store, at the same time may share a request (`together`).
    A class says what one request does (`_get`, `_put`) and how boxes are cut (`piece_bytes`, `_unit`, `_origin`).
    """

    piece_bytes = 32 * 2**20
    """Bytes of voxels beyond which a box is asked for, and sent, in parts at the same time."""
    _moved: Shape | None = None
    """Where the service has the first voxel, of a volume that was moved by `override`."""

    def __init__(self, address: Address, spec: ArraySpec) -> None:
        super().__init__(address, spec)
        self._reads, self._writes = Together(self.dtype.itemsize), Together(self.dtype.itemsize)

    @abstractmethod
    def _get(self, box: Box) -> Array:
        """Return the voxels of a box, where the service has it, by one request."""

    @abstractmethod
    def _put(self, box: Box, data: Array) -> None:
        """Store the voxels of a box, where the service has it, by one request."""

    @abstractmethod
    def _unit(self) -> Shape:
        """Return the shape of a part: about `piece_bytes`, and whole chunks of the service."""

    @property
    def _origin(self) -> Shape:
        """Where the grid of parts begins: at the first voxel that the service has."""
        return self._moved or self.offset

    def _read(self, box: Box) -> Array:
        stored = self._stored(box)
        return self._reads.read(stored, self._get) if self._is_small(box) else self._gathered(stored)

    def _write(self, box: Box, data: Array) -> None:
        stored = self._stored(box)
        if self._is_small(box):
            self._writes.write(stored, data, self._put)
            return
        for _ in in_flight(partial(self._put, part, data[part.slices(stored.start)]) for part in self._parts(stored)):
            pass

    def _is_small(self, box: Box) -> bool:
        return box.size * self.dtype.itemsize <= SMALL

    def _gathered(self, box: Box, **options: Any) -> Array:
        """Return the voxels of a box, where the service has it, in one request or more; `options` are those of `_get`."""
        parts = self._parts(box)
        if len(parts) == 1:
            return self._get(box, **options)
        result = np.empty(box.shape, self.dtype)

        def fill(part: Box) -> None:
            result[part.slices(box.start)] = self._get(part, **options)

        for _ in in_flight(partial(fill, part) for part in parts):
            pass
        return result

    def _parts(self, box: Box) -> list[Box]:
        """Return a box whole, or cut along the chunks of the service."""
        if box.size * self.dtype.itemsize <= self.piece_bytes:
            return [box]
        return [block.core for block in Grid.over(box, self._unit(), self._origin)]

    def _stored(self, box: Box) -> Box:
        """Return `box` where the service has it."""
        if self._moved is None:
            return box
        return box.shift([a - b for a, b in zip(self._moved, self.offset, strict=True)])

    def override(self, **changes: Any) -> Self:
        """Return the same volume with fields of its spec replaced; a new `offset` moves it."""
        other = super().override(**changes)
        other._moved = self._moved or self.offset
        return other

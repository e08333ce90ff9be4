"""Voxels that lie in one piece of a file, slowest axis first: NIfTI, NRRD, MRC, npy, raw TIFF.

Not compressed, they are read by a memory map (in a bucket or from a web server by the parts needed) and written by positioned
writes; compressed by deflate (gzip, zip), they
are read through restart points (`inflating`), and never written in place.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import Corrupt
from ndbatch.geometry import Shape
from ndbatch.remotes.base import Array
from ndbatch.remotes.files.inflating import Stream, inflater

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Flat:
    """Where voxels lie: in `path`, from byte `start` on, an array of `shape` in C-order, `dtype` with its byte order.

    With `stream`, the compressed part of the file, `start` counts the bytes of what it unpacks to.
    """

    path: FilePath
    start: int
    shape: Shape
    dtype: np.dtype[Any]
    stream: Stream | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels, not compressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    def require_whole(self) -> None:
        """Raise Corrupt where the file ends before its voxels do; OSError where it is gone.

        What a compressed file holds is known only when it is unpacked.
        """
        size = self.path.stat().st_size
        if self.stream is None and size < self.start + self.nbytes:
            raise Corrupt(
                f"{self.path} is cut short: {size} bytes of {self.start + self.nbytes}; copy it again",
                url=str(self.path),
            )

    def read(self, region: Slices) -> Array:
        """Return the voxels of `region` (stored order), native byte order, an array of the caller's own.

        Raises Corrupt for a file that is cut short or cannot be unpacked, OSError where it cannot be read.
        """
        native = self.dtype.newbyteorder("=")
        if self.stream is None:
            self.require_whole()
            if isinstance(self.path, Path):
                return np.array(np.memmap(self.path, self.dtype, "r", self.start, self.shape)[region], native)
        result = np.empty([part.stop - part.start for part in region], native)
        if self.stream is None:
            self._gather(region, result)
        else:
            self._unpack(region, result)
        return result

    def write(self, region: Slices, data: Array) -> None:
        """Store `data` in `region` (stored order) and bring it to the disk. Raises OSError for a full disk."""
        write_region(str(self.path), self.start, self.shape, self.dtype, region, data)

    def _gather(self, region: Slices, result: Array) -> None:
        """Fill `result` with the runs of `region` that lie side by side in a file at another place."""
        assert not isinstance(self.path, Path)
        item = self.dtype.itemsize
        runs = list(_runs(self.shape, region, result))
        wanted = [(self.start + position * item, values.nbytes) for position, values in runs]
        for (_, values), piece in zip(runs, self.path.pieces(wanted), strict=True):
            values[...] = np.frombuffer(piece, self.dtype).reshape(values.shape)

    def _unpack(self, region: Slices, result: Array) -> None:
        """Fill `result` with the rows of `region`, which lie in order in the unpacked stream."""
        assert self.stream is not None
        source, item = inflater(self.stream, self.start + self.nbytes), self.dtype.itemsize
        row = self.shape[-1] * item
        # Whole rows of the last two axes at a time: a column costs no more than the rows that it is in.
        rows = region[-2] if len(region) > 1 else slice(0, 1)
        for place in itertools.product(*(range(part.start, part.stop) for part in region[:-2])):
            first = [*place, rows.start][-max(1, len(region) - 1) :] if len(region) > 1 else [0]
            index = int(np.ravel_multi_index(first, self.shape[:-1])) if len(region) > 1 else 0
            piece = source.read(self.start + index * row, (rows.stop - rows.start) * row)
            plane = np.frombuffer(piece, self.dtype).reshape(-1, self.shape[-1])[:, region[-1]]
            target = result[tuple(p - part.start for p, part in zip(place, region, strict=False))]
            target[...] = plane.reshape(target.shape)


def write_region(
    path: str, start: int, shape: Shape, dtype: np.dtype[Any], region: Slices, data: Array, sync: bool = True
) -> None:
    """Write `data` into `region` (both in stored order) of the raw array of `shape` that begins at byte `start`.

    Positioned writes instead of a memory map: a full disk is an error (OSError) there, and not a killed process.
    """
    stored = np.ascontiguousarray(data, dtype=dtype)
    with open(path, "r+b", buffering=0) as file:
        for position, values in _runs(shape, region, stored):
            file.seek(start + position * dtype.itemsize)
            rest = memoryview(np.ascontiguousarray(values).data).cast("B")
            while rest:  # a raw write may take only a part
                rest = rest[file.write(rest) :]
        if sync:
            os.fsync(file.fileno())


def _runs(shape: Shape, region: Slices, data: Array) -> Iterator[tuple[int, Array]]:
    """Yield what lies side by side in the file: the position of its first voxel, counted in voxels, and the voxels."""
    axis = len(shape)
    while axis > 0 and region[axis - 1] == slice(0, shape[axis - 1]):
        axis -= 1
    outer = region[: max(0, axis - 1)]
    for place in itertools.product(*(range(part.start, part.stop) for part in outer)):
        first = [*place, *(part.start for part in region[len(outer) :])]
        index = int(np.ravel_multi_index(first, shape))
        yield index, data[tuple(p - part.start for p, part in zip(place, outer, strict=True))]

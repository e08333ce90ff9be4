"""Voxels of a TIFF series by region: only the pages, and of those only the strips or tiles, that hold it.

Two ways: a series stored raw in one piece is mapped into memory; anything else is decoded segment by segment by
tifffile's decoders. Files are read with positioned reads, so threads do not disturb each other. Of a file in a bucket or on a
web server the segments of a region are fetched at the same time.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, missing_extra
from ndbatch.geometry import Shape
from ndbatch.remotes.base import Array
from ndbatch.remotes.chunking import MINIMUM_BYTES
from ndbatch.remotes.files.flat import Flat
from ndbatch.remotes.places.far import FilePath

LARGEST_PAGE = 4 * 2**20
"""Pages larger than this are read in parts where they are stored in strips."""

Slices = tuple[slice, ...]


def _close(file: Any, descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
    file.close()


@dataclass(frozen=True)
class PageLayout:
    """Where the voxels of a series are: `leading` counts the pages, axis by axis; each page is one (s, y, x, s') array.

    `samples_first` says whether the samples of a pixel (colours) are stored as planes of a page or side by side; there
    is no sample axis where `samples` is 1. `dtype` has the byte order of the file.
    """

    leading: Shape
    rows: int
    columns: int
    samples: int
    samples_first: bool
    dtype: np.dtype[Any]
    raw_offset: int | None
    """Byte where the series begins, when it is stored raw in one piece."""

    @property
    def shape(self) -> Shape:
        """Shape in stored order: leading axes, then the axes of a page."""
        page: Shape = (self.rows, self.columns)
        if self.samples > 1:
            page = (self.samples, *page) if self.samples_first else (*page, self.samples)
        return (*self.leading, *page)

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels, not compressed."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Segment:
    """A strip or tile, `number` of the page `index`, and where it belongs: `target` is the array of `box`, both as (planes,
    rows, columns, side-by-side samples)."""

    index: int
    page: Any
    number: int
    box: Slices
    target: Array

    @property
    def place(self) -> tuple[int, int]:
        """The byte where it is stored, and how many."""
        return self.page.dataoffsets[self.number], self.page.databytecounts[self.number]


class PageReader:
    """Reads regions of one series of an open TiffFile, from any thread."""

    def __init__(self, file: Any, series: Any, layout: PageLayout, path: FilePath) -> None:
        self._file, self._series, self.layout, self.path = file, series, layout, path
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY) if isinstance(path, Path) else None
        self.close = weakref.finalize(self, _close, file, self._descriptor)
        """Close the file; what nobody uses any more is closed by itself."""

    def read(self, region: Slices) -> Array:
        """Return the voxels of `region` (slices in stored order), native byte order. Corrupt where they cannot be decoded."""
        layout = self.layout
        if layout.raw_offset is not None:
            return self._mapped(region, layout.raw_offset)
        extents = [part.stop - part.start for part in region]
        result = np.zeros(extents, layout.dtype.newbyteorder("="))
        segments = list(self._segments(region, result))
        for segment, data in zip(segments, self._pieces([one.place for one in segments]), strict=True):
            self._decode(segment, data)
        return result

    def _mapped(self, region: Slices, start: int) -> Array:
        layout = self.layout
        if self._descriptor is None:
            return Flat(self.path, start, layout.shape, layout.dtype).read(region)
        size = os.fstat(self._descriptor).st_size
        if size < start + layout.nbytes:
            raise Corrupt(f"{self.path} is cut short at {size} bytes; copy it again", url=str(self.path))
        # The file that was opened is mapped, whatever has its name by now.
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            voxels = np.memmap(file, layout.dtype, "r", start, layout.shape)
        return np.array(voxels[region], layout.dtype.newbyteorder("="))

    def _segments(self, region: Slices, result: Array) -> Iterator[Segment]:
        """Yield the segments that hold `region`, which is to be filled into `result`, both in stored order."""
        leading = self.layout.leading
        count = len(leading)
        ranges = [range(part.start, part.stop) for part in region[:count]]
        # A page as (planes, rows, columns, side-by-side samples), whatever of it is stored.
        samples, rows, columns = self._normalized(region[count:])
        first = self.layout.samples > 1 and self.layout.samples_first
        planes, inner = (samples, slice(0, 1)) if first else (slice(0, 1), samples)
        box = (planes, rows, columns, inner)
        for place in itertools.product(*ranges):
            index = int(np.ravel_multi_index(place, leading)) if count else 0
            with self._lock:
                page = self._series.pages[index]
            target = result[tuple(p - part.start for p, part in zip(place, region, strict=False))]
            view = target.reshape([part.stop - part.start for part in box])
            for number in _segments(page.keyframe, planes, rows, columns):
                yield Segment(index, page, number, box, view)

    def _normalized(self, region: Slices) -> tuple[slice, slice, slice]:
        if self.layout.samples == 1:
            return slice(0, 1), region[0], region[1]
        return region if self.layout.samples_first else (region[2], region[0], region[1])  # type: ignore[return-value]

    def _pieces(self, places: list[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of parts of the file: where each begins, and its size."""
        if isinstance(self.path, Path):
            descriptor = self._descriptor or 0
            return (os.pread(descriptor, size, offset) for offset, size in places)
        return self.path.pieces(places)

    def _decode(self, segment: Segment, data: bytes) -> None:
        """Decode what is stored of a segment, which is nothing where all its voxels are 0, into its place."""
        page, number, keyframe = segment.page, segment.number, segment.page.keyframe
        if len(data) < segment.place[1]:
            raise Corrupt(
                f"{self.path} is cut short: page {segment.index} is not whole; copy it again", url=str(self.path)
            )
        tables = {"jpegtables": keyframe.jpegtables, "jpegheader": keyframe.jpegheader}
        try:
            decoded, start, _ = page.keyframe.decode(
                data or None, number, **(tables if keyframe.compression in (6, 7) else {})
            )
        except Exception as error:  # codecs raise errors of their own, one class each
            if "imagecodecs" in str(error):
                name = getattr(keyframe.compression, "name", keyframe.compression)
                raise missing_extra("imagecodecs", "tiff", f"{self.path}: {name} compression") from None
            raise Corrupt(
                f"{self.path}: page {segment.index} is damaged (segment {number} cannot be decoded: {error})",
                url=str(self.path),
            ) from None
        if decoded is not None:
            place = (start[0], start[2], start[3], 0)
            _paste(segment.target, segment.box, decoded.reshape((1, *decoded.shape[-3:])), place)


def _segments(keyframe: Any, planes: slice, rows: slice, columns: slice) -> Iterator[int]:
    """Yield the numbers of the strips or tiles of a page that hold a region of it."""
    height = keyframe.tilelength if keyframe.is_tiled else min(keyframe.rowsperstrip, keyframe.imagelength)
    width = keyframe.tilewidth if keyframe.is_tiled else keyframe.imagewidth
    down, across = -(-keyframe.imagelength // height), -(-keyframe.imagewidth // width)
    for plane in range(planes.start, planes.stop):
        for row in range(rows.start // height, -(-rows.stop // height)):
            for column in range(columns.start // width, -(-columns.stop // width)):
                yield (plane * down + row) * across + column


def _paste(target: Array, box: Slices, data: Array, place: tuple[int, ...]) -> None:
    """Copy what `data`, which begins at `place`, shares with `box` into `target`, the array of `box`."""
    into, taken = [], []
    for part, extent, start in zip(box, data.shape, place, strict=True):
        low, high = max(part.start, start), min(part.stop, start + extent)
        into.append(slice(low - part.start, high - part.start))
        taken.append(slice(low - start, high - start))
    target[tuple(into)] = data[tuple(taken)]


def reading_unit(layout: PageLayout, page: Any) -> Shape:
    """Return the chunk to read a series by, in stored order: tiles, or whole rows of strips; small pages several at a time."""
    rows, columns = layout.rows, layout.columns
    if page.is_tiled:
        rows, columns = min(page.tilelength, rows), min(page.tilewidth, columns)
    elif rows * columns * layout.dtype.itemsize > LARGEST_PAGE:
        strip = min(page.rowsperstrip, rows)
        rows = max(1, LARGEST_PAGE // (columns * layout.dtype.itemsize * strip)) * strip
    deep = max(1, MINIMUM_BYTES // (rows * columns * layout.samples * layout.dtype.itemsize))
    leading = [1] * len(layout.leading)
    if leading:
        leading[-1] = min(deep, layout.leading[-1])
    middle = [rows, columns]
    if layout.samples > 1:
        middle = [layout.samples, *middle] if layout.samples_first else [*middle, layout.samples]
    return (*leading, *middle)

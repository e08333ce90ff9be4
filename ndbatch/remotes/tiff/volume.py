"""One multi-page file: TIFF, BigTIFF, ImageJ hyperstack or OME-TIFF, through tifffile.

As an output a file is OME-TIFF (tifffile's JSON description for types that OME has no word for), little-endian, stored raw in
one piece, so that ImageJ and every reader map it; the same voxels give the same bytes. Boxes can be written in any
order, each straight to its place in the file. With `?compression=zlib` it is packed in tiles when it is closed. One process
writes: the engine stages blocks in another store and then writes slabs of whole planes, in order, under a temporary name.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, Corrupt, NdbatchError, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.abilities import FAR, VOXEL_TYPES, Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder, axis_order
from ndbatch.remotes.base import Array, ArraySpec, Kind, Volume
from ndbatch.remotes.files.flat import write_region
from ndbatch.remotes.files.packing import Packing, is_working, working_path
from ndbatch.remotes.files.paths import file_error, file_version, is_there, require_file, require_local
from ndbatch.remotes.places.far import FarFile, FilePath
from ndbatch.remotes.tiff import packing
from ndbatch.remotes.tiff.metadata import Sizes, channel_names, read_metadata
from ndbatch.remotes.tiff.pages import PageLayout, PageReader, reading_unit

OPTIONS = ("axes", "compression", "level", "series")
SIGNS_OF_DAMAGE = re.compile(r"corrupt|invalid (page|value) offset|missing (data|\d+ frames)|expected \d+ frames")
"""What tifffile logs of a file that is not whole, and then reads what is left of it."""


class TiffVolume(Volume):
    """One series of a TIFF file, at one level of its pyramid."""

    scheme = "tiff"
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False,
        read_places=FAR,
        attributes=False,
        coarser=True,
        dtypes=tuple(name for name in VOXEL_TYPES if name != "bool"),
        title="TIFF",
        examples=("image.ome.tif", "image.ome.tif?compression=zlib"),
    )

    def __init__(
        self, address: Address, spec: ArraySpec, order: AxisOrder, pages: PageReader, names: tuple[str, ...] = ()
    ) -> None:
        super().__init__(address, spec)
        self._order, self._channels = order, names
        self._reader: PageReader | None = pages
        self._packing: Packing | None = None

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open the first series (`::/n`, `?level=n` for others); reads the page directories and no voxels.

        Axes that tifffile cannot name are z; colours are c. Raises NotFound, Denied, Corrupt for files that are empty,
        cut short or not TIFF, and PlanError where the axes must be told.
        """
        address.require_options(OPTIONS)
        path = _current(address)
        file, complaints = _opened(path, address)
        try:
            series, level, levels = _series(file, address)
            number = _series_number(file, address)
            sizes, own = read_metadata(file, number)
            layout, names = _layout(series, own, path, complaints)
            order = axis_order(address, layout.shape, None if address.option("axes") else _names(names, path))
            scale = [a / b for a, b in zip(levels[0], levels[level], strict=True)]
            spec = _spec(layout, order, series.keyframe, sizes, own, scale, level, len(levels))
            known = channel_names(file, number) if "c" in spec.axes else ()
            return cls(address, spec, order, PageReader(file, series, layout, path), known)
        except BaseException:
            file.close()
            raise

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what a TIFF file cannot hold: shards, booleans, fewer than two axes; a compression that is not written."""
        require_local(address)
        super().check_spec(address, spec)
        address.require_options(OPTIONS)
        packing.require_compression(address)
        if address.inside:
            raise PlanError(f"{address.url}: a new TIFF file has one series; leave ::{address.inside} out")
        if spec.shards is not None:
            raise PlanError(f"{address.url}: TIFF has no shards; leave shards out")
        if not spec.axes.endswith("yx"):
            raise PlanError(f"{address.url}: a TIFF volume needs the axes y and x, not only {', '.join(spec.axes)}")

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make a file of zeros that takes its full size at once where the file system needs it; see the module."""
        cls.check_spec(address, spec)
        if cls.exists(address):
            raise Conflict(f"{address.path} exists already", url=address.url)
        path = Path(address.path)
        try:
            packing.create_raw(working_path(path) if _is_packed(address) else path, spec, address)
        except OSError as error:
            raise file_error(error, address) from None
        volume = cls.open(address)
        volume._will_pack()
        return volume

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether anything is at the path, or will be."""
        return is_there(address) or (address.place == "file" and is_working(Path(address.path)))

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the file."""
        require_local(address)
        try:
            working_path(Path(address.path)).unlink(missing_ok=True)
            Path(address.path).unlink(missing_ok=True)
        except OSError as error:
            raise file_error(error, address) from None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels in the OME-XML or in ImageJ's labels."""
        return self._channels

    def version(self) -> str:
        """Return size and modification time of the file."""
        return file_version(_current(self.address), self.address)

    def close(self) -> None:
        """Close the file, and pack it where it was written to be compressed; a later read opens it again."""
        self._forget()
        if self._packing is not None:
            packing, self._packing = self._packing, None
            packing.done()

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _will_pack(self) -> None:
        working = working_path(Path(self.address.path))
        if self._packing is None and _is_packed(self.address) and os.path.exists(working):
            self._packing = Packing(self, working, packing.pack)

    @property
    def _pages(self) -> PageReader:
        reader = self._reader
        if reader is None:
            reader = self._reader = type(self).open(self.address)._pages
        return reader

    def _read(self, box: Box) -> Array:
        if self.address.place == "file" and self._pages.path != _current(self.address):
            self._forget()  # it was packed, or unpacked, meanwhile
        try:
            data = self._pages.read(self._order.slices(box, self.offset))
        except OSError as error:
            raise file_error(error, self.address) from None
        return np.ascontiguousarray(self._order.array_from_stored(data))

    def _raw_layout(self) -> PageLayout:
        """Return where the voxels are for writing; a file that ndbatch compressed is unpacked for it."""
        working = working_path(Path(self.address.path))
        if _is_packed(self.address) and not os.path.exists(working) and self._pages.layout.raw_offset is None:
            self._forget()
            try:
                packing.unpack(working, self._pages, self.spec, self.address)
            except OSError as error:
                raise file_error(error, self.address) from None
        if self._pages.path != _current(self.address):
            self._forget()
        self._will_pack()
        return self._pages.layout

    def _write(self, box: Box, data: Array) -> None:
        require_local(self.address)
        layout = self._raw_layout()
        if layout.raw_offset is None:
            raise RemoteError(
                f"{self.url} is compressed or tiled, so that parts of it cannot be replaced; write a new file",
                url=self.url,
            )
        region = self._order.slices(box, self.offset)
        try:
            stored = self._order.array_to_stored(data)
            write_region(str(self._pages.path), layout.raw_offset, layout.shape, layout.dtype, region, stored)
        except OSError as error:
            raise file_error(error, self.address) from None


def _is_packed(address: Address) -> bool:
    return address.place == "file" and address.option("compression", "none") != "none"


def _current(address: Address) -> FilePath:
    """Return the file to read: the raw one that will be packed while there is one."""
    working = working_path(Path(address.path))
    return working if address.place == "file" and os.path.exists(working) else require_file(address, "TIFF")


def _opened(path: FilePath, address: Address) -> tuple[Any, list[str]]:
    """Open a TIFF file; return it with what tifffile complained about, which it only logs."""
    import tifffile

    complaints: list[str] = []
    file = None
    source = path if isinstance(path, Path) else path.open()
    try:
        with _listening(complaints):
            file = tifffile.TiffFile(source, _multifile=False)
            file.series  # noqa: B018  (reads the page directories)
        if isinstance(source, FarFile):
            source.require_read()
    except NdbatchError:
        raise
    except Exception as error:  # damaged directories raise whatever the parser trips over
        if file is not None:
            file.close()
        if isinstance(source, FarFile):
            source.require_read()  # damage may be what was not sent
        if isinstance(error, OSError):
            raise file_error(error, address) from None
        kind = "not a TIFF file" if file is None else "damaged: its page directories cannot be read"
        raise Corrupt(f"{path} is {kind} ({str(error) or type(error).__name__})", url=address.url) from None
    return file, complaints


@contextmanager
def _listening(complaints: list[str]) -> Iterator[None]:
    """Collect what tifffile logs instead of printing it."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    logger, collector = logging.getLogger("tifffile"), Collector(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def _series_number(file: Any, address: Address) -> int:
    """Return the number of the series that the address names, by number or by name, `a.tif::/1`; NotFound lists them."""
    told, number = address.inside.strip("/"), address.count("series")
    names = [str(series.name) for series in file.series]
    if told:
        number = names.index(told) if told in names else int(told) if told.isdecimal() else -1
    if not 0 <= number < len(names):
        listed = ", ".join(f"/{i} {name} {file.series[i].shape}" for i, name in enumerate(names[:20]))
        raise NotFound(
            f"{address.path} has no series {told or number}; it has {len(names)}: {listed}",
            url=address.url,
            datasets=names,
        )
    return number


def _series(file: Any, address: Address) -> tuple[Any, int, list[Shape]]:
    """Return the series at its level, the level, and the shapes of all levels."""
    number, level = _series_number(file, address), address.count("level")
    levels = file.series[number].levels
    if level >= len(levels):
        raise NotFound(f"{address.path} has no level {level}; its levels are 0 to {len(levels) - 1}", url=address.url)
    return levels[level], level, [tuple(entry.shape) for entry in levels]


def _layout(series: Any, own: dict[str, Any], path: FilePath, complaints: list[str]) -> tuple[PageLayout, str]:
    """Return where the voxels are and the names of the stored axes. Corrupt for a file that is not whole."""
    page = series.keyframe
    planes, depth, rows, columns, inner = page.shaped
    samples = max(planes, inner)
    trailing = 2 + (samples > 1)
    leading, axes = tuple(series.shape[:-trailing]), str(series.axes)
    count = math.prod(leading)
    offset = series.dataoffset
    damaged = [text for text in complaints if SIGNS_OF_DAMAGE.search(text)]
    if depth != 1 or page.dtype is None:
        raise Corrupt(f"{path} holds pages of a kind that cannot be read (depth {depth}, {page.dtype})", url=str(path))
    if not damaged and offset is None and (count != len(series.pages) or any(p is None for p in series.pages)):
        damaged = ["pages are missing"]
    if damaged:
        reason = damaged[0].rpartition("> ")[2].rstrip("')")
        raise Corrupt(f"{path} is damaged or cut short: {reason}; copy it again", url=str(path))
    size = path.stat().st_size
    ends = [offset + series.nbytes] if offset is not None else [_end(p) for p in series.pages]
    if max(ends) > size:
        raise Corrupt(f"{path} is cut short: {size} bytes of {max(ends)}; copy it again", url=str(path))
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    layout = PageLayout(leading, rows, columns, samples, planes > 1, dtype, offset)
    shape = tuple(own.get("shape", ()))
    if samples == 1 and len(shape) == len(own.get("axes", "")) >= 2 and math.prod(shape) == math.prod(layout.shape):
        return replace(layout, leading=shape[:-2]), str(own["axes"])
    return layout, axes


def _end(page: Any) -> int:
    """Return the byte after the last segment of a page."""
    return max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)


def _names(axes: str, path: FilePath) -> str:
    """Return tifffile's axis codes in ndbatch's words: colours are c, and the one that it cannot name is z."""
    lowered = axes.lower()
    if "s" in lowered and "c" not in lowered:
        lowered = lowered.replace("s", "c")
    unknown = [code for code in lowered if code not in "tczyx"]
    if len(unknown) == 1 and "z" not in lowered:
        return lowered.replace(unknown[0], "z")
    if unknown:
        example = "tczyx"[-len(axes) :]
        raise PlanError(f"{path}: the axes {axes} are not all known; say which is which, such as axes: {example}")
    return lowered


def _spec(
    layout: PageLayout,
    order: AxisOrder,
    page: Any,
    sizes: Sizes | None,
    own: dict[str, Any],
    scale: list[float],
    level: int,
    levels: int,
) -> ArraySpec:
    axes = order.axes
    size = None
    if sizes is not None and all(axis in sizes for axis in axes if axis in "zyx"):
        factors = order.from_stored(scale) if len(scale) == len(axes) else (1.0,) * len(axes)
        size = tuple(sizes.get(axis, 1.0) * f for axis, f in zip(axes, factors, strict=True))
    offset = tuple(own.get("offset", ()))
    return ArraySpec(
        shape=order.from_stored(layout.shape),
        dtype=layout.dtype.newbyteorder("="),
        axes=axes,
        chunks=order.from_stored(reading_unit(layout, page)),
        offset=offset if len(offset) == len(axes) else (),
        voxel_size=size,
        kind=Kind(own["kind"]) if own.get("kind") in set(Kind) else Kind.IMAGE,
        level=level,
        levels=levels,
    )

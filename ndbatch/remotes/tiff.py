"""TIFF files: multi-page, BigTIFF, ImageJ hyperstacks, single-file OME-TIFF; read by pages, strips and tiles.

Written files are one contiguous stack: ImageJ's dialect where it knows the dtype (uint8, uint16, float32), else plain
pages with a JSON description; both name the axes and the voxel size, and equal input gives equal bytes.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import tifffile

from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Abilities, Array, ArraySpec, Volume
from ndbatch.units import MICROMETRES

IMAGEJ_TYPES = {"uint8", "uint16", "float32"}
NAMES = {"S": "c", "C": "c", "T": "t", "Z": "z", "Y": "y", "X": "x"}
"""TIFF axis codes to ours; a page axis without a meaning (Q, I) is z, or t where there is a z."""


class _Complaints(logging.Handler):
    """Collects what tifffile only logs: it goes on with the pages before a damaged place, which would be silently wrong."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        self._log = logging.getLogger("tifffile")

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.texts.append(record.getMessage())

    def __enter__(self) -> Self:
        self._before, self._log.propagate = self._log.propagate, False
        self._log.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.removeHandler(self)
        self._log.propagate = self._before


class _File:
    """An open TIFF file: its first series, and how its pages map to our axes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tiff = tifffile.TiffFile(path)
        if not self.tiff.series:
            raise tifffile.TiffFileError("no image in it")
        self.series = self.tiff.series[0]
        self.lock = threading.Lock()
        self.stored = _axis_names(self.series.axes, self.series.shape)
        self.axes = "".join(a for a in "tczyx" if a in self.stored)
        self.shape: Shape = tuple(self.series.shape[self.stored.index(a)] for a in self.axes)
        self.size = os.path.getsize(path)
        self.contiguous = self.series.dataoffset
        self._require_whole()

    def _require_whole(self) -> None:
        """Raise where the file ends before its data does: a truncated copy."""
        if self.contiguous is not None:
            end = self.contiguous + self.series.nbytes
        else:
            page = self.series.pages[len(self.series.pages) - 1]
            if page is None:
                return
            end = max(o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True))
        if end > self.size:
            raise tifffile.TiffFileError(f"it ends at byte {self.size}, its data go on to byte {end}")

    def read(self, box: Box) -> Array:
        """Return a box in our axes, positions counted from 0."""
        wanted = dict(zip(self.axes, box.slices(), strict=True))
        key = tuple(wanted.get(a, slice(0, 1)) for a in self.stored)
        data = self._contiguous(key) if self.contiguous is not None else self._pages(key)
        kept = [i for i, a in enumerate(self.stored) if a in self.axes]
        data = data[tuple(slice(None) if i in kept else 0 for i in range(data.ndim))]
        names = [self.stored[i] for i in kept]
        return np.ascontiguousarray(data.transpose([names.index(a) for a in self.axes]))

    def _contiguous(self, key: tuple[slice, ...]) -> Array:
        dtype = np.dtype(self.series.dtype).newbyteorder(self.tiff.byteorder)
        whole = np.memmap(self.path, dtype, "r", offset=self.contiguous, shape=self.series.shape)
        return np.array(whole[key])

    def _pages(self, key: tuple[slice, ...]) -> Array:
        """Read the pages that `key` selects, and of each only the strips or tiles it touches."""
        inner = len(self.series.keyframe.shape)
        lead, rest = key[:-inner], key[-inner:]
        counts = self.series.shape[: len(lead)]
        out = np.empty(tuple(k.stop - k.start for k in key), np.dtype(self.series.dtype).newbyteorder("="))
        for place in itertools.product(*(range(k.start, k.stop) for k in lead)):
            number = int(np.ravel_multi_index(place, counts)) if place else 0
            spot = tuple(p - k.start for p, k in zip(place, lead, strict=True))
            out[spot] = self._page(number, rest)
        return out

    def _page(self, number: int, key: tuple[slice, ...]) -> Array:
        with self.lock:
            page = self.series.pages[number]
        if page is None:
            return np.zeros(tuple(k.stop - k.start for k in key), self.series.dtype)
        keyframe = page.keyframe
        if keyframe.planarconfig == 2 or keyframe.shape != keyframe.shaped[2 : 2 + len(keyframe.shape)]:
            with self.lock:
                result: Array = page.asarray()[key]
            return result
        return self._segments(page, key)

    def _segments(self, page: Any, key: tuple[slice, ...]) -> Array:
        """Decode the strips or tiles under `key` (rows, columns, and samples where there are any)."""
        keyframe = page.keyframe
        chunks = Grid.over(Box.of_shape(keyframe.shape), keyframe.chunks)
        wanted = Box(tuple(k.start for k in key), tuple(k.stop for k in key))
        out = np.zeros(wanted.shape, self.series.dtype)
        for index in chunks.touching(wanted):
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if count == 0:
                continue
            with open(self.path, "rb") as file:
                raw = os.pread(file.fileno(), count, offset)
            data = keyframe.decode(raw, index, jpegtables=page.jpegtables)[0]
            box = chunks[index].core
            piece = data.reshape(data.shape[1 : 1 + wanted.ndim])
            common = box.intersect(wanted)
            out[common.slices(wanted.start)] = piece[common.slices(box.start)]
        return out


class TiffVolume(Volume):
    """The first image of a TIFF file."""

    scheme = "tiff"
    abilities: ClassVar[Abilities] = Abilities(concurrent=False, attributes=False)

    def __init__(self, address: Address, spec: ArraySpec) -> None:
        super().__init__(address, spec)
        self._file: _File | None = None
        self._map: Any = None
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_map": None, "_opening": None}

    @classmethod
    def open(cls, address: Address) -> Self:
        """Read the file's headers. NotFound, Denied, or Corrupt for an empty, truncated or foreign file."""
        file = _opened(address)
        planes = {a: 1 for a in file.axes if a not in "yx"}
        chunks = file.shape
        if file.contiguous is None:
            rows = file.series.keyframe.chunks[file.stored[-len(file.series.keyframe.shape) :].index("y")]
            planes["y"] = rows
        chunks = tuple(planes.get(a, n) for a, n in zip(file.axes, file.shape, strict=True))
        spec = ArraySpec(
            shape=file.shape,
            dtype=np.dtype(file.series.dtype).newbyteorder("="),
            axes=file.axes,
            chunks=chunks,
            voxel_size=_voxel_size(file),
        )
        volume = cls(address, spec)
        volume._file = file
        return volume

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make the file at its full size, all zero. Conflict where one is there."""
        if cls.exists(address):
            raise Conflict(f"{address.path} exists already", url=address.url)
        imagej = spec.dtype.name in IMAGEJ_TYPES
        order = "tzcyx" if imagej else spec.axes
        axes = "".join(a for a in order if a in spec.axes)
        shape = tuple(spec.shape[spec.axes.index(a)] for a in axes)
        described: dict[str, Any] = {"axes": axes.upper()}
        resolution: dict[str, Any] = {}
        if spec.voxel_size is not None:
            size = dict(zip(spec.axes, spec.voxel_size, strict=True))
            described |= {"unit": "um", "spacing": size.get("z", 1.0)}
            resolution = {"resolution": (1 / size["x"], 1 / size["y"])}
        try:
            Path(address.path).parent.mkdir(parents=True, exist_ok=True)
            big = spec.nbytes > 2**32 - 2**25
            options = {"metadata": described, "bigtiff": big, "imagej": imagej and not big, "photometric": "minisblack"}
            volume = cls(address, spec)
            volume._map = tifffile.memmap(address.path, shape=shape, dtype=spec.dtype, **options, **resolution)
        except OSError as error:
            raise Denied(f"cannot create {address.path}: {error.strerror or error}", url=address.url) from None
        volume._map = volume._map.transpose([axes.index(a) for a in spec.axes])
        return volume

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the file is there."""
        return Path(address.path).exists()

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the file."""
        Path(address.path).unlink(missing_ok=True)

    def version(self) -> str:
        """Return the file's size and modification time."""
        stat = os.stat(self.address.path)
        return f"{stat.st_size}-{stat.st_mtime_ns}"

    def close(self) -> None:
        """Write what is still in memory to the file."""
        if self._map is not None:
            self._map.base.flush() if hasattr(self._map.base, "flush") else self._map.flush()
            self._map = None

    def _read(self, box: Box) -> Array:
        if self._map is not None:
            return np.array(self._map[box.slices(self.offset)])
        if self._file is None:
            self._file = _opened(self.address)
        try:
            data = self._file.read(box.shift([-o for o in self.offset]))
        except (tifffile.TiffFileError, ValueError, OSError, RuntimeError, IndexError) as error:
            raise Corrupt(f"{self.url}: damaged at {box.describe(self.axes)}: {error}", url=self.url) from None
        return data.astype(self.dtype, copy=False)

    def _write(self, box: Box, data: Array) -> None:
        if self._map is None:
            raise RemoteError(f"{self.url}: an existing TIFF file is not changed; create a new one", url=self.url)
        self._map[box.slices(self.offset)] = data


def _opened(address: Address) -> _File:
    path = Path(address.path)
    if not path.exists():
        raise NotFound(f"{path} does not exist", url=address.url)
    if path.is_dir():
        raise PlanError(f"{path} is a folder, not a TIFF file")
    if path.stat().st_size == 0:
        raise Corrupt(f"{path} is empty (0 bytes)", url=address.url)
    try:
        with _Complaints() as complaints:
            file = _File(str(path))
        if complaints.texts:
            raise tifffile.TiffFileError(complaints.texts[0].rpartition("> ")[2])
        return file
    except PermissionError:
        raise Denied(f"{path} cannot be read: no permission", url=address.url) from None
    except (tifffile.TiffFileError, ValueError, OSError, RuntimeError, IndexError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise Corrupt(f"{path} cannot be read as TIFF: truncated or damaged ({reason})", url=address.url) from None


def _axis_names(codes: str, shape: Shape) -> str:
    """Return our axis names for TIFF codes, in stored order; `_` for axes of extent 1 that have no name of ours."""
    names: list[str] = []
    for code, extent in zip(codes, shape, strict=True):
        name = NAMES.get(code, "")
        if not name:
            name = (
                "z" if "Z" not in codes and "z" not in names else "t" if "T" not in codes and "t" not in names else ""
            )
        if not name or name in names or (extent == 1 and name in "tc"):
            if extent != 1:
                raise ValueError(f"the axes {codes} of shape {shape} are not understood")
            name = "_"
        names.append(name)
    return "".join(names)


def _voxel_size(file: _File) -> tuple[float, ...] | None:
    """Return micrometres along each axis from OME, ImageJ or our own description, or None."""
    size = _ome_size(file) or _described_size(file)
    if size is None or not all(v > 0 for v in size.values()):
        return None
    return tuple(1.0 if a in "tc" else size.get(a, 1.0) for a in file.axes)


def _ome_size(file: _File) -> dict[str, float] | None:
    if not file.tiff.is_ome:
        return None
    pixels = tifffile.xml2dict(file.tiff.ome_metadata)["OME"]["Image"]
    pixels = (pixels[0] if isinstance(pixels, list) else pixels)["Pixels"]
    result = {}
    for axis in "zyx":
        value, unit = pixels.get(f"PhysicalSize{axis.upper()}"), pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm")
        if value is not None and unit.lower() in MICROMETRES:
            result[axis] = float(value) * MICROMETRES[unit.lower()]
    return result if {"y", "x"} <= set(result) and ("z" in result or "z" not in file.axes) else None


def _described_size(file: _File) -> dict[str, float] | None:
    """ImageJ: spacing, unit and the resolution tags (voxels a unit). Our own files say the same in JSON."""
    shaped = file.tiff.shaped_metadata if file.tiff.is_shaped else None
    said = file.tiff.imagej_metadata or (shaped[0] if shaped else None) or {}
    unit = str(said.get("unit", "")).replace("\\u00B5", "µ").lower()
    tags = file.series.keyframe.tags
    if unit not in MICROMETRES or "XResolution" not in tags or "YResolution" not in tags:
        return None
    factor = MICROMETRES[unit]
    (xn, xd), (yn, yd) = tags["XResolution"].value, tags["YResolution"].value
    if not xn or not yn:
        return None
    return {
        "x": factor * xd / xn,
        "y": factor * yd / yn,
        "z": factor * float(said.get("spacing", 0) or 0) or factor * xd / xn,
    }

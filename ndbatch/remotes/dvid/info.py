"""What a data instance tells of itself, as facts of an array; and the settings of a new one.

DVID writes points as x, y, z and extents with both ends included; settings of a new instance are strings, whatever they say.
What DVID has no word for (the exact extent within the blocks at the edge, kind, voxel sizes of labels made by other programs)
is kept in tags of the instance, small strings by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, NotFound, RemoteError
from ndbatch.geometry import Shape
from ndbatch.remotes.base import ArraySpec, Kind

IMAGES = {
    "uint8blk": "uint8", "uint16blk": "uint16", "uint32blk": "uint32", "uint64blk": "uint64", "float32blk": "float32",
}  # fmt: skip
"""Types of instance that hold one number a voxel, and its type."""
LABELS = ("labelmap", "labelarray")
"""Types of instance that hold labels in compressed blocks."""
READ_ONLY = ("labelblk", "roi")
TYPES = (*IMAGES, *LABELS, *READ_ONLY)
"""Types of instance that are opened as volumes."""
TAG = "ndbatch"
"""Tag that keeps what ndbatch knows of a volume: JSON of `min` and `max` (x, y, z, both included) and `kind`."""
ATTRIBUTE = "ndbatch."
"""Start of the tags that keep the JSON document of a volume, one tag for each of its keys."""
MICROMETRES = {
    "nanometers": 1e-3, "nanometer": 1e-3, "nm": 1e-3, "micrometers": 1.0, "micrometer": 1.0, "microns": 1.0, "micron": 1.0,
    "um": 1.0, "millimeters": 1e3, "millimeter": 1e3, "mm": 1e3,
}  # fmt: skip


@dataclass(frozen=True)
class Info:
    """The JSON that `/info` of a data instance gives."""

    body: Mapping[str, Any]

    @property
    def typename(self) -> str:
        """Type of the instance, such as `labelmap`."""
        return str(self.body["Base"]["TypeName"])

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the instance."""
        return dict(self.body["Base"].get("Tags") or {})

    @property
    def extended(self) -> Mapping[str, Any]:
        """What the type adds."""
        return self.body.get("Extended") or {}

    @property
    def block(self) -> Shape:
        """Voxels of a block, z, y, x."""
        values = self.extended.get("BlockSize") or [32 if self.typename in (*IMAGES, "roi") else 64] * 3
        return tuple(int(n) for n in reversed(values))

    @property
    def levels(self) -> int:
        """Levels that the instance itself has: those of a labelmap."""
        return 1 + int(self.extended.get("MaxDownresLevel") or 0) if self.typename == "labelmap" else 1

    @property
    def known(self) -> dict[str, Any]:
        """What ndbatch kept of the volume in a tag; empty where it did not make it."""
        try:
            found = json.loads(self.tags.get(TAG, "{}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def extents(self) -> tuple[Shape, Shape] | None:
        """Return first voxel and end (z, y, x) of the volume at level 0; None while nothing was written.

        The server's own extents grow by whole blocks. The exact ones that ndbatch noted hold as long as they end in the
        same blocks; where another program wrote beyond them, the server's do.
        """
        own = self.body.get("Extents") or {}
        ends = _ends(own, "MinPoint", "MaxPoint") or _ends(self.extended, "MinPoint", "MaxPoint")
        noted = _ends(self.known, "min", "max")
        if noted is not None and (ends is None or self._blocks(noted) == self._blocks(ends)):
            ends = noted
        return None if ends is None else (ends[0], tuple(n + 1 for n in ends[1]))

    def _blocks(self, ends: tuple[Shape, Shape]) -> list[list[int]]:
        return [[n // size for n, size in zip(point, self.block, strict=True)] for point in ends]

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Micrometres of a voxel, z, y, x; None where the unit is no length."""
        sizes = self.extended.get("VoxelSize")
        units = self.extended.get("VoxelUnits") or ["nanometers"] * 3
        if not sizes or any(str(unit).lower() not in MICROMETRES for unit in units):
            return None
        return tuple(
            float(n) * MICROMETRES[str(u).lower()] for n, u in zip(reversed(sizes), reversed(units), strict=True)
        )

    def spec(self, level: int, levels: int, where: str) -> ArraySpec:
        """Return the facts of the array; RemoteError for a type that is no volume, NotFound while it has no extents."""
        if self.typename not in TYPES:
            raise RemoteError(
                f"{where} is a {self.typename}, which holds no voxels; ndbatch ls lists the volumes", url=where
            )
        ends = self.extents()
        if ends is None:
            raise NotFound(
                f"{where}: nothing was written to it yet, and it has no extents; POST its extents first", url=where
            )
        dtype = IMAGES.get(self.typename, "uint8" if self.typename == "roi" else "uint64")
        kind = self.known.get("kind", Kind.IMAGE if self.typename in IMAGES else Kind.LABELS)
        own = level if self.typename == "labelmap" else 0  # levels of images are instances with extents of their own
        first = tuple(n >> own for n in ends[0])
        stop = tuple(-(-n >> own) for n in ends[1])
        size = self.voxel_size
        try:
            return ArraySpec(
                shape=tuple(b - a for a, b in zip(first, stop, strict=True)),
                dtype=np.dtype(dtype),
                axes="zyx",
                chunks=self.block,
                offset=first,
                voxel_size=None if size is None else tuple(n * 2**own for n in size),
                kind=Kind(kind),
                level=level,
                levels=levels,
                anchor=(0, 0, 0) if any(a % n for a, n in zip(first, self.block, strict=True)) else None,
            )
        except ValueError as error:
            raise Corrupt(f"{where}: its info makes no sense ({error})", url=where) from None


def _ends(told: Mapping[str, Any], first: str, last: str) -> tuple[Shape, Shape] | None:
    """Return two points of a document, z, y, x; None where either is absent."""
    points = [told.get(name) for name in (first, last)]
    if not all(isinstance(point, list) and len(point) == 3 for point in points):
        return None
    start, end = (tuple(int(n) for n in reversed(point or [])) for point in points)
    return start, end


def typename_of(spec: ArraySpec) -> str:
    """Return the type of instance for an array: a labelmap for labels of 64 bits, otherwise the image type of its dtype."""
    if spec.kind is Kind.LABELS and spec.dtype.name == "uint64":
        return "labelmap"
    return next(name for name, dtype in IMAGES.items() if dtype == spec.dtype.name)


def settings(name: str, spec: ArraySpec, downres: int) -> dict[str, str]:
    """Return the settings of a new instance called `name`, all of them strings; `downres` is the coarsest level of labels."""
    first, last = inclusive(spec)
    size = [n * 1e3 for n in reversed(spec.voxel_size)] if spec.voxel_size else [1.0] * 3
    unit = "nanometers" if spec.voxel_size else "pixels"
    values = {
        "typename": typename_of(spec),
        "dataname": name,
        "BlockSize": ",".join(str(n) for n in reversed(spec.chunks)),
        "VoxelSize": ",".join(f"{n:.10g}" for n in size),
        "VoxelUnits": ",".join([unit] * 3),
        "MinPoint": ",".join(map(str, first)),
        "MaxPoint": ",".join(map(str, last)),
    }
    return values | ({"MaxDownresLevel": str(downres)} if values["typename"] == "labelmap" else {})


def inclusive(spec: ArraySpec) -> tuple[list[int], list[int]]:
    """Return the first and the last voxel of an array as x, y, z."""
    return [int(n) for n in reversed(spec.domain.start)], [int(n) - 1 for n in reversed(spec.domain.stop)]

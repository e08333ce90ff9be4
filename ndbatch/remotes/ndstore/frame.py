"""Geometry of an ndstore dataset: sizes, offsets, voxel sizes and cuboids of every level, as its `info` document tells them.

Documents are in x, y, z; everything here is z, y, x. Level i halves x and y (scaling `zslices`) or all three (`isotropic`), with
sizes (n - 1) // 2**i + 1 and offsets o // 2**i. Source: the ndstore server's project model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, NotFound
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.units import micrometres

SLICES, ISOTROPIC = "zslices", "isotropic"
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32")
"""Types of voxel of a channel."""
UNIT = "voxelunit"
"""What `ndbatch serve` tells of the unit of `voxelres`, beside what every ndstore tells; others leave it open."""
DONE = 2
"""State of `propagate` of a channel whose coarser levels follow from its voxels."""
WIDE = "uint64_labels"
"""Said by `ndbatch serve`: labels of 64 bits are kept whole. An ndstore cuts them to 32."""


def factor(scaling: str, level: int) -> Shape:
    """Return voxels of level 0 to one of `level`, z, y, x."""
    return (2**level if scaling == ISOTROPIC else 1, 2**level, 2**level)


def level_box(shape: Shape, offset: Shape, scaling: str, level: int) -> Box:
    """Return the box of the voxels of a level, z, y, x."""
    by = factor(scaling, level)
    start = tuple(o // f for o, f in zip(offset, by, strict=True))
    return Box.of_shape(tuple((n - 1) // f + 1 for n, f in zip(shape, by, strict=True)), start)


def cuboid(scaling: str, voxel_size: Sequence[float], level: int) -> Shape:
    """Return the unit in which a level is stored, z, y, x: flat where voxels are long along z."""
    flat = scaling == SLICES and voxel_size[0] / voxel_size[2] / 2**level > 0.5
    return (16, 128, 128) if flat else (64, 64, 64)


@dataclass(frozen=True)
class Info:
    """The `info` document of a token."""

    document: Mapping[str, Any]
    url: str

    @property
    def dataset(self) -> Mapping[str, Any]:
        """What is said of the dataset."""
        return self._part("dataset")

    @property
    def name(self) -> str:
        """The dataset's name; servers of old give it as its description."""
        return str(self.dataset.get("name") or self.dataset.get("description", ""))

    @property
    def channels(self) -> Mapping[str, Mapping[str, Any]]:
        """What is said of each channel, by name."""
        return self._part("channels")

    @property
    def scaling(self) -> str:
        """zslices or isotropic (`xyz` on the wire)."""
        return SLICES if self.dataset.get("scaling", SLICES) == SLICES else ISOTROPIC

    @property
    def levels(self) -> int:
        """Number of levels, level 0 included."""
        return len(self.dataset.get("resolutions") or [0])

    def box(self, level: int) -> Box:
        """Return the box of the voxels of a level, z, y, x."""
        return Box.of_shape(self._triple("imagesize", level, int), self._triple("offset", level, int))

    def cuboid(self, level: int) -> Shape:
        """Return the unit in which a level is stored, z, y, x."""
        return self._triple("cube_dimension", level, int)

    def voxel_size(self, level: int, unit: str) -> tuple[float, ...]:
        """Return micrometres along z, y, x, in the unit that the server tells, else in that of the reader, else as they are."""
        scale = micrometres(f"1 {self.dataset.get(UNIT) or unit or 'um'}")
        return tuple(size * scale for size in self._triple("voxelres", level, float))

    def scale_down(self, level: int) -> int:
        """Return how many slices of a level are averaged to one that is nearly as thick as voxels are wide."""
        return int(self.dataset.get("neariso_scaledown", {}).get(str(level), 1))

    def base(self, channel: str) -> int:
        """Return the level of the dataset at which the voxels of a channel lie, its level 0 here: `resolution` on the wire."""
        told = self._facts(channel).get("resolution", 0)
        if not isinstance(told, int) or not 0 <= told < self.levels:
            raise Corrupt(f"{self.url}: {channel} has the resolution {told!r}; there are {self.levels}", url=self.url)
        return told

    def made(self, channel: str) -> int:
        """Return how many levels of a channel follow from its voxels, its finest included.

        Those that were not propagated are answered with zeros or with what lay there before. Servers of old do not tell.
        """
        return self.levels - self.base(channel) if self._facts(channel).get("propagate", DONE) == DONE else 1

    def spec(self, channel: str, level: int, unit: str) -> ArraySpec:
        """Return what a level of a channel is, 0 that of its own voxels. NotFound where there is no such channel or level."""
        facts, base, made = self._facts(channel), self.base(channel), self.made(channel)
        if level >= self.levels - base:
            raise NotFound(
                f"{self.url}: {channel} has the levels 0 to {self.levels - base - 1}, not {level}", url=self.url
            )
        if level >= made:
            raise NotFound(
                f"{self.url}: level {level} of {channel} does not follow from its voxels (propagate is "
                f"{facts.get('propagate')}); have the service make it with propagate(), or take level 0",
                url=self.url,
            )
        dtype = str(facts.get("datatype", ""))
        if dtype not in DTYPES:
            raise Corrupt(f"{self.url}: the channel {channel} is of {dtype!r}, which is no type of voxel", url=self.url)
        level += base
        box, chunks, size = self.box(level), self.cuboid(level), self.voxel_size(level, unit)
        first, last = times_of(facts)
        timed = str(facts.get("channel_type")) == "timeseries" or last - first > 1
        kind = Kind.LABELS if facts.get("channel_type") == "annotation" else Kind.IMAGE
        kind = Kind.PROBABILITY if kind is Kind.IMAGE and dtype == "float32" else kind
        return ArraySpec(
            shape=((last - first,) if timed else ()) + box.shape,
            dtype=np.dtype(dtype),
            axes="tzyx" if timed else "zyx",
            chunks=((1,) if timed else ()) + chunks,
            offset=((first,) if timed else ()) + box.start,
            voxel_size=((1.0,) if timed else ()) + size,
            kind=kind,
            level=level - base,
            levels=made,
        )

    def _facts(self, channel: str) -> Mapping[str, Any]:
        if channel not in self.channels:
            known = ", ".join(sorted(self.channels)) or "none"
            raise NotFound(f"{self.url} has no channel {channel}; known: {known}", url=self.url)
        return self.channels[channel]

    def _part(self, name: str) -> Mapping[str, Any]:
        found = self.document.get(name) if isinstance(self.document, Mapping) else None
        if not isinstance(found, Mapping):
            raise Corrupt(f"{self.url}: the info document has no {name}; is this an ndstore?", url=self.url)
        return found

    def _triple(self, name: str, level: int, kind: type) -> tuple[Any, ...]:
        try:
            x, y, z = self.dataset[name][str(level)]
            return (kind(z), kind(y), kind(x))
        except (KeyError, TypeError, ValueError):
            raise Corrupt(f"{self.url}: {name} of level {level} is not in the info document", url=self.url) from None


def times_of(channel: Mapping[str, Any]) -> tuple[int, int]:
    """Return the half-open range of time points of a channel."""
    try:
        first, last = (int(time) for time in channel.get("timerange", (0, 1)))
    except (TypeError, ValueError):
        return 0, 1
    return (first, last) if last > first else (first, first + 1)

"""Views: a volume seen another way, with no voxel copied. A view is a volume itself: it is read box by box, travels to other
processes as the address of what it shows, and is never written.

Each `Geometry` changes one thing: a place along t or c is taken (`Select`), spatial axes change places (`Transpose`) or run
backwards (`Flip`), voxels are left out (`Crop`) or added (`Pad`), positions move (`Translate`), the type changes (`Cast`),
another voxel grid is laid over it (`ndbatch.remotes.views.resampling.Resample`). Views of views are nested. Axis order and boxes
are those of the array, (t?, c?, z, y, x), absolute voxels.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn, Self

import numpy as np

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Volume

SPATIAL = "zyx"


class Geometry(ABC):
    """How a view relates to its source: what its spec becomes, and how a box of it is read. Frozen and picklable."""

    @abstractmethod
    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec of the view of a volume of spec `source`."""

    @abstractmethod
    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Return the voxels of `box` (inside the domain of `spec`, not empty), reading no more of `source` than they need."""

    def working_bytes(self, source: ArraySpec) -> float:
        """Return the most bytes a voxel that reading holds beside the result; if not said otherwise, what it read."""
        return float(source.dtype.itemsize)

    def channels(self, names: tuple[str, ...], source: ArraySpec) -> tuple[str, ...]:
        """Return the names of the view's channels, given those of `source`."""
        del source
        return names


class View(Volume):
    """A volume seen through a `Geometry`. Opened by `ndbatch.open` with options; see `ndbatch.remotes.views.options`."""

    scheme = "view"
    abilities: ClassVar[Abilities] = Abilities(write=False, attributes=False)

    def __init__(self, source: Volume, geometry: Geometry, address: Address | None = None) -> None:
        super().__init__(address or source.address, geometry.spec(source.spec))
        self.source = source
        self.geometry = geometry

    @classmethod
    def open(cls, address: Address) -> Self:
        """Refuse: a view is opened with the volume it shows, by `ndbatch.open`."""
        cls._refuse(address)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Refuse: nothing is stored through a view."""
        cls._refuse(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return False: a view is nothing that is stored."""
        return False

    @classmethod
    def delete(cls, address: Address) -> None:
        """Refuse: the volume behind a view is removed by its own address."""
        cls._refuse(address)

    @classmethod
    def _refuse(cls, address: Address) -> NoReturn:
        raise PlanError(f"{address.url} is a view of another volume; use the address of the volume itself")

    def version(self) -> str:
        """Return a digest of the source's version and facts and of what the view does with them."""
        facts = (self.source.version(), repr(self.source.spec), repr(self.geometry))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]

    def _read(self, box: Box) -> Array:
        shifted = box.shift([a - b for a, b in zip(self._placed.offset, self.offset, strict=True)])
        data = self.geometry.read(self.source, self._placed, shifted)
        return np.require(data, requirements=("C", "O", "W"))

    @property
    def _placed(self) -> ArraySpec:
        """The spec as the geometry made it: what was overridden since changes names and positions, not voxels."""
        return self.geometry.spec(self.source.spec) if self._overrides else self.spec

    def _write(self, box: Box, data: Array) -> None:
        self._refuse(self.address)

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    @property
    def reading_bytes(self) -> float:
        """What the layers of views hold at once: each copies what the one below read."""
        return max(self.source.reading_bytes, self.geometry.working_bytes(self.source.spec))

    @property
    def attributes(self) -> dict[str, Any]:
        """The document kept with the source."""
        return self.source.attributes

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that the view shows, where the source knows any."""
        return self.geometry.channels(self.source.channels, self.source.spec) if "c" in self.axes else ()

    @property
    def origin(self) -> Volume:
        """The stored volume at the bottom of views of views."""
        return self.source.origin if isinstance(self.source, View) else self.source

    @property
    def overridden(self) -> bool:
        """Whether facts were replaced after the view was made, which its address does not tell."""
        return bool(self._overrides)

    def __reduce__(self) -> tuple[Any, ...]:
        return _seen_again, (self.source, self.geometry, self.address, self._overrides)


def _seen_again(source: Volume, geometry: Geometry, address: Address, overrides: Mapping[str, Any]) -> View:
    """Make a view again in the process that unpickles it; its source was opened there."""
    view = View(source, geometry, address)
    return view.override(**overrides) if overrides else view


@dataclass(frozen=True)
class Select(Geometry):
    """The volume at one place along an axis, which goes away."""

    axis: str
    place: int
    """Absolute position along the axis."""

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec without the axis."""
        at = source.axes.index(self.axis)

        def without(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return values[:at] + values[at + 1 :]

        return replace(
            source,
            shape=without(source.shape),
            axes=source.axes.replace(self.axis, ""),
            chunks=without(source.chunks),
            shards=None,
            offset=without(source.offset),
            voxel_size=None if source.voxel_size is None else without(source.voxel_size),
        )

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the box with one place along the axis."""
        at = source.axes.index(self.axis)
        start = (*box.start[:at], self.place, *box.start[at:])
        stop = (*box.stop[:at], self.place + 1, *box.stop[at:])
        return source.read(Box(start, stop)).reshape(box.shape)


@dataclass(frozen=True)
class Transpose(Geometry):
    """Axes in another order: axis i of the view is axis `order[i]` of the source. The names of the axes stay in place."""

    order: Shape

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec with its extents, positions and voxel sizes in the new order."""
        return replace(
            source,
            shape=self._turned(source.shape),
            chunks=self._turned(source.chunks),
            shards=None,
            offset=self._turned(source.offset),
            voxel_size=None if source.voxel_size is None else self._turned(source.voxel_size),
        )

    def _turned(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[i] for i in self.order)

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the turned box."""
        back = [self.order.index(i) for i in range(len(self.order))]
        turned = Box(tuple(box.start[i] for i in back), tuple(box.stop[i] for i in back))
        return source.read(turned).transpose(self.order)


@dataclass(frozen=True)
class Flip(Geometry):
    """Axes that run backwards, in place: the domain is that of the source."""

    places: tuple[bool, ...]
    """For each axis, whether it is flipped."""

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec as it is."""
        return replace(source, shards=None)

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the mirrored box."""
        domain, start, stop = spec.domain, [], []
        for i, flipped in enumerate(self.places):
            both = domain.start[i] + domain.stop[i]
            start.append(both - box.stop[i] if flipped else box.start[i])
            stop.append(both - box.start[i] if flipped else box.stop[i])
        data = source.read(Box(tuple(start), tuple(stop)))
        return data[tuple(slice(None, None, -1 if flipped else 1) for flipped in self.places)]


@dataclass(frozen=True)
class Crop(Geometry):
    """A box of the source; positions stay."""

    box: Box

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec of the box, with chunks no larger than it."""
        shape = self.box.shape
        chunks = tuple(map(min, source.chunks, shape))
        return replace(source, shape=shape, chunks=chunks, shards=None, offset=self.box.start)

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the box."""
        return source.read(box)

    def channels(self, names: tuple[str, ...], source: ArraySpec) -> tuple[str, ...]:
        """Return the names of the channels inside the box."""
        at = source.axes.index("c")
        first = self.box.start[at] - source.offset[at]
        return names[first : first + self.box.shape[at]]


@dataclass(frozen=True)
class Pad(Geometry):
    """The source with voxels of one value around it; positions of the source stay, so that the view begins before it."""

    before: Shape
    after: Shape
    value: float

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec of the larger domain."""
        domain = source.domain
        start = tuple(a - n for a, n in zip(domain.start, self.before, strict=True))
        stop = tuple(b + n for b, n in zip(domain.stop, self.after, strict=True))
        return replace(source, shape=Box(start, stop).shape, offset=start, shards=None)

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read what the box shares with the source; the rest is the value."""
        inner = box.intersect(source.domain)
        if inner == box:
            return source.read(box)
        data = np.full(box.shape, self.value, spec.dtype)
        if not inner.empty:
            data[inner.slices(box.start)] = source.read(inner)
        return data


@dataclass(frozen=True)
class Translate(Geometry):
    """The source at another place: every position is larger by `by`."""

    by: Shape

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec with another offset."""
        return replace(source, offset=tuple(a + d for a, d in zip(source.offset, self.by, strict=True)), shards=None)

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the box where it is in the source."""
        return source.read(box.shift([-d for d in self.by]))


@dataclass(frozen=True)
class Cast(Geometry):
    """The source in another type of voxel; a value that does not fit is an error when it is read, never changed silently."""

    dtype: str

    def spec(self, source: ArraySpec) -> ArraySpec:
        """Return the spec with the dtype."""
        return replace(source, dtype=np.dtype(self.dtype), shards=None)

    def read(self, source: Volume, spec: ArraySpec, box: Box) -> Array:
        """Read the box and cast it. Raises StepError where a value does not fit."""
        return cast(source.read(box), spec.dtype, source.url)

    def working_bytes(self, source: ArraySpec) -> float:
        """Return the bytes of the source's voxel, twice where floating point is rounded first, and of a mask of what is lost."""
        return 2.0 * source.dtype.itemsize + 1

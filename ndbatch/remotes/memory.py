"""Volumes in the memory of this process: `memory://name`. For tests, trials and arrays that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, NotFound
from ndbatch.geometry import Box
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Abilities, Array, ArraySpec, Volume


class _Entry:
    """A named array with its spec, attributes and a count of its writes."""

    def __init__(self, spec: ArraySpec, data: Array) -> None:
        self.spec, self.data = spec, data
        self.attributes: dict[str, Any] = {}
        self.writes = 0


_ARRAYS: dict[str, _Entry] = {}


class MemoryVolume(Volume):
    """A named numpy array; other processes do not see it."""

    scheme = "memory"
    abilities: ClassVar[Abilities] = Abilities(shared=False)

    @classmethod
    def of(cls, name: str, data: Array, **spec: Any) -> Self:
        """Register `data` (not copied) as `memory://name`; `spec` takes fields of ArraySpec (axes, voxel_size, kind ...)."""
        fields = {"axes": "tczyx"[-data.ndim :], "chunks": tuple(min(64, n) for n in data.shape), **spec}
        _ARRAYS[name] = _Entry(ArraySpec(shape=data.shape, dtype=data.dtype, **fields), data)
        return cls.open(Address("memory", name))

    @classmethod
    def open(cls, address: Address) -> Self:
        """Return the array of that name; NotFound where this process has none."""
        if address.path not in _ARRAYS:
            raise NotFound(
                f"memory://{address.path} is not in this process; memory volumes are private to the process that made them",
                url=address.url,
            )
        return cls(address, _ARRAYS[address.path].spec)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make an array of zeros; Conflict where the name is taken."""
        if address.path in _ARRAYS:
            raise Conflict(f"memory://{address.path} exists already", url=address.url)
        _ARRAYS[address.path] = _Entry(spec, np.zeros(spec.shape, spec.dtype))
        return cls(address, spec)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the name is taken in this process."""
        return address.path in _ARRAYS

    @classmethod
    def delete(cls, address: Address) -> None:
        """Forget the array."""
        _ARRAYS.pop(address.path, None)

    @property
    def _entry(self) -> _Entry:
        if self.address.path not in _ARRAYS:
            raise NotFound(f"{self.url} was deleted", url=self.url)
        return _ARRAYS[self.address.path]

    def version(self) -> str:
        """Return the number of writes and which array it is."""
        return f"{id(self._entry)}-{self._entry.writes}"

    def _read(self, box: Box) -> Array:
        return np.array(self._entry.data[box.slices(self.offset)])

    def _write(self, box: Box, data: Array) -> None:
        self._entry.data[box.slices(self.offset)] = data
        self._entry.writes += 1

    @property
    def attributes(self) -> dict[str, Any]:
        """The document kept with the array."""
        return dict(self._entry.attributes)

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document."""
        self._entry.attributes.update(values)

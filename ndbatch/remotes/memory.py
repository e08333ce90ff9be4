"""Volumes in the memory of this process: `memory://name`. For tests, trials and arrays that are there already."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, NotFound
from ndbatch.geometry import Box
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.chunking import default_chunks

_versions = itertools.count()


class _Entry:
    """A named array with its spec, its attributes, and a number that is new after every change."""

    def __init__(self, spec: ArraySpec, data: Array) -> None:
        self.spec, self.data = spec, data
        self.attributes: dict[str, Any] = {}
        self.version = next(_versions)


_arrays: dict[str, _Entry] = {}


class MemoryVolume(Volume):
    """A named numpy array; other processes do not see it."""

    scheme = "memory"
    abilities: ClassVar[Abilities] = Abilities(
        shared=False, places=("memory",), title="memory", examples=("memory://name",)
    )

    @classmethod
    def of(cls, name: str, data: Array, **spec: Any) -> Self:
        """Register `data` (C-order, not copied) as `memory://name`, in place of what had the name before.

        `spec` takes fields of ArraySpec (axes, chunks, offset, voxel_size, kind).
        """
        axes = spec.pop("axes", "tczyx"[-data.ndim :])
        fields = {"chunks": default_chunks(data.shape, data.dtype, axes), **spec}
        _arrays[name] = _Entry(ArraySpec(shape=data.shape, dtype=data.dtype, axes=axes, **fields), data)
        return cls.open(Address("memory", name))

    @classmethod
    def open(cls, address: Address) -> Self:
        """Return the array of that name; NotFound where this process has none."""
        address.require_options(())
        if address.path not in _arrays:
            raise NotFound(
                f"{address.url} is not in this process; memory volumes are private to the process that made them",
                url=address.url,
            )
        return cls(address, _arrays[address.path].spec)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make an array of zeros; Conflict where the name is taken."""
        address.require_options(())
        if cls.exists(address):
            raise Conflict(f"{address.url} exists already; choose another name", url=address.url)
        _arrays[address.path] = _Entry(spec, np.zeros(spec.shape, spec.dtype))
        return cls(address, spec)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the name is taken in this process."""
        return address.path in _arrays

    @classmethod
    def delete(cls, address: Address) -> None:
        """Forget the array."""
        _arrays.pop(address.path, None)

    @property
    def _entry(self) -> _Entry:
        if self.address.path not in _arrays:
            raise NotFound(f"{self.url} was deleted", url=self.url)
        return _arrays[self.address.path]

    def version(self) -> str:
        """Return a number that no other state of any array of this process has."""
        return str(self._entry.version)

    def _read(self, box: Box) -> Array:
        return np.array(self._entry.data[box.slices(self.offset)], self.dtype, order="C")

    def _write(self, box: Box, data: Array) -> None:
        entry = self._entry
        entry.data[box.slices(self.offset)] = data
        entry.version = next(_versions)

    @property
    def attributes(self) -> dict[str, Any]:
        """The document kept with the array."""
        return dict(self._entry.attributes)

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document."""
        self._entry.attributes.update(values)

"""The Remote contract: a place that holds volumes, such as a folder, a bucket or a service.

A remote holds no voxels and keeps no connection open; volumes are opened, created and deleted in it by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ndbatch.errors import NotFound
from ndbatch.geometry import Shape
from ndbatch.remotes import api
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Volume
from ndbatch.remotes.registry import store_class

OPENERS = 8
"""Volumes whose metadata is read at the same time."""


@dataclass(frozen=True)
class Entry:
    """One volume of a remote. `shape`, `voxel_size` (micrometres) and `axes` are C-order; what is unknown is None."""

    name: str
    """What `Remote.open` takes, relative to the remote: `a/cells.zarr`, `seg.h5::/seg`."""
    url: str
    format: str
    axes: str = ""
    shape: Shape | None = None
    dtype: str = ""
    kind: str = ""
    levels: int = 0
    voxel_size: tuple[float, ...] | None = None
    problem: str = ""
    """Why it cannot be opened; empty where it can."""

    def document(self) -> dict[str, Any]:
        """Return the entry as JSON types, extents and voxel sizes by axis name."""
        facts = asdict(self)
        for name in ("shape", "voxel_size"):
            values = facts[name]
            facts[name] = None if values is None else dict(zip(self.axes, values, strict=True))
        return facts


class Remote(ABC):
    """A place that holds volumes. Subclasses say what is in it and where a name leads; the rest follows."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @property
    def url(self) -> str:
        """The address as the user would write it."""
        return self.address.url

    def __repr__(self) -> str:
        return f"<Remote {self.url}>"

    @abstractmethod
    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the volumes in it, sorted by name; what cannot be opened is listed with its `problem`.

        `depth` bounds how many folders are gone down where there are folders. Raises NotFound for a missing place, Denied.
        """

    @abstractmethod
    def locate(self, name: str) -> Address:
        """Return the address of the volume `name` (what `ls` gives), there or not. PlanError where no volume can be meant."""

    def destination(self, name: str) -> Address:
        """Return the address that a new volume gets: this remote's own where it names a volume already, else `name` in it."""
        return self.locate(name)

    def open(self, name: str, **options: Any) -> Volume:
        """Open the volume `name` with the options of `ndbatch.open`."""
        return api.open(self.locate(name), **options)

    def create(self, name: str, **facts: Any) -> Volume:
        """Create an empty volume `name` with the arguments of `ndbatch.create`."""
        return api.create(self.locate(name), **facts)

    def delete(self, name: str) -> None:
        """Remove the volume `name` and all of its levels. NotFound where there is none; nothing else is ever removed."""
        remove(self.locate(name))

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the JSON document kept with the volume `name`."""
        return self.open(name).attributes

    def set_metadata(self, name: str, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document kept with the volume `name`."""
        self.open(name).set_attributes(values)


def remove(address: Address) -> None:
    """Remove the volume at `address`. NotFound where there is none, RemoteError for what is no volume of its format."""
    store = store_class(address.scheme)
    if not store.exists(address):
        raise NotFound(f"{address.url} does not exist", url=address.url)
    store.delete(address)


def entry_of(name: str, address: Address, volume: Volume) -> Entry:
    """Return what a listing says of an open volume."""
    spec = volume.spec
    return Entry(
        name,
        volume.url,
        address.scheme,
        spec.axes,
        spec.shape,
        spec.dtype.name,
        str(spec.kind),
        spec.levels,
        spec.voxel_size,
    )

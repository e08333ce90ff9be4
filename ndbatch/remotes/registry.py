"""From an address to a volume: schemes by entry point (`ndbatch.remotes`), each store imported when first used."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ndbatch.errors import PlanError
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import ArraySpec, Volume
from ndbatch.remotes.views.options import split, view

if TYPE_CHECKING:
    from ndbatch.remotes.remote import Remote

GROUP = "ndbatch.remotes"
BUILT_IN = {
    "zarr": "ndbatch.remotes.zarr.volume:ZarrVolume",
    "hdf5": "ndbatch.remotes.hdf5.volume:Hdf5Volume",
    "tiff": "ndbatch.remotes.tiff.volume:TiffVolume",
    "n5": "ndbatch.remotes.n5.volume:N5Volume",
    "precomputed": "ndbatch.remotes.precomputed.volume:PrecomputedVolume",
    "nifti": "ndbatch.remotes.files.nifti:NiftiVolume",
    "nrrd": "ndbatch.remotes.files.nrrd:NrrdVolume",
    "mrc": "ndbatch.remotes.files.mrc:MrcVolume",
    "npy": "ndbatch.remotes.files.npy:NpyVolume",
    "npz": "ndbatch.remotes.files.npy:NpzVolume",
    "images": "ndbatch.remotes.files.images:ImagesVolume",
    "dvid": "ndbatch.remotes.dvid.volume:DvidVolume",
    "memory": "ndbatch.remotes.memory:MemoryVolume",
    "ndstore": "ndbatch.remotes.ndstore.volume:NdstoreVolume",
    "boss": "ndbatch.remotes.boss.volume:BossVolume",
    "bossdb": "ndbatch.remotes.boss.volume:BossDbVolume",
}


SERVICES: dict[str, str] = {
    "dvid": "ndbatch.remotes.dvid.remote:DvidRemote",
    "ndstore": "ndbatch.remotes.ndstore.remote:NdstoreRemote",
    "boss": "ndbatch.remotes.boss.remote:BossRemote",
    "bossdb": "ndbatch.remotes.boss.remote:BossRemote",
}
"""Services that hold volumes, by the scheme of their addresses: the class of the Remote. Installed packages add to them by
the entry points `ndbatch.services`."""


def remote_class(scheme: str) -> type[Remote] | None:
    """Return the Remote class of a service, imported now; None where `scheme` is that of a format."""
    known = {**{point.name: point.value for point in entry_points(group="ndbatch.services")}, **SERVICES}
    if scheme not in known:
        return None
    module, _, name = known[scheme].partition(":")
    loaded: type[Remote] = getattr(import_module(module), name)
    return loaded


@cache
def schemes() -> dict[str, str]:
    """Return `module:class` of every known scheme, those of installed packages included."""
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**found, **BUILT_IN}


def store_class(scheme: str) -> type[Volume]:
    """Return the Volume class of `scheme`, imported now; PlanError names the nearest scheme where it is unknown."""
    known = schemes()
    if scheme not in known:
        near = difflib.get_close_matches(scheme, known, n=1)
        hint = f"did you mean {near[0]}://?" if near else f"known: {', '.join(sorted(known))}"
        raise PlanError(f"unknown scheme {scheme}://; {hint}", scheme=scheme)
    module, _, name = known[scheme].partition(":")
    loaded: type[Volume] = getattr(import_module(module), name)
    return loaded


def open_volume(url: str | Address, base: Path | None = None) -> Volume:
    """Open the volume at `url` with one small metadata read; a view of it where the address has such options."""
    stored, wanted = split(url if isinstance(url, Address) else parse(url, base))
    return view(store_class(stored.scheme).open(stored), wanted)


def check_created(address: Address, spec: ArraySpec) -> type[Volume]:
    """Return the store of `address`; PlanError where it can hold no such array, or no level beyond the first."""
    store = store_class(address.scheme)
    if address.count("level") and not store.abilities.levels:
        raise PlanError(
            f"{address.url}: {address.scheme} volumes keep no levels; leave level out, or use zarr", option="level"
        )
    store.check_spec(address, spec)
    return store


def create_volume(url: str | Address, spec: ArraySpec, base: Path | None = None) -> Volume:
    """Create an empty volume of `spec` at `url`; Conflict where something is there already."""
    address = url if isinstance(url, Address) else parse(url, base)
    return check_created(address, spec).create(address, spec)

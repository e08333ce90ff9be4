"""Folders and buckets as remotes: what is in them, told by the endings of names and by the files that stand in folders.

Nothing but metadata is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

from ndbatch.errors import Denied, MissingExtra, NotFound, PlanError, RemoteError
from ndbatch.remotes import api
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.places.keyvalue import KeyValue, place
from ndbatch.remotes.registry import open_volume, schemes, store_class
from ndbatch.remotes.remote import OPENERS, Entry, Remote, entry_of, remove


class FolderRemote(Remote):
    """A folder of this machine, a bucket or a part of it, a folder on a web server."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._folder = place(address)

    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the volumes in this folder and `depth` - 1 folders below it, sorted by name; each is opened once.

        A file that cannot be opened is listed with its `problem`. Raises NotFound for a missing folder or bucket, Denied,
        RemoteError for a web server that gives no index.
        """
        found = list(_addresses(self._folder, self.address, "", depth))
        missing = None if found else self._folder.missing()
        if missing is not None:
            raise missing
        with ThreadPoolExecutor(OPENERS) as pool:
            parts = pool.map(lambda pair: list(_entries(*pair)), found)
            return [entry for part in parts for entry in part]

    def create(self, name: str, **facts: Any) -> Volume:
        """Create an empty volume `name` with the arguments of `ndbatch.create`; its ending tells the format."""
        return api.create(self._below(name), **facts)

    def delete(self, name: str) -> None:
        """Remove the volume `name` and all of its levels; NotFound says so where the bucket itself is missing."""
        address = self.locate(name)
        remove_there(address)

    def locate(self, name: str) -> Address:
        """Return the address of the volume `name`, by its ending or by the files in it. PlanError where neither tells."""
        return recognised(self._below(name))

    def _below(self, name: str) -> Address:
        """Return the address of a name: the options of the remote, and those of the name, which win."""
        scheme, separator, rest = name.partition("://")
        text = f"{self.address.path}/{rest if separator else name}"
        address = parse(f"{scheme}://{text}" if separator else text, folder=True)
        if name.startswith("/") or ".." in address.path.split("/"):
            raise PlanError(f"{name!r} is not below {self.url}; give a name that ndbatch ls lists")
        return address.with_options(**{**dict(self.address.options), **dict(address.options)})


def recognised(address: Address) -> Address:
    """Return an address with its format: as its ending tells, or the files in the folder. PlanError where nothing does."""
    if address.scheme:
        return address
    folder = place(address) / address.inside.strip("/")
    try:
        scheme = next((s for s, marks in _marks().items() if any(folder.etag(mark) for mark in marks)), "")
    except Denied:
        scheme = ""
    if not scheme:
        missing = folder.missing()
        raise missing or PlanError(
            f"{folder} is no volume of a known format; ndbatch ls {folder} lists the volumes in a folder"
        )
    return replace(address, scheme=scheme)


def remove_there(address: Address) -> None:
    """Remove the volume at `address`, whose format may be told by its files; NotFound names a missing bucket or its neighbour."""
    address = recognised(address)
    if address.place != "file" and not store_class(address.scheme).exists(address):
        missing = place(address).missing()
        if missing is not None:
            raise missing
    remove(address)


@cache
def _marks() -> dict[str, tuple[str, ...]]:
    """Return the files that tell a folder of each format."""
    return {scheme: store_class(scheme).marks for scheme in sorted(schemes()) if store_class(scheme).marks}


def _addresses(folder: KeyValue, remote: Address, below: str, depth: int) -> Iterator[tuple[str, Address]]:
    """Yield name and address of what looks like a volume, sorted; folders that are none are entered."""
    names = list(folder.names())
    scheme = next((s for s, marks in _marks().items() if not set(marks).isdisjoint(names)), "")
    if scheme:
        yield below, replace(remote, scheme=scheme, path=str(folder))
        inside = [name for name in names if name == "labels/"]  # where images of OME-Zarr keep their labels
    else:
        inside = [name for name in names if not name.startswith(".")]
    for name in inside:
        path = f"{below}/{name.rstrip('/')}" if below else name.rstrip("/")
        address = parse(f"{remote.path}/{path}", folder=True)
        if not name.endswith("/") and address.scheme:
            yield path, replace(address, options=remote.options)
        elif name.endswith("/") and depth > 1:
            yield from _addresses(folder / name, remote, path, depth - 1)
        elif name.endswith("/"):
            marked = next((s for s, marks in _marks().items() if any((folder / name).etag(m) for m in marks)), "")
            if marked:
                yield path, replace(address, scheme=marked, options=remote.options)


def _entries(name: str, address: Address) -> Iterator[Entry]:
    """Yield what is at an address: a volume, the volumes in a file or group that holds several, or why it is none."""
    try:
        yield _entry(name, address)
    except NotFound as error:
        several = [(f"{name}::{one}", replace(address, inside=one)) for one in error.fields.get("datasets", ())]
        several += [
            (f"{name}/{one}", replace(address, path=f"{address.path}/{one}")) for one in error.fields.get("inside", ())
        ]
        for inner, where in several:
            yield from _entries(inner, where)
        if not several and address.scheme in schemes() and not store_class(address.scheme).marks:
            yield Entry(name, address.url, address.scheme, problem=error.message)
    except (RemoteError, PlanError, MissingExtra) as error:
        yield Entry(name, address.url, address.scheme, problem=error.message)


def _entry(name: str, address: Address) -> Entry:
    volume = open_volume(address)
    try:
        return entry_of(name or volume.url.rpartition("/")[2], address, volume)
    finally:
        volume.close()

"""A folder or a bucket of volumes: what is in it, opening, creating and deleting by name, and their metadata.

A volume is told by the ending of its name, or a folder by the files that stand in it (`zarr.json`, `info`). Nothing but
metadata is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec

from ndbatch.errors import Denied, MissingExtra, NotFound, PlanError, RemoteError
from ndbatch.geometry import Shape
from ndbatch.remotes import api
from ndbatch.remotes.address import ENDINGS, FOLDERS, Address, parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.places.keyvalue import KeyValue, place
from ndbatch.remotes.registry import open_volume, schemes, store_class

P = ParamSpec("P")
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


class Remote:
    """A folder of this machine, a bucket or a part of it, a folder on a web server: a place that holds volumes."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._folder = place(address)

    @property
    def url(self) -> str:
        """The address as the user would write it."""
        return self.address.url

    def __repr__(self) -> str:
        return f"<Remote {self.url}>"

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

    def open(self, name: str, **options: Any) -> Volume:
        """Open the volume `name` (a path below this remote, or what `ls` gives) with the options of `ndbatch.open`."""
        return api.open(self.locate(name).url, **options)

    def create(self, name: str, **facts: Any) -> Volume:
        """Create an empty volume `name` with the arguments of `ndbatch.create`; its ending tells the format."""
        return api.create(self._below(name).url, **facts)

    def delete(self, name: str) -> None:
        """Remove the volume `name` and all of its levels. NotFound where there is none; nothing else is ever removed."""
        remove(self.locate(name))

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the JSON document kept with the volume `name`."""
        return self.open(name).attributes

    def set_metadata(self, name: str, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document kept with the volume `name`."""
        self.open(name).set_attributes(values)

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


def connect(url: str | os.PathLike[str], *, base: Path | None = None) -> Remote:
    """Return the remote at `url`: a folder, `s3://bucket/folder`, `gs://`, `http(s)://`. Nothing is read.

    Options of the address reach the place: `?profile=lab`, `?endpoint=https://minio:9000`, `?anonymous=true`. Relative paths
    are taken from `base`, the current folder if not given. Raises PlanError for an address that is none.
    """
    address = parse(os.fspath(url), base or Path.cwd(), folder=True)
    if address.scheme not in ("", *ENDINGS.values(), *FOLDERS):
        raise PlanError(f"{address.url}: {address.scheme}:// is no folder of volumes")
    if not address.scheme:
        address.require_options(())
    return Remote(replace(address, scheme="", inside=""))


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


def remove(address: Address) -> None:
    """Remove the volume at `address`. NotFound where there is none, RemoteError for what is no volume of its format."""
    address = recognised(address)
    store = store_class(address.scheme)
    if not store.exists(address):
        raise (place(address).missing() if address.place != "file" else None) or NotFound(
            f"{address.url} does not exist", url=address.url
        )
    store.delete(address)


def _or_remote(function: Callable[P, Volume]) -> Callable[P, Volume | Any]:
    """Return `ndbatch.open`: a folder without an ending is opened as what it holds, or is a Remote."""

    @wraps(function)
    def opened(*arguments: P.args, **options: P.kwargs) -> Volume | Any:
        url, base = arguments[0] if arguments else None, options.get("base")
        if not isinstance(url, str | os.PathLike):
            return function(*arguments, **options)
        address = parse(os.fspath(url), base if isinstance(base, Path) else Path.cwd(), folder=True)
        if address.scheme or (address.place == "file" and not Path(address.path).is_dir()):
            return function(*arguments, **options)
        try:
            known = recognised(address)
        except PlanError:
            if set(options) - {"base"}:
                raise
            return connect(url, base=base if isinstance(base, Path) else None)
        return api.open(known.url, **options)  # type: ignore[arg-type]

    return opened


open = _or_remote(api.open)
"""Open a volume, as `ndbatch.remotes.api.open` does; a folder or a bucket of volumes gives a `Remote`."""


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
        spec = volume.spec
        size = spec.voxel_size
        return Entry(
            name or volume.url.rpartition("/")[2],
            volume.url,
            address.scheme,
            spec.axes,
            spec.shape,
            spec.dtype.name,
            str(spec.kind),
            spec.levels,
            size,
        )
    finally:
        volume.close()


__all__ = ["Entry", "Remote", "connect", "open", "recognised", "remove"]

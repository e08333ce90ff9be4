"""Datasets in HDF5 files through h5py: `file.h5::/dataset`.

HDF5 serialises its calls within a process, so the file is opened for each read and write and closed after it: no handle
goes stale when the file is replaced, none is held while another program wants to write, and none travels. Opening
takes well under a millisecond. One process writes at a time; the engine stages blocks elsewhere. A file in a bucket or
on a web server is read by its parts (`remotes/places/far`), the chunks of a box at the same time.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError, Transient, missing_extra
from ndbatch.geometry import Box
from ndbatch.remotes.abilities import FAR, Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder, axis_order
from ndbatch.remotes.base import Array, ArraySpec, Kind, Volume
from ndbatch.remotes.chunking import default_chunks
from ndbatch.remotes.files.paths import (
    file_error,
    file_path,
    file_version,
    is_there,
    require_file,
    require_local,
    require_room,
)
from ndbatch.remotes.hdf5 import bdv
from ndbatch.remotes.hdf5.chunks import read_far
from ndbatch.remotes.hdf5.metadata import OWN, attributes_of, axis_names, own_document, voxel_size
from ndbatch.remotes.places.far import FarPath, FilePath

OPTIONS = ("axes", "level")
NUMBERS = "biuf"
"""Kinds of numpy dtypes that are voxels."""

_locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""One lock a file: readers and the writer of one process take turns, as HDF5 itself would make them."""


class Hdf5Volume(Volume):
    """One dataset of an HDF5 file: contiguous, chunked or compressed."""

    scheme = "hdf5"
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False, read_places=FAR, coarser=True, title="HDF5", examples=("file.h5::/dataset",), extra="hdf5"
    )

    def __init__(self, address: Address, spec: ArraySpec, order: AxisOrder, path: FilePath) -> None:
        super().__init__(address, spec)
        self._order, self._path = order, path

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a dataset; where the address names none, the only one of the file.

        Raises NotFound (listing what the file holds), Denied, Corrupt, Transient while another program writes, and
        MissingExtra without h5py.
        """
        address.require_options(OPTIONS)
        path = require_file(address, "HDF5")
        with _file(address, path=path) as file:
            dataset = _dataset(file, address)
            levels = bdv.level_names(file, str(dataset.name))
            level = address.count("level")
            if level >= len(levels):
                which = f"levels 0 to {len(levels) - 1}" if len(levels) > 1 else "level 0 only"
                raise NotFound(f"{address.url}: the dataset has {which}", url=address.url)
            address, dataset = replace(address, inside=str(dataset.name)), file[levels[level]]
            if dataset.dtype.kind not in NUMBERS:
                raise RemoteError(
                    f"{address.url} holds {dataset.dtype}, which is no type of voxel; choose another dataset",
                    url=address.url,
                )
            attributes = dict(dataset.attrs)
            order = axis_order(address, dataset.shape, axis_names(attributes))
            spec = replace(_spec(dataset, order, attributes), level=level, levels=len(levels))
            size = bdv.voxel_size(file, str(dataset.name), path)
            if spec.voxel_size is None and size is not None:
                spec = replace(spec, voxel_size=tuple(size.get(axis, 1.0) for axis in spec.axes))
        return cls(address, spec, order, path)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what a dataset cannot hold: shards, and voxels that are no numbers."""
        require_local(address)
        address.require_options(OPTIONS)
        if spec.shards is not None:
            raise PlanError(f"{address.url}: HDF5 has no shards; leave shards out")
        if spec.dtype.kind not in NUMBERS:
            raise PlanError(f"{address.url}: {spec.dtype} is no type of voxel")

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Add a dataset (`/data` where the address names none) to the file, which is made where there is none.

        Chunked, gzip with shuffle, no time stamps: the same voxels give the same bytes. Raises Conflict where the
        dataset is there already.
        """
        cls.check_spec(address, spec)
        path, inside = Path(address.path), address.inside or "/data"
        if cls.exists(replace(address, inside=inside)):
            raise Conflict(f"{address.path}::{inside} exists already", url=address.url)
        if is_there(address):
            with _file(address, "r+") as file:
                _add(file, inside, spec)
        else:
            aside = path.with_name(f".{path.name}.new")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                aside.unlink(missing_ok=True)
                with _file(replace(address, path=str(aside)), "w-") as file:
                    _add(file, inside, spec)
                os.replace(aside, path)
            except OSError as error:
                raise file_error(error, address) from None
        return cls.open(replace(address, inside=inside))

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the dataset is there, or the file where the address names no dataset."""
        if not is_there(address) or not address.inside:
            return is_there(address)
        with _file(address, path=require_file(address, "HDF5")) as file:
            return address.inside in file

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the dataset, or the file where the address names none or nothing else is in it.

        A file with a hidden name (`.partial-a.h5`) is one that was never finished: it is removed whole, readable or not.
        """
        require_local(address)
        if address.count("level"):
            raise PlanError(f"{address.url}: a single level cannot be removed; leave level out to remove the dataset")
        hidden = Path(address.path).name.startswith(".")
        if not (is_there(address) if hidden else cls.exists(address)):
            return
        if address.inside and not hidden:
            with _file(address, "r+") as file:
                del file[address.inside]
                if _names(file):
                    return
        try:
            Path(address.path).unlink()
        except OSError as error:
            raise file_error(error, address) from None

    def version(self) -> str:
        """Return size and modification time of the file."""
        return file_version(file_path(self.address), self.address)

    def _read(self, box: Box) -> Array:
        region = self._order.slices(box, self.offset)
        with _file(self.address, path=self._path) as file, _decoding(self.address, box, self.axes):
            stored = self._stored(file)
            data = stored[region] if isinstance(self._path, Path) else read_far(stored, region, self._path)
        return np.ascontiguousarray(self._order.array_from_stored(data), dtype=self.dtype)

    def _write(self, box: Box, data: Array) -> None:
        require_local(self.address)
        # HDF5 does not survive a full disk: it fails again, and may crash, when the process ends.
        require_room(Path(self.address.path), data.nbytes, self.address)
        with _file(self.address, "r+") as file:
            dataset = self._stored(file)
            stored = self._order.array_to_stored(data)
            # HDF5 would clip what BigDataViewer stores as signed.
            dataset[self._order.slices(box, self.offset)] = stored.view("int16") if dataset.dtype == "int16" else stored
            file.flush()

    def _stored(self, file: Any) -> Any:
        """Return the dataset of the volume's level."""
        dataset = _dataset(file, self.address)
        return file[bdv.level_names(file, str(dataset.name))[self.spec.level]] if self.spec.level else dataset

    @property
    def attributes(self) -> dict[str, Any]:
        """The user's part of ndbatch's own document."""
        with _file(self.address, path=self._path) as file:
            return dict(own_document(dict(_dataset(file, self.address).attrs)).get("attributes", {}))

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document kept with the dataset."""
        require_local(self.address)
        with _file(self.address, "r+") as file:
            dataset = _dataset(file, self.address)
            document = own_document(dict(dataset.attrs))
            document["attributes"] = {**document.get("attributes", {}), **values}
            dataset.attrs[OWN] = json.dumps(document, sort_keys=True)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", "hdf5", "reading and writing HDF5") from None
    return h5py


@contextmanager
def _file(address: Address, mode: str = "r", path: FilePath | None = None) -> Iterator[Any]:
    """Open the file (that of the address, unless `path` is at another place) for one operation; HDF5's errors come out as
    ndbatch's."""
    h5py = _h5py()
    source = path.open() if isinstance(path, FarPath) else address.path
    with _locks[str(path) if isinstance(path, FarPath) else str(Path(address.path).absolute())]:
        try:
            # locking="best-effort": file systems without locks (some NFS, Lustre) are used without them.
            file = h5py.File(source, mode, libver=("earliest", "v110"), locking="best-effort")
        except OSError as error:
            raise _open_error(error, address, mode) from None
        try:
            with file:
                yield file
        except (OSError, RuntimeError) as error:  # what HDF5 raises; ours are neither
            raise RemoteError(f"{address.url}: HDF5 failed: {_reason(error)}", url=address.url) from None


def _open_error(error: OSError, address: Address, mode: str) -> RemoteError:
    text = str(error)
    path = address.path
    if "truncated file" in text:
        size = file_path(address).stat().st_size
        return Corrupt(
            f"{path} is cut short at {size} bytes: the HDF5 file is not whole; copy it again", url=address.url
        )
    if "file signature not found" in text:
        return Corrupt(f"{path} is not an HDF5 file", url=address.url)
    if "unable to lock file" in text or isinstance(error, BlockingIOError):
        return Transient(
            f"{path} is open for {'writing' if mode == 'r' else 'reading or writing'} in another program; close it there",
            url=address.url,
        )
    if "Permission denied" in text or "Read-only" in text:
        return Denied(f"{path}: permission denied; change the permissions or choose another path", url=address.url)
    if error.errno is not None:
        return file_error(error, address)
    return Corrupt(f"{path} cannot be opened as HDF5: {_reason(error)}", url=address.url)


def _reason(error: Exception) -> str:
    """Return the reason in HDF5's message: what stands in its last parentheses."""
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text


@contextmanager
def _decoding(address: Address, box: Box, axes: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = box.describe(axes)
        raise Corrupt(f"{address.url}: damaged near {where}: {_reason(error)}", url=address.url) from None


def _names(file: Any) -> list[str]:
    """Return the paths of all arrays in the file."""
    found: list[str] = []
    dataset = _h5py().Dataset
    file.visititems(lambda name, item: found.append(f"/{name}") if isinstance(item, dataset) and item.ndim else None)
    return sorted(found)


def _dataset(file: Any, address: Address) -> Any:
    """Return the dataset that the address names, or the only one. NotFound lists what there is."""
    names = _names(file) if not address.inside else []
    inside = address.inside or (names[0] if len(names) == 1 else "")
    item = file.get(inside) if inside else None
    if isinstance(item, _h5py().Dataset) and item.ndim:
        return item
    names = names or _names(file)
    listed = ", ".join(f"{name} {file[name].shape}" for name in names[:20])
    what = f"has no dataset {inside}" if inside else "holds several datasets" if names else "holds no dataset"
    hint = f"; it holds {listed}; write {address.path}::{names[0]}" if names else ""
    raise NotFound(f"{address.path} {what}{hint}", url=address.url, datasets=names)


def _spec(dataset: Any, order: AxisOrder, attributes: Mapping[str, Any]) -> ArraySpec:
    own = own_document(attributes)
    shape = order.from_stored(dataset.shape)
    dtype = bdv.voxel_type(str(dataset.name), dataset.dtype.newbyteorder("="))
    offset = tuple(int(o) for o in own.get("offset", ()))
    return ArraySpec(
        shape=shape,
        dtype=dtype,
        axes=order.axes,
        chunks=order.from_stored(dataset.chunks) if dataset.chunks else default_chunks(shape, dtype, order.axes),
        offset=order.from_stored(offset) if len(offset) == len(shape) else (),
        voxel_size=voxel_size(attributes, order),
        kind=Kind(own["kind"]) if own.get("kind") in set(Kind) else Kind.IMAGE,
    )


def _add(file: Any, inside: str, spec: ArraySpec) -> None:
    """Create the dataset with its attributes. Level 1 of gzip after a byte shuffle: labels shrink well, images fast."""
    dataset = file.create_dataset(
        inside,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=tuple(min(c, n) for c, n in zip(spec.chunks, spec.shape, strict=True)),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fillvalue=0,
        track_times=False,
    )
    for axis, name in enumerate(spec.axes):
        dataset.dims[axis].label = name
    for name, value in attributes_of(spec).items():
        dataset.attrs[name] = value

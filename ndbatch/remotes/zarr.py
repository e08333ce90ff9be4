"""Zarr arrays (v2 and v3) and OME-Zarr images (0.4 and 0.5) on the local file system; voxels through tensorstore.

`labels.zarr`, `zarr:///data/image.zarr?level=2`, `image.zarr/labels/nuclei`. Created volumes are OME-Zarr 0.5 with one
level at path `0`; `?format=zarr` makes a plain zarr v3 array, `?ome=0.4` an OME-Zarr 0.4 image (zarr v2).
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError, Transient
from ndbatch.geometry import Box
from ndbatch.remotes import ngff
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Abilities, Array, ArraySpec, Volume

FILES = ("zarr.json", ".zarray", ".zgroup")


@cache
def _tensorstore() -> tuple[Any, Any]:
    """Return tensorstore and the context of this process: bounded concurrency, and no cache: what another process wrote is seen."""
    import tensorstore

    limits = {"file_io_concurrency": {"limit": 32}, "cache_pool": {"total_bytes_limit": 0}}
    return tensorstore, tensorstore.Context({**limits, "data_copy_concurrency": {"limit": 2}})


class ZarrVolume(Volume):
    """One zarr array, alone or as a level of an OME-Zarr image."""

    scheme = "zarr"
    abilities: ClassVar[Abilities] = Abilities()

    def __init__(self, address: Address, spec: ArraySpec, group: Path, array: Path) -> None:
        super().__init__(address, spec)
        self._group, self._array = group, array
        self._handle: Any = None

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open an array, or a level of an image; reads two small JSON files."""
        root = Path(address.path)
        if not root.exists():
            raise NotFound(f"{address.path} does not exist", url=address.url)
        attributes, is_array = _node(root)
        image = ngff.multiscales(attributes)
        level = _level(address)
        if image is None and not is_array:
            inside = sorted(p.name for p in root.iterdir() if p.is_dir() and any((p / f).exists() for f in FILES))
            raise NotFound(
                f"{address.path} holds no array"
                + (f"; it holds {', '.join(inside)}" if inside else " and nothing of zarr")
                + "; name one of them, such as "
                + f"{address.path}/{inside[0] if inside else '0'}",
                url=address.url,
            )
        if image is None:
            if level:
                raise NotFound(f"{address.path} has no level {level}: it is a single array", url=address.url)
            spec = _array_spec(root, None, attributes, 0)
            return cls(address, spec, root, root)
        paths = ngff.level_paths(image)
        if not 0 <= level < len(paths):
            raise NotFound(
                f"{address.path} has no level {level}; its levels are 0 to {len(paths) - 1}", url=address.url
            )
        return cls(address, _array_spec(root / paths[level], image, attributes, level), root, root / paths[level])

    @property
    def _store(self) -> Any:
        if self._handle is None:
            tensorstore, context = _tensorstore()
            driver = "zarr3" if (self._array / "zarr.json").exists() else "zarr"
            spec = {
                "driver": driver,
                "kvstore": {"driver": "file", "path": str(self._array)},
            }
            self._handle = tensorstore.open(spec, context=context, open=True).result()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _read(self, box: Box) -> Array:
        try:
            data = self._store[box.slices(self.offset)].read(order="C").result()
        except (ValueError, RuntimeError, OSError) as error:
            raise _translated(error, self.url, box.describe(self.axes)) from None
        return np.asarray(data).astype(self.dtype, copy=False)

    def _write(self, box: Box, data: Array) -> None:
        try:
            self._store[box.slices(self.offset)].write(data).result()
        except (ValueError, RuntimeError, OSError) as error:
            raise _translated(error, self.url, box.describe(self.axes)) from None

    # -- creating ----------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Create the image under a temporary name and rename it, so that a half-made one is never seen."""
        target = Path(address.path)
        if cls.exists(address):
            raise Conflict(f"{address.path} exists already", url=address.url)
        version = address.option("ome", "0.5")
        if version not in ("0.4", "0.5"):
            raise PlanError(f"{address.url}: ome={version} is not known; use 0.4 or 0.5")
        if version == "0.4" and spec.shards:
            raise PlanError(f"{address.url}: OME-Zarr 0.4 (zarr v2) has no shards; leave shards out, or use ome=0.5")
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        plain = address.option("format") == "zarr"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            attributes = ngff.describe(spec, version, target.name.partition(".")[0])
            if plain:
                attributes = {ngff.OWN: {**attributes[ngff.OWN], "voxel_size_um": spec.voxel_size}}
            _make_array(aside if plain else aside / "0", spec, version, attributes if plain else {})
            if not plain:
                _make_group(aside, version, attributes)
            os.rename(aside, target)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if target.exists():
                raise Conflict(f"{address.path} exists already", url=address.url) from None
            raise Denied(f"cannot create {address.path}: {error.strerror or error}", url=address.url) from None
        return cls.open(Address(address.scheme, address.path, address.inside))

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether anything but an empty folder is there."""
        path = Path(address.path)
        return path.exists() and not (path.is_dir() and not any(path.iterdir()))

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the whole folder. Refuses one that is not zarr."""
        path = Path(address.path)
        if not path.exists():
            return
        if not any((path / name).exists() for name in FILES):
            raise RemoteError(f"{address.path} is not a zarr folder; it is not removed", url=address.url)
        shutil.rmtree(path)

    # -- facts -------------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Return a digest of metadata times and of the chunk folders' times and sizes, 1000 folders at most.

        A chunk file is written under a temporary name and renamed, which changes its folder's time; so a changed chunk
        is seen unless it lies beyond the first 1000 folders.
        """
        marks = []
        for place, (folder, folders, files) in enumerate(os.walk(self._array)):
            folders.sort()
            stat = os.stat(folder)
            marks.append(f"{os.path.relpath(folder, self._array)}:{stat.st_mtime_ns}:{len(files)}")
            if place >= 1000:
                break
        return f"{hash_text(marks)}"

    @property
    def attributes(self) -> dict[str, Any]:
        """ndbatch's own part of the group's attributes."""
        return dict(_node(self._group)[0].get(ngff.OWN, {}))

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into ndbatch's part of the group's attributes; the file is replaced in one step."""
        v3 = self._group / "zarr.json"
        path = v3 if v3.exists() else self._group / ".zattrs"
        document = json.loads(path.read_text()) if path.exists() else {}
        holder = document.setdefault("attributes", {}) if path == v3 else document
        holder[ngff.OWN] = {**holder.get(ngff.OWN, {}), **values}
        _replace(path, document)


def hash_text(parts: list[str]) -> str:
    """Return a short digest of `parts`."""
    import hashlib

    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _level(address: Address) -> int:
    text = address.option("level", "0")
    if not text.isdigit():
        raise PlanError(f"{address.url}: level={text} is not a whole number")
    return int(text)


def _node(path: Path) -> tuple[dict[str, Any], bool]:
    """Return the attributes of a zarr node and whether it is an array. Corrupt where its JSON cannot be read."""
    v3, v2_array, v2_attributes = path / "zarr.json", path / ".zarray", path / ".zattrs"
    try:
        if v3.exists():
            document = json.loads(v3.read_text())
            return dict(document.get("attributes", {})), document["node_type"] == "array"
        attributes = json.loads(v2_attributes.read_text()) if v2_attributes.exists() else {}
        return dict(attributes), v2_array.exists()
    except PermissionError as error:
        raise Denied(f"{error.filename} cannot be read: no permission", url=str(path)) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Corrupt(f"{path} is damaged: its zarr metadata cannot be read ({error})", url=str(path)) from None


def _array_spec(path: Path, image: Mapping[str, Any] | None, attributes: Mapping[str, Any], level: int) -> ArraySpec:
    """Return the spec of the array at `path`; geometry from its image, or from ndbatch's own attributes."""
    tensorstore, context = _tensorstore()
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    try:
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}
        store = tensorstore.open(spec, context=context, open=True).result()
    except (ValueError, RuntimeError) as error:
        raise _translated(error, str(path), "metadata") from None
    ndim, layout = store.rank, store.chunk_layout
    own = attributes.get(ngff.OWN, {})
    if image is not None:
        axes = ngff.axes_of(image)
        size, shift = ngff.geometry(image, level)
        offset = ngff.offset_of(attributes, shift, size, level)
    else:
        labels = [str(label) for label in store.domain.labels]
        axes = "".join(labels) if all(len(n) == 1 and n in "tczyx" for n in labels) else "tczyx"[-ndim:]
        size = tuple(own["voxel_size_um"]) if own.get("voxel_size_um") else None
        offset = tuple(own.get("offset", ()))
    if len(axes) != ndim:
        raise Corrupt(f"{path} is damaged: {ndim} axes are stored, the image names {', '.join(axes)}", url=str(path))
    chunks, writes = tuple(layout.read_chunk.shape), tuple(layout.write_chunk.shape)
    return ArraySpec(
        shape=tuple(store.shape),
        dtype=np.dtype(store.dtype.numpy_dtype).newbyteorder("="),
        axes=axes,
        chunks=chunks,
        shards=writes if writes != chunks else None,
        offset=offset,
        voxel_size=size,
        kind=ngff.kind_of(attributes),
        level=level,
        levels=len(ngff.level_paths(image)) if image else 1,
    )


def _make_array(path: Path, spec: ArraySpec, version: str, attributes: dict[str, Any]) -> None:
    tensorstore, context = _tensorstore()
    kvstore = {"driver": "file", "path": str(path)}
    metadata = _metadata_v2(spec) if version == "0.4" else _metadata_v3(spec, attributes)
    driver = "zarr" if version == "0.4" else "zarr3"
    tensorstore.open(
        {"driver": driver, "kvstore": kvstore, "metadata": metadata}, context=context, create=True
    ).result()


def _metadata_v2(spec: ArraySpec) -> dict[str, Any]:
    """Return .zarray: chunks nested by `/` as NGFF asks for, blosc-zstd with a bit shuffle fit for labels and images."""
    return {
        "shape": list(spec.shape),
        "chunks": list(spec.chunks),
        "dtype": spec.dtype.newbyteorder("<").str,
        "compressor": {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0},
        "fill_value": 0,
        "order": "C",
        "dimension_separator": "/",
    }


def _metadata_v3(spec: ArraySpec, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return zarr.json of an array: blosc-zstd with the item size as typesize, inside shards where there are any."""
    blosc = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": spec.dtype.itemsize, "blocksize": 0}
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
    ]
    if spec.shards:
        inner = {"chunk_shape": list(spec.chunks), "codecs": codecs, "index_codecs": [codecs[0], {"name": "crc32c"}]}
        codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
    return {
        "shape": list(spec.shape),
        "data_type": spec.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.write_unit)}},
        "codecs": codecs,
        "fill_value": False if spec.dtype.kind == "b" else 0,
        "dimension_names": list(spec.axes),
        "attributes": attributes,
    }


def _make_group(path: Path, version: str, attributes: dict[str, Any]) -> None:
    if version == "0.4":
        _replace(path / ".zgroup", {"zarr_format": 2})
        _replace(path / ".zattrs", attributes)
    else:
        _replace(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file under a temporary name and rename it."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    aside.write_text(json.dumps(document, indent=1))
    os.replace(aside, path)


def _translated(error: Exception, url: str, where: str) -> RemoteError:
    """Return a tensorstore error as one of ours: the reason without its specification."""
    text = str(error).split(" [", 1)[0].split("\n", 1)[0]
    code, _, reason = text.partition(": ")
    if "PERMISSION_DENIED" in code or "Permission denied" in text or "Read-only" in text:
        return Denied(f"{url}: {reason or text}", url=url)
    if "RESOURCE_EXHAUSTED" in code or "No space left" in text or "Disk quota" in text:
        return RemoteError(f"{url}: no space left on the device ({where})", url=url)
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"):
        return Transient(f"{url}: {reason} ({where})", url=url)
    return Corrupt(f"{url}: damaged at {where}: {reason or text}", url=url)

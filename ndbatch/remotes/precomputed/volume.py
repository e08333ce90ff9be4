"""Neuroglancer precomputed volumes: every scale a level, chunks as objects of their own or in shards.

`precomputed:///data/layer?level=1`, `precomputed://https://host/layer`, `precomputed://s3://bucket/layer`. New volumes are
compressed_segmentation where they hold labels of 32 or 64 bits, otherwise raw; `?encoding=` chooses another of `ENCODINGS`.
tensorstore reads and writes raw, jpeg, png and compressed_segmentation; what it cannot (objects whose names end in .gz, .br,
.zstd, which it takes for missing; other encodings and types) goes through `chunks`. By the format's
convention a chunk that is not there is zero; `?missing=error` makes it an error. jpeg loses detail.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from ndbatch.errors import Conflict, Denied, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.files.paths import file_error
from ndbatch.remotes.places.keyvalue import KeyValue, LocalFiles, place
from ndbatch.remotes.places.tensor import FAILURES, context, read, require_no_fork, translated
from ndbatch.remotes.precomputed import info as model
from ndbatch.remotes.precomputed.chunks import ChunkObjects, suffixes
from ndbatch.remotes.precomputed.encodings import TENSORSTORE, encoding_of, require_encoding
from ndbatch.remotes.precomputed.info import Info
from ndbatch.remotes.precomputed.provenance import with_run
from ndbatch.remotes.pyramids import require_level

LOOKED_AT = 20
"""Folders that are looked into for layers where there is none."""
OPTIONS = ("block_size", "encoding", "jpeg_quality", "level", "missing", "png_level")


class _Voxels(Protocol):
    """Reads and writes boxes of one scale; slices are absolute, x, y, z, c."""

    def read(self, region: tuple[slice, ...]) -> Array:
        """Return the voxels of `region`, x, y, z, c."""

    def write(self, region: tuple[slice, ...], data: Array) -> None:
        """Store `data`, x, y, z, c, in `region`."""


class PrecomputedVolume(Volume):
    """One scale of a precomputed layer."""

    scheme = "precomputed"
    marks = ("info",)
    abilities: ClassVar[Abilities] = Abilities(
        levels=True,
        coarser=True,
        dtypes=model.DTYPES,
        places=("file", "s3", "gs", "http"),
        title="Neuroglancer precomputed",
        examples=("precomputed://layer",),
    )

    def __init__(self, address: Address, spec: ArraySpec, layer: KeyValue, info: Info, voxels: _Voxels) -> None:
        super().__init__(address, spec)
        self._layer, self._info, self._voxels = layer, info, voxels
        self._order = info.order

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a scale; reads `info` and looks at the names of some chunks.

        Raises NotFound, Denied, Corrupt; RemoteError for layers that hold no volume.
        """
        address.require_options(OPTIONS)
        layer = place(address)
        info = _read_info(layer, address)
        if info is None:
            raise _absent(layer, address)
        level = address.count("level")
        if level >= len(info.scales):
            raise NotFound(
                f"{address.path} has no level {level}; its levels are 0 to {len(info.scales) - 1}", url=address.url
            )
        return cls(address, info.spec(level), layer, info, _voxels(layer, info, level, address))

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse types, axes, encodings and shards that the format cannot hold."""
        address.require_options(OPTIONS)
        model.require_spec(spec, address.url)
        encoding = encoding_of(address, spec)
        require_encoding(encoding["encoding"], spec, address.url)
        model.new_scale(spec, encoding, (), address.url)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Write `info`, which is all that an empty volume is, or append a scale to it.

        A level takes the encoding of the one before it, unless the address says another. Raises Conflict where anything
        but an empty folder, or the level, is there.
        """
        cls.check_spec(address, spec)
        layer, level = place(address), address.count("level")
        if level:
            document = _with_level(layer, address, spec, level)
        elif cls.exists(address):
            raise Conflict(f"{address.path} exists already; remove it or choose another url", url=address.url)
        else:
            document = model.new_info(spec, model.new_scale(spec, encoding_of(address, spec), (), address.url))
        _write_json(layer, "info", document)
        return cls.open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether anything but an empty folder is there, or the level that the address names."""
        layer, level = place(address), address.count("level")
        if level:
            info = _read_info(layer, address)
            return info is not None and level < len(info.scales)
        return layer.exists()

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the whole layer. Refuses single levels, and folders that hold no layer."""
        if address.option("level"):
            raise PlanError(f"{address.url}: a single level cannot be removed; leave level out to remove all")
        layer = place(address)
        if layer.read("info") is not None:
            layer.delete()
        elif layer.exists():
            raise PlanError(f"{address.path} is no precomputed layer (it has no info file); it is left as it is")

    def version(self) -> str:
        """Return a digest of the scale's entry and of the names, sizes and times of its objects."""
        scale = self._info.scales[self.spec.level]
        entry = json.dumps(scale.document, sort_keys=True)
        return hashlib.sha256(f"{entry} {self._layer.child(scale.key).digest()}".encode()).hexdigest()[:20]

    def _read(self, box: Box) -> Array:
        require_no_fork(self.address)
        try:
            data = self._voxels.read(self._region(box))
        except FAILURES as error:
            raise translated(error, self.address, f"the box {box.describe(self.axes)}") from None
        kept = tuple(slice(None) if axis in self._order.stored else 0 for axis in model.STORED)
        ordered = self._order.array_from_stored(data[kept])
        return np.ascontiguousarray(ordered, dtype=self.dtype)

    def _write(self, box: Box, data: Array) -> None:
        require_no_fork(self.address)
        if not self._layer.writable:
            raise Denied(f"{self.url} can be read there, not written; write to a folder or a bucket", url=self.url)
        if self._info.scales[self.spec.level].sharding and self.spec.shards is None:
            raise RemoteError(
                f"{self.url} can be read, not written: a hash scatters the chunks of its shards over the volume, so that every "
                "block would write many shards; write to a new volume",
                url=self.url,
            )
        missing = [place for place, axis in enumerate(model.STORED) if axis not in self._order.stored]
        stored = np.expand_dims(self._order.array_to_stored(data), missing)
        try:
            self._voxels.write(self._region(box), stored)
        except FAILURES as error:
            raise translated(error, self.address, f"the box {box.describe(self.axes)}") from None

    def _region(self, box: Box) -> tuple[slice, ...]:
        """Return `box` as absolute slices along x, y, z, c."""
        scale = self._info.scales[self.spec.level]
        named = dict(zip(self.axes, zip(box.start, box.stop, strict=True), strict=True))
        # What is stored begins where the file says, wherever the user has moved the volume to.
        moved = dict(zip(self.axes, self.offset, strict=True))
        stored = dict(zip(model.STORED, (*scale.offset, 0), strict=True))
        result = []
        for axis in model.STORED:
            start, stop = named.get(axis, (stored[axis], stored[axis] + 1))
            by = stored[axis] - moved.get(axis, stored[axis])
            result.append(slice(start + by, stop + by))
        return tuple(result)

    @property
    def attributes(self) -> dict[str, Any]:
        """The user's part of what stands under `ndbatch` in `info`; one document for all levels."""
        return {name: value for name, value in self._reread().own.items() if name not in model.RESERVED}

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document; `info` is replaced in one step."""
        taken = [name for name in values if name in model.RESERVED]
        if taken:
            raise RemoteError(
                f"{self.url}: the attribute {taken[0]} is ndbatch's own; choose another name", url=self.url
            )
        _write_json(self._layer, "info", model.with_own(self._reread(), values))

    def note_run(self, provenance: Mapping[str, Any]) -> None:
        """Add an entry for the run to the file `provenance` of the layer."""
        self._layer.write("provenance", with_run(self._layer.read("provenance"), provenance))

    def _reread(self) -> Info:
        """Return `info` as it is now."""
        info = _read_info(self._layer, self.address)
        if info is None:
            raise NotFound(f"{self.url} is gone", url=self.url)
        return info


class _TensorstoreVoxels:
    """A scale that tensorstore reads and writes."""

    def __init__(self, layer: KeyValue, info: Info, level: int, address: Address) -> None:
        import tensorstore

        require_no_fork(address)
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": layer.spec(),
            "scale_index": level,
            "scale_metadata": {"chunk_size": list(info.scales[level].chunk)},
            "fill_missing_data_reads": address.option("missing") != "error",
        }
        try:
            self._handle = tensorstore.open(spec, context=context(), open=True).result()
        except FAILURES as error:
            raise translated(error, address, "its metadata") from None

    def read(self, region: tuple[slice, ...]) -> Array:
        """Return the voxels of `region`, x, y, z, c."""
        return read(self._handle[region], order="F")

    def write(self, region: tuple[slice, ...], data: Array) -> None:
        """Store `data` in `region`.

        Never with can_reference_source_data_indefinitely: tensorstore 0.1.86 then takes chunks of several channels, which are
        not contiguous in the array, for zeros, and stores nothing.
        """
        self._handle[region].write(data).result()


def _voxels(layer: KeyValue, info: Info, level: int, address: Address) -> _Voxels:
    """Return what reads and writes a scale: tensorstore, where it does so rightly."""
    scale = info.scales[level]
    strict = address.option("missing") == "error" and scale.sharding is not None
    found = () if scale.sharding else suffixes(layer, scale)
    if found or strict or scale.encoding not in TENSORSTORE or info.dtype.name not in model.DTYPES:
        return ChunkObjects(layer, info, scale, found, address)
    return _TensorstoreVoxels(layer, info, level, address)


def _with_level(layer: KeyValue, address: Address, spec: ArraySpec, level: int) -> dict[str, Any]:
    """Return `info` with one more scale; Conflict where the level is there, PlanError where it does not follow."""
    info = _read_info(layer, address)
    if info is None:
        raise PlanError(f"{address.url}: level {level} needs level 0 first; there is no volume at {address.path}")
    if level < len(info.scales):
        raise Conflict(f"{address.url}: level {level} exists already", url=address.url)
    require_level(info.spec(0), spec, level, len(info.scales), address.url)
    encoding = encoding_of(address, spec, info.scales[-1].document)
    require_encoding(encoding["encoding"], spec, address.url)
    scale = model.new_scale(spec, encoding, [scale.key for scale in info.scales], address.url)
    return model.with_scale(info, scale)


def _read_info(layer: KeyValue, address: Address) -> Info | None:
    """Return the parsed `info`, or None where there is none."""
    document = layer.document("info")
    return None if document is None else model.read_info(document, address.url)


def _write_json(layer: KeyValue, name: str, document: Mapping[str, Any]) -> None:
    layer.write(name, json.dumps(document, indent=2).encode())


def _absent(layer: KeyValue, address: Address) -> RemoteError:
    """Return the error for a place without `info`: it names the layers that are one folder below."""
    if isinstance(layer, LocalFiles) and not layer.path.exists():
        return file_error(FileNotFoundError(errno.ENOENT, "no such folder"), address)
    try:
        folders = [name.rstrip("/") for name in islice(layer.names(), LOOKED_AT) if name.endswith("/")]
        found = [name for name in folders if layer.child(name).exists("info")]
    except NotFound as error:
        return error  # there is no bucket
    except RemoteError:
        found = []  # a web server lists nothing
    hint = f"; it holds the layers {', '.join(found)}" if found else ""
    return NotFound(f"{address.path} is no precomputed layer: it has no file info{hint}", url=address.url)

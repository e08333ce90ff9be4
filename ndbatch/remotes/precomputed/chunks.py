"""Precomputed chunks that tensorstore cannot read by itself, fetched one by one as objects.

cloud-volume writes local layers with a second compression, and then their objects are called `0-64_0-64_0-64.gz`;
tensorstore looks for the plain name, and takes such chunks for missing, that is for zeros. Here the object is found
under any of its names, unpacked, and decoded: by tensorstore again, over the unpacked objects in memory, or by a codec.
"""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, NotFound, RemoteError, missing_extra
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array
from ndbatch.remotes.places.keyvalue import KeyValue, LocalFiles
from ndbatch.remotes.places.tensor import context
from ndbatch.remotes.precomputed.encodings import READ_ONLY, TENSORSTORE, decode, encode
from ndbatch.remotes.precomputed.info import DTYPES, Info, Scale
from ndbatch.remotes.precomputed.sharding import chunk_number

SUFFIXES = (".gz", ".br", ".zstd")
"""Endings of objects with a second compression, as cloud-files names them."""
LISTED = 20_000
"""Names of objects looked at when a scale is opened: all of them in most local layers."""
PROBED = 4
"""Chunks asked for by name in buckets and on web servers."""
FETCHES = 16
"""Objects fetched at the same time for one box."""


def suffixes(layer: KeyValue, scale: Scale) -> tuple[str, ...]:
    """Return the endings that objects of a scale have, of those that tell of a second compression; empty where none has.

    On this machine names are listed, up to `LISTED` of them. Elsewhere, where a folder is listed whole or not at all, a few
    chunks are asked for by their names.
    """
    folder = layer.child(scale.key)
    if isinstance(folder, LocalFiles):
        try:
            with os.scandir(folder.path) as entries:
                names = [entry.name for entry in islice(entries, LISTED)]
        except OSError:
            return ()  # nothing was written yet, or reading will tell why not
        return tuple(ending for ending in SUFFIXES if any(name.endswith(ending) for name in names))
    places = dict.fromkeys([tuple(n // 2 for n in scale.grid), *product(*((0, n - 1) for n in scale.grid))])
    with ThreadPoolExecutor(1 + len(SUFFIXES)) as pool:
        for place in islice(places, PROBED):
            key = chunk_key(scale, place)
            there = list(pool.map(lambda ending, key=key: bool(folder.etag(key + ending)), ("", *SUFFIXES)))
            if any(there):
                return tuple(ending for ending, found in zip(("", *SUFFIXES), there, strict=True) if ending and found)
    return ()


def chunk_box(scale: Scale, place: Sequence[int]) -> Box:
    """Return the voxels (absolute, x, y, z) of the chunk at `place` in the grid, cut at the end of the volume."""
    start = [o + p * c for o, p, c in zip(scale.offset, place, scale.chunk, strict=True)]
    ends = zip(start, scale.chunk, scale.offset, scale.size, strict=True)
    return Box(tuple(start), tuple(min(s + c, o + n) for s, c, o, n in ends))


def chunk_key(scale: Scale, place: Sequence[int]) -> str:
    """Return the name of the object that holds the chunk at `place`, below the scale."""
    box = chunk_box(scale, place)
    return "_".join(f"{a}-{b}" for a, b in zip(box.start, box.stop, strict=True))


class ChunkObjects:
    """One scale, object by object. Written where its encoding is the only reason not to leave it to tensorstore."""

    def __init__(self, layer: KeyValue, info: Info, scale: Scale, endings: Sequence[str], address: Address) -> None:
        if ".." in scale.key.split("/"):
            raise RemoteError(f"{address.url}: its scale {scale.key} lies outside the layer", url=address.url)
        self._folder, self._info, self._scale, self._address = layer.child(scale.key), info, scale, address
        self._endings = (*endings, "", *(ending for ending in SUFFIXES if ending not in endings))
        self._packed = tuple(endings)
        self._shards = _open_shards(self._folder, scale) if scale.sharding else None
        self._strict = address.option("missing") == "error"

    def read(self, region: tuple[slice, ...]) -> Array:
        """Return the voxels of `region` (absolute slices along x, y, z, c), in that order."""
        box = Box(tuple(s.start for s in region[:3]), tuple(s.stop for s in region[:3]))
        places = list(self._touched(box))
        with ThreadPoolExecutor(min(FETCHES, len(places))) as pool:
            fetched = zip(places, pool.map(self._fetch, places), strict=True)
            objects = {place: data for place, data in fetched if data is not None}
        self._count_missing(places, objects)
        if self._scale.encoding in TENSORSTORE and self._info.dtype.name in DTYPES:
            return np.asarray(_over_memory(self._info, self._scale, objects)[region].read(order="F").result())
        result = np.zeros((*box.shape, self._info.channels), self._info.dtype, order="F")
        for place, data in objects.items():
            chunk = chunk_box(self._scale, place)
            common = chunk.intersect(box)
            result[common.slices(box.start)] = self._decoded(place, data)[common.slices(chunk.start)]
        return result[..., region[3]]

    def write(self, region: tuple[slice, ...], data: Array) -> None:
        """Store `data` in `region`: whole chunks as they are, parts of a chunk over what it holds. Zeros are not stored."""
        self._require_writable()
        box = Box(tuple(s.start for s in region[:3]), tuple(s.stop for s in region[:3]))
        for place in self._touched(box):
            chunk = chunk_box(self._scale, place)
            common = chunk.intersect(box)
            voxels = np.zeros((*chunk.shape, self._info.channels), self._info.dtype, order="F")
            stored = self._fetch(place) if common != chunk or data.shape[3] != self._info.channels else None
            if stored is not None:
                voxels[...] = self._decoded(place, stored)
            voxels[(*common.slices(chunk.start), region[3])] = data[common.slices(box.start)]
            key = chunk_key(self._scale, place)
            if voxels.any():
                self._folder.write(key, encode(self._scale.encoding, voxels))
            else:
                _open_objects(self._folder).write(key, None).result()

    def _require_writable(self) -> None:
        """Raise RemoteError where writing would make a layer that no reader reads whole."""
        url, name = self._address.url, self._info.dtype.name
        if self._packed:
            what = f"its chunks are stored with a second compression ({', '.join(self._packed)})"
        elif self._shards is not None:
            what = f"shards of {self._scale.encoding} cannot be written, and missing=error is for reading"
        elif self._scale.encoding in TENSORSTORE and name in DTYPES:
            what = "missing=error is for reading"
        elif name not in DTYPES:
            what = f"the format does not hold {name}"
        elif self._scale.encoding in READ_ONLY:
            what = f"the encoding {self._scale.encoding} is read only"
        else:
            return
        raise RemoteError(f"{url} can be read, not written: {what}; write to a new volume", url=url)

    def _touched(self, box: Box) -> Iterator[Shape]:
        """Yield the places of the chunks that hold voxels of `box`."""
        sides = zip(box.start, box.stop, self._scale.offset, self._scale.chunk, strict=True)
        yield from product(*(range((a - o) // c, -(-(b - o) // c)) for a, b, o, c in sides))

    def _fetch(self, place: Shape) -> bytes | None:
        """Return the bytes of a chunk as its encoding made them, or None where there is none."""
        if self._shards is not None:
            number = chunk_number(place, self._scale.grid)
            found = self._shards.read(struct.pack(">Q", number)).result()
            return bytes(found.value) if found.state == "value" else None
        key = chunk_key(self._scale, place)
        for ending in self._endings:
            data = self._folder.read(key + ending)
            if data is not None:
                return unpack(data, ending, key, self._address.url)
        return None

    def _decoded(self, place: Shape, data: bytes) -> Array:
        shape = (*chunk_box(self._scale, place).shape, self._info.channels)
        where = chunk_key(self._scale, place)
        return decode(self._scale.encoding, data, shape, self._info.dtype, where, self._address.url)

    def _count_missing(self, places: Sequence[Shape], objects: dict[Shape, bytes]) -> None:
        missing = [place for place in places if place not in objects] if self._strict else []
        if missing:
            raise NotFound(
                f"{self._address.url}: {len(missing)} of {len(places)} chunks are missing, the first "
                f"{self._scale.key}/{chunk_key(self._scale, missing[0])}; leave out missing=error to take them for zeros",
                url=self._address.url,
            )


def unpack(data: bytes, ending: str, key: str, url: str) -> bytes:
    """Return the bytes of an object whose name ends in `ending` without the compression that it tells of."""
    try:
        if ending == ".gz":
            return gzip.decompress(data)
        if ending == ".br":
            return bytes(_library("brotli", url).decompress(data))
        if ending == ".zstd":
            stream = _library("zstandard", url).ZstdDecompressor().decompressobj()
            whole = bytes(stream.decompress(data))
            if not stream.eof:
                raise EOFError("it ends too early")
            return whole
    except (OSError, EOFError, zlib.error) as error:
        raise Corrupt(f"{url}: the chunk {key}{ending} is damaged: {error}", url=url) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("brotli", "_brotli", "zstandard", "zstd"):
            raise
        raise Corrupt(f"{url}: the chunk {key}{ending} is damaged: {error}", url=url) from None
    return data


def _library(name: str, url: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise missing_extra(name, "precomputed", f"{url}, whose chunks are compressed,") from None


def _open_objects(folder: KeyValue) -> Any:
    """Return the objects of a scale as a key-value store of tensorstore, which can remove one."""
    import tensorstore

    return tensorstore.KvStore.open(folder.spec(), context=context()).result()


def _open_shards(folder: KeyValue, scale: Scale) -> Any:
    """Return the chunks of a sharded scale as a key-value store of tensorstore: big-endian chunk number to bytes."""
    import tensorstore

    spec = {"driver": "neuroglancer_uint64_sharded", "metadata": dict(scale.sharding or {}), "base": folder.spec()}
    return tensorstore.KvStore.open(spec, context=context()).result()


def _over_memory(info: Info, scale: Scale, objects: dict[Shape, bytes]) -> Any:
    """Return the tensorstore of a scale of which `objects` are all chunks, as if they were stored plainly."""
    import tensorstore

    private = tensorstore.Context()
    base = {"driver": "memory", "path": "layer/"}
    plain = {key: value for key, value in scale.document.items() if key != "sharding"}
    memory = tensorstore.KvStore.open(base, context=private).result()
    memory["info"] = json.dumps({**info.document, "scales": [plain]})
    for place, data in objects.items():
        memory[f"{scale.key}/{chunk_key(scale, place)}"] = data
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": base,
        "scale_index": 0,
        "scale_metadata": {"chunk_size": list(scale.chunk)},
    }
    return tensorstore.open(spec, context=private, open=True).result()

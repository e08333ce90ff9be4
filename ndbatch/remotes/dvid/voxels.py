"""One request for voxels: a box of an image, or of labels in compressed blocks, read or written. Arrays are C-order z, y, x."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid.label_blocks import GZIP_LEVEL, compress, decompress
from ndbatch.remotes.dvid.service import Place, joined
from ndbatch.remotes.dvid.streams import pack, unpack
from ndbatch.remotes.http.client import Reply

WRITE = 600.0
"""Seconds that a server may take over a write: it computes indices and coarser levels before it answers."""


def read_image(place: Place, box: Box, dtype: np.dtype[Any]) -> Array:
    """Return the voxels of a box, wherever it lies; what was never written is the background."""
    stored = dtype.newbyteorder("<")

    def whole(reply: Reply) -> None:
        if len(reply.body) != box.size * stored.itemsize:
            raise Corrupt(
                f"{reply.url}: {len(reply.body)} bytes came for {box.size} voxels of {stored.itemsize} bytes",
                url=reply.url,
            )

    reply = place.get(f"/raw/0_1_2/{joined(box.shape)}/{joined(box.start)}", check=whole)
    return np.frombuffer(reply.body, stored).reshape(box.shape).astype(dtype)


def write_image(place: Place, box: Box, data: Array) -> None:
    """Store the voxels of whole blocks. Sending them twice does what sending them once does."""
    body = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()
    place.post(f"/raw/0_1_2/{joined(box.shape)}/{joined(box.start)}", body, read_timeout=WRITE)


def read_labels(place: Place, box: Box, block: Shape, scale: int = 0, supervoxels: bool = False) -> Array:
    """Return the labels of a box at a scale, uint64: those of bodies, or of supervoxels.

    Asked for as whole compressed blocks, since a server fails over a single absent block otherwise.
    """
    grown = box.aligned_to(block, (0, 0, 0))
    query = {"compression": "blocks", "scale": scale} | ({"supervoxels": "true"} if supervoxels else {})
    found: list[tuple[Shape, Array]] = []

    def decoded(reply: Reply) -> None:
        found[:] = [(at, decompress(payload, block)) for at, payload in unpack(reply.body, reply.url) if payload]

    path = f"/blocks/{joined(grown.shape)}/{joined(grown.start)}"
    reply = place.get(path, query, check=decoded)
    result = np.zeros(grown.shape, np.uint64)
    for at, labels in found:
        here = Box.of_shape(block, [n * size for n, size in zip(at, block, strict=True)])
        if not grown.contains(here):
            raise Corrupt(f"{reply.url}: a block came that was not asked for, at {here.describe('zyx')}", url=reply.url)
        result[here.slices(grown.start)] = labels
    return result if grown == box else np.ascontiguousarray(result[box.slices(grown.start)])


def write_labels(place: Place, box: Box, data: Array) -> None:
    """Store labels of whole blocks at scale 0; the server updates sizes, indices and coarser levels."""
    body = gzip.compress(np.ascontiguousarray(data, "<u8").tobytes(), GZIP_LEVEL, mtime=0)
    query = {"mutate": "true", "compression": "gzip"}
    place.post(f"/raw/0_1_2/{joined(box.shape)}/{joined(box.start)}", body, query, read_timeout=WRITE)


def ingest_supervoxels(place: Place, box: Box, data: Array, block: Shape, scale: int = 0) -> None:
    """Store supervoxels of whole blocks (`block` voxels, z, y, x) and nothing else: no sizes, extents, or coarser levels.

    The quick way for bulk data whose indices are posted afterwards; no two requests may touch one block.
    """
    records = (
        (at, compress(np.ascontiguousarray(data[here.slices(box.start)], np.uint64)))
        for at, here in _blocks(box, block)
    )
    place.post("/ingest-supervoxels", pack(records), {"scale": scale}, read_timeout=WRITE)


def _blocks(box: Box, block: Shape) -> Iterator[tuple[Shape, Box]]:
    for part in Grid.over(box, block):
        yield tuple(a // n for a, n in zip(part.core.start, block, strict=True)), part.core

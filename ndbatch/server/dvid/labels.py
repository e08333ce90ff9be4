"""Voxels of a labelmap over the wire: supervoxels are written, bodies are read, coarser levels follow at once."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np
from starlette.responses import Response

from ndbatch.errors import Corrupt, PlanError, missing_extra
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid.label_blocks import compress, decompress
from ndbatch.remotes.dvid.streams import pack, unpack
from ndbatch.server.calls import as_json, plain
from ndbatch.server.dvid import images
from ndbatch.server.dvid.asking import Ask, Table, octets, point
from ndbatch.server.dvid.images import grow, listed, storage, voxels_of, wire
from ndbatch.server.dvid.label_index import LabelIndex, add_counts
from ndbatch.server.dvid.pictures import picture
from ndbatch.server.dvid.storage import Storage


def read(ask: Ask, box: Box, scale: int) -> Array:
    """Return the labels of a box: bodies, or supervoxels where these are asked for."""
    return to_bodies(storage(ask).read(ask.uuid, box, _shown(ask, scale)), bodies_of(ask))


def bodies_of(ask: Ask) -> Array:
    """Return the supervoxels that are not their own body, in order, and their bodies: uint64 rows of two."""
    pairs = [] if ask.flag("supervoxels") else LabelIndex(storage(ask), ask.uuid).mapping()
    return np.array(pairs, np.uint64).reshape(-1, 2)


def to_bodies(data: Array, pairs: Array) -> Array:
    """Return supervoxels as the bodies that `pairs` says they belong to."""
    if not len(pairs):
        return data
    places = np.searchsorted(pairs[:, 0], data).clip(max=len(pairs) - 1)
    return np.where(pairs[places, 0] == data, pairs[places, 1], data)


def scale_of(ask: Ask) -> int:
    """Return the level asked for."""
    return ask.number("scale") % 256


def _shown(ask: Ask, scale: int) -> int:
    if scale > ask.instance.shown:
        raise PlanError(f"scale {scale} is above MaxDownresLevel, which is {ask.instance.shown}")
    return scale


def _stored(ask: Ask, scale: int) -> int:
    if scale > ask.instance.scales:
        raise PlanError(
            f"scale {scale} is not stored, and cannot be written; the coarsest that is stored is {ask.instance.scales}"
        )
    return scale


def get_raw(ask: Ask) -> Response:
    """GET raw: any box, plain or packed."""
    if ask.part(0, "0_1_2") != "0_1_2":
        box, shape = images.slice_box(ask, ask.parts[0])
        return picture(
            (read(ask, box, scale_of(ask)).reshape(shape) % 2**16).astype(np.uint16), ask.parts[3:] or ("png",)
        )
    box = ask.box()
    return _packed(ask, read(ask, box, scale_of(ask)))


def _packed(ask: Ask, data: Array) -> Response:
    how = ask.call.query.get("compression", "")
    if how in ("", "none", "uncompressed"):
        return octets(wire(data))
    if how == "gzip":
        return octets(gzip.compress(wire(data), 1, mtime=0))
    if how == "lz4":
        return octets(_lz4(wire(data)))
    if how in ("google", "googlegzip"):
        if any(n % 8 for n in data.shape):
            raise PlanError(f"compression={how} needs a box of whole 8 x 8 x 8 voxels")
        answer = octets(_google(data))
        if how == "googlegzip":
            answer = octets(gzip.compress(answer.body, 1, mtime=0))
            answer.headers["Content-Encoding"] = "gzip"
        return answer
    raise PlanError(f"compression {how!r} is not one of none, lz4, gzip, google, googlegzip")


def _lz4(data: bytes) -> bytes:
    """Return one LZ4 block; numcodecs puts its length before it."""
    try:
        from numcodecs.lz4 import compress as lz4
    except ImportError:
        raise missing_extra("numcodecs", "serve", "compression=lz4") from None
    return bytes(lz4(data))[4:]


def _unlz4(data: bytes, size: int) -> bytes:
    try:
        from numcodecs.lz4 import decompress as unlz4
    except ImportError:
        raise missing_extra("numcodecs", "serve", "compression=lz4") from None
    try:
        return bytes(unlz4(struct.pack("<i", size) + data))
    except (RuntimeError, ValueError):
        raise PlanError("the body is not LZ4 of so many voxels") from None


def _google(data: Array) -> bytes:
    """Return labels as Neuroglancer's compressed segmentation, in blocks of 8 voxels, after the one word of its channel."""
    try:
        packer = import_module("compressed_segmentation")
    except ImportError:
        raise missing_extra("compressed-segmentation", "serve", "compression=google") from None
    packed: bytes = packer.compress(np.ascontiguousarray(data).T, block_size=(8, 8, 8), order="F")
    return packed


def post_raw(ask: Ask) -> Response:
    """POST raw: whole blocks of supervoxels at scale 0; with `mutate` what was there is taken out of the index."""
    if ask.part(0, "0_1_2") != "0_1_2":
        raise PlanError("only 0_1_2 is written")
    box, how, body = ask.aligned(), ask.call.query.get("compression", ""), ask.call.body
    if how == "gzip":
        body = _gunzipped(body, box.size * 8)
    elif how == "lz4":
        body = _unlz4(body, box.size * 8)
    elif how not in ("", "none", "uncompressed"):
        raise PlanError(f"compression {how!r} is not one of none, lz4, gzip")
    data = voxels_of(body, "uint64", box.shape)
    store = storage(ask)
    with store.lock(alone=True):
        _indexed(ask, store, [(box, data)], ask.flag("mutate"))
        _coarser(ask, store, box)
    store.note_write(ask.uuid)
    grow(ask, box)
    return plain("")


def _indexed(ask: Ask, store: Storage, pieces: list[tuple[Box, Array]], mutate: bool) -> None:
    """Store voxels and count them. Without `mutate` a DVID counts a block anew though it was there, and so does this."""
    index = LabelIndex(store, ask.uuid)
    with index.changing() as connection:
        for box, data in pieces:
            before = store.read(ask.uuid, box) if mutate else None
            store.write_alone(ask.uuid, box, data)
            add_counts(connection, box, data, ask.instance.block, before)


def _coarser(ask: Ask, store: Storage, box: Box) -> None:
    """Make the coarser levels of what was written: the label that most of 8 voxels have."""
    for scale in range(1, ask.instance.scales + 1):
        box = box.coarsened((2, 2, 2))
        store.write_alone(ask.uuid, box, store.halved(ask.uuid, box, scale), scale)


def _gunzipped(body: bytes, most: int) -> bytes:
    opener = zlib.decompressobj(wbits=47)
    try:
        plain_body = opener.decompress(body, most + 1)
    except zlib.error as error:
        raise PlanError(f"the body is not gzip ({error})") from None
    if not opener.eof:
        raise PlanError("the body in gzip is cut short, or longer than its voxels")
    return plain_body


def _records(ask: Ask, boxes: Iterator[Box], default: str) -> Response:
    how, scale = ask.call.query.get("compression", "") or default, scale_of(ask)
    packers: dict[str, Callable[[Array], bytes]] = {
        "blocks": lambda data: compress(data),
        "gzip": lambda data: gzip.compress(wire(data), 1, mtime=0),
        "lz4": lambda data: _lz4(wire(data)),
        "uncompressed": wire,
    }
    if how not in packers:
        raise PlanError(f"compression {how!r} is not one of {', '.join(packers)}")
    found, pairs = images.present(ask, boxes, _shown(ask, scale)), bodies_of(ask)
    return octets(pack((place, packers[how](to_bodies(data, pairs))) for place, data in found))


def get_blocks(ask: Ask) -> Response:
    """GET blocks: those in a box that hold anything."""
    return _records(ask, (part.core for part in Grid.over(ask.aligned(0), ask.instance.block)), "lz4")


def get_specificblocks(ask: Ask) -> Response:
    """GET specificblocks: those listed that hold anything."""
    return _records(ask, listed(ask), "blocks")


def _posted(ask: Ask) -> list[tuple[Box, Array]]:
    """Return place and voxels of the blocks of a body. PlanError for what is no stream of label blocks."""
    if ask.call.query.get("compression", "blocks") != "blocks":
        raise PlanError("blocks are only taken with compression=blocks")
    block, found = ask.instance.block, {}
    try:
        for place, payload in unpack(ask.call.body, "the body"):
            found[place] = decompress(payload, block)
    except Corrupt as error:
        raise PlanError(error.message) from None
    ends = [tuple(n * size for n, size in zip(place, block, strict=True)) for place in found]
    return [(Box.of_shape(block, end), data) for end, data in zip(ends, found.values(), strict=True)]


def post_blocks(ask: Ask) -> Response:
    """POST blocks: counted as new ones, unless `noindexing`; at scale 0 the extents grow."""
    pieces, scale, store = _posted(ask), scale_of(ask), storage(ask)
    if ask.flag("downres") and scale:
        raise PlanError("downres only goes with scale 0")
    with store.lock(alone=True):
        if scale or ask.flag("noindexing"):
            for box, data in pieces:
                store.write_alone(ask.uuid, box, data, _stored(ask, scale))
        else:
            _indexed(ask, store, pieces, mutate=False)
        if ask.flag("downres"):
            for box, _ in pieces:
                _coarser(ask, store, box)
    if not scale and pieces:
        store.note_write(ask.uuid)
        grow(ask, _bounds([box for box, _ in pieces]))
    return plain("")


def _bounds(boxes: list[Box]) -> Box:
    return Box(
        tuple(min(values) for values in zip(*(box.start for box in boxes), strict=True)),
        tuple(max(values) for values in zip(*(box.stop for box in boxes), strict=True)),
    )


def ingest(ask: Ask) -> Response:
    """POST ingest-supervoxels: voxels and nothing else; neither sizes nor extents change."""
    store, scale = storage(ask), scale_of(ask)
    for box, data in _posted(ask):
        store.write(ask.uuid, box, data, _stored(ask, scale))
    if not scale:
        store.note_write(ask.uuid)
    ask.repo.changed()
    return plain("")


def at_points(ask: Ask, points: list[Shape]) -> list[int]:
    """Return the label at each point (z, y, x); points of one block are read together."""
    places = np.array(points, np.int64).reshape(-1, 3)
    result = np.zeros(len(places), np.uint64)
    size = np.array(ask.instance.block)
    cells, inverse = np.unique(places // size, axis=0, return_inverse=True)
    for number, cell in enumerate(cells):
        chosen = np.flatnonzero(inverse.reshape(-1) == number)
        here = places[chosen]
        box = Box(tuple(map(int, here.min(axis=0))), tuple(int(n) + 1 for n in here.max(axis=0)))
        data = read(ask, box, scale_of(ask))
        result[chosen] = data[tuple((here - np.array(box.start)).T)]
        del cell
    return [int(label) for label in result]


def get_label(ask: Ask) -> Response:
    """GET label: at one point."""
    return as_json({"Label": at_points(ask, [point(ask.part(0, "a point"))])[0]})


def get_labels(ask: Ask) -> Response:
    """GET labels: at the points in the body."""
    return as_json(at_points(ask, points_of(ask)))


def points_of(ask: Ask) -> list[Shape]:
    """Return the points (z, y, x) of a body `[[x, y, z], ...]`. PlanError."""
    points = ask.json(list)
    if any(
        not isinstance(p, list) or len(p) != 3 or any(type(n) is not int or abs(n) >= 2**31 for n in p) for p in points
    ):
        raise PlanError("the body must be a list of points [x, y, z]")
    return [tuple(reversed(p)) for p in points]


TABLE: Table = {
    ("GET", "raw"): get_raw,
    ("POST", "raw"): post_raw,
    ("GET", "isotropic"): get_raw,
    ("GET", "blocks"): get_blocks,
    ("POST", "blocks"): post_blocks,
    ("GET", "specificblocks"): get_specificblocks,
    ("POST", "ingest-supervoxels"): ingest,
    ("GET", "label"): get_label,
    ("GET", "labels"): get_labels,
    **{key: images.TABLE[key] for key in (("POST", "extents"), ("POST", "resolution"), ("GET", "metadata"))},
}

"""Voxels of images over the wire: boxes, blocks along x, streams of blocks, extents. Bodies are little-endian, x fastest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid.streams import pack
from ndbatch.server.calls import as_json, plain
from ndbatch.server.dvid.asking import Ask, Table, octets, point, whole
from ndbatch.server.dvid.instance import change
from ndbatch.server.dvid.pictures import picture
from ndbatch.server.dvid.storage import Storage

PLANES = {"xy": (2, 1), "xz": (2, 0), "yz": (1, 0), "0_1": (2, 1), "0_2": (2, 0), "1_2": (1, 0)}
"""Axes (of z, y, x) that become width and height of a slice."""


def storage(ask: Ask) -> Storage:
    """Return the voxels of the instance asked for."""
    return Storage(ask.service, ask.repo, ask.instance.name)


def wire(data: Array) -> bytes:
    """Return voxels as they travel."""
    return np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()


def voxels_of(body: bytes, dtype: str, shape: Shape) -> Array:
    """Return a body as voxels. PlanError where it is not as long as they are."""
    stored = np.dtype(dtype).newbyteorder("<")
    due = int(np.prod(shape)) * stored.itemsize
    if len(body) != due:
        raise PlanError(f"the body has {len(body)} bytes; voxels of {shape[::-1]} in {dtype} are {due}")
    return np.frombuffer(body, stored).reshape(shape).astype(dtype)


def slice_box(ask: Ask, dims: str) -> tuple[Box, Shape]:
    """Return the box of a slice, and its height and width."""
    if dims not in PLANES:
        raise PlanError(f"{dims!r} is not one of 0_1_2, {', '.join(PLANES)}")
    width, _, height = ask.part(1, "a size").partition("_")
    extent = [1, 1, 1]
    for axis, text in zip(PLANES[dims], (width, height), strict=True):
        extent[axis] = whole(text, "an extent")
        if not 1 <= extent[axis] <= 2**14:
            raise PlanError(f"a slice of {text} voxels is not from 1 to {2**14}")
    return Box.of_shape(extent, point(ask.part(2, "an offset"))), (int(height), int(width))


def get_raw(ask: Ask) -> Response:
    """GET raw: any box; what was never written is 0."""
    dims, store = ask.part(0, "0_1_2"), storage(ask)
    if dims != "0_1_2":
        box, shape = slice_box(ask, dims)
        return picture(store.read(ask.uuid, box).reshape(shape), ask.parts[3:] or ("png",))
    data = store.read(ask.uuid, ask.box(itemsize=np.dtype(ask.instance.dtype).itemsize))
    if len(ask.parts) > 3:
        return picture(data.reshape(-1, data.shape[2]), ask.parts[3:])
    return octets(wire(data))


def post_raw(ask: Ask) -> Response:
    """POST raw: whole blocks; the extents grow by them."""
    if ask.part(0, "0_1_2") != "0_1_2":
        raise PlanError("only 0_1_2 is written")
    box = ask.aligned(itemsize=np.dtype(ask.instance.dtype).itemsize)
    store = storage(ask)
    store.write(ask.uuid, box, voxels_of(ask.call.body, ask.instance.dtype, box.shape))
    store.note_write(ask.uuid)
    grow(ask, box)
    return plain("")


def grow(ask: Ask, box: Box) -> None:
    """Have the extents of the version hold a box, and count the change. Those of a volume that cannot grow stay in it."""
    volume = storage(ask).volume(ask.uuid) if ask.instance.found else None
    if volume is not None:
        box = box.intersect(volume.domain)
        if box.empty:
            return
    ends = ask.instance.nearest(ask.repo, ask.uuid, ask.instance.extents)
    first, last = [list(reversed(box.start)), [n - 1 for n in reversed(box.stop)]]
    if ends is not None:
        first = [min(a, b) for a, b in zip(first, ends[0], strict=True)]
        last = [max(a, b) for a, b in zip(last, ends[1], strict=True)]
    if ends is None or [first, last] != [list(ends[0]), list(ends[1])]:
        with ask.repo.catalogue.transaction():  # others may have grown it since
            now = change(ask.service, ask.repo, ask.instance.name)
            ends = now.nearest(ask.repo, ask.uuid, now.extents) or (first, last)
            low = [min(a, b) for a, b in zip(first, ends[0], strict=True)]
            high = [max(a, b) for a, b in zip(last, ends[1], strict=True)]
            change(ask.service, ask.repo, ask.instance.name, extents={storage(ask).owner(ask.uuid): (low, high)})
    ask.repo.changed()


def post_extents(ask: Ask) -> Response:
    """POST extents: they are what is said, and the volume is made where there is none."""
    told = ask.json()
    ends = [told.get("MinPoint"), told.get("MaxPoint")]
    if any(not isinstance(end, list) or len(end) != 3 or any(type(n) is not int for n in end) for end in ends):
        raise PlanError('extents are {"MinPoint": [x, y, z], "MaxPoint": [x, y, z]}')
    box = Box(tuple(reversed(ends[0])), tuple(n + 1 for n in reversed(ends[1])))
    if box.empty or any(abs(n) > 2**31 for n in (*box.start, *box.stop)):
        raise PlanError(f"MinPoint {ends[0]} and MaxPoint {ends[1]} are the corners of no box")
    store = storage(ask)
    with store.lock(alone=True):
        if not store.instance.volumes:
            store.prepare(ask.uuid, box)
    change(ask.service, ask.repo, ask.instance.name, extents={store.owner(ask.uuid): tuple(ends)})
    ask.repo.changed()
    return plain("")


def post_resolution(ask: Ask) -> Response:
    """POST resolution: the voxel size, x, y, z, in the units that the instance has."""
    size = ask.json(list)
    if len(size) != 3 or any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 < n < 1e12 for n in size):
        raise PlanError("the resolution is a list of three lengths")
    change(ask.service, ask.repo, ask.instance.name, size=tuple(float(n) for n in size))
    return plain("")


def get_blocks(ask: Ask) -> Response:
    """GET blocks: so many blocks along x, one after the other, those never written as background."""
    box = _span(ask)
    data = storage(ask).read(ask.uuid, box)
    return octets(b"".join(wire(data[part.core.slices(box.start)]) for part in Grid.over(box, ask.instance.block)))


def post_blocks(ask: Ask) -> Response:
    """POST blocks: as they are given by GET. The extents stay as they are."""
    box, block = _span(ask), ask.instance.block
    parts = list(Grid.over(box, block))
    rows = voxels_of(ask.call.body, ask.instance.dtype, (len(parts), *block))
    data = np.empty(box.shape, ask.instance.dtype)
    for row, part in zip(rows, parts, strict=True):
        data[part.core.slices(box.start)] = row
    store = storage(ask)
    store.write(ask.uuid, box, data)
    store.note_write(ask.uuid)
    ask.repo.changed()
    return plain("")


def _span(ask: Ask) -> Box:
    place, block = point(ask.part(0, "the place of a block")), ask.instance.block
    count = whole(ask.part(1, "a number of blocks"), "the number of blocks")
    if not 1 <= count <= 2**14:
        raise PlanError(f"{count} blocks in a row are not from 1 to {2**14}")
    start = tuple(n * size for n, size in zip(place, block, strict=True))
    return Box.of_shape((block[0], block[1], block[2] * count), start)


def present(ask: Ask, boxes: Iterator[Box], scale: int = 0) -> Iterator[tuple[Shape, Array]]:
    """Yield place (z, y, x, in blocks) and voxels of those blocks that hold anything."""
    store, made = storage(ask), scale > ask.instance.scales
    volume = store.volume(ask.uuid, 0 if made else scale)
    for box in boxes:
        if volume is None:
            continue  # a list of blocks that is none is still an error
        if made:
            data = store.read(ask.uuid, box, scale)
        else:
            data = ask.service.voxels.read(volume, box).astype(ask.instance.dtype, copy=False)
        if data.any():
            yield tuple(a // n for a, n in zip(box.start, ask.instance.block, strict=True)), data


def listed(ask: Ask) -> Iterator[Box]:
    """Yield the blocks that the option `blocks` lists: x, y, z of each, in blocks."""
    try:
        numbers = [int(n) for n in ask.call.query.get("blocks", "").split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) % 3:
        raise PlanError("blocks=x,y,z,x,y,z... lists no whole number of blocks")
    for x, y, z in np.array(numbers, np.int64).reshape(-1, 3).tolist():
        start = tuple(n * size for n, size in zip((z, y, x), ask.instance.block, strict=True))
        yield Box.of_shape(ask.instance.block, start)


def get_subvolblocks(ask: Ask) -> Response:
    """GET subvolblocks: a stream of the blocks in a box that hold anything."""
    box = ask.aligned(0, np.dtype(ask.instance.dtype).itemsize)
    return _stream(ask, (part.core for part in Grid.over(box, ask.instance.block)))


def get_specificblocks(ask: Ask) -> Response:
    """GET specificblocks: a stream of those listed blocks that hold anything."""
    return _stream(ask, listed(ask))


def _stream(ask: Ask, boxes: Iterator[Box]) -> Response:
    if ask.call.query.get("compression", "uncompressed") not in ("uncompressed", ""):
        raise PlanError("blocks are kept uncompressed here; ask with compression=uncompressed")
    return octets(pack((place, wire(data)) for place, data in present(ask, boxes)))


def get_metadata(ask: Ask) -> Response:
    """GET metadata: axes, in the words of DVID's n-dimensional data."""
    info: dict[str, Any] = ask.instance.info(ask.repo, ask.uuid)["Extended"]
    first, last = info["MinPoint"] or [0] * 3, info["MaxPoint"] or [-1] * 3
    axes = [
        {"Label": name, "Resolution": size, "Units": unit, "Size": b - a + 1, "Offset": a}
        for name, size, unit, a, b in zip("XYZ", info["VoxelSize"], info["VoxelUnits"], first, last, strict=True)
    ]
    return as_json({"Axes": axes, "Properties": {"Values": info["Values"], "Background": 0}})


TABLE: Table = {
    ("GET", "raw"): get_raw,
    ("GET", "isotropic"): get_raw,
    ("POST", "raw"): post_raw,
    ("GET", "blocks"): get_blocks,
    ("POST", "blocks"): post_blocks,
    ("GET", "subvolblocks"): get_subvolblocks,
    ("GET", "specificblocks"): get_specificblocks,
    ("POST", "extents"): post_extents,
    ("POST", "resolution"): post_resolution,
    ("GET", "metadata"): get_metadata,
}

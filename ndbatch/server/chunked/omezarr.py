"""Every channel as an OME-Zarr image, under `/zarr/PROJECT/CHANNEL`: a group of Zarr version 2 with one array for each level.

Formats: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html (the files .zgroup, .zarray, .zattrs, and .zmetadata, which
holds all of them) and https://ngff.openmicroscopy.org/0.4 (multiscales). Arrays are C-order, axes (t?, c?, z, y, x), chunks at
`LEVEL/z/y/x`, full at the end of the volume too. Chunks are read by GET and HEAD and written by PUT and POST.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ndbatch.errors import Corrupt, NotFound, PlanError
from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import Array, ArraySpec, Kind
from ndbatch.remotes.boss import wire
from ndbatch.remotes.zarr.ngff import with_level, write_image
from ndbatch.server.addresses import Known
from ndbatch.server.calls import Call, endpoint, plainly
from ndbatch.server.chunked.content import content, sent
from ndbatch.server.chunked.grid import Pyramid, padded
from ndbatch.server.writes import require_writable, write

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel, Project
    from ndbatch.server.service import Service

SEPARATOR = "/"
GROUP = {"zarr_format": 2}
PACKED = {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 1, "blocksize": 0}
"""How chunks of labels are packed: 64^3 ids of 64 bits in 0.6 ms and back in 0.4, where gzip takes 4.6 and 1.7. Images go as they
are, since their noise does not shrink."""


def routes(service: Service) -> list[BaseRoute]:
    """Return the route of the groups: metadata, which is read alone, and chunks."""

    def file(call: Call) -> Response:
        path = call.names["file"]
        pyramid = Pyramid.of(service, call.names["project"], call.names["channel"])
        if path.rpartition("/")[2].startswith((".z", "zarr.json")):
            files = documents(pyramid, call.names["channel"])
            if path not in files or call.method not in ("GET", "HEAD"):
                raise NotFound(f"{path} is none of the files of this group, {', '.join(files)}, which are only read")
            return content(call, json.dumps(files[path]).encode(), "application/json")
        level, *place = (_number(part) for part in path.split(SEPARATOR))
        if level >= len(pyramid.volumes):
            raise NotFound(f"there is no level {level}; there are {len(pyramid.volumes)}")
        if call.method in ("GET", "HEAD"):
            return content(call, _chunk(service, pyramid, level, tuple(place)))
        service.access.require_write(call)
        require_writable(pyramid.channel)
        _write(service, pyramid, level, tuple(place), call)
        return Response(status_code=200)

    answer = endpoint(file, plainly, service.body_limit)
    return [Route("/zarr/{project}/{channel}/{file:path}", answer, methods=["GET", "PUT", "POST"])]


def address(service: Service, base: str, project: Project, channel: Channel) -> Known | None:
    """Return the address of a channel's group."""
    del service
    return Known(
        f"zarr://{base}/zarr/{project.name}/{channel.name}", "Neuroglancer, tensorstore, ndbatch; zarr without zarr://"
    )


def documents(pyramid: Pyramid, name: str) -> dict[str, Any]:
    """Return the metadata files of a channel's group by their paths below it."""
    specs = [pyramid.spec(level) for level in range(len(pyramid.volumes))]
    attributes = write_image(specs[0], "0.4", name)
    for number, spec in enumerate(specs[1:], 1):
        attributes = with_level(attributes, specs[0], spec, AxisOrder(spec.axes), str(number), name)
    files: dict[str, Any] = {".zgroup": GROUP, ".zattrs": attributes}
    for number, spec in enumerate(specs):
        files[f"{number}/.zarray"] = array_document(spec)
        files[f"{number}/.zattrs"] = {"_ARRAY_DIMENSIONS": list(spec.axes)}
    return {**files, ".zmetadata": {"zarr_consolidated_format": 1, "metadata": dict(files)}}


def array_document(spec: ArraySpec) -> dict[str, Any]:
    """Return the file `.zarray` of a level."""
    return {
        "zarr_format": 2,
        "shape": list(spec.shape),
        "chunks": list(spec.chunks),
        "dtype": _stored_type(spec).str,
        "order": "C",
        "fill_value": False if spec.dtype == bool else 0,
        "filters": None,
        "compressor": PACKED if spec.kind is Kind.LABELS else None,
        "dimension_separator": SEPARATOR,
    }


def _chunk(service: Service, pyramid: Pyramid, level: int, place: tuple[int, ...]) -> bytes:
    volume, spec = pyramid.volumes[level], pyramid.spec(level)
    whole = pyramid.box(level, place)
    box = whole.intersect(volume.domain)
    data = padded(service.voxels.read(volume, box), box, whole)
    stored = np.ascontiguousarray(data, _stored_type(spec))
    return wire.encode(stored, b"lz4") if spec.kind is Kind.LABELS else stored.tobytes()


def _write(service: Service, pyramid: Pyramid, level: int, place: tuple[int, ...], call: Call) -> None:
    """Store a chunk that was sent; what of it lies beyond the volume is left out."""
    volume, spec = pyramid.volumes[level], pyramid.spec(level)
    whole = pyramid.box(level, place)
    expected = whole.size * spec.dtype.itemsize
    body = sent(call, 2 * expected + 2**20)
    if spec.kind is Kind.LABELS:
        data = _unpacked(body, whole.shape, spec.dtype)
    elif len(body) == expected:
        data = np.frombuffer(body, _stored_type(spec)).reshape(whole.shape).astype(spec.dtype, copy=False)
    else:
        raise PlanError(f"the chunk has {len(body)} bytes; one of {spec.dtype} {whole.shape} has {expected}")
    box = whole.intersect(volume.domain)
    write(service, pyramid.channel, level, box, data[box.slices(whole.start)])


def _unpacked(body: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the voxels of a Blosc frame; PlanError where it is none of this shape."""
    try:
        return wire.decode(body, shape, dtype, "the body")
    except Corrupt as error:
        raise PlanError(error.message) from None


def _stored_type(spec: ArraySpec) -> np.dtype[Any]:
    return spec.dtype.newbyteorder("<") if spec.dtype.itemsize > 1 else spec.dtype


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFound(
            f"{text!r} is no place of a chunk; chunks are called LEVEL/{SEPARATOR.join('zyx')}, whole numbers"
        )
    return int(text)

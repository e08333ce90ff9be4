"""Every channel as a layer of Neuroglancer's precomputed format, under `/precomputed/PROJECT/CHANNEL`.

Format: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed (volume.md: the file `info`, and a file
`KEY/x0-x1_y0-y1_z0-z1` for every chunk, not sharded). `CHANNEL@3` is the time 3 of a channel that has times; `CHANNEL@jpeg`
and `CHANNEL@png` are images packed so. Chunks are read by GET and HEAD, and written by PUT and POST in the layer's own encoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ndbatch.errors import Denied, NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, ArraySpec, Kind, Volume
from ndbatch.remotes.precomputed.encodings import BLOCK_SIZE, ENCODINGS, require_encoding
from ndbatch.remotes.precomputed.info import DTYPES, new_info, new_scale, require_spec
from ndbatch.server.addresses import Known
from ndbatch.server.calls import Call, TooLarge, endpoint, plainly
from ndbatch.server.chunked.codec import decode, encode
from ndbatch.server.chunked.content import content, sent
from ndbatch.server.chunked.grid import Pyramid
from ndbatch.server.mark import Kept
from ndbatch.server.writes import require_writable, write

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel, Project
    from ndbatch.server.service import Service

WIDER = {"bool": "uint8", "float16": "float32"}
"""Types that the format lacks, and what holds their values unchanged."""
LARGEST = 2**27
"""Bytes of voxels of the largest chunk that is answered."""
_CHUNK = re.compile(r"(-?\d{1,15})-(-?\d{1,15})_(-?\d{1,15})-(-?\d{1,15})_(-?\d{1,15})-(-?\d{1,15})")


@dataclass(frozen=True)
class Layer:
    """A channel as it is shown in this format: its levels, one time of them, one encoding."""

    pyramid: Pyramid
    time: int
    document: Mapping[str, Any]
    """The file `info`."""

    def level(self, key: str) -> int:
        """Return the number of the level whose folder is `key`; NotFound where there is none."""
        for number, scale in enumerate(self.document["scales"]):
            if scale["key"] == key:
                return number
        raise NotFound(f"there is no scale {key}; info lists them")

    def box(self, level: int, name: str) -> Box:
        """Return the voxels of the volume's own axes in the chunk called `name`; NotFound where it is none."""
        volume, found = self.pyramid.volumes[level], _CHUNK.fullmatch(name)
        if found is None:
            raise NotFound(f"{name} is no chunk; chunks are called x0-x1_y0-y1_z0-z1")
        x0, x1, y0, y1, z0, z1 = map(int, found.groups())
        sides = {"x": (x0, x1), "y": (y0, y1), "z": (z0, z1), "t": (self.time, self.time + 1)}
        if "c" in volume.axes:
            at = volume.axes.index("c")
            sides["c"] = (volume.offset[at], volume.domain.stop[at])
        if any(b <= a for a, b in sides.values()):
            raise NotFound(f"the chunk {name} is empty")
        box = Box(tuple(sides[axis][0] for axis in volume.axes), tuple(sides[axis][1] for axis in volume.axes))
        if not volume.domain.contains(box):
            raise NotFound(f"the chunk {name} leaves the volume, which is {volume.domain.describe(volume.axes)}")
        if box.size * volume.dtype.itemsize > LARGEST:
            raise TooLarge(f"the chunk {name} has {box.size} voxels; ask for smaller ones, as info tells")
        return box


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the layers: `info` and chunks."""

    layers: Kept[Layer] = Kept()

    def asked(call: Call) -> Layer:
        """Return the layer of a path, made once as long as nothing is created, changed or deleted."""
        names = call.names["project"], call.names["channel"]
        stamp = service.catalogue.version, service.voxels.generation
        return layers.get(stamp, names, lambda: layer(service, *names))

    def info(call: Call) -> Response:
        document = asked(call).document
        return content(call, json.dumps(document).encode(), "application/json")

    def chunk(call: Call) -> Response:
        shown = asked(call)
        level = shown.level(call.names["key"])
        scale, volume = shown.document["scales"][level], shown.pyramid.volumes[level]
        box = shown.box(level, call.names["chunk"])
        if call.method in ("GET", "HEAD"):
            voxels = _czyx(service.voxels.read(volume, box), volume)
            return content(call, encode(scale, voxels.astype(shown.document["data_type"], copy=False)))
        service.access.require_write(call)
        require_writable(shown.pyramid.channel)
        write(service, shown.pyramid.channel, level, box, _received(call, scale, volume, box))
        return Response(status_code=200)

    at, limit = "/precomputed/{project}/{channel}", service.body_limit
    return [
        Route(f"{at}/info", endpoint(info, plainly, limit), methods=["GET"]),
        Route(f"{at}/{{key}}/{{chunk}}", endpoint(chunk, plainly, limit), methods=["GET", "PUT", "POST"]),
    ]


def address(service: Service, base: str, project: Project, channel: Channel) -> Known | None:
    """Return the address of a channel's layer; None where the format lacks its type."""
    del service
    if WIDER.get(channel.dtype, channel.dtype) not in DTYPES:
        return None
    text = f"precomputed://{base}/precomputed/{project.name}/{channel.name}"
    return Known(text, "Neuroglancer, cloud-volume, tensorstore, ndbatch")


def layer(service: Service, project: str, shown: str) -> Layer:
    """Return the layer `PROJECT/CHANNEL`, `CHANNEL@3` or `CHANNEL@jpeg`; PlanError where the format cannot hold it."""
    channel, *marks = shown.split("@")
    pyramid = Pyramid.of(service, project, channel)
    volume, url = pyramid.volumes[0], f"/precomputed/{project}/{shown}"
    times = [int(mark) for mark in marks if mark.isascii() and mark.isdigit()]
    packings = [mark for mark in marks if mark in ("raw", "jpeg", "png")]
    if len(times) > 1 or len(packings) > 1 or len(times) + len(packings) != len(marks):
        raise NotFound(f"{url}: write {channel}@3 for the time 3, {channel}@jpeg for an image packed so")
    first = volume.offset[0] if volume.axes.startswith("t") else 0
    time = times[0] if times else first
    last = first + (volume.shape[0] if volume.axes.startswith("t") else 1) - 1
    if not first <= time <= last:
        raise NotFound(f"{url}: there is no time {time}; there are {first} to {last}")
    specs = [_shown(pyramid.spec(level)) for level in range(len(pyramid.volumes))]
    try:
        require_spec(specs[0], url)
    except PlanError:
        raise PlanError(
            f"{url}: the precomputed format cannot hold {volume.dtype}; open /zarr/{project}/{channel}, or a copy of "
            "another type"
        ) from None
    encoding = _encoding(specs[0], packings[0] if packings else "", url)
    scales: list[dict[str, Any]] = []
    for spec in specs:
        scales.append(new_scale(spec, encoding, [scale["key"] for scale in scales], url))
    return Layer(pyramid, time, {**new_info(specs[0], scales[0]), "scales": scales})


def _shown(spec: ArraySpec) -> ArraySpec:
    """Return what a level is without its times, of a type that the format has."""
    kept = [i for i, axis in enumerate(spec.axes) if axis != "t"]
    shape, chunks, offset = (tuple(values[i] for i in kept) for values in (spec.shape, spec.chunks, spec.offset))
    size = None if spec.voxel_size is None else tuple(spec.voxel_size[i] for i in kept)
    dtype = np.dtype(WIDER.get(spec.dtype.name, spec.dtype.name))
    axes = "".join(spec.axes[i] for i in kept)
    return replace(
        spec, axes=axes, shape=shape, chunks=chunks, offset=offset, voxel_size=size, dtype=dtype, level=0, levels=1
    )


def _encoding(spec: ArraySpec, wanted: str, url: str) -> dict[str, Any]:
    """Return the encoding and its parameters as they stand in a scale: labels are compressed, images as they are."""
    if wanted:
        require_encoding(wanted, spec, url)
        return {"encoding": wanted}
    if spec.kind is Kind.LABELS and spec.dtype.name in ENCODINGS["compressed_segmentation"]:
        return {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": list(BLOCK_SIZE)}
    return {"encoding": "raw"}


def _czyx(data: Array, volume: Volume) -> Array:
    """Return voxels of the volume's axes (one time) as c, z, y, x."""
    shape = data.shape[1:] if volume.axes.startswith("t") else data.shape
    return data.reshape(shape if "c" in volume.axes else (1, *shape))


def _received(call: Call, scale: Mapping[str, Any], volume: Volume, box: Box) -> Array:
    """Return the voxels that were sent for a box of the volume's axes."""
    if scale["encoding"] == "jpeg":
        raise Denied("jpeg changes values, so nothing is written through it; send chunks to the channel without @jpeg")
    if volume.dtype.name in WIDER:
        raise Denied(f"a volume of {volume.dtype} is only read in this format, which has no such type")
    extents = dict(zip(volume.axes, box.shape, strict=True))
    shape = tuple(extents.get(axis, 1) for axis in "czyx")
    limit = 2 * box.size * volume.dtype.itemsize + 2**20  # no encoding makes much more of a chunk than it was
    return decode(scale, sent(call, limit), shape, volume.dtype).reshape(box.shape)

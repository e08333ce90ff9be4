"""Cutouts: boxes of voxels read, merged into what is there, and set to black. Ranges are in voxels of the level, absolute."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response

from ndbatch.errors import Corrupt
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.remotes.boss import wire
from ndbatch.server.boss import levels
from ndbatch.server.boss.errors import (
    BAD_CUTOUT,
    BAD_RESOLUTION,
    BAD_URL,
    NOT_LABELS,
    NOT_STORED,
    OTHER_SHAPE,
    TOO_LARGE,
    UNDECODABLE,
    BossError,
)
from ndbatch.server.boss.tree import Tree, datatype, own
from ndbatch.server.calls import Call
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.writes import require_writable, write

if TYPE_CHECKING:
    from ndbatch.server.service import Service

LIMIT = 520 * 2**20
"""Most bytes of voxels of one cutout, not compressed; for uint64 a quarter of them counts."""
RANGE = re.compile(r"(\d{1,15}):(\d{1,15})")
NPYGZ, JPEG = "application/npygz", "image/jpeg"
PICKLED = "application/blosc-python"
QUALITY = 85


@dataclass(frozen=True)
class Region:
    """A part of a channel at a resolution: `box` is z, y, x; `times` the time samples, None where the request named none."""

    project: Project
    channel: Channel
    resolution: int
    box: Box
    times: tuple[int, int] | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type under which the channel is served."""
        return np.dtype(datatype(self.channel))

    @property
    def shape(self) -> Shape:
        """Shape of its voxels: z, y, x, and t before them where the request named times."""
        return self.box.shape if self.times is None else (self.times[1] - self.times[0], *self.box.shape)

    @property
    def level(self) -> int:
        """The level of the volume, counted from its own finest."""
        return self.resolution - int(own(self.channel).get("base_resolution", 0))

    def require_labels(self) -> None:
        """Raise the error of BOSS for images where ids are meant."""
        if self.channel.kind != Kind.LABELS:
            raise BossError(f"{self.channel.name} is an image; only annotation channels have ids", NOT_LABELS)


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/cutout/...`."""
    if len(parts) > 1 and parts[1] == "to_black":
        if call.method != "PUT":
            raise BossError("to_black takes PUT", 2004, 405)
        service.access.require_write(call)
        _store(service, region(service, parts[2:]), None)
        return Response(status_code=200)
    _require_mode(call)
    if call.method == "GET":
        accepted = _accepted(call)
        where = region(service, parts[1:])
        return _packed(_filtered(call, where, read(service, where)), accepted)
    if call.method != "POST":
        raise BossError(f"{call.method} is not allowed on a cutout", 2004, 405)
    service.access.require_write(call)
    where = region(service, parts[1:])
    _store(service, where, _unpacked(call, where))
    return Response(status_code=201)


def region(service: Service, parts: Sequence[str]) -> Region:
    """Return what `C/E/H/R/x0:x1/y0:y1/z0:z1[/t0:t1]` names.

    It is checked in the order of BOSS: resource, times, resolution, ranges, size.
    """
    if len(parts) not in (7, 8):
        raise BossError(
            "a cutout is collection/experiment/channel/resolution/x0:x1/y0:y1/z0:z1, and maybe /t0:t1", BAD_URL
        )
    project, channel = Tree(service.catalogue).channel(*parts[:3])
    times = _span(parts[7], BAD_URL) if len(parts) == 8 else None
    if times is not None and times[1] > project.times + 1:
        raise BossError(f"times {parts[7]} leave the experiment, which has {project.times} samples", BAD_URL)
    resolution = require_resolution(service, project, channel, parts[3])
    spans = [_span(text, BAD_CUTOUT) for text in parts[4:7]][::-1]
    box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
    require_inside(project, resolution, box, "/".join(parts[4:7]))
    found = Region(project, channel, resolution, box, times)
    size = math.prod(found.shape) * (1 if found.dtype.itemsize == 1 else 2)
    if size > LIMIT or math.prod(found.shape) * found.dtype.itemsize > wire.LARGEST:
        raise BossError(f"{math.prod(found.shape)} voxels are too many for one request", TOO_LARGE, 413)
    return found


def require_resolution(service: Service, project: Project, channel: Channel, text: str) -> int:
    """Return a resolution that the channel has. Raises the error of BOSS for any other."""
    base = int(own(channel).get("base_resolution", 0))
    count = levels.level_count(service, project)
    if not re.fullmatch(r"\d", text) or not base <= int(text) < base + count:
        raise BossError(
            f"{text} is no resolution of {channel.name}, which has {base} to {base + count - 1}", BAD_RESOLUTION
        )
    return int(text)


def require_inside(project: Project, resolution: int, box: Box, said: str) -> None:
    """Raise the error of BOSS for a box that leaves the frame; level 0's and the level's own extent are both accepted."""
    whole, coarse = levels.extent_of(project, 0), levels.extent_of(project, resolution)
    start = tuple(map(min, whole.start, coarse.start))
    stop = tuple(map(max, whole.stop, coarse.stop))
    if not Box(start, stop).contains(box):
        raise BossError(f"{said} leaves the coordinate frame, which is {whole.describe('zyx')}", BAD_CUTOUT)


def read(service: Service, where: Region) -> Array:
    """Return the voxels of a region under its type; 0 where there are none, and for levels of images that are not made."""
    times = where.times or (int(own(where.channel).get("default_time_sample", 0)),) * 2
    count = 1 if where.times is None else times[1] - times[0]
    if where.level >= where.channel.levels or where.level >= levels.fitting(service, where.project, where.channel):
        if where.channel.kind == Kind.LABELS:
            raise BossError(
                f"the levels of {where.channel.name} are not made yet; POST to downsample first", BAD_RESOLUTION
            )
        return np.zeros(where.shape, where.dtype)
    volume = service.volume(where.channel, where.level)
    if "t" in volume.axes:
        whole = Box((times[0], *where.box.start), (times[0] + count, *where.box.stop))
        data = service.voxels.read(volume, whole)
    else:
        data = np.zeros((count, *where.box.shape), volume.dtype)
        if times[0] == 0:
            data[0] = service.voxels.read(volume, where.box)
    return data.astype(where.dtype, copy=False).reshape(where.shape)


def _store(service: Service, where: Region, data: Array | None) -> None:
    """Merge voxels into what is there, zeros changing nothing; None sets the region to 0."""
    if where.level not in (0, 1) or where.level >= levels.fitting(service, where.project, where.channel):
        raise BossError(f"resolution {where.resolution} of {where.channel.name} cannot be written", NOT_STORED)
    require_writable(where.channel)
    volume = service.volume(where.channel, where.level)
    first = where.times[0] if where.times else int(own(where.channel).get("default_time_sample", 0))
    count = where.times[1] - where.times[0] if where.times else 1
    box = Box((first, *where.box.start), (first + count, *where.box.stop))
    has_time = "t" in volume.axes
    domain = volume.domain if has_time else Box((0, *volume.domain.start), (1, *volume.domain.stop))
    inside = box.intersect(domain)
    if data is None:
        new = np.zeros(inside.shape, volume.dtype)
    else:
        given = data.reshape(box.shape)
        kept = given[inside.slices(box.start)]
        if inside != box and np.count_nonzero(kept) != np.count_nonzero(given):
            raise BossError(f"the voxels of {where.channel.name} end before the box does", BAD_CUTOUT)
        if kept.size and volume.dtype != where.dtype and kept.max() > np.iinfo(volume.dtype).max:
            raise BossError(f"{where.channel.name} is kept as {volume.dtype}, and {kept.max()} is more", NOT_STORED)
        new = kept.astype(volume.dtype, copy=False)  # memory that is new costs more than what is done in it
    if not inside.empty:
        target = inside if has_time else Box(inside.start[1:], inside.stop[1:])
        write(service, where.channel, where.level, target, new.reshape(target.shape), merge=data is not None)


# -- bodies ----------------------------------------------------------------------------------------------------------------------


def _packed(data: Array, accepted: str) -> Response:
    if accepted == JPEG:
        return _jpeg(data)
    if accepted == NPYGZ:
        plain = io.BytesIO()
        np.save(plain, data, allow_pickle=False)
        return Response(zlib.compress(plain.getvalue(), 1), media_type=NPYGZ)
    return Response(wire.encode(data, b"lz4"), media_type=wire.BLOSC)


def _unpacked(call: Call, where: Region) -> Array:
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    size = math.prod(where.shape) * where.dtype.itemsize
    if kind == wire.BLOSC:
        if len(call.body) >= wire.HEADER.size and wire.HEADER.unpack_from(call.body)[4] != size:
            raise BossError(f"the voxels do not have the shape {where.shape} and the type {where.dtype}", OTHER_SHAPE)
        try:
            return wire.decode(call.body, where.shape, where.dtype, "the body")
        except Corrupt as error:
            raise BossError(error.message, UNDECODABLE) from None
    if kind != NPYGZ:
        raise BossError(f'Unsupported media type "{kind}" in request.', status=415)
    try:
        plain = zlib.decompressobj().decompress(call.body, size + 2**16)
        data = np.load(io.BytesIO(plain), allow_pickle=False)
    except (zlib.error, ValueError, OSError, EOFError, SyntaxError, OverflowError, MemoryError):
        raise BossError("the body is no npygz: a zlib stream of a .npy file", UNDECODABLE) from None
    if data.dtype != where.dtype:
        raise BossError(f"the voxels are {data.dtype}, the channel is {where.dtype}", UNDECODABLE)
    if data.shape != where.shape:
        raise BossError(f"the voxels have the shape {data.shape}, the address says {where.shape}", OTHER_SHAPE)
    return np.ascontiguousarray(data, where.dtype)


def _jpeg(data: Array) -> Response:
    from PIL import Image

    if data.ndim != 3 or data.dtype != np.uint8:
        raise BossError("jpeg is for one time sample of uint8", BAD_CUTOUT)
    plain = io.BytesIO()
    try:
        Image.fromarray(data.reshape(-1, data.shape[2])).save(plain, "JPEG", quality=QUALITY)
    except (OSError, ValueError):
        raise BossError(f"a picture of {data.shape} is too large for jpeg", BAD_CUTOUT) from None
    return Response(plain.getvalue(), media_type=JPEG)


def _filtered(call: Call, where: Region, data: Array) -> Array:
    """Return the voxels with every object but those of the option `filter` set to 0."""
    wanted = call.query.get("filter")
    if wanted is None:
        return data
    where.require_labels()
    import fastremap

    try:
        ids = np.array([int(one) for one in wanted.split(",")], where.dtype)
    except (ValueError, OverflowError):
        raise BossError(f"filter={wanted[:80]} is no list of ids", BAD_CUTOUT) from None
    kept: Array = fastremap.mask_except(data, list(ids))
    return kept


def _accepted(call: Call) -> str:
    """Return the first of the types that are asked for and served. 406 where there is none."""
    asked = [one.partition(";")[0].strip().lower() for one in call.headers.get("accept", "*/*").split(",")]
    for one in asked:
        if one in (wire.BLOSC, NPYGZ, JPEG):
            return one
        if one in ("", "*/*", "application/*"):
            return wire.BLOSC
        if one == "image/*":
            return JPEG
    raise BossError("Could not satisfy the request Accept header.", status=406)


def _require_mode(call: Call) -> None:
    mode, old = call.query.get("access-mode"), call.query.get("no-cache")
    if mode is not None and old is not None:
        raise BossError("access-mode and no-cache say the same; give one", BAD_CUTOUT)
    if mode not in (None, "cache", "no-cache", "raw") or old not in (None, "true", "false"):
        raise BossError("access-mode is cache, no-cache or raw", BAD_CUTOUT)
    if call.query.get("iso", "false").lower() == "true":
        raise BossError("the isotropic branch of an anisotropic experiment is not served", BAD_CUTOUT)


def _span(text: str, code: int) -> tuple[int, int]:
    found = RANGE.fullmatch(text)
    if not found or int(found[1]) >= int(found[2]):
        raise BossError(f"{text} is no range a:b with a < b", code)
    return int(found[1]), int(found[2])

"""Voxels of cutouts, read and merged into what is there, in every form that clients of ndstore ask for."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response

from ndbatch.errors import Corrupt, NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.remotes.ndstore import wire
from ndbatch.remotes.ndstore.frame import factor
from ndbatch.server.calls import Call, plain
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.ndstore.grammar import BLANK, LIMIT, Cutout, cutout, level_of, require_inside
from ndbatch.server.ndstore.tokens import (
    channel_of,
    channel_type,
    datatype,
    domain,
    fitting,
    scale_down,
    times_of,
)
from ndbatch.server.writes import refusal, write

if TYPE_CHECKING:
    from ndbatch.server.service import Service

TYPES = {
    "hdf5": "product/hdf5",
    "npz": "product/npz",
    "blosc": "product/blosc",
    "raw": "product/raw",
    "zip": "product/zip",
}
WRITTEN = ("npz", "blosc", "hdf5")
"""Forms that are taken; the others are only given."""
QUALITY = 85


def respond(service: Service, call: Call, project: Project, names: str, parts: Sequence[str]) -> Response:
    """Answer a request for a cutout; `parts` begin with the name of the service (npz, raw ...)."""
    form, whole = parts[0], call.path.endswith("/")
    if form == "id":
        return plain(str(_label_at(service, project, names, parts[1:])))
    where = cutout(service, project, names, parts[1:], whole, mixed=form == "hdf5")
    if call.method == "GET":
        if form == "ids":
            found = np.unique(read(service, where, where.channels[0]))
            return plain(", ".join(str(one) for one in found[found != 0]))
        return _packed(service, form, where)
    if call.method != "POST" or form not in WRITTEN:
        return plain(f"{call.method} of {form} is not allowed on a cutout", 400)
    service.access.require_write(call)
    _store(service, where, _unpacked(form, call.body, where))
    return plain("Success")


def read(service: Service, where: Cutout, channel: Channel) -> Array:
    """Return the voxels of one channel, (t?, z, y, x), as it is served; 0 where there are none."""
    box = where.box
    down = scale_down(where.project, where.level) if where.near_isotropic else 1
    if down > 1:
        first_slice = domain(where.project, where.level).start[0]
        z = [first_slice + (at - first_slice // down) * down for at in (box.start[0], box.stop[0])]
        box = Box((z[0], *box.start[1:]), (z[1], *box.stop[1:]))
    first = where.times[0] if where.times else times_of(service, channel)[0]
    count = where.times[1] - where.times[0] if where.times else 1
    data = _voxels(service, where.project, channel, where.level, Box((first, *box.start), (first + count, *box.stop)))
    if down > 1:
        data = data[:, ::down] if channel.kind == Kind.LABELS else _thinned(data, down)
    data = data.astype(datatype(channel), copy=False)
    if where.ids is not None:
        data = np.where(np.isin(data, np.array(where.ids, np.uint64).astype(data.dtype)), data, 0).astype(data.dtype)
    if where.window is not None:
        data = windowed(data, *where.window)
    return data.reshape((*((count,) if where.times else ()), *where.box.shape))


def _thinned(data: Array, down: int) -> Array:
    """Return slices averaged `down` at a time."""
    t, z, y, x = data.shape
    thinned: Array = data.reshape(t, z // down, down, y, x).mean(axis=2).astype(data.dtype)
    return thinned


def _voxels(service: Service, project: Project, channel: Channel, level: int, box: Box) -> Array:
    """Return the voxels of a box (t, z, y, x) at a level that may not be made: labels then show every 2**k-th voxel."""
    if level < fitting(service, project, channel):
        volume = service.volume(channel, level)
        if volume.axes.startswith("t"):
            return service.voxels.read(volume, box)
        return service.voxels.read(volume, Box(box.start[1:], box.stop[1:]))[None]
    if channel.kind != Kind.LABELS:
        return np.zeros(box.shape, datatype(channel))
    by = (1, *factor(project.scaling, level))
    if math.prod(box.shape) * math.prod(by) * 8 > LIMIT:
        raise PlanError(f"level {level} of {channel.name} is not made; ask for a smaller part, or propagate it first")
    fine = _voxels(service, project, channel, 0, box.refined(by))
    return np.ascontiguousarray(fine[tuple(slice(None, None, f) for f in by)])


def windowed(data: Array, low: float, high: float) -> Array:
    """Return values between `low` and `high` as uint8, those beyond clipped."""
    scaled = (data.astype(np.float64) - low) * (255.0 / max(high - low, 1e-12))
    result: Array = np.clip(scaled, 0, 255).astype(np.uint8)
    return result


def _store(service: Service, where: Cutout, arrays: Sequence[Array]) -> None:
    """Merge voxels into what is there: zeros change nothing."""
    for channel, data in zip(where.channels, arrays, strict=True):
        if said := refusal(channel):
            raise PlanError(said)
        if where.level >= fitting(service, where.project, channel):
            raise PlanError(f"level {where.level} of {channel.name} is not there; propagate it")
        volume = service.volume(channel, where.level)
        first = where.times[0] if where.times else times_of(service, channel)[0]
        block = data.reshape((-1, *where.box.shape))
        box = Box((first, *where.box.start), (first + len(block), *where.box.stop))
        whole = (
            volume.domain
            if volume.axes.startswith("t")
            else Box((first, *volume.domain.start), (first + 1, *volume.domain.stop))
        )
        inside = box.intersect(whole)
        kept = block[inside.slices(box.start)] if not inside.empty else block[:0]
        if inside != box and np.count_nonzero(kept) != np.count_nonzero(block):
            raise PlanError(f"the voxels of {channel.name} end at {whole.describe('tzyx')}, before the box does")
        if inside.empty:
            continue
        exact = kept.astype(volume.dtype, copy=False)
        if exact is not kept and not np.array_equal(exact, kept):
            raise PlanError(f"{channel.name} is kept as {volume.dtype}, which cannot hold these values")
        target = inside if volume.axes.startswith("t") else Box(inside.start[1:], inside.stop[1:])
        write(service, channel, where.level, target, exact.reshape(target.shape), merge=True)


def _unpacked(form: str, body: bytes, where: Cutout) -> list[Array]:
    """Return one array (t?, z, y, x) a channel. PlanError where type or shape are not those of the address."""
    dtypes = [np.dtype(datatype(channel)) for channel in where.channels]
    size = math.prod(where.shape) * sum(dtype.itemsize for dtype in dtypes)
    if where.blank:
        raise PlanError(f"missing channels: {BLANK} is none that can be written")
    try:
        if form == "hdf5":
            found = wire.unpack_hdf5(body, size, "the body")
            missing = [channel.name for channel in where.channels if channel.name not in found]
            if missing:
                raise PlanError(f"missing channels: {', '.join(missing)}")
            arrays = [found[channel.name] for channel in where.channels]
        else:
            unpack = wire.unpack_npz if form == "npz" else wire.unpack_blosc
            whole = unpack(body, size, "the body")
            if whole.ndim != len(where.shape) + 1 or len(whole) != len(where.channels):
                raise PlanError(f"missing channels: {whole.shape} came, {(len(where.channels), *where.shape)} is due")
            arrays = list(whole)
    except Corrupt as error:  # of another type or shape, more often than damaged
        due = ", ".join(sorted({dtype.name for dtype in dtypes}))
        raise PlanError(f"{error.message}; the channel and the address say {due} {where.shape}") from None
    for data, dtype in zip(arrays, dtypes, strict=True):
        if data.dtype != dtype or data.shape != where.shape:
            raise PlanError(f"{data.dtype} {data.shape} came, the channel and the address say {dtype} {where.shape}")
    return arrays


def _packed(service: Service, form: str, where: Cutout) -> Response:
    """Return the voxels of all channels in the form that was asked for."""
    arrays = [read(service, where, channel) for channel in where.channels]
    if form == "jpeg":
        return _jpeg(arrays[0])
    if form == "hdf5":
        kinds = [channel_type(service, channel) for channel in where.channels]
        names = [channel.name for channel in where.channels]
        body = wire.pack_hdf5({n: (data, kind) for n, data, kind in zip(names, arrays, kinds, strict=True)})
    else:
        for place in where.blank:
            arrays.insert(place, np.zeros_like(arrays[0]))
        pack = {"npz": wire.pack_npz, "blosc": wire.pack_blosc, "raw": wire.pack_raw, "zip": wire.pack_zip}[form]
        body = pack(np.stack(arrays))
    headers = {}
    if form in ("hdf5", "blosc", "raw"):
        spans = "-".join(f"{a}_{b}" for a, b in zip(where.box.start[::-1], where.box.stop[::-1], strict=True))
        ending = "h5" if form == "hdf5" else form
        name = f"{where.project.name}-{where.channels[0].name}-{form}-{where.level}-{spans}-ndcutout.{ending}"
        headers["Content-Disposition"] = f"attachment; filename={name}"
    return Response(body, media_type=TYPES[form], headers=headers)


def _jpeg(data: Array) -> Response:
    """Return the slices of one channel below each other as one JPEG."""
    from PIL import Image

    flat = data.reshape(-1, data.shape[-1])
    flat = (flat >> 8).astype(np.uint8) if flat.dtype == np.uint16 else flat
    if flat.dtype != np.uint8:
        raise PlanError("jpeg is for uint8 and uint16")
    body = io.BytesIO()
    try:
        Image.fromarray(flat).save(body, "JPEG", quality=QUALITY)
    except (OSError, ValueError):
        raise PlanError(f"a picture of {flat.shape} is too large for jpeg") from None
    return Response(body.getvalue(), media_type="image/jpeg")


def _label_at(service: Service, project: Project, names: str, parts: Sequence[str]) -> Any:
    """Return the value of one voxel, `level/x/y/z`."""
    if len(parts) < 4 or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts[:4]):
        raise PlanError("Illegal arguments: level/x/y/z/ are due")
    level = level_of(project, parts[0])
    x, y, z = (int(part) for part in parts[1:4])
    box = Box((z, y, x), (z + 1, y + 1, x + 1))
    require_inside(box, domain(project, level))
    channel = channel_of(service, project, names)
    if channel.kind != Kind.LABELS:
        raise NotFound(f"{channel.name} is no annotation channel")
    return read(service, Cutout(project, (channel,), level, box), channel).item()

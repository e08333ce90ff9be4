"""Objects of annotation channels: ids in a box, the box of an id, new ids. Ids travel as strings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from starlette.responses import Response

from ndbatch.geometry import Box, Grid
from ndbatch.remotes.base import Array, Kind
from ndbatch.remotes.boss.geometry import CUBOID
from ndbatch.server.boss import levels
from ndbatch.server.boss.cutouts import Region, read, region, require_resolution
from ndbatch.server.boss.errors import BAD_ARGUMENT, BAD_TYPE_OF_BOX, BAD_URL, NO_OBJECT, NOT_LABELS, BossError
from ndbatch.server.boss.tree import Tree
from ndbatch.server.calls import Call, as_json

if TYPE_CHECKING:
    from ndbatch.server.service import Service

SLAB = (64, 512, 512)
"""Voxels, z, y, x, that are looked at together."""
MOST = 2**40
"""Most ids that are reserved at once."""


def ids(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer `GET /v1/ids/C/E/H/R/x0:x1/y0:y1/z0:z1/[t0:t1/]`: the ids in a box, sorted, without 0; times are ignored."""
    import fastremap

    _require_get(call)
    where = region(service, parts[1:])
    where.require_labels()
    found: set[int] = set()
    for _, data in _slabs(service, where):
        found.update(int(one) for one in fastremap.unique(data))
    return as_json({"ids": [str(one) for one in sorted(found - {0})]})


def bounding_box(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer `GET /v1/boundingbox/C/E/H/R/ID/?type=loose|tight`: half-open ranges; loose is made of whole cuboids."""
    _require_get(call)
    kind = call.query.get("type", "loose")
    if kind not in ("loose", "tight"):
        raise BossError(f"type={kind} is neither loose nor tight", BAD_TYPE_OF_BOX)
    if len(parts) != 6 or not re.fullmatch(r"\d{1,20}", parts[5]) or int(parts[5]) >= 2**64:
        raise BossError("a bounding box is collection/experiment/channel/resolution/id", BAD_URL)
    project, channel = Tree(service.catalogue).channel(*parts[1:4])
    resolution = require_resolution(service, project, channel, parts[4])
    where = Region(project, channel, resolution, levels.extent_of(project, resolution), (0, 1))
    where.require_labels()
    wanted = int(parts[5])
    box = _box_of(service, where, wanted) if wanted <= np.iinfo(where.dtype).max else None
    if box is None:
        raise BossError(f"the object {wanted} is not in {channel.name}", NO_OBJECT, 404)
    if kind == "loose":
        box = box.aligned_to(CUBOID, (0, 0, 0))
    spans = {f"{axis}_range": [a, b] for axis, a, b in zip("zyx", box.start, box.stop, strict=True)}
    return as_json({**dict(reversed(spans.items())), "t_range": [0, 1]})


def reserve(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer `GET /v1/reserve/C/E/H/N`: N ids in a row that nobody else is given; it needs a token, since it uses them up."""
    _require_get(call)
    service.access.require_write(call)
    if len(parts) != 5 or not re.fullmatch(r"\d{1,13}", parts[4]) or not 0 < int(parts[4]) <= MOST:
        raise BossError("a reservation is collection/experiment/channel/number, from 1 up", BAD_ARGUMENT)
    project, channel = Tree(service.catalogue).channel(*parts[1:4])
    if channel.kind != Kind.LABELS:
        raise BossError(f"{channel.name} is an image; only annotation channels have ids", NOT_LABELS)
    first = service.catalogue.reserve(f"ids:{project.name}/{channel.name}", int(parts[4]))
    return as_json({"start_id": first, "count": parts[4]})


def _box_of(service: Service, where: Region, wanted: int) -> Box | None:
    """Return the box (z, y, x) of an object; None where it has no voxel."""
    start, stop = [2**62] * 3, [0] * 3
    for box, data in _slabs(service, where):
        mask = data == wanted
        if not mask.any():
            continue
        for axis in range(3):
            hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            start[axis] = min(start[axis], box.start[axis] + int(hit[0]))
            stop[axis] = max(stop[axis], box.start[axis] + int(hit[-1]) + 1)
    return Box(tuple(start), tuple(stop)) if stop[0] else None


def _slabs(service: Service, where: Region) -> Iterator[tuple[Box, Array]]:
    """Yield the parts of a region with their voxels (z, y, x) at its first time sample, a bounded number at a time."""
    for block in Grid.over(where.box, SLAB, (0, 0, 0)):
        part = Region(where.project, where.channel, where.resolution, block.core, (0, 1))
        yield block.core, read(service, part)[0]


def _require_get(call: Call) -> None:
    if call.method != "GET":
        raise BossError(f"{call.method} is not allowed here", 2004, 405)

"""Regions of interest: sets of blocks, kept as runs along x, and read as masks of 0 and 1."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from ndbatch.errors import Corrupt
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid.info import Info
from ndbatch.remotes.dvid.service import Place, joined


def spans(place: Place) -> Array:
    """Return the runs of an ROI: int64, one row each of z, y, first x and last x (included), in blocks."""
    rows = place.get("/roi").json()
    found = np.array(rows or [], np.int64).reshape(-1, 4)
    if len(found) != len(rows or []):
        raise Corrupt(f"{place.url}: the runs of the region are not rows of z, y, x0, x1", url=place.url)
    return found


def set_spans(place: Place, rows: Sequence[Sequence[int]] | Array) -> None:
    """Add runs (z, y, first x, last x, in blocks) to an ROI. Denied at a locked version."""
    place.require_open()
    place.post("/roi", json.dumps([[int(n) for n in row] for row in rows]).encode())


def extents(place: Place, info: Info) -> Info:
    """Return the info of an ROI with extents: those of its runs, and the block at the origin where it has none."""
    rows = spans(place)
    size = np.array(info.block)[::-1]
    first = rows[:, [2, 1, 0]].min(axis=0) if len(rows) else np.zeros(3, np.int64)
    last = rows[:, [3, 1, 0]].max(axis=0) if len(rows) else np.zeros(3, np.int64)
    ends = {"MinPoint": (first * size).tolist(), "MaxPoint": ((last + 1) * size - 1).tolist()}
    return Info({**info.body, "Extents": ends})


def read_mask(place: Place, box: Box) -> Array:
    """Return 1 in the voxels of a box that the region covers, otherwise 0; uint8, z, y, x."""
    reply = place.get(f"/mask/0_1_2/{joined(box.shape)}/{joined(box.start)}")
    if len(reply.body) != box.size:
        raise Corrupt(f"{reply.url}: {len(reply.body)} bytes came for a mask of {box.size} voxels", url=reply.url)
    return (np.frombuffer(reply.body, np.uint8).reshape(box.shape) > 0).astype(np.uint8)


def mask(place: Place, box: Box) -> Array:
    """Return the mask from the runs alone, for servers that give no masks. uint8, z, y, x."""
    result = np.zeros(box.shape, np.uint8)
    size = Info(place.get("/info").json()).block
    for z, y, first, last in spans(place):
        run = Box(
            (z * size[0], y * size[1], first * size[2]), ((z + 1) * size[0], (y + 1) * size[1], (last + 1) * size[2])
        ).intersect(box)
        if not run.empty:
            result[run.slices(box.start)] = 1
    return result


__all__ = ["extents", "mask", "read_mask", "set_spans", "spans"]

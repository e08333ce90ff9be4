"""Bodies of a labelmap: sizes, supervoxels, labels at points, runs of voxels, merges and cleaves. Points are z, y, x.

Calls that only read send their lists as bodies of GET, as DVID wants them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import Corrupt, NotFound
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid.service import Place
from ndbatch.remotes.http.client import in_flight

POINTS = 50_000
"""Points or ids of one request."""
HEAD = struct.Struct("<BBBBII")


def labels_at(
    place: Place, points: Sequence[Sequence[int]] | Array, scale: int = 0, supervoxels: bool = False
) -> Array:
    """Return the label at each of `points` (n rows of z, y, x, voxels of the scale), uint64; 0 where there is none."""
    rows = np.asarray(points, np.int64).reshape(-1, 3)[:, ::-1].tolist()
    query = {"scale": scale, "supervoxels": str(supervoxels).lower()}
    return _numbers(place, "/labels", rows, query)


def sizes(place: Place, labels: Iterable[int], supervoxels: bool = False) -> Array:
    """Return the voxels of each body (or supervoxel), uint64; 0 for one that is not there."""
    return _numbers(place, "/sizes", [int(n) for n in labels], {"supervoxels": str(supervoxels).lower()})


def bodies_of(place: Place, supervoxels: Iterable[int]) -> Array:
    """Return the body of each supervoxel, uint64; 0 for one that is not there."""
    return _numbers(place, "/mapping", [int(n) for n in supervoxels], {})


def supervoxels_of(place: Place, body: int) -> list[int]:
    """Return the supervoxels of a body, sorted; NotFound where there is none."""
    return sorted(int(n) for n in place.get(f"/supervoxels/{int(body)}").json())


def mappings(place: Place) -> dict[int, int]:
    """Return the body of every supervoxel that is not its own body."""
    lines = place.get("/mappings").text.split()
    return dict(zip(map(int, lines[::2]), map(int, lines[1::2]), strict=True))


def sparsevol(
    place: Place, label: int, scale: int = 0, supervoxels: bool = False, bounds: Box | None = None
) -> NDArray[np.int32]:
    """Return the runs of a body: int32 rows of z, y, x and length along x, sorted; `bounds` is in voxels of the scale.

    Raises NotFound for a label that is not there, Corrupt for an answer that is cut short.
    """
    query: dict[str, Any] = {"format": "rles", "scale": scale, "supervoxels": str(supervoxels).lower()}
    for axis, a, b in zip("zyx", bounds.start, bounds.stop, strict=True) if bounds is not None else ():
        query |= {f"min{axis}": a, f"max{axis}": b - 1}
    return runs_of(place.get(f"/sparsevol/{int(label)}", query).body, place.url)


def sparsevol_coarse(place: Place, label: int) -> NDArray[np.int32]:
    """Return the runs of the blocks that a body lies in: int32 rows of z, y, x and length, in blocks."""
    return runs_of(place.get(f"/sparsevol-coarse/{int(label)}").body, place.url)


def runs_of(body: bytes, where: str) -> NDArray[np.int32]:
    """Return runs as they travel (a head, then x, y, z, length of each) as rows of z, y, x, length, sorted. Corrupt."""
    if len(body) < HEAD.size:
        raise Corrupt(f"{where}: runs of {len(body)} bytes are cut short", url=where)
    _, dimensions, axis, _, _, count = HEAD.unpack_from(body)
    if (dimensions, axis) != (3, 0) or len(body) != HEAD.size + 16 * count:
        raise Corrupt(f"{where}: {len(body)} bytes are not {count} runs along x", url=where)
    rows = np.frombuffer(body, "<i4", 4 * count, HEAD.size).reshape(-1, 4)[:, [2, 1, 0, 3]].astype(np.int32)
    return np.ascontiguousarray(rows[np.lexsort(rows.T[2::-1])])


def merge(place: Place, into: int, labels: Iterable[int]) -> None:
    """Have bodies become part of the body `into`. Denied at a locked version, RemoteError for one that is not there."""
    _change(place, "/merge", [int(into), *(int(n) for n in labels)])


def cleave(place: Place, body: int, supervoxels: Iterable[int]) -> int:
    """Have some supervoxels of a body become a body of their own, and return its label."""
    return int(_change(place, f"/cleave/{int(body)}", [int(n) for n in supervoxels])["CleavedLabel"])


def reserve(place: Place, count: int) -> range:
    """Return `count` labels that the server gives to nobody else."""
    place.require_open()
    told = place.post(f"/nextlabel/{int(count)}", b"", again=False).json()
    return range(int(told["start"]), int(told["end"]) + 1)


def largest(place: Place) -> int:
    """Return the largest label of the version; 0 while nothing was written."""
    reply = place.get("/maxlabel", expect=(200, 400))
    if reply.status == 200:
        return int(reply.json()["maxlabel"])
    if "maximum label" not in reply.text:
        raise NotFound(f"{place.url}: {reply.text.strip()[:200]}", url=place.url)
    return 0


def _change(place: Place, path: str, ids: list[int]) -> Any:
    place.require_open()
    return place.post(path, json.dumps(ids).encode(), again=False).json()


def _numbers(place: Place, path: str, items: list[Any], query: dict[str, Any]) -> Array:
    """Return one number for each item, asked for in parts of bounded length, side by side."""

    def ask(part: list[Any]) -> list[int]:
        found: list[int] = place.get(path, query, body=json.dumps(part).encode()).json()
        if len(found) != len(part):
            raise Corrupt(f"{place.url}: {len(found)} answers came for {len(part)} questions", url=place.url)
        return found

    parts = [items[start : start + POINTS] for start in range(0, len(items), POINTS)]
    return np.array([n for found in in_flight([partial(ask, part) for part in parts]) for n in found], np.uint64)

"""Questions about the objects of a labelled channel of BOSS: which are in a box, where one lies, new ids, some objects alone.

Ids are unsigned, 64 bits; the service writes them as strings, since JSON numbers lose their last digits in many readers. Its
index of ids is made when cuboids are flushed, so it may lag behind what was just written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import Corrupt, NotFound, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.boss.service import Service
from ndbatch.remotes.http.client import segment

Ids = NDArray[np.uint64]
ABSENT = 4004
"""Code of an object that is not in the channel."""


def ranges(box: Box, axes: str) -> str:
    """Return the box as the path of a request has it: `x0:x1/y0:y1/z0:z1/`, and `t0:t1/` where the axes have t."""
    spans = {axis: f"{a}:{b}/" for axis, a, b in zip(axes, box.start, box.stop, strict=True)}
    return "".join(spans[axis] for axis in "xyzt" if axis in spans)


def ids_in(service: Service, names: Sequence[str], resolution: int, box: Box) -> Ids:
    """Return the ids, sorted, without 0, of the objects that have a voxel in `box` (z, y, x)."""
    path = f"/v1/ids/{_path(names)}/{resolution}/{ranges(box, 'zyx')}"
    reply = service.client.get(path)
    try:
        return np.array(sorted(int(one) for one in reply.json()["ids"]), np.uint64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Corrupt(f"{reply.url} answered with something else than ids", url=reply.url) from None


def box_of(service: Service, names: Sequence[str], resolution: int, one: int, tight: bool) -> Box | None:
    """Return the box (z, y, x) of an object, None where it has no voxel; not `tight`, of whole cuboids of 16 x 512 x 512."""
    path = f"/v1/boundingbox/{_path(names)}/{resolution}/{one}/"
    try:
        reply = service.client.get(path, query={"type": "tight" if tight else "loose"})
    except NotFound as error:
        if error.fields.get("code") != ABSENT:
            raise
        return None
    try:
        spans = [reply.json()[f"{axis}_range"] for axis in "zyx"]
        return Box(tuple(int(a) for a, _ in spans), tuple(int(b) for _, b in spans))
    except (KeyError, TypeError, ValueError):
        raise Corrupt(f"{reply.url} answered with something else than a box", url=reply.url) from None


def reserved(service: Service, names: Sequence[str], count: int) -> int:
    """Take `count` ids that nobody else is given, and return the first; the others follow it."""
    reply = service.client.get(f"/v1/reserve/{_path(names)}/{count}", again=False)
    found: Any = reply.json()
    if not isinstance(found, dict) or not re.fullmatch(r"\d+", str(found.get("start_id", ""))):
        raise Corrupt(f"{reply.url} answered with something else than ids", url=reply.url)
    if int(found.get("count", 0)) != count:
        raise RemoteError(f"{reply.url}: {count} ids were asked for and {found.get('count')} given", url=reply.url)
    return int(found["start_id"])


def _path(names: Sequence[str]) -> str:
    return "/".join(map(segment, names))

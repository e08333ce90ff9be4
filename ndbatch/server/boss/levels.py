"""Levels: which of a channel are as BOSS counts them, whether they are made, and making them.

BOSS halves x and y from level to level, and z too where the experiment is isotropic. A pyramid of another shape, as a folder may
hold, is served as far as its levels agree with that, and as level 0 alone where the first does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Volume
from ndbatch.remotes.boss.geometry import AXES, CUBOID
from ndbatch.server.boss.errors import INVALID_STATE, BossError
from ndbatch.server.boss.tree import Tree, frame_name, own
from ndbatch.server.calls import Call, as_json
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.pyramids import Making, begin, cancel, making, stale
from ndbatch.server.writes import require_writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ndbatch.server.service import Service

DONE, NOT_DONE, RUNNING = "DOWNSAMPLED", "NOT_DOWNSAMPLED", ("QUEUED", "IN_PROGRESS")


def factor(project: Project, resolution: int) -> Shape:
    """Return voxels of level 0 to one of `resolution`, z, y, x."""
    return (2**resolution if project.scaling == "isotropic" else 1, 2**resolution, 2**resolution)


def extent_of(project: Project, resolution: int) -> Box:
    """Return the box (z, y, x) of the voxels of a resolution."""
    return Box.of_shape(project.shape, project.offset).coarsened(factor(project, resolution))


def spatial(volume: Volume) -> Box:
    """Return the box of a volume without its time axis."""
    domain, axes = volume.domain, volume.axes
    kept = [axes.index(axis) for axis in AXES]
    return Box(tuple(domain.start[i] for i in kept), tuple(domain.stop[i] for i in kept))


def fitting(service: Service, project: Project, channel: Channel) -> int:
    """Return how many levels of a channel there are that lie where BOSS looks for them, level 0 included."""
    whole = spatial(service.volume(channel))
    for level in range(1, channel.levels):
        if spatial(service.volume(channel, level)) != whole.coarsened(factor(project, level)):
            return level
    return channel.levels


def level_count(service: Service, project: Project) -> int:
    """Return the number of levels of an experiment: what it was given, or as many as its channels have."""
    told = own(project).get("num_hierarchy_levels")
    if told is not None:
        return int(told)
    channels = Tree(service.catalogue).channels(project)
    return max((fitting(service, project, channel) for channel in channels), default=project.levels)


def status(service: Service, project: Project, channel: Channel) -> str:
    """Return whether the levels of a channel are there and follow from its voxels."""
    now = making(service, channel)
    if now is Making.RUNNING:
        return "IN_PROGRESS"
    if now is Making.FAILED:
        return "FAILED"
    if stale(channel):
        return NOT_DONE
    count = level_count(service, project)
    return DONE if count > 1 and fitting(service, project, channel) >= count else NOT_DONE


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/downsample/C/E/H/`."""
    if len(parts) != 4:
        raise BossError(f"{call.path} names no channel", 1000)
    project, channel = Tree(service.catalogue).channel(*parts[1:])
    if call.method == "GET":
        return as_json(_pyramid(service, project, channel))
    service.access.require_write(call)
    found = status(service, project, channel)
    if call.method == "DELETE":
        if found not in RUNNING:
            raise BossError(f"nothing is being made of {channel.name}, its status is {found}", INVALID_STATE, 409)
        cancel(service, channel)
        return Response(status_code=204)
    if found in (*RUNNING, DONE):
        raise BossError(f"the status of {channel.name} is {found}", INVALID_STATE, 409)
    require_writable(channel)
    if fitting(service, project, channel) < channel.levels:
        said = f"{channel.name} has coarser levels of another shape than its experiment's; copy it to another to have those"
        raise BossError(said, INVALID_STATE, 409)
    factors = dict(zip(AXES, factor(project, 1), strict=True))
    begin(service, channel, level_count(service, project), factors)
    return Response(status_code=201)


def _pyramid(service: Service, project: Project, channel: Channel) -> dict[str, Any]:
    count = level_count(service, project)
    frame = Tree(service.catalogue).frame(frame_name(project))
    sizes, extents = {}, {}
    for resolution in range(count):
        by = factor(project, resolution)[::-1]
        sizes[str(resolution)] = [frame[f"{axis}_voxel_size"] * f for axis, f in zip("xyz", by, strict=True)]
        extents[str(resolution)] = [-(-frame[f"{axis}_stop"] // f) for axis, f in zip("xyz", by, strict=True)]
    return {
        "status": status(service, project, channel),
        "num_hierarchy_levels": count,
        "voxel_size": sizes,
        "extent": extents,
        "cuboid_size": {str(resolution): list(CUBOID[::-1]) for resolution in range(count)},
    }

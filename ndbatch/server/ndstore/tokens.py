"""The catalogue as ndstore sees it: a token is a project (or another name for one), datasets are what projects lie in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ndbatch.errors import NdbatchError, NotFound
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Kind, Volume
from ndbatch.remotes.ndstore.frame import DTYPES, ISOTROPIC, UNIT, WIDE, cuboid, factor, level_box
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.pyramids import Making, making, stale
from ndbatch.server.writes import APART, of_dvid

if TYPE_CHECKING:
    from ndbatch.server.service import Service

TOKENS = "ndstore:token"
"""Documents: other names of projects."""
SERVED = {"bool": "uint8", "float16": "float32", "float64": "float32"}
"""Types of voxel that are served as another."""
Document = dict[str, Any]


def datatype(channel: Channel) -> str | None:
    """Return the type under which a channel is served, None where ndstore has none for it, or no frame."""
    if of_dvid(channel).get(APART):
        return None
    served = SERVED.get(channel.dtype, channel.dtype)
    return served if served in DTYPES else None


def own(channel: Channel) -> Mapping[str, Any]:
    """Return what ndstore keeps of a channel that ndbatch has no word for."""
    facts: Mapping[str, Any] = channel.extra.get("ndstore", {})
    return facts


def keep_own(service: Service, channel: Channel, **facts: Any) -> None:
    """Keep more facts of ndstore with a channel."""
    with service.catalogue.transaction():
        known = service.catalogue.channel(channel.project, channel.name)
        extra = {**known.extra, "ndstore": {**own(known), **facts}}
        service.catalogue.change_channel(channel.project, channel.name, extra=extra)


def tokens(service: Service) -> list[str]:
    """Return all tokens, sorted."""
    projects = {project.name for project in service.catalogue.projects()}
    return sorted(projects | set(service.catalogue.keys(TOKENS)))


def project_of(service: Service, token: str) -> Project:
    """Return the project that a token names. NotFound where there is none."""
    other = service.catalogue.document(TOKENS, token)
    try:
        return service.catalogue.project(other.decode() if other else token)
    except NotFound:
        raise NotFound(f"Token {token} does not exist") from None


def channels_of(service: Service, project: Project) -> list[Channel]:
    """Return the channels that ndstore has a type for."""
    return [channel for channel in service.catalogue.channels(project.name) if datatype(channel)]


def channel_of(service: Service, project: Project, name: str) -> Channel:
    """Return a channel; `default` and an empty name mean the one that is marked so, else the first. NotFound for none."""
    found = {channel.name: channel for channel in channels_of(service, project)}
    if name in ("", "default") and name not in found and found:
        return next((channel for channel in found.values() if own(channel).get("default")), next(iter(found.values())))
    if name not in found:
        raise NotFound(f"Channel {name} does not exist in {project.name}")
    return found[name]


def domain(project: Project, level: int) -> Box:
    """Return the box (z, y, x) of the voxels of a level."""
    return level_box(project.shape, project.offset, project.scaling, level)


def spatial(volume: Volume) -> Box:
    """Return the box of a volume without its time axis."""
    at = [volume.axes.index(axis) for axis in "zyx"]
    return Box(tuple(volume.domain.start[i] for i in at), tuple(volume.domain.stop[i] for i in at))


def fitting(service: Service, project: Project, channel: Channel) -> int:
    """Return how many levels of a channel lie where ndstore looks for them, to a voxel, level 0 included."""
    whole = spatial(service.volume(channel))
    for level in range(1, min(channel.levels, project.levels)):
        wanted = level_box(whole.shape, whole.start, project.scaling, level)
        there = spatial(service.volume(channel, level))
        if any(abs(a - b) > 1 for a, b in zip(there.start + there.stop, wanted.start + wanted.stop, strict=True)):
            return level
    return min(channel.levels, project.levels)


def propagation(service: Service, project: Project, channel: Channel) -> int:
    """Return 0 where levels do not follow from the voxels, 1 while they are made, 2 where they do."""
    state = making(service, channel)
    if state is Making.RUNNING:
        return 1
    if state is Making.FAILED or stale(channel) or project.levels < 2:
        return 0
    return 2 if fitting(service, project, channel) >= project.levels else 0


def times_of(service: Service, channel: Channel) -> tuple[int, int]:
    """Return the half-open range of time points of a channel."""
    volume = service.volume(channel)
    return (volume.offset[0], volume.offset[0] + volume.shape[0]) if volume.axes.startswith("t") else (0, 1)


def channel_type(service: Service, channel: Channel) -> str:
    """Return annotation, timeseries or image."""
    if channel.kind == Kind.LABELS:
        return "annotation"
    return "timeseries" if service.volume(channel).axes.startswith("t") else "image"


def info(service: Service, token: str, version_of: str = "") -> Document:
    """Return the `info` document of a token; with `version_of`, that channel says the version of its voxels."""
    project = project_of(service, token)
    channels = {c.name: _channel(service, project, c) for c in channels_of(service, project)}
    if version_of in channels:
        channel = service.catalogue.channel(project.name, version_of)
        channels[version_of]["version"] = service.volume(channel).version()
    return {
        "dataset": _dataset(project),
        "project": {
            "name": project.name,
            "description": project.description,
            "schema_version": "0.7",
            "ndstore_version": "0.7",
            "s3backend": 0,
        },
        "channels": channels,
        "metadata": metadata(service, token),
    }


def _channel(service: Service, project: Project, channel: Channel) -> Document:
    try:
        first, last = times_of(service, channel)
        kind = channel_type(service, channel)
    except NdbatchError:  # its file went away; what is known of it stays
        first, last, kind = 0, 1, "annotation" if channel.kind == Kind.LABELS else "image"
    return {
        "channel_type": kind,
        "datatype": datatype(channel),
        "resolution": 0,
        "propagate": propagation(service, project, channel),
        "readonly": int(channel.read_only or service.access.write == "nobody"),
        "exceptions": 0,
        "windowrange": list(own(channel).get("window", (0, 0))),
        "timerange": [first, last],
        "description": channel.description,
    }


def _dataset(project: Project) -> Document:
    """Return the geometry of a dataset: triples in x, y, z, by level."""
    levels = range(project.levels)
    sizes = {level: voxel_size(project, level) for level in levels}
    facts: Document = {
        "name": project.dataset,
        "description": project.dataset,
        "scaling": "xyz" if project.scaling == ISOTROPIC else "zslices",
        "scalinglevels": project.levels - 1,
        "resolutions": list(levels),
        "imagesize": _by_level({level: domain(project, level).shape for level in levels}),
        "offset": _by_level({level: domain(project, level).start for level in levels}),
        "voxelres": _by_level(sizes),
        "cube_dimension": _by_level({k: cuboid(project.scaling, project.voxel_size, k) for k in levels}),
        UNIT: "um",
        WIDE: True,
    }
    cubes = facts["cube_dimension"]
    facts["supercube_dimension"] = {level: [4 * n for n in cube] for level, cube in cubes.items()}
    if project.scaling != ISOTROPIC:
        facts |= _near_isotropic(project)
    return facts


def _near_isotropic(project: Project) -> Document:
    """Return how many slices make one nearly as thick as voxels are wide, and the geometry that follows."""
    facts: Document = {f"neariso_{name}": {} for name in ("scaledown", "imagesize", "voxelres", "offset")}
    for level in range(project.levels):
        down = scale_down(project, level)
        box, (z, y, x) = domain(project, level), voxel_size(project, level)
        facts["neariso_scaledown"][str(level)] = down
        facts["neariso_imagesize"][str(level)] = [box.shape[2], box.shape[1], box.shape[0] // down]
        facts["neariso_voxelres"][str(level)] = [x, y, z * down]
        facts["neariso_offset"][str(level)] = [box.start[2], box.start[1], box.start[0] / down]
    return facts


def scale_down(project: Project, level: int) -> int:
    """Return how many slices of a level are one of its nearly isotropic form."""
    z, y, _ = voxel_size(project, level)
    return 1 if z >= y else int(y / z + 0.5)


def voxel_size(project: Project, level: int) -> tuple[float, ...]:
    """Return micrometres along z, y, x of a level."""
    return tuple(size * f for size, f in zip(project.voxel_size, factor(project.scaling, level), strict=True))


def _by_level(values: Mapping[int, Shape | tuple[float, ...]]) -> dict[str, list[Any]]:
    return {str(level): list(value)[::-1] for level, value in values.items()}


LIMS = "ndstore:metadata"
"""Documents: what is kept with a token, but for its field `channels`."""


def metadata(service: Service, token: str) -> Document:
    """Return the metadata document of a token; its field `channels` holds what is kept with each channel that is there."""
    found: Document = json.loads(service.catalogue.document(LIMS, token) or b"{}")
    channels = service.catalogue.channels(project_of(service, token).name)
    told = {channel.name: own(channel)["attributes"] for channel in channels if own(channel).get("attributes")}
    if told:
        found["channels"] = {**_described(found), **told}
    return found


def keep_metadata(service: Service, token: str, document: Document) -> None:
    """Put fields in place of those of a token's document; what `channels` says of a channel is merged into what is kept with it.

    That is gone once the channel is. Two clients that describe two channels at once do not undo each other.
    """
    with service.catalogue.transaction():
        kept: Document = json.loads(service.catalogue.document(LIMS, token) or b"{}")
        channels = {channel.name: channel for channel in service.catalogue.channels(project_of(service, token).name)}
        rest, told = dict(document), _described(document)
        known = {name for name, values in told.items() if name in channels and isinstance(values, dict)}
        for name in known:
            keep_own(service, channels[name], attributes={**own(channels[name]).get("attributes", {}), **told[name]})
        if known:
            del rest["channels"]
            if others := {name: values for name, values in told.items() if name not in known}:
                rest["channels"] = {**_described(kept), **others}
        service.catalogue.keep(LIMS, token, json.dumps({**kept, **rest}).encode())


def _described(document: Document) -> Document:
    """Return the field `channels` of a document, where it is one that names channels."""
    found = document.get("channels")
    return found if isinstance(found, dict) else {}

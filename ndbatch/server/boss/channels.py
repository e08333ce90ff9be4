"""Channels: what is said of one, how its volume is made, and how it goes away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ndbatch.remotes import api
from ndbatch.remotes.base import Kind
from ndbatch.remotes.boss.geometry import DTYPES
from ndbatch.server.boss.errors import REFERENCED, BossError, bad
from ndbatch.server.boss.levels import status
from ndbatch.server.boss.tree import CREATOR, Tree, datatype, experiment_of, own, with_own
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.volumes import free_place, remove_channel, require_made

if TYPE_CHECKING:
    from ndbatch.server.service import Service

CHUNKS = (16, 128, 128)
"""Chunks of new volumes, z, y, x: whole in a cuboid of the service, and small enough for small boxes."""
KEPT = {
    "public": False,
    "base_resolution": 0,
    "default_time_sample": 0,
    "sources": [],
    "related": [],
    "storage_type": "spdb",
    "bucket": None,
    "cv_path": None,
}
"""What is kept of a channel beside its volume, and what it is where nothing was said."""


def channel_document(service: Service, project: Project, channel: Channel) -> dict[str, Any]:
    """Return a channel as BOSS shows it."""
    facts = own(channel)
    return {
        "name": channel.name,
        "description": channel.description,
        "experiment": experiment_of(project),
        "type": "annotation" if channel.kind == Kind.LABELS else "image",
        "datatype": datatype(channel),
        **{key: facts.get(key, value) for key, value in KEPT.items()},
        "downsample_status": status(service, project, channel),
        "creator": CREATOR,
    }


def make_channel(service: Service, project: Project, name: str, facts: Mapping[str, Any]) -> None:
    """Make a channel and its empty volume, zarr, of the extent of the experiment."""
    dtype, kind = facts.get("datatype"), facts.get("type")
    if dtype not in DTYPES:
        raise bad(f"datatype is {dtype!r}; it may be {', '.join(DTYPES)}")
    if kind not in ("image", "annotation"):
        raise bad(f"type is {kind!r}; it may be image or annotation")
    if any(a < 0 for a in project.offset):
        raise bad("the coordinate frame begins below 0, where no request can read or write")
    sample = facts.get("default_time_sample", 0)
    if not isinstance(sample, int) or not 0 <= sample < project.times:
        raise bad(f"default_time_sample is {sample!r}; the experiment has {project.times} time samples")
    require_finest(facts)
    several = project.times > 1
    place = free_place(service.place_for(project.dataset, project.name, name))
    meant = Kind.LABELS if kind == "annotation" else Kind.IMAGE
    api.create(
        str(place),
        shape=(*((project.times,) if several else ()), *project.shape),
        dtype=dtype,
        axes="tzyx" if several else "zyx",
        chunks=(*((1,) if several else ()), *CHUNKS),
        offset=(*((0,) if several else ()), *project.offset),
        voxel_size=(*((1.0,) if several else ()), *project.voxel_size),
        kind=str(meant),
    )
    kept = {key: facts[key] for key in KEPT if key in facts}
    service.catalogue.add_channel(
        Channel(
            project.name,
            name,
            str(place),
            str(meant),
            str(dtype),
            description=str(facts.get("description", "")),
            made=True,
            extra={"boss": kept},
        )
    )
    service.voxels.forget()


def require_finest(facts: Mapping[str, Any]) -> None:
    """Raise the error of BOSS for a channel whose voxels would begin at a coarser level: all protocols share level 0."""
    if facts.get("base_resolution", 0) != 0:
        raise bad(f"base_resolution is {facts['base_resolution']!r}; voxels are taken at resolution 0 alone")


def drop_channel(service: Service, project: Project, channel: Channel) -> None:
    """Remove a channel that was made through the service, and its voxels."""
    tree = Tree(service.catalogue)
    users = [one.name for one in tree.channels(project) if channel.name in own(one).get("sources", ())]
    if users:
        raise BossError(f"{channel.name} is a source of {', '.join(users)}; delete these first", REFERENCED)
    require_made(channel)
    for one in tree.channels(project):
        related = own(one).get("related", [])
        if channel.name in related:
            left = [name for name in related if name != channel.name]
            service.catalogue.change_channel(project.name, one.name, extra=with_own(one, related=left))
    remove_channel(service, channel)

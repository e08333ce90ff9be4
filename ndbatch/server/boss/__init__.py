"""BOSS over the volumes of a service: collections, experiments, channels, cutouts, metadata, objects, levels, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndbatch.remotes.boss.geometry import DTYPES
from ndbatch.server.addresses import Known
from ndbatch.server.boss.routes import routes
from ndbatch.server.boss.tree import WIDER

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel, Project
    from ndbatch.server.service import Service

__all__ = ["address", "routes"]


def address(service: Service, base: str, project: Project, channel: Channel) -> Known | None:
    """Return the address of a channel: collection, experiment and channel; None where BOSS has no type for it."""
    del service
    if WIDER.get(channel.dtype, channel.dtype) not in DTYPES:
        return None
    return Known(f"boss://{base}/{project.dataset}/{project.name}/{channel.name}", "intern, Neuroglancer and ndbatch")

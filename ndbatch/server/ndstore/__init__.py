"""ndstore over the volumes of a service: tokens, info, cutouts, resources, propagation, pictures, metadata, RAMON objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndbatch.server.addresses import Known
from ndbatch.server.ndstore.routes import routes
from ndbatch.server.ndstore.tokens import datatype

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel, Project
    from ndbatch.server.service import Service

__all__ = ["address", "routes"]


def address(service: Service, base: str, project: Project, channel: Channel) -> Known | None:
    """Return the address of a channel, whose token is its project; None where ndstore has no type for it."""
    del service
    if datatype(channel) is None:
        return None
    return Known(f"ndstore://{base.partition('://')[2]}/{project.name}/{channel.name}", "ndio and ndbatch")

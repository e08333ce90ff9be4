"""DVID over the catalogue: projects are repositories, channels are data instances. The protocol is at `/api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Route

from ndbatch.errors import NdbatchError
from ndbatch.server.addresses import Known
from ndbatch.server.calls import endpoint
from ndbatch.server.dvid.asking import answers

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel, Project
    from ndbatch.server.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the protocol."""
    from ndbatch.server.dvid.versions import Versions

    asked = endpoint(Versions(service).handle, answers, service.body_limit)
    return [Route("/api/{path:path}", asked, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])]


def address(service: Service, base: str, project: Project, channel: Channel) -> Known | None:
    """Return the address of a channel, in the first version of its repository; None where DVID has no type for it."""
    from ndbatch.server.dvid.instance import VOXELS
    from ndbatch.server.dvid.repository import Repository

    typename = "labelmap" if channel.kind == "labels" else f"{channel.dtype}blk"
    try:
        if typename not in VOXELS or service.volume(channel).axes != "zyx":
            return None
    except NdbatchError:
        return None  # it cannot be opened now, and whoever looks at it is told why
    root = Repository(service.catalogue, project.name).dag["root"]
    return Known(f"dvid://{base}/{root}/{channel.name}", "Neuroglancer, clients of DVID and ndbatch")

"""DVID over the catalogue: projects are repositories, channels are data instances. The protocol is at `/api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Route

from ndbatch.server.calls import endpoint
from ndbatch.server.dvid.asking import answers

if TYPE_CHECKING:
    from ndbatch.server.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the protocol."""
    from ndbatch.server.dvid.versions import Versions

    asked = endpoint(Versions(service).handle, answers, service.body_limit)
    return [Route("/api/{path:path}", asked, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])]

"""The start page: what is served, with addresses to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from ndbatch.server.calls import Call, endpoint, plainly

if TYPE_CHECKING:
    from ndbatch.server.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Return the route of the page `/`."""

    def page(call: Call) -> Response:
        from html import escape

        names = [f"{p.name}/{c.name}" for p in service.catalogue.projects() for c in service.catalogue.channels(p.name)]
        return HTMLResponse("<h1>ndbatch</h1><ul>" + "".join(f"<li>{escape(name)}</li>" for name in names) + "</ul>")

    return [Route("/", endpoint(page, plainly, service.body_limit), methods=["GET"])]

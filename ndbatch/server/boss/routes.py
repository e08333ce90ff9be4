"""The paths of BOSS, `/v1/...`: slashes at the end and doubled ones mean nothing, as clients send them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ndbatch.server.boss import cutouts, groups, levels, metadata, objects, pictures, resources
from ndbatch.server.boss.errors import VERSION, BossError, answers
from ndbatch.server.calls import Call, as_json, endpoint

if TYPE_CHECKING:
    from ndbatch.server.service import Service

Answer = Callable[["Service", Call, Sequence[str]], Response]
"""Answers a request; the parts of its path after `/v1/`, the first of which chose the function."""
PATHS: dict[str, Answer] = {
    "collection": resources.respond,
    "coord": resources.frames,
    "meta": metadata.respond,
    "cutout": cutouts.respond,
    "ids": objects.ids,
    "boundingbox": objects.bounding_box,
    "reserve": objects.reserve,
    "downsample": levels.respond,
    "image": pictures.image,
    "tile": pictures.tile,
    "groups": groups.respond,
    "permissions": groups.permissions,
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of BOSS."""

    def respond(call: Call) -> Response:
        parts = [part for part in call.names["rest"].split("/") if part]
        answer = PATHS.get(parts[0]) if parts else None
        if answer is None:
            raise BossError(f"{call.path} is not served", 2004, 404)
        return answer(service, call, parts)

    def old(call: Call) -> Response:
        raise BossError(f"the version of {call.path} is not supported; use v1", VERSION)

    def ping(call: Call) -> Response:
        return as_json({"ip": "127.0.0.1"})

    limit = service.body_limit
    made: list[BaseRoute] = [
        Route(path, endpoint(ping, answers, limit), methods=["GET"]) for path in ("/ping/", "/ping")
    ]
    for version in ("v1", "latest"):  # the second is what Neuroglancer asks for
        made.append(Route(f"/{version}/{{rest:path}}", endpoint(respond, answers, limit), methods=list(METHODS)))
    made.append(Route("/v0.{minor:int}/{rest:path}", endpoint(old, answers, limit), methods=list(METHODS)))
    return made

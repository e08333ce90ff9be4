"""The paths of ndstore. Prefixes (`nd`, `ocp`), repeated slashes and repeated prefixes are taken as old clients send them.

Every error is a 404 with a sentence, but refusals (403) and what is wrong with a resource (400): old clients look at these codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ndbatch.errors import Denied, NdbatchError, NoRoom, NotFound
from ndbatch.server.calls import Call, TooLarge, as_json, endpoint, plain
from ndbatch.server.ndstore import channels, cutouts, pictures, propagation, ramon, resources
from ndbatch.server.ndstore.documents import project_info, public_datasets
from ndbatch.server.ndstore.grammar import APPLICATIONS, CUTOUTS, ELSEWHERE, PLANES, SERVICES
from ndbatch.server.ndstore.tokens import info, project_of, tokens

if TYPE_CHECKING:
    from ndbatch.server.service import Service

PREFIXES = ("nd", "ocp")
DATA = ("sd", "ca")
"""The data service, and what it was called before."""
METHODS = ("GET", "POST", "PUT", "DELETE")


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of ndstore."""

    def respond(call: Call) -> Response:
        parts = [part for part in call.names["rest"].split("/") if part]
        while parts and parts[0] in PREFIXES:
            parts.pop(0)
        if not parts:
            raise NotFound("nothing was asked for; public tokens are at sd/public_tokens/")
        if parts[0] in DATA:
            return _data(service, call, parts[1:])
        if parts[0] in ("ramon", "query"):
            return ramon.respond(service, call, parts)
        if parts[0] == "resource":
            return resources.respond(service, call, parts[1:])
        if parts[0] == "metadata":
            return resources.metadata(service, call, parts[1:])
        if APPLICATIONS.fullmatch(parts[0]):
            return _not_offered(parts[0])
        raise NotFound(f"{call.path} is not served")

    def bare(prefix: str) -> Callable[[Call], Response]:
        def respond_bare(call: Call) -> Response:
            names = {**call.names, "rest": f"{prefix}/{call.names['rest']}"}
            return respond(Call(call.method, call.path, names, call.query, call.headers, call.body))

        return respond_bare

    limit, made = service.body_limit, list[BaseRoute]()
    for prefix in PREFIXES:
        made.append(Route(f"/{prefix}/{{rest:path}}", endpoint(respond, answers, limit), methods=list(METHODS)))
    for prefix in (*DATA, "metadata"):
        made.append(Route(f"/{prefix}/{{rest:path}}", endpoint(bare(prefix), answers, limit), methods=list(METHODS)))
    return made


def answers(error: NdbatchError) -> Response:
    """Answer an error as ndstore does."""
    if isinstance(error, channels.NotAccepted):
        return Response(status_code=400)
    if isinstance(error, TooLarge):
        return plain(error.message, 413)
    if isinstance(error, NoRoom):
        return plain(error.message, 507)
    return plain(error.message, 403 if isinstance(error, Denied) else 404)


def _not_offered(name: str) -> Response:
    """Answer for a service of ndstore that is none here: 400, as to every unknown one."""
    forms, planes = ", ".join(CUTOUTS), ", ".join(PLANES)
    return plain(f"{name} is not offered here; voxels are given as {forms}, pictures as {planes}", 400)


def _data(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to the data service."""
    if parts[:1] == ["public_tokens"]:
        return as_json(tokens(service))
    if parts[:1] == ["public_datasets"]:
        return as_json(public_datasets(service))
    if parts[:1] == ["autoIngest"]:
        return _not_offered("autoIngest")
    if len(parts) < 2:
        raise NotFound(f"{call.path} is not served")
    token, rest = parts[0], list(parts[1:])
    if rest == ["info"]:
        facts = info(service, token, call.query.get("version", ""))
        return Response(json.dumps(facts, indent=4, sort_keys=True), media_type="application/json")
    if rest == ["projinfo"]:
        return project_info(service, token)
    if rest[0] in ("createChannel", "deleteChannel"):
        return channels.respond(service, call, token, rest[0])
    project = project_of(service, token)
    if len(rest) > 1 and rest[1] in ("getPropagate", "setPropagate"):
        return propagation.respond(service, call, project, rest)
    if ELSEWHERE.fullmatch(rest[0]) and all(
        channel.name != rest[0] for channel in service.catalogue.channels(project.name)
    ):
        return _not_offered(rest[0])
    if len(rest) > 1 and ELSEWHERE.fullmatch(rest[1]):
        return _not_offered(rest[1])
    channel = "" if rest[0] in SERVICES else rest.pop(0)
    if rest and rest[0] in PLANES:
        return pictures.respond(service, project, channel, rest)
    if rest and (rest[0] in CUTOUTS or rest[0] in ("id", "ids")):
        return cutouts.respond(service, call, project, channel, rest)
    return ramon.respond(service, call, ["sd", *parts])

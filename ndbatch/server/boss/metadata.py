"""Metadata: strings by key, for collections, experiments and channels; key and value stand in the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response

from ndbatch.server.boss.errors import BossError, bad
from ndbatch.server.boss.tree import Tree
from ndbatch.server.calls import Call, as_json

if TYPE_CHECKING:
    from ndbatch.server.service import Service


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/meta/C[/E[/H]]`."""
    names, catalogue = tuple(parts[1:]), service.catalogue
    scope = scope_of(Tree(catalogue), names)
    key = call.query.get("key")
    if call.method == "GET":
        if key is None:
            return as_json({"keys": catalogue.keys(scope)})
        return as_json({"key": key, "value": _value(service, scope, key)})
    service.access.require_write(call)
    if not key:
        raise bad("key is missing")
    with catalogue.transaction():
        known = catalogue.document(scope, key)
        if call.method == "POST" and known is not None:
            raise bad(f"the key {key} is there already")
        if call.method != "POST" and known is None:
            raise bad(f"the key {key} is not there")
        if call.method == "DELETE":
            catalogue.forget(scope, key)
            return Response(status_code=204)
        if "value" not in call.query:
            raise bad("value is missing")
        catalogue.keep(scope, key, call.query["value"].encode())
    return Response(status_code=201 if call.method == "POST" else 200)


def scope_of(tree: Tree, names: Sequence[str]) -> str:
    """Return where the metadata of a resource is kept: by names that a change of the name of an experiment leaves alone."""
    if len(names) == 1:
        tree.collection(names[0])
        return f"boss:meta:collection:{names[0]}"
    if len(names) == 2:
        return f"boss:meta:{tree.experiment(*names).name}"
    if len(names) == 3:
        project, channel = tree.channel(*names)
        return f"boss:meta:{project.name}/{channel.name}"
    raise BossError("metadata is kept with a collection, an experiment or a channel", 2004, 404)


def _value(service: Service, scope: str, key: str) -> str:
    value = service.catalogue.document(scope, key)
    if value is None:
        raise bad(f"the key {key} is not there")
    return value.decode()

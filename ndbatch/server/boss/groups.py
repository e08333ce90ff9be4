"""Groups and permissions, kept as scripts set them. They decide nothing: who may write is said at the start of the service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.server.boss.errors import GROUP_EXISTS, NO_GROUP, BossError, bad
from ndbatch.server.boss.tree import CREATOR, Tree
from ndbatch.server.calls import Call, as_json
from ndbatch.server.catalogue import NAME, Catalogue

if TYPE_CHECKING:
    from ndbatch.server.service import Service

GROUPS, PERMISSIONS = "boss:group", "boss:permission"
LEVELS = ("collection", "experiment", "channel")
ALWAYS = ("admin", "public")
"""Groups that are there from the start."""
RIGHTS = ("read", "update", "delete", "add", "assign_group", "remove_group")
VOXEL_RIGHTS = ("read_volumetric_data", "add_volumetric_data", "delete_volumetric_data")


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/groups/[G/[members|maintainers/[U]]]`."""
    catalogue = service.catalogue
    if call.method != "GET":
        service.access.require_write(call)
    if len(parts) == 1 and call.method == "GET":
        return as_json({"groups": sorted({*ALWAYS, *catalogue.keys(GROUPS)})})
    with catalogue.transaction():
        if len(parts) == 2:
            return _group(catalogue, call, parts[1])
        if len(parts) in (3, 4) and parts[2] in ("members", "maintainers"):
            return _people(catalogue, call, *parts[1:])
    raise BossError(f"{call.path} is not served", 2004, 404)


def permissions(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/permissions/`: what a group may do with a collection, an experiment or a channel."""
    del parts
    catalogue = service.catalogue
    if call.method == "GET":
        wanted = {name: call.query[name] for name in ("group", *LEVELS) if call.query.get(name)}
        sets = [_set(catalogue, key) for key in catalogue.keys(PERMISSIONS)]
        return as_json({"permission-sets": [one for one in sets if wanted.items() <= one.items()]})
    service.access.require_write(call)
    facts: Any = call.query if call.method == "DELETE" else call.json()
    if not isinstance(facts, Mapping):
        raise bad("the body is JSON, and no object")
    group, names = facts.get("group"), [facts[level] for level in LEVELS if facts.get(level)]
    if not isinstance(group, str) or not names or not all(isinstance(name, str) for name in names):
        raise bad("a permission names a group, and a collection, an experiment of it or a channel of that")
    _require_resource(Tree(catalogue), names)
    key = "/".join((group, *names))
    with catalogue.transaction():
        _kept(catalogue, group)
        if call.method == "DELETE":
            catalogue.forget(PERMISSIONS, key)
            return Response(status_code=204)
        wanted_rights = facts.get("permissions")
        known = RIGHTS + (VOXEL_RIGHTS if len(names) == len(LEVELS) else ())
        if not isinstance(wanted_rights, list) or not set(map(str, wanted_rights)) <= set(known):
            raise BossError(f"permissions are a list of {', '.join(known)}", 3002, 404)
        before = json.loads(catalogue.document(PERMISSIONS, key) or b"[]") if call.method == "POST" else []
        catalogue.keep(PERMISSIONS, key, json.dumps(sorted({*before, *wanted_rights})).encode())
    return Response(status_code=201 if call.method == "POST" else 200)


def _group(catalogue: Catalogue, call: Call, name: str) -> Response:
    if call.method == "POST":
        if not NAME.fullmatch(name):
            raise bad(f"{name!r} is no name of a group")
        if name in (*ALWAYS, *catalogue.keys(GROUPS)):
            raise BossError(f"the group {name} exists already", GROUP_EXISTS, 404)
        _keep(catalogue, name, {"members": [CREATOR], "maintainers": [CREATOR]})
        return Response(status_code=201)
    _kept(catalogue, name)
    if call.method == "DELETE":
        catalogue.forget(GROUPS, name)
        for key in catalogue.keys(PERMISSIONS, f"{name}/", f"{name}/\U0010ffff"):
            catalogue.forget(PERMISSIONS, key)
        return Response(status_code=204)
    resources = [_set(catalogue, key) for key in catalogue.keys(PERMISSIONS, f"{name}/", f"{name}/\U0010ffff")]
    named = [{level: one[level] for level in LEVELS if level in one} for one in resources]
    return as_json({"name": name, "owner": CREATOR, "resources": named})


def _people(catalogue: Catalogue, call: Call, group: str, role: str, user: str = "") -> Response:
    known = _kept(catalogue, group)
    people: list[str] = known.get(role, [])
    if call.method == "GET":
        return as_json({"result": user in people} if user else {role: people})
    if not NAME.fullmatch(user):
        raise bad(f"{user!r} is no name of a user")
    if call.method == "DELETE" and user not in people:
        raise BossError(f"{user} is not among the {role} of {group}", 4002, 404)
    left = {*people, user} if call.method == "POST" else set(people) - {user}
    _keep(catalogue, group, {**known, role: sorted(left)})
    return Response(status_code=204)


def _set(catalogue: Catalogue, key: str) -> dict[str, Any]:
    group, *names = key.split("/")
    rights = json.loads(catalogue.document(PERMISSIONS, key) or b"[]")
    return {"group": group, **dict(zip(LEVELS, names, strict=False)), "permissions": rights}


def _kept(catalogue: Catalogue, group: str) -> dict[str, Any]:
    kept = catalogue.document(GROUPS, group)
    if kept is None and group not in ALWAYS:
        raise BossError(f"there is no group {group}", NO_GROUP, 404)
    found: dict[str, Any] = json.loads(kept or b"{}")
    return found


def _keep(catalogue: Catalogue, group: str, facts: Mapping[str, Any]) -> None:
    catalogue.keep(GROUPS, group, json.dumps(dict(facts)).encode())


def _require_resource(tree: Tree, names: Sequence[str]) -> None:
    """Raise 404 for a resource that is not there."""
    if len(names) == 1:
        tree.collection(names[0])
    elif len(names) == 2:
        tree.experiment(*names)
    else:
        tree.channel(*names)

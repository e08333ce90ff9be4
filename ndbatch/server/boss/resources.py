"""Collections, experiments, channels and coordinate frames: listed, shown, made, changed, removed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.errors import Denied
from ndbatch.remotes.boss.geometry import AXES, TO_MICROMETRES
from ndbatch.server.boss.channels import channel_document, drop_channel, make_channel, require_finest
from ndbatch.server.boss.errors import REFERENCED, BossError, bad
from ndbatch.server.boss.levels import level_count
from ndbatch.server.boss.metadata import scope_of
from ndbatch.server.boss.tree import (
    COLLECTIONS,
    CREATOR,
    FRAMES,
    Tree,
    experiment_of,
    extent,
    frame_name,
    own,
    with_own,
)
from ndbatch.server.calls import Call, as_json
from ndbatch.server.catalogue import NAME, Project

if TYPE_CHECKING:
    from ndbatch.server.service import Service

CHANGEABLE = {
    "coord": ("name", "description"),
    "collection": ("name", "description", "public"),
    "experiment": (
        *("name", "public", "description", "num_hierarchy_levels", "hierarchy_method", "num_time_samples"),
        *("time_step", "time_step_unit"),
    ),
    "channel": (
        *("name", "public", "description", "default_time_sample", "base_resolution", "sources", "related"),
        *("bucket", "cv_path", "storage_type"),
    ),
}
"""What may be changed of each kind of resource."""
KINDS = ("collection", "experiment", "channel")
TIME_UNITS = ("nanoseconds", "microseconds", "milliseconds", "seconds")
METHODS = {"anisotropic": "zslices", "isotropic": "isotropic"}
LEVELS = 10
"""Most levels: a resolution is one digit."""


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/collection/...`; `parts` are collection, C, experiment, E, channel, H, or the first of them."""
    names, kinds = tuple(parts[1::2]), tuple(parts[::2])
    if kinds != KINDS[: len(kinds)]:
        raise BossError(f"{call.path} is no resource", status=404, code=2004)
    if len(parts) % 2:
        if call.method != "GET":
            raise BossError(f"{call.method} is not allowed on a list", status=405)
        return as_json({f"{kinds[-1]}s": _children(Tree(service.catalogue), names)})
    if call.method == "GET":
        return _shown(service, call, names)
    service.access.require_write(call)
    change = {"POST": _create, "PUT": _update, "DELETE": _delete}.get(call.method)
    if change is None:
        raise BossError(f"{call.method} is not allowed on a resource", status=405)
    with service.catalogue.transaction():
        return change(service, call, names)


def frames(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `/v1/coord/...`."""
    tree = Tree(service.catalogue)
    if len(parts) == 1:
        return as_json({"coords": tree.frames()})
    name = parts[1]
    if call.method == "GET":
        return as_json(tree.frame(name))
    service.access.require_write(call)
    with service.catalogue.transaction():
        if call.method == "POST":
            _require_free(name, tree.frames())
            facts = _frame(name, _body(call))
            tree.keep_frame(name, facts)
            return as_json(facts, 201)
        known = tree.frame(name)
        if call.method == "DELETE":
            if tree.users(name):
                raise BossError(f"the coordinate frame {name} is used by an experiment", REFERENCED)
            tree.catalogue.forget(FRAMES, name)
            return Response(status_code=204)
        changed = {**known, **_changes(call, "coord")}
        for project in tree.users(name):
            tree.catalogue.change_project(project.name, extra=with_own(project, coord_frame=changed["name"]))
        if changed["name"] != name:
            _require_free(changed["name"], tree.frames())
            tree.catalogue.forget(FRAMES, name)
        tree.keep_frame(changed["name"], changed)
        return as_json(changed)


# -- one resource ----------------------------------------------------------------------------------------------------------


def _children(tree: Tree, names: Sequence[str]) -> list[str]:
    if not names:
        return tree.collections()
    if len(names) == 1:
        return list(tree.experiments(names[0]))
    return [channel.name for channel in tree.channels(tree.experiment(*names))]


def _shown(service: Service, call: Call, names: Sequence[str]) -> Response:
    answer = as_json(_document(service, names))
    if len(names) == 3 and call.query.get("etag") == "voxels":
        _, channel = Tree(service.catalogue).channel(*names)
        answer.headers["ETag"] = f'"{service.volume(channel).version()}"'
    return answer


def _document(service: Service, names: Sequence[str]) -> dict[str, Any]:
    tree = Tree(service.catalogue)
    if len(names) == 1:
        known = {"description": "", "public": False, **tree.collection(names[0])}
        return {"name": names[0], **known, "creator": CREATOR, "experiments": list(tree.experiments(names[0]))}
    if len(names) == 2:
        return _experiment_document(service, tree.experiment(*names))
    project, channel = tree.channel(*names)
    return channel_document(service, project, channel)


def _experiment_document(service: Service, project: Project) -> dict[str, Any]:
    facts, tree = own(project), Tree(service.catalogue)
    return {
        "name": experiment_of(project),
        "description": project.description,
        "public": facts.get("public", False),
        "coord_frame": frame_name(project),
        "num_hierarchy_levels": level_count(service, project),
        "hierarchy_method": "isotropic" if project.scaling == "isotropic" else "anisotropic",
        "num_time_samples": project.times,
        "time_step": facts.get("time_step"),
        "time_step_unit": facts.get("time_step_unit")
        or "seconds",  # clients read it without asking whether it is there
        "collection": project.dataset,
        "creator": CREATOR,
        "channels": [channel.name for channel in tree.channels(project)],
    }


def _create(service: Service, call: Call, names: Sequence[str]) -> Response:
    tree, facts = Tree(service.catalogue), _body(call)
    _require_free(names[-1], _children(tree, names[:-1]))
    if len(names) == 1:
        tree.keep_collection(names[0], {key: facts[key] for key in ("description", "public") if key in facts})
    elif len(names) == 2:
        frame = facts.get("coord_frame")
        if not isinstance(frame, str):
            raise bad("an experiment needs coord_frame, the name of a coordinate frame")
        known = tree.frame(frame)
        tree.keep_frame(frame, known)  # a frame that follows from a project must outlive it
        project = Project("", names[0], levels=1, made=True, **extent(known))
        fields = _experiment_fields(project, {"num_hierarchy_levels": 1, **facts})
        fields["extra"]["boss"]["coord_frame"] = frame
        tree.add_experiment(Project(**{**vars(project), **fields}), names[1])
    else:
        make_channel(service, tree.experiment(*names[:2]), names[2], facts)
    return as_json(_document(service, names), 201)


def _update(service: Service, call: Call, names: Sequence[str]) -> Response:
    tree, facts = Tree(service.catalogue), _changes(call, KINDS[len(names) - 1])
    name = str(facts.pop("name", names[-1]))
    if name != names[-1]:
        _require_free(name, _children(tree, names[:-1]))
    if len(names) == 1:
        _update_collection(tree, names[0], name, facts)
    elif len(names) == 2:
        project = tree.experiment(*names)
        fields = _experiment_fields(project, facts)
        fields["extra"]["boss"]["experiment"] = name
        tree.catalogue.change_project(project.name, **fields)
    elif name != names[-1]:
        raise bad(f"the channel {names[-1]} cannot be renamed here: what other protocols keep of it hangs on its name")
    else:
        project, channel = tree.channel(*names)
        lists = {
            key: facts.pop(key, []) for key in ("sources", "related")
        }  # a change that does not name them empties them
        _require_channels(tree, project, channel.name, lists)
        described = {"description": facts.pop("description", channel.description)}
        tree.catalogue.change_channel(
            project.name, channel.name, **described, extra=with_own(channel, **facts, **lists)
        )
    return as_json(_document(service, (*names[:-1], name)))


def _update_collection(tree: Tree, old: str, new: str, facts: Mapping[str, Any]) -> None:
    """Keep facts of a collection; under another name its experiments and its metadata go with it."""
    kept = {**tree.collection(old), **facts}
    if new != old:
        for project in tree.experiments(old).values():
            tree.catalogue.change_project(project.name, dataset=new)
        scopes = [f"boss:meta:collection:{name}" for name in (old, new)]
        for key in tree.catalogue.keys(scopes[0]):
            tree.catalogue.keep(scopes[1], key, tree.catalogue.document(scopes[0], key) or b"")
        tree.catalogue.forget(scopes[0])
        tree.catalogue.forget(COLLECTIONS, old)
    tree.keep_collection(new, kept)


def _delete(service: Service, call: Call, names: Sequence[str]) -> Response:
    del call
    tree = Tree(service.catalogue)
    scope = scope_of(tree, names)
    if len(names) < 3 and _children(tree, names):
        raise BossError(f"{'/'.join(names)} is not empty; delete what is in it first", REFERENCED)
    if len(names) == 1:
        tree.catalogue.forget(COLLECTIONS, names[0])
    elif len(names) == 2:
        project = tree.experiment(*names)
        if tree.catalogue.channels(project.name) or not project.made:
            raise Denied(f"{'/'.join(names)} was found in the folder that is served; remove it there")
        tree.catalogue.remove_project(project.name)
    else:
        drop_channel(service, *tree.channel(*names))
    tree.catalogue.forget(scope)
    return Response(status_code=204)


# -- fields ------------------------------------------------------------------------------------------------------------------


def _body(call: Call) -> dict[str, Any]:
    facts = call.json() if call.body.strip() else {}
    if not isinstance(facts, dict):
        raise bad("the body is JSON, and no object")
    return facts


def _changes(call: Call, kind: str) -> dict[str, Any]:
    facts = _body(call)
    for key in facts:
        if key not in CHANGEABLE[kind]:
            raise bad(f"{key} of a {kind} cannot be changed; what can: {', '.join(CHANGEABLE[kind])}")
    require_finest(facts)
    return facts


def _require_free(name: str, known: Sequence[str]) -> None:
    if not NAME.fullmatch(name):
        raise bad(f"{name!r} is no name: letters, digits, _ and -, at most 255")
    if name in known:
        raise bad(f"{name} exists already")


def _experiment_fields(project: Project, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a project that the facts of an experiment say."""
    for key, known in (("hierarchy_method", METHODS), ("time_step_unit", (*TIME_UNITS, None))):
        if key in facts and facts[key] not in known:
            raise bad(f"{key} is {facts[key]!r}; it may be {', '.join(map(str, known))}")
    fields: dict[str, Any] = {"description": str(facts.get("description", project.description))}
    kept = {key: facts[key] for key in ("public", "time_step", "time_step_unit") if key in facts}
    if "num_hierarchy_levels" in facts:
        fields["levels"] = _whole(facts, "num_hierarchy_levels", 1, LEVELS)
        kept["num_hierarchy_levels"] = fields["levels"]
    if "num_time_samples" in facts:
        fields["times"] = _whole(facts, "num_time_samples", 1, 2**31)
    if "hierarchy_method" in facts:
        fields["scaling"] = METHODS[facts["hierarchy_method"]]
    return {**fields, "extra": with_own(project, **kept)}


def _require_channels(tree: Tree, project: Project, channel: str, lists: Mapping[str, Any]) -> None:
    known = {one.name for one in tree.channels(project)} - {channel}
    for key, names in lists.items():
        if not isinstance(names, list) or not set(map(str, names)) <= known:
            raise bad(f"{key} is a list of other channels of the experiment, not {names!r}")
    if set(lists["sources"]) & set(lists["related"]):
        raise bad("a channel is either a source or related, not both")


def _whole(facts: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = facts.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad(f"{key} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def _frame(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked coordinate frame."""
    if facts.get("voxel_unit") not in TO_MICROMETRES:
        raise bad(f"voxel_unit is {facts.get('voxel_unit')!r}; it may be {', '.join(TO_MICROMETRES)}")
    frame: dict[str, Any] = {"name": name, "description": str(facts.get("description", ""))}
    for axis in reversed(AXES):
        for end in ("start", "stop"):
            frame[f"{axis}_{end}"] = _whole(facts, f"{axis}_{end}", -(2**40), 2**40)
        size = facts.get(f"{axis}_voxel_size")
        if isinstance(size, bool) or not isinstance(size, int | float) or not (size > 0 and math.isfinite(size)):
            raise bad(f"{axis}_voxel_size is {size!r}; it must be a length above 0")
        frame[f"{axis}_voxel_size"] = size
        if frame[f"{axis}_stop"] <= frame[f"{axis}_start"]:
            raise bad(f"{axis}_stop must lie behind {axis}_start")
    return {**frame, "voxel_unit": facts["voxel_unit"]}

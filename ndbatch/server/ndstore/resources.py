"""Datasets, projects, tokens and channels: made, shown and removed; and the metadata document of a token.

What is wrong with a resource is answered with 400 and nothing else, as an ndstore does; making is 201, removing 204, both empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.errors import Conflict, Denied, NdbatchError, NotFound, PlanError
from ndbatch.remotes import api
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Kind
from ndbatch.remotes.ndstore.frame import DTYPES, ISOTROPIC, SLICES, UNIT, cuboid
from ndbatch.remotes.registry import store_class
from ndbatch.server.calls import Call, as_json, plain
from ndbatch.server.catalogue import NAME, Channel, Project
from ndbatch.server.ndstore.documents import DATASETS, public_datasets
from ndbatch.server.ndstore.tokens import (
    LIMS,
    TOKENS,
    channel_of,
    channel_type,
    channels_of,
    datatype,
    own,
    project_of,
    propagation,
    times_of,
    tokens,
)
from ndbatch.server.ndstore.tokens import metadata as kept_metadata
from ndbatch.units import micrometres

if TYPE_CHECKING:
    from ndbatch.server.service import Service

Document = dict[str, Any]
NUMBERS = {
    f"{axis}{name}": default
    for name, default in (("imagesize", None), ("offset", 0), ("voxelres", 1.0))
    for axis in "xyz"
}
"""Fields of a dataset, and what they are where they are not given; None must be."""
TYPES = ("image", "annotation", "timeseries", "probmap")
FIELDS = {
    "dataset": {"dataset_name", "dataset_description", "public", "scalingoption", "scalinglevels", UNIT, *NUMBERS},
    "project": {
        *("project_name", "project_description", "public", "host", "kvengine", "kvserver", "mdengine", "s3backend"),
        *("nd_version", "schema_version"),
    },
    "token": {"token_name", "token_description", "public"},
    "channel": {
        *("channel_name", "channel_description", "channel_type", "channel_datatype", "resolution", "propagate"),
        *("readonly", "exceptions", "starttime", "endtime", "startwindow", "endwindow", "default"),
    },
}
"""Fields of resources; others are refused."""


class NotAccepted(NdbatchError):
    """What was sent makes no resource, or the resource is not there."""


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request to `resource/...`."""
    if parts[:1] in (["public"], ["publicdataset"], ["publictoken"]):
        return as_json(tokens(service) if "token" in (parts[0] + "".join(parts[1:])) else public_datasets(service))
    kinds, names = parts[::2], parts[1::2]
    if list(kinds) not in (
        ["dataset"],
        ["dataset", "project"],
        ["dataset", "project", "channel"],
        ["dataset", "project", "token"],
    ):
        raise NotFound(f"{call.path} is not served")
    if len(names) < len(kinds):
        if kinds[-1] == "dataset":
            return as_json(public_datasets(service))
        return as_json([project.name for project in service.catalogue.projects()])
    if call.method == "GET":
        return as_json(_shown(service, kinds[-1], names))
    service.access.require_write(call)
    if call.method == "DELETE":
        try:
            _removed(service, kinds[-1], names)
        except (NotFound, Conflict) as error:
            raise NotAccepted(error.message) from None
        return Response(status_code=204)
    try:
        facts = call.json()
        if not isinstance(facts, dict):
            raise PlanError("the body is no JSON object")
        if unknown := set(facts) - FIELDS[kinds[-1]]:
            raise PlanError(f"{kinds[-1]}: unknown fields {', '.join(sorted(unknown))}")
        {"dataset": _dataset, "project": _project, "channel": _channel, "token": _token}[kinds[-1]](
            service, names, facts
        )
    except (Conflict, PlanError, NotFound) as error:
        raise NotAccepted(error.message) from None
    return Response(status_code=201)


def metadata(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer `metadata/ocp/get/TOKEN/` and `metadata/ocp/set/TOKEN`."""
    if len(parts) != 3 or parts[0] != "ocp" or parts[1] not in ("get", "set"):
        raise NotFound(f"{call.path} is not served")
    project_of(service, parts[2])
    if parts[1] == "get":
        return as_json(kept_metadata(service, parts[2]))
    document = call.json()
    if not isinstance(document, dict):
        raise PlanError("metadata is a JSON object")
    secret = document.pop("secret", "")  # old clients show the token here, and send no header; it is not kept
    shown = call if call.token or not secret else replace(call, headers={"authorization": f"Token {secret}"})
    try:
        service.access.require_write(shown)
    except Denied as error:
        return as_json({"message": error.message}, 403)
    with service.catalogue.transaction():  # old clients send what they change alone, such as their list of subvolumes
        merged = {**kept_metadata(service, parts[2]), **document}
        service.catalogue.keep(LIMS, parts[2], json.dumps(merged).encode())
    return as_json({"_id": 1})


def channels(service: Service, call: Call, token: str, verb: str) -> Response:
    """Answer `createChannel/` and `deleteChannel/`, the older way: all channels that are named, or none."""
    if call.method != "POST":
        return plain("createChannel and deleteChannel take POST", 405)
    service.access.require_write(call)
    body, project = call.json(), project_of(service, token)
    wanted = body.get("channels") if isinstance(body, dict) else None
    if verb == "deleteChannel":
        if not isinstance(wanted, list) or not wanted:
            raise NotAccepted("channels: [name, ...] is due")
        for channel in [channel_of(service, project, str(name)) for name in wanted]:
            if not channel.read_only:  # passed over in silence, as at an ndstore
                remove_channel(service, channel)
        return plain("Success. Channels deleted.")
    if not isinstance(wanted, dict) or not wanted or not all(isinstance(facts, dict) for facts in wanted.values()):
        raise NotAccepted("channels: {name: {...}} is due")
    there = {channel.name for channel in service.catalogue.channels(project.name)}
    if there & set(wanted):
        raise NotAccepted(f"{', '.join(sorted(there & set(wanted)))} is there already")
    try:
        new = {name: _of_old(name, facts) for name, facts in wanted.items()}
        for name, fields in new.items():
            _require_channel(name, fields)
        for name, fields in new.items():
            make_channel(service, project, name, fields)
    except (PlanError, Conflict) as error:
        raise NotAccepted(error.message) from None
    return plain("Success. The channels were created.")


def _of_old(name: str, facts: Document) -> Document:
    """Return the fields of a channel as createChannel says them."""
    times, window = facts.get("timerange") or (0, 1), facts.get("windowrange") or (0, 0)
    if not all(isinstance(one, list | tuple) and len(one) == 2 for one in (times, window)):
        raise PlanError(f"{name}: timerange and windowrange are two numbers each")
    return {
        "channel_type": facts.get("channel_type"),
        "channel_datatype": facts.get("datatype"),
        "readonly": facts.get("readonly", 0),
        **dict(zip(("starttime", "endtime", "startwindow", "endwindow"), (*times, *window), strict=True)),
    }


# -- showing -------------------------------------------------------------------------------------------------------------


def _shown(service: Service, kind: str, names: Sequence[str]) -> Document:
    """Return the fields of a resource. NotFound where there is none."""
    if kind == "dataset":
        return dataset_fields(service, names[0])
    project = service.catalogue.project(names[1])
    if kind == "project":
        return {
            "project_name": project.name,
            "project_description": project.description,
            "dataset": project.dataset,
            "public": 1,
        }
    if kind == "token":
        return {"token_name": names[2], "project": project_of(service, names[2]).name, "public": 1}
    channel = channel_of(service, project, names[2])
    (first, last), window = times_of(service, channel), own(channel).get("window", (0, 0))
    return {
        "channel_name": channel.name,
        "channel_type": channel_type(service, channel),
        "channel_datatype": datatype(channel),
        "channel_description": channel.description,
        "resolution": 0,
        "propagate": propagation(service, project, channel),
        "readonly": int(channel.read_only),
        "exceptions": 0,
        "starttime": first,
        "endtime": last,
        "startwindow": window[0],
        "endwindow": window[1],
        "default": bool(own(channel).get("default")),
    }


def dataset_fields(service: Service, name: str) -> Document:
    """Return the fields of a dataset: those it was made with, or those of its first project. NotFound where there is none."""
    kept = service.catalogue.document(DATASETS, name)
    if kept:
        found: Document = json.loads(kept)
        return found
    for project in service.catalogue.projects():
        if project.dataset == name:
            facts: Document = {"dataset_name": name, "dataset_description": "", "public": 1}
            for key, values in (
                ("imagesize", project.shape),
                ("offset", project.offset),
                ("voxelres", project.voxel_size),
            ):
                facts |= {f"{axis}{key}": value for axis, value in zip("zyx", values, strict=True)}
            return {**facts, "scalinglevels": project.levels - 1, "scalingoption": int(project.scaling == ISOTROPIC)}
    raise NotFound(f"there is no dataset {name}")


# -- making --------------------------------------------------------------------------------------------------------------


def _dataset(service: Service, names: Sequence[str], facts: Document) -> None:
    name = str(facts.get("dataset_name", names[0]))
    _require_free(name, public_datasets(service))
    fields: Document = {
        "dataset_name": name,
        "dataset_description": str(facts.get("dataset_description", "")),
        "public": 1,
    }
    scale = micrometres(f"1 {facts.get(UNIT, 'um')}")
    for key, default in NUMBERS.items():
        value = facts.get(key, default)
        lowest = 0 if "offset" in key else 1e-9 if "voxelres" in key else 1
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value < 2**53:
            raise PlanError(f"{key}: {value!r} is not accepted")
        fields[key] = round(value * scale, 12) if "voxelres" in key else int(value)
    for key, most in (("scalinglevels", 30), ("scalingoption", 1)):
        value = facts.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise PlanError(f"{key}: {value!r} is not accepted")
        fields[key] = value
    service.catalogue.keep(DATASETS, name, json.dumps(fields).encode())


def _project(service: Service, names: Sequence[str], facts: Document) -> None:
    fields, name = dataset_fields(service, names[0]), str(facts.get("project_name", names[1]))
    _require_free(name, tokens(service))
    service.catalogue.add_project(
        Project(
            name,
            names[0],
            tuple(fields[f"{axis}imagesize"] for axis in "zyx"),
            tuple(fields[f"{axis}offset"] for axis in "zyx"),
            (fields["zvoxelres"], fields["yvoxelres"], fields["xvoxelres"]),
            scaling=ISOTROPIC if fields["scalingoption"] else SLICES,
            levels=1 + fields["scalinglevels"],
            description=str(facts.get("project_description", "")),
            made=True,
        )
    )


def _token(service: Service, names: Sequence[str], facts: Document) -> None:
    name = str(facts.get("token_name", names[2]))
    project = service.catalogue.project(names[1])
    if name == project.name:
        return
    _require_free(name, tokens(service))
    service.catalogue.keep(TOKENS, name, project.name.encode())


def _channel(service: Service, names: Sequence[str], facts: Document) -> None:
    make_channel(service, service.catalogue.project(names[1]), str(facts.get("channel_name", names[2])), facts)


def _require_channel(name: str, facts: Mapping[str, Any]) -> None:
    """Raise PlanError for fields that make no channel."""
    dtype, kind = facts.get("channel_datatype"), facts.get("channel_type")
    if dtype not in DTYPES or kind not in TYPES:
        raise PlanError(f"{name}: {kind!r} of {dtype!r} is no channel")
    if not NAME.fullmatch(name):
        raise PlanError(f"{name!r} is no name")
    if facts.get("resolution", 0) != 0:
        raise PlanError(f"{name}: voxels are taken at resolution 0 alone")
    first, last = facts.get("starttime", 0), facts.get("endtime", 1)
    if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < 2**31):
        raise PlanError(f"{name}: times {first!r} to {last!r} are not accepted")
    if not all(isinstance(facts.get(key, 0), int | float) for key in ("startwindow", "endwindow")):
        raise PlanError(f"{name}: a window is two numbers")


def make_channel(service: Service, project: Project, name: str, facts: Mapping[str, Any]) -> None:
    """Make a channel and its empty volume, zarr, that fills the frame of the project. PlanError, Conflict."""
    _require_channel(name, facts)
    _require_free(name, [channel.name for channel in service.catalogue.channels(project.name)])
    dtype, kind = facts["channel_datatype"], facts["channel_type"]
    first, last = facts.get("starttime", 0), facts.get("endtime", 1)
    timed = kind == "timeseries" or last - first > 1
    meant = {"annotation": Kind.LABELS, "probmap": Kind.PROBABILITY}.get(str(kind), Kind.IMAGE)
    meant = Kind.PROBABILITY if meant is Kind.IMAGE and dtype == "float32" else meant
    time = (max(1, last - first),) if timed else ()
    unit = cuboid(project.scaling, project.voxel_size, 0)
    place = _free(service.place_for(project.dataset, project.name, name))
    api.create(
        str(place),
        shape=(*time, *project.shape),
        dtype=dtype,
        axes="tzyx" if timed else "zyx",
        chunks=(*((1,) if timed else ()), *(min(n, c) for n, c in zip(project.shape, unit, strict=True))),
        offset=(*((first,) if timed else ()), *project.offset),
        voxel_size=(*((1.0,) if timed else ()), *project.voxel_size),
        kind=str(meant),
    )
    kept = {"window": [facts.get("startwindow", 0), facts.get("endwindow", 0)], "default": bool(facts.get("default"))}
    service.catalogue.add_channel(
        Channel(
            project.name,
            name,
            str(place),
            str(meant),
            str(dtype),
            read_only=bool(facts.get("readonly", 0)),
            description=str(facts.get("channel_description", "")),
            made=True,
            extra={"ndstore": kept},
        )
    )
    service.voxels.forget()


# -- removing ------------------------------------------------------------------------------------------------------------


def _removed(service: Service, kind: str, names: Sequence[str]) -> None:
    """Remove a resource. NotFound, Conflict where something lies in it, Denied for what was found in the folder."""
    if kind == "channel":
        remove_channel(service, channel_of(service, service.catalogue.project(names[1]), names[2]))
    elif kind == "token":
        if names[2] != names[1]:
            service.catalogue.forget(TOKENS, names[2])
    elif kind == "project":
        project = service.catalogue.project(names[1])
        if not project.made:
            raise Denied(f"{project.name} was found in the folder that is served; remove it there")
        for channel in channels_of(service, project):
            remove_channel(service, channel)
        service.catalogue.remove_project(project.name)
    else:
        if any(project.dataset == names[0] for project in service.catalogue.projects()):
            raise Conflict(f"{names[0]} has projects; delete them first")
        if not service.catalogue.forget(DATASETS, names[0]):
            raise NotFound(f"there is no dataset {names[0]}")


def remove_channel(service: Service, channel: Channel) -> None:
    """Remove a channel that was made through the service, and its voxels. Denied for one that was found in the folder."""
    if not channel.made:
        raise Denied(f"{channel.name} was found in the folder that is served; remove it there")
    service.catalogue.remove_channel(channel.project, channel.name)
    address = parse(channel.url)
    try:
        store_class(address.scheme).delete(address)
    except NotFound:
        return  # another process that serves the folder was faster
    finally:
        service.voxels.forget()


def _require_free(name: str, taken: Sequence[str]) -> None:
    if not NAME.fullmatch(name):
        raise PlanError(f"{name!r} is no name")
    if name in taken:
        raise Conflict(f"{name} is there already")


def _free(place: Path) -> Path:
    """Return a path at which there is nothing yet: a channel that was removed a moment ago may still be going away."""
    number = 1
    while (found := place.with_name(f"{place.stem}{'' if number == 1 else f'-{number}'}{place.suffix}")).exists():
        number += 1
    return found

"""Datasets, projects, tokens and channels: made, shown and removed; and the metadata document of a token.

What is wrong with a resource is answered with 400 and nothing else, as an ndstore does; making is 201, removing 204, both empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.responses import Response

from ndbatch.errors import Conflict, Denied, NotFound, PlanError
from ndbatch.remotes.ndstore.frame import ISOTROPIC, SLICES, UNIT
from ndbatch.server.calls import Call, as_json
from ndbatch.server.catalogue import Project
from ndbatch.server.ndstore.channels import NotAccepted, make_channel, require_free
from ndbatch.server.ndstore.documents import DATASETS, public_datasets
from ndbatch.server.ndstore.tokens import (
    TOKENS,
    Document,
    channel_of,
    channel_type,
    channels_of,
    datatype,
    keep_metadata,
    own,
    project_of,
    propagation,
    times_of,
    tokens,
)
from ndbatch.server.ndstore.tokens import metadata as kept_metadata
from ndbatch.server.volumes import remove_channel
from ndbatch.units import micrometres

if TYPE_CHECKING:
    from ndbatch.server.service import Service

NUMBERS = {
    f"{axis}{name}": default
    for name, default in (("imagesize", None), ("offset", 0), ("voxelres", 1.0))
    for axis in "xyz"
}
"""Fields of a dataset, and what they are where they are not given; None must be."""
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
    # Old clients send what they change alone, such as their list of subvolumes.
    keep_metadata(service, parts[2], document)
    return as_json({"_id": 1})


# -- showing -------------------------------------------------------------------------------------------------------------


def _shown(service: Service, kind: str, names: Sequence[str]) -> Document:
    """Return the fields of a resource. NotFound where there is none."""
    if kind == "dataset":
        return dataset_fields(service, names[0])
    project = _project_in(service, names)
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


def _project_in(service: Service, names: Sequence[str]) -> Project:
    """Return the project of `dataset, project, ...`. NotFound where there is none, or in another dataset."""
    project = service.catalogue.project(names[1])
    if project.dataset != names[0]:
        raise NotFound(f"there is no project {names[1]} in {names[0]}")
    return project


# -- making --------------------------------------------------------------------------------------------------------------


def _dataset(service: Service, names: Sequence[str], facts: Document) -> None:
    name = str(facts.get("dataset_name", names[0]))
    require_free(name, public_datasets(service))
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
    require_free(name, tokens(service))
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
    project = _project_in(service, names)
    if name == project.name:
        return
    require_free(name, tokens(service))
    service.catalogue.keep(TOKENS, name, project.name.encode())


def _channel(service: Service, names: Sequence[str], facts: Document) -> None:
    make_channel(service, _project_in(service, names), str(facts.get("channel_name", names[2])), facts)


# -- removing ------------------------------------------------------------------------------------------------------------


def _removed(service: Service, kind: str, names: Sequence[str]) -> None:
    """Remove a resource. NotFound, Conflict where something lies in it, Denied for what was found in the folder."""
    if kind == "channel":
        remove_channel(service, channel_of(service, _project_in(service, names), names[2]))
    elif kind == "token":
        if names[2] != names[1]:
            service.catalogue.forget(TOKENS, names[2])
    elif kind == "project":
        project = _project_in(service, names)
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

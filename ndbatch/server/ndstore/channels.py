"""Channels: how one is made and removed, as a resource and in the older way, `createChannel/` and `deleteChannel/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.errors import Conflict, NdbatchError, PlanError
from ndbatch.remotes import api
from ndbatch.remotes.base import Kind
from ndbatch.remotes.ndstore.frame import DTYPES, cuboid
from ndbatch.server.calls import Call, plain
from ndbatch.server.catalogue import NAME, Channel, Project
from ndbatch.server.ndstore.tokens import Document, channel_of, project_of
from ndbatch.server.volumes import free_place, remove_channel

if TYPE_CHECKING:
    from ndbatch.server.service import Service

TYPES = ("image", "annotation", "timeseries", "probmap")


class NotAccepted(NdbatchError):
    """What was sent makes no resource, or the resource is not there."""


def respond(service: Service, call: Call, token: str, verb: str) -> Response:
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
    kind, dtype = str(facts["channel_type"]), str(facts["channel_datatype"])
    meant = {"annotation": Kind.LABELS, "probmap": Kind.PROBABILITY}.get(kind, Kind.IMAGE)
    meant = Kind.PROBABILITY if meant is Kind.IMAGE and dtype == "float32" else meant
    kept = {"window": [facts.get("startwindow", 0), facts.get("endwindow", 0)], "default": bool(facts.get("default"))}
    with service.catalogue.transaction():  # whoever looks for new volumes meanwhile must not find it first
        require_free(name, [channel.name for channel in service.catalogue.channels(project.name)])
        place = free_place(service.place_for(project.dataset, project.name, name))
        _make_volume(project, place, meant, facts)
        service.catalogue.add_channel(
            Channel(
                project.name,
                name,
                str(place),
                str(meant),
                dtype,
                read_only=bool(facts.get("readonly", 0)),
                description=str(facts.get("channel_description", "")),
                made=True,
                extra={"ndstore": kept},
            )
        )
    service.voxels.forget()


def _make_volume(project: Project, place: Path, kind: Kind, facts: Mapping[str, Any]) -> None:
    first, last = facts.get("starttime", 0), facts.get("endtime", 1)
    timed = facts["channel_type"] == "timeseries" or last - first > 1
    unit = cuboid(project.scaling, project.voxel_size, 0)
    api.create(
        str(place),
        shape=(*((max(1, last - first),) if timed else ()), *project.shape),
        dtype=facts["channel_datatype"],
        axes="tzyx" if timed else "zyx",
        chunks=(*((1,) if timed else ()), *(min(n, c) for n, c in zip(project.shape, unit, strict=True))),
        offset=(*((first,) if timed else ()), *project.offset),
        voxel_size=(*((1.0,) if timed else ()), *project.voxel_size),
        kind=str(kind),
    )


def require_free(name: str, taken: Sequence[str]) -> None:
    """Raise PlanError for what is no name, Conflict for one of `taken`."""
    if not NAME.fullmatch(name):
        raise PlanError(f"{name!r} is no name")
    if name in taken:
        raise Conflict(f"{name} is there already")

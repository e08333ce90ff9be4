"""Coarser levels on request: `setPropagate/1/` begins to make them, `getPropagate/` tells 0, 1 or 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.remotes.ndstore.frame import factor
from ndbatch.server.calls import Call, plain
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.ndstore.tokens import channel_of, fitting, keep_own, propagation
from ndbatch.server.pyramids import begin

if TYPE_CHECKING:
    from ndbatch.server.service import Service


def respond(service: Service, call: Call, project: Project, parts: Sequence[str]) -> Response:
    """Answer `channel[,channel]/getPropagate/` and `channel[,channel]/setPropagate/VALUE/`."""
    channels = [channel_of(service, project, name) for name in parts[0].split(",")]
    if parts[1] == "getPropagate":
        return plain(",".join(str(propagation(service, project, channel)) for channel in channels))
    service.access.require_write(call)
    for channel in channels:
        _set(service, project, channel, parts[2] if len(parts) > 2 else "")
    return Response(b"", media_type="text/plain")


def _set(service: Service, project: Project, channel: Channel, value: str) -> None:
    now = propagation(service, project, channel)
    if value == "1" and now == 0 and not channel.read_only:
        if project.levels < 2:
            raise PlanError(f"{project.name} has one level; scalinglevels of its dataset decides")
        if fitting(service, project, channel) < min(channel.levels, project.levels):
            raise PlanError(
                f"{channel.name} has coarser levels of another shape than its dataset's; copy it to another channel to have those"
            )
        factors = dict(zip("zyx", factor(project.scaling, 1), strict=True))
        begin(service, channel, project.levels, factors)
    elif value == "0" and now != 1:
        keep_own(service, channel, stale=True)
    else:
        raise PlanError(f"Cannot set propagate of {channel.name} to {value or 'nothing'}; it is {now}")

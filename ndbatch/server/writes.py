"""Writes into channels by any protocol: whether one is taken, and what else no longer follows from the voxels afterwards.

A channel that is only read is refused here for every protocol. A version of DVID makes it so: what was committed is changed by
nobody. Coarser levels, and the index of labels that DVID keeps, are marked as old; they are made anew when that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import Denied
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.server.catalogue import Channel
from ndbatch.server.pyramids import note_write

if TYPE_CHECKING:
    from ndbatch.server.service import Service

COMMITTED, COUNTED, APART = "committed", "counted", "apart"
"""What DVID keeps of a channel: the version that was committed with it; whether its labels are counted and unchanged since; and
whether it lies in no frame of ndstore and BOSS, as a coarser level that is an instance of its own, or voxels below 0."""


def of_dvid(channel: Channel) -> Mapping[str, Any]:
    """Return what DVID keeps of a channel."""
    facts: Mapping[str, Any] = channel.extra.get("dvid", {})
    return facts


def keep_of_dvid(service: Service, channel: Channel, read_only: bool | None = None, **facts: Any) -> None:
    """Keep more of what DVID knows of a channel, and whether it is only read."""
    with service.catalogue.transaction():
        known = service.catalogue.channel(channel.project, channel.name)
        extra = {**known.extra, "dvid": {**of_dvid(known), **facts}}
        only = known.read_only if read_only is None else read_only
        service.catalogue.change_channel(channel.project, channel.name, extra=extra, read_only=only)


def refusal(channel: Channel) -> str:
    """Return why nothing is written to a channel; empty where it may be."""
    if version := of_dvid(channel).get(COMMITTED):
        return (
            f"Channel {channel.name} is readonly: its version {version[:12]} was committed by DVID; write to a later version "
            "by dvid://, or to another channel"
        )
    return f"Channel {channel.name} is readonly" if channel.read_only else ""


def require_writable(channel: Channel) -> None:
    """Raise Denied where a channel is only read."""
    if said := refusal(channel):
        raise Denied(said)


def write(service: Service, channel: Channel, level: int, box: Box, data: Array, merge: bool = False) -> None:
    """Store voxels (the volume's axes) at a level of a channel; with `merge` zeros change nothing. Denied: it is only read."""
    require_writable(channel)
    service.voxels.write(service.volume(channel, level), box, np.ascontiguousarray(data), merge)
    written(service, channel, level)


def written(service: Service, channel: Channel, level: int) -> None:
    """Mark what no longer follows from the voxels of a channel, a level of which was changed."""
    if level:
        return
    note_write(service, channel)
    if channel.kind == "labels" and of_dvid(service.catalogue.channel(channel.project, channel.name)).get(COUNTED):
        keep_of_dvid(service, channel, counted=False)

"""The volume behind a channel that was made through the service: where it may lie, and how it goes away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ndbatch.errors import Denied, NotFound
from ndbatch.remotes.address import parse
from ndbatch.remotes.registry import store_class
from ndbatch.server.catalogue import Channel
from ndbatch.server.writes import COMMITTED, of_dvid, refusal

if TYPE_CHECKING:
    from ndbatch.server.service import Service


def free_place(place: Path) -> Path:
    """Return a path at which there is nothing yet: a channel that was removed a moment ago may still be going away."""
    number = 1
    while (found := place.with_name(f"{place.stem}{'' if number == 1 else f'-{number}'}{place.suffix}")).exists():
        number += 1
    return found


def require_made(channel: Channel) -> None:
    """Raise Denied for a channel that was found in the folder, and for one that was committed."""
    if not channel.made:
        raise Denied(f"{channel.name} was found in the folder that is served; remove it there")
    if of_dvid(channel).get(COMMITTED):
        raise Denied(refusal(channel))


def remove_channel(service: Service, channel: Channel) -> None:
    """Remove a channel that was made through the service, and its voxels. Denied for one that was found in the folder."""
    require_made(channel)
    service.catalogue.remove_channel(channel.project, channel.name)
    address = parse(channel.url)
    try:
        store_class(address.scheme).delete(address)
    except NotFound:
        return  # another process that serves the folder was faster
    finally:
        service.voxels.forget()

"""Coarser levels of served channels, made in the background by a run of ndbatch; one at a time for each channel.

What is being made is in the catalogue, so that every process that serves the folder tells the same of it: with the number of the
process that makes it, so that a process that died is told from one that works.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ndbatch import events
from ndbatch.downsampling import downsample, remade_config
from ndbatch.errors import Conflict, NdbatchError, PlanError
from ndbatch.remotes import api
from ndbatch.runner import run
from ndbatch.server.catalogue import Channel
from ndbatch.server.service import TOLD

if TYPE_CHECKING:
    from ndbatch.server.service import Service

LOG = logging.getLogger("ndbatch.server")
SCOPE = "pyramids"
CLUSTER = {"kind": "threads", "workers": 2}
"""What makes levels beside a service that goes on answering."""


class Making(StrEnum):
    """What is known of the making of a channel's levels."""

    IDLE = "idle"
    RUNNING = "running"
    CANCELLED = "cancelled"
    FAILED = "failed"


def making(service: Service, channel: Channel) -> Making:
    """Return whether levels of a channel are being made now, or why they are not whole."""
    kept = _kept(service, channel)
    state = Making(kept.get("state", Making.IDLE))
    if state is Making.RUNNING and not psutil.pid_exists(int(kept["process"])):
        return Making.FAILED
    return Making.RUNNING if state is Making.CANCELLED and psutil.pid_exists(int(kept["process"])) else state


def reason(service: Service, channel: Channel) -> str:
    """Return why the last making failed; empty where it did not."""
    return str(_kept(service, channel).get("reason", ""))


def stale(channel: Channel) -> bool:
    """Return whether voxels were written, by any protocol, since the coarser levels were made."""
    return any(isinstance(facts, Mapping) and facts.get("stale") for facts in channel.extra.values())


def note_write(service: Service, channel: Channel) -> None:
    """Remember that the coarser levels of a channel, there or being made, do not follow from its voxels any more."""
    if not stale(channel) and (channel.levels > 1 or making(service, channel) is Making.RUNNING):
        _mark(service, channel, True)


def begin(
    service: Service,
    channel: Channel,
    levels: int,
    factors: Mapping[str, int],
    done: Callable[[], None] = lambda: None,
    resting: Making = Making.IDLE,
) -> None:
    """Begin to make `levels` levels, level 0 included, and return; those that are there are made anew.

    `factors` are voxels along z, y, x to one of the next level; `done` is called when all are there. What is written meanwhile
    makes them `stale`. Raises Conflict where they are being made already.
    """
    with service.catalogue.transaction():
        if making(service, channel) is Making.RUNNING:
            raise Conflict(f"levels of {channel.project}/{channel.name} are being made already")
        _keep(service, channel, Making.RUNNING)
        _mark(
            service, channel, False
        )  # before the first voxel is read: what is written from now on makes them stale again
    arguments = (service, channel, levels, dict(factors), done, resting)
    threading.Thread(target=_make, args=arguments, name="ndbatch-levels", daemon=True).start()


def cancel(service: Service, channel: Channel) -> None:
    """Have the making of levels end at the next opportunity; nothing happens where none are made."""
    with service.catalogue.transaction():
        if making(service, channel) is Making.RUNNING:
            _keep(service, channel, Making.CANCELLED, process=int(_kept(service, channel)["process"]))


def _make(
    service: Service, channel: Channel, levels: int, factors: dict[str, int], done: Callable[[], None], resting: Making
) -> None:
    """Make the levels and keep what came of it; a failure is logged and kept, since nobody waits here."""

    def look(event: events.Event) -> None:
        if isinstance(event, events.RunEnded):
            return  # too late to stop anything
        if _kept(service, channel).get("state") == Making.CANCELLED:
            raise KeyboardInterrupt

    state, why = resting, ""
    try:
        if _all_made(service, channel, levels, factors, look):
            done()
        elif _kept(service, channel).get("state") != Making.CANCELLED:
            state, why = Making.FAILED, "some blocks failed"
        else:
            _mark(service, channel, True)
    except NdbatchError as error:
        state, why = Making.FAILED, error.message
    except KeyboardInterrupt:  # between two runs, where none is there to take it
        _mark(service, channel, True)
    except Exception as error:
        LOG.exception("levels of %s", channel.url)
        state, why = Making.FAILED, str(error)
    try:
        service.voxels.forget()
        found = service.volume(channel).levels
        service.catalogue.change_channel(channel.project, channel.name, levels=found)
        _keep(service, channel, state, reason=why)
    except NdbatchError as error:  # the channel was removed meanwhile
        LOG.warning("levels of %s: %s", channel.url, error.message)
        service.catalogue.forget(SCOPE, _key(channel))


def _mark(service: Service, channel: Channel, old: bool) -> None:
    """Keep that levels are stale, or forget it for every protocol."""
    known = service.catalogue.channel(channel.project, channel.name)
    extra = {
        name: {key: value for key, value in facts.items() if key != "stale"} if isinstance(facts, Mapping) else facts
        for name, facts in known.extra.items()
    }
    extra["pyramid"] = {"stale": old}
    service.catalogue.change_channel(channel.project, channel.name, extra=extra)


def _all_made(service: Service, channel: Channel, levels: int, factors: dict[str, int], look: events.Observer) -> bool:
    """Return whether all levels are there and follow from level 0."""
    if told := channel.extra.get(TOLD):
        raise PlanError(
            f"{channel.name} is served with the {', '.join(sorted(told))} of the configuration, which its file does not have; "
            "make its levels where it is stored, with ndbatch downsample"
        )
    place = service.state / "pyramids" / channel.project / channel.name
    there = api.open(channel.url).levels
    if there > 1:
        wanted = {"levels": there - 1, "factors": factors}
        result = run(
            remade_config(channel.url, wanted, cluster=CLUSTER, directory=place / "again"),
            fresh=True,
            observers=[look],
            report=False,
        )
        if result.status != "done":
            return False
    if there >= levels:
        return True
    more = downsample(
        channel.url,
        levels=levels - there,
        factors=factors,
        cluster=CLUSTER,
        directory=_unused(place),
        observers=[look],
    )
    return more.status == "done"


def _unused(place: Path) -> Path:
    """Return a directory for a run that adds levels: one that has none of an earlier run of a channel of this name."""
    number = 0
    while (place / f"added-{number}").exists():
        number += 1
    return place / f"added-{number}"


def _key(channel: Channel) -> str:
    return f"{channel.project}/{channel.name}"


def _kept(service: Service, channel: Channel) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.catalogue.document(SCOPE, _key(channel)) or b"{}")
    return found


def _keep(service: Service, channel: Channel, state: Making, **facts: Any) -> None:
    body = json.dumps({"process": os.getpid(), **facts, "state": state}).encode()
    service.catalogue.keep(SCOPE, _key(channel), body)

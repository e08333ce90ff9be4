"""Addresses of served channels, as those write them who open them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.service import PROTOCOLS, Service


@dataclass(frozen=True)
class Known:
    """One address of a channel, and who takes it."""

    text: str
    taken_by: str


Address = Callable[[Service, str, Project, Channel], Known | None]
"""The optional function `address` of a protocol's module: the service, `http://host:port`, what it is of; None where the
protocol cannot show the channel."""


def addresses(service: Service, base: str, project: Project, channel: Channel) -> list[Known]:
    """Return the addresses of a channel of a service that answers at `base`, `http://host:port`."""
    makers: list[Address | None] = [getattr(import_module(name), "address", None) for name in PROTOCOLS]
    found = [make(service, base, project, channel) for make in makers if make is not None]
    return [one for one in found if one is not None]

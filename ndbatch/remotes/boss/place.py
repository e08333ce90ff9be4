"""Where an address of BOSS leads, and who asks: host, collection, experiment, channel; the token that goes with the host.

A token is sent to the host that it belongs to and to no other: one from `~/.intern/intern.cfg` or the environment goes to the
host that is named beside it; one beside which no host stands goes to the host of the address.
"""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ndbatch.errors import PlanError
from ndbatch.remotes.address import Address
from ndbatch.remotes.http.client import base_and_path

PUBLIC = "https://api.bossdb.io"
PUBLIC_TOKEN = "public"
SECTIONS = ("Default", "Volume Service", "Project Service", "Metadata Service")
"""Sections of `intern.cfg` in the order in which they are looked into."""


@dataclass(frozen=True)
class Login:
    """A host and its token, as intern keeps them; either may be empty."""

    base: str
    token: str


@dataclass(frozen=True)
class Resource:
    """A service at `base` and up to three names: collection, experiment, channel."""

    base: str
    names: tuple[str, ...]

    @property
    def collection(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def experiment(self) -> str:
        """The second name."""
        return self.names[1]

    @property
    def channel(self) -> str:
        """The third name."""
        return self.names[2]


def resource_of(address: Address) -> Resource:
    """Return what `boss://host/...` names, and `bossdb://...`, where the host may be left out.

    Raises PlanError for more than three names.
    """
    if address.scheme == "bossdb" and "://" not in address.path:
        base, names = _usual().base or PUBLIC, tuple(part for part in address.path.split("/") if part)
    else:
        base, names = base_and_path(address)
    if len(names) > 3:
        raise PlanError(
            f"{address.url} goes on after collection/experiment/channel with {'/'.join(names[3:])}; a level is written "
            f"?level={names[3] if names[3].isdigit() else 1}"
        )
    return Resource(base, names)


def channel_of(address: Address) -> Resource:
    """Return the channel that an address names. PlanError where it names less or more."""
    resource = resource_of(address)
    if len(resource.names) != 3:
        raise PlanError(
            f"{address.url} names no volume; write {address.scheme}://"
            f"{'host/' if address.scheme == 'boss' else ''}collection/experiment/channel"
        )
    return resource


def token_for(address: Address, base: str) -> str:
    """Return the token for the service at `base`: the address's own, intern's for this host, else the public one."""
    if address.token is not None:
        return address.token.resolve()
    for known in (_configured(), _environment()):
        if known.token and (not known.base or urlsplit(known.base).netloc == urlsplit(base).netloc):
            return known.token
    return PUBLIC_TOKEN


def _usual() -> Login:
    """Return the service that `bossdb://` means where it names no host."""
    return next((known for known in (_configured(), _environment()) if known.base), Login("", ""))


def _configured() -> Login:
    """Return what `~/.intern/intern.cfg` says. PlanError where it cannot be read."""
    path = Path("~/.intern/intern.cfg").expanduser()
    if not path.is_file():
        return Login("", "")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        reason = type(error).__name__  # what the parser says repeats the line, which may hold the token
        raise PlanError(
            f"{path} cannot be read as a configuration of intern ({reason}); correct or remove it"
        ) from None
    for section in SECTIONS:
        if parser.has_section(section):
            facts = parser[section]
            return Login(_base(facts.get("protocol", ""), facts.get("host", "")), facts.get("token", ""))
    return Login("", "")


def _environment() -> Login:
    known = os.environ
    return Login(_base(known.get("INTERN_PROTOCOL", ""), known.get("INTERN_HOST", "")), known.get("INTERN_TOKEN", ""))


def _base(protocol: str, host: str) -> str:
    return f"{protocol or 'https'}://{host.strip('/')}" if host else ""

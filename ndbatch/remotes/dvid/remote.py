"""A DVID server as a remote: its repositories, their versions, and the instances in them that are volumes.

`dvid://host` is the server, whose volumes are called `version/instance`; `dvid://host/version` is one version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ndbatch.errors import Denied, NdbatchError, PlanError, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.dvid.info import IMAGES, TYPES, Info
from ndbatch.remotes.dvid.instances import add
from ndbatch.remotes.dvid.service import Place
from ndbatch.remotes.dvid.volume import DvidVolume
from ndbatch.remotes.http.client import in_flight, segment
from ndbatch.remotes.remote import Entry, Remote, entry_of

_VERSION = re.compile(r"[0-9a-fA-F]{1,32}(:.*)?|:.+")
"""What may stand for a version: a name or its beginning, a branch after it, or a branch alone."""


@dataclass(frozen=True)
class Version:
    """One node of a repository's graph of versions."""

    uuid: str
    branch: str
    """`master` is the first branch of every repository."""
    locked: bool
    parents: tuple[str, ...]
    children: tuple[str, ...]
    note: str = ""


class DvidRemote(Remote):
    """A server, or one version in it. Asks nothing before a method is called."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._place = Place.of(address)

    # -- volumes -----------------------------------------------------------------------------------------------------------

    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the volumes of the version, or of the roots of all repositories; `depth` means nothing here."""
        del depth
        if self._place.uuid:
            return self._volumes("", self._place.repository())
        return [
            entry for root, about in sorted(self.repositories().items()) for entry in self._volumes(f"{root}/", about)
        ]

    def _volumes(self, before: str, about: Mapping[str, Any]) -> list[Entry]:
        found = about["DataInstances"]
        levels = {f"{name}_{level}" for name in found for level in range(1, 20) if Info(found[name]).typename in IMAGES}
        names = [name for name in sorted(found) if Info(found[name]).typename in TYPES and name not in levels]
        return list(in_flight([partial(self._entry, before + name) for name in names]))

    def _entry(self, name: str) -> Entry:
        address = self.locate(name)
        try:
            return entry_of(name, address, DvidVolume.open(address))
        except NdbatchError as error:
            return Entry(name, address.url, "dvid", problem=error.message)

    def locate(self, name: str) -> Address:
        """Return the address of a volume: `instance` in a version, `version/instance` in a server. PlanError."""
        parts = [part for part in name.split("/") if part]
        if len(parts) != (1 if self._place.uuid else 2):
            want = "an instance" if self._place.uuid else "version/instance"
            raise PlanError(f"{name!r} is not {want} of {self.url}; ndbatch ls {self.url} lists the volumes")
        if self._place.instance:
            raise PlanError(f"{self.url} is a volume, and holds none")
        return replace(self.address, path="/".join((self.address.path.rstrip("/"), *parts)))

    def destination(self, name: str) -> Address:
        """Return this address where it names an instance already, else `name` in it.

        What stands for the version and cannot be one is the alias of a repository, which is made where it is missing: Denied,
        or PlanError where several have that alias.
        """
        if not self._place.uuid or _VERSION.fullmatch(self._place.uuid):
            return self.address if self._place.instance else self.locate(name)
        place = self._place
        known = [root for root, about in self.repositories().items() if about.get("Alias") == place.uuid]
        if len(known) > 1:
            raise PlanError(
                f"{self.url}: {len(known)} repositories are called {place.uuid}; name a version, {known[0]}"
            )
        root = known[0] if known else self.new_repository(place.uuid)
        host = self.address.path.removesuffix("/".join(filter(None, (place.uuid, place.instance))))
        return replace(self.address, path=f"{host}{root}:master/{place.instance or name}")

    # -- repositories and versions -------------------------------------------------------------------------------------------

    def repositories(self) -> dict[str, dict[str, Any]]:
        """Return what the server tells of each repository, by the name of its root."""
        found: dict[str, dict[str, Any]] = self._place.request("GET", "/repos/info").json()
        return {root: about for root, about in found.items() if about}

    def new_repository(self, alias: str, description: str = "") -> str:
        """Make a repository and return the name of its root. Denied where the server wants its admin token for it."""
        body = json.dumps({"alias": alias, "description": description}).encode()
        return str(self._place.request("POST", "/repos", body=body, again=False).json()["root"])

    def versions(self) -> list[Version]:
        """Return the versions of the repository, oldest first."""
        nodes = self._version().repository()["DAG"]["Nodes"]
        names = {node["VersionID"]: uuid for uuid, node in nodes.items()}
        rows = sorted(nodes.values(), key=lambda node: int(node["VersionID"]))
        return [
            Version(
                node["UUID"],
                node["Branch"] or "master",
                bool(node["Locked"]),
                tuple(names[one] for one in node["Parents"] or [] if one in names),
                tuple(names[one] for one in node["Children"] or [] if one in names),
                node.get("Note") or "",
            )
            for node in rows
        ]

    def locked(self) -> bool:
        """Return whether the version is locked."""
        return self._version().locked()

    def commit(self, note: str, log: tuple[str, ...] = ()) -> None:
        """Lock the version for good; Denied where it is locked already."""
        self._act("commit", {"note": note, "log": list(log)})

    def newversion(self, note: str = "") -> str:
        """Make an open version that follows this one, which must be locked, on its branch, and return its name."""
        return str(self._act("newversion", {"note": note})["child"])

    def branch(self, name: str, note: str = "") -> str:
        """Make an open version on a new branch from this one, which must be locked, and return its name."""
        return str(self._act("branch", {"branch": name, "note": note})["child"])

    def _act(self, what: str, told: Mapping[str, Any]) -> dict[str, Any]:
        place = self._version()
        if what == "commit" and place.locked():
            raise Denied(f"{self.url}: version {place.uuid} is locked already", url=self.url)
        if what != "commit" and not place.locked():
            raise RemoteError(
                f"{self.url}: version {place.uuid} is open, and nothing follows an open one; commit it first",
                url=self.url,
            )
        path = f"/node/{segment(place.uuid)}/{what}"
        answer: dict[str, Any] = place.request("POST", path, body=json.dumps(dict(told)).encode(), again=False).json()
        return answer

    # -- instances ---------------------------------------------------------------------------------------------------------

    def instances(self) -> dict[str, str]:
        """Return the type of every data instance of the repository, by name."""
        found = self._version().repository()["DataInstances"]
        return {name: Info(one).typename for name, one in sorted(found.items())}

    def new_instance(self, name: str, typename: str, **settings: object) -> None:
        """Make a data instance of any type, with the settings of DVID (`BlockSize="64,64,64"`). Conflict, Denied."""
        place = self._version()
        place.require_open()
        add(place, {"typename": typename, "dataname": name, **{key: str(value) for key, value in settings.items()}})

    def data(self, name: str) -> Place:
        """Return the instance `name` as what keyvalue, annotation and roi functions take."""
        return self._version().named(name)

    def _version(self) -> Place:
        if not self._place.uuid:
            raise PlanError(
                f"{self.url} is a server; name a version, such as {self.url}/28841c8277e0 or {self.url}/:master"
            )
        return self._place

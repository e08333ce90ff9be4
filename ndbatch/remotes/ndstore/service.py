"""Calls of an ndstore other than voxels: tokens, info, datasets, projects, channels, propagation, metadata; and its errors.

Every error of ndstore is a 404 with a sentence, so what a 404 means depends on what was asked. Paths are sent clean, under the
prefix `/nd` or the one that the address names (`?prefix=ocp`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndbatch.errors import Conflict, Denied, NdbatchError, NotFound, PlanError, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.http.client import Client, Reply, base_and_path, client, segment
from ndbatch.remotes.ndstore.frame import UNIT, Info

PREFIX = "nd"
ENVIRONMENT = "NDSTORE_TOKEN"
"""Variable of the environment that holds the key of the user, where the address refers to none."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where an address leads: the base of the data service, and up to two names, token and channel."""

    base: str
    names: tuple[str, ...]


def place_of(address: Address) -> Place:
    """Return where an address leads. PlanError where it goes on after the channel."""
    base, names = base_and_path(address, "http")
    if len(names) > 2:
        raise PlanError(
            f"{address.url} goes on after token/channel with {'/'.join(names[2:])}; a level is written ?level=1"
        )
    return Place(f"{base}/{address.option('prefix', PREFIX).strip('/')}", names)


def channel_of(address: Address) -> tuple[str, str]:
    """Return token and channel of an address. PlanError where it names less."""
    names = place_of(address).names
    if len(names) != 2:
        raise PlanError(f"{address.url} names no volume; write ndstore://host/token/channel")
    return names[0], names[1]


def meaning(reply: Reply) -> NdbatchError | None:
    """Return what an error of ndstore means; None where the standard says it."""
    said = " ".join(reply.text.split())[:300] or "nothing more was said"
    facts = {"url": reply.url, "status": reply.status}
    if reply.status in (401, 403):
        return Denied(
            f"{reply.url} refused ({reply.status}): {said}; give the key of a user who may do this, in token: or {ENVIRONMENT}",
            **facts,
        )
    if reply.status == 404:
        return NotFound(f"{reply.url}: {said}", **facts)
    if reply.status == 400:
        return RemoteError(f"{reply.url} was not accepted: {said}", **facts)
    return None


def connected(address: Address) -> Service:
    """Return the service that an address leads to. Nothing is asked of it."""
    key = address.token.resolve() if address.token is not None else os.environ.get(ENVIRONMENT, "")
    headers = {"Authorization": f"Token {key}"} if key else {}
    return Service(client(place_of(address).base, headers, meaning), headers, address.url)


class Service:
    """Resources of one ndstore. Methods raise NotFound, Denied, Conflict, Transient or RemoteError."""

    def __init__(self, client: Client, headers: Mapping[str, str], url: str) -> None:
        self.client, self.url, self._headers = client, url, headers

    def tokens(self) -> list[str]:
        """Return the names of all public tokens, sorted."""
        return sorted(str(name) for name in self.client.get("/sd/public_tokens/").json())

    def info(self, token: str, version_of: str = "") -> Info:
        """Return what a token is; NotFound where there is none.

        `version_of` asks a service that can tell (`ndbatch serve`) for the version of a channel's voxels.
        """
        query = {"version": version_of} if version_of else None
        return Info(self.client.get(f"/sd/{segment(token)}/info/", query=query).json(), self.url)

    # -- making and removing ---------------------------------------------------------------------------------------------

    def add_dataset(self, name: str, facts: Mapping[str, Any], unit: str = "") -> None:
        """Make a dataset. One that is there with the same geometry is taken; Conflict where it has another.

        `unit` is that of the voxel sizes; it is told to a service that knows of units (`ndbatch serve`), others refuse it.
        """
        path, fields = f"/resource/dataset/{segment(name)}/", {"dataset_name": name, **facts}
        if unit and self._post(path, {**fields, UNIT: unit}):
            return
        if not self._post(path, fields):
            there = self.client.get(path).json()
            wrong = [key for key, value in facts.items() if key in there and _differs(there[key], value)]
            if wrong:
                raise Conflict(
                    f"{self.url}: the dataset {name} is there with {wrong[0]} {there[wrong[0]]} where {facts[wrong[0]]} is due; "
                    "name another with ?dataset=",
                    url=self.url,
                )

    def add_project(self, dataset: str, name: str) -> None:
        """Make a project and its token of the same name; those that are there are taken."""
        path = f"/resource/dataset/{segment(dataset)}/project/{segment(name)}"
        self._post(f"{path}/", {"project_name": name, "public": 1})
        self._post(f"{path}/token/{segment(name)}/", {"token_name": name, "public": 1})

    def add_channel(self, info: Info, token: str, name: str, facts: Mapping[str, Any]) -> None:
        """Make a channel: as a resource, or in the older way where the service has no resources."""
        if self._post(f"{self._channels(info)}/{segment(name)}/", {"channel_name": name, **facts}):
            return
        old = {
            "channel_name": name,
            "channel_type": facts["channel_type"],
            "datatype": facts["channel_datatype"],
            "readonly": 0,
            "timerange": [facts["starttime"], facts["endtime"]],
        }
        self.client.post_json(f"/sd/{segment(token)}/createChannel/", {"channels": {name: old}}, again=False)

    def delete_channel(self, info: Info, token: str, name: str) -> None:
        """Remove a channel: as a resource, or in the older way."""
        try:
            self.client.delete(f"{self._channels(info)}/{segment(name)}/", expect=(204,))
        except Denied:
            raise
        except RemoteError:
            self.client.post_json(f"/sd/{segment(token)}/deleteChannel/", {"channels": [name]}, again=False)

    def _channels(self, info: Info) -> str:
        project = str(info.document.get("project", {}).get("name", ""))
        return f"/resource/dataset/{segment(info.name)}/project/{segment(project)}/channel"

    def _post(self, path: str, facts: Mapping[str, Any]) -> bool:
        """Return whether something was made; False where the service did not accept it, for reasons that it keeps to itself."""
        try:
            self.client.post_json(path, dict(facts), expect=(201,), again=False)
        except (Denied, Conflict):
            raise
        except RemoteError as error:
            if error.fields.get("status") not in (400, 404):
                raise
            return False
        return True

    # -- levels ----------------------------------------------------------------------------------------------------------

    def propagation(self, token: str, channel: str) -> int:
        """Return 0 where levels do not follow from the voxels, 1 while they are made, 2 where they do."""
        text = self.client.get(f"/sd/{segment(token)}/{segment(channel)}/getPropagate/").text.strip()
        return int(text) if text in ("0", "1", "2") else 0

    def set_propagation(self, token: str, channel: str, value: int) -> None:
        """Start the making of levels (1), or say that they no longer follow from the voxels (0)."""
        self.client.get(f"/sd/{segment(token)}/{segment(channel)}/setPropagate/{value}/", again=False)

    # -- metadata --------------------------------------------------------------------------------------------------------

    def metadata(self, token: str) -> Document:
        """Return the document that is kept with a token; empty where there is none."""
        try:
            found = self._lims().get(f"/metadata/ocp/get/{segment(token)}/").json()
        except NotFound:
            return {}
        return found if isinstance(found, dict) else {}

    def set_metadata(self, token: str, document: Mapping[str, Any]) -> None:
        """Keep a document with a token: its fields in place of those that were there."""
        self._lims().post_json(f"/metadata/ocp/set/{segment(token)}", dict(document))

    def _lims(self) -> Client:
        """Return the client of the metadata service beside the data service."""
        return client(self.client.base.rpartition("/")[0], self._headers, meaning)


def _differs(there: Any, wanted: Any) -> bool:
    both_numbers = isinstance(there, int | float) and isinstance(wanted, int | float)
    return abs(there - wanted) > 1e-6 * max(1.0, abs(wanted)) if both_numbers else False


def sizes(names: Sequence[str], values: Sequence[Any]) -> Document:
    """Return `{xNAME: ..., yNAME: ..., zNAME: ...}` of values in z, y, x."""
    return {f"{axis}{name}": value for name in names for axis, value in zip("zyx", values, strict=True)}

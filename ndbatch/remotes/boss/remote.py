"""A BOSS service as a Remote: `boss://host`, or a collection or an experiment of it; `bossdb://` the public one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ndbatch.errors import NdbatchError, PlanError
from ndbatch.remotes import api
from ndbatch.remotes.address import Address
from ndbatch.remotes.boss.metadata import Metadata
from ndbatch.remotes.boss.place import resource_of
from ndbatch.remotes.boss.service import Service, connected
from ndbatch.remotes.http.client import in_flight
from ndbatch.remotes.remote import Entry, Remote, entry_of


class BossRemote(Remote):
    """A service, a collection, an experiment or a single channel; names of volumes are relative to it."""

    @property
    def service(self) -> Service:
        """The service, for what is no volume: collections, experiments, coordinate frames."""
        return connected(self.address)

    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the channels below it, sorted by name; `depth` bounds how many names below it are gone down."""
        service, top = self.service, resource_of(self.address).names
        found: list[tuple[str, ...]] = [top]
        for _ in range(len(top), min(3, len(top) + depth)):
            lists = in_flight(partial(service.children, names) for names in found)
            found = [(*names, child) for names, children in zip(found, lists, strict=True) for child in children]
        channels = [names for names in found if len(names) == 3]
        return list(in_flight(partial(self._entry, "/".join(names[len(top) :]) or names[-1]) for names in channels))

    def locate(self, name: str) -> Address:
        """Return the address of `name`, which together with the remote's own path is collection/experiment/channel.

        PlanError where it names less or more.
        """
        top = resource_of(self.address).names
        names = tuple(part for part in name.split("/") if part)
        if len(top) == 3 and names in ((), top[-1:]):
            return self.address
        if len(top) + len(names) != 3:
            missing = ("collection", "experiment", "channel")[len(top) :]
            raise PlanError(f"{self.url}: {name!r} names no channel; write {'/'.join(missing) or 'no name at all'}")
        return replace(self.address, path="/".join((self.address.path, *names)))

    def destination(self, name: str) -> Address:
        """Return where a new volume goes: the channel that the remote names, or `name` in its experiment."""
        return self.address if len(resource_of(self.address).names) == 3 else self.locate(name)

    def keys(self, names: Sequence[str] = ()) -> Metadata:
        """Return the metadata of a collection, an experiment or a channel: the remote's own, or that of `names` below it."""
        return Metadata(self.service, (*resource_of(self.address).names, *names))

    def _entry(self, name: str) -> Entry:
        address = self.locate(name)
        try:
            return entry_of(name, address, api.open(address))
        except NdbatchError as error:
            return Entry(name, address.url, address.scheme, problem=error.message)

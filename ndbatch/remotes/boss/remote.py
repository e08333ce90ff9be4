"""A BOSS service as a Remote: `boss://host`, or a collection or an experiment of it; `bossdb://` the public one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ndbatch.remotes.boss.metadata import Metadata
from ndbatch.remotes.boss.place import resource_of
from ndbatch.remotes.boss.service import Service, connected
from ndbatch.remotes.http.client import in_flight
from ndbatch.remotes.http.tree import TreeRemote
from ndbatch.remotes.remote import Entry


class BossRemote(TreeRemote):
    """A service, a collection, an experiment or a single channel; names of volumes are relative to it."""

    ranks = ("collection", "experiment", "channel")

    @property
    def service(self) -> Service:
        """The service, for what is no volume: collections, experiments, coordinate frames."""
        return connected(self.address)

    @property
    def top(self) -> tuple[str, ...]:
        """The names of collection, experiment and channel that the address has."""
        return resource_of(self.address).names

    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the channels below it, sorted by name; `depth` bounds how many names below it are gone down."""
        service, top = self.service, self.top
        found: list[tuple[str, ...]] = [top]
        for _ in range(len(top), min(3, len(top) + depth)):
            lists = in_flight(partial(service.children, names) for names in found)
            found = [(*names, child) for names, children in zip(found, lists, strict=True) for child in children]
        return list(in_flight(partial(self.entry, names) for names in found if len(names) == 3))

    def keys(self, names: Sequence[str] = ()) -> Metadata:
        """Return the metadata of a collection, an experiment or a channel: the remote's own, or that of `names` below it."""
        return Metadata(self.service, (*self.top, *names))

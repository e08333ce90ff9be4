"""Remotes of services whose channels hang in a tree of names: `scheme://host/collection/experiment/channel`, `token/channel`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from ndbatch.errors import NdbatchError, PlanError
from ndbatch.remotes import api
from ndbatch.remotes.address import Address
from ndbatch.remotes.remote import Entry, Remote, entry_of


class TreeRemote(Remote):
    """A service, a branch of its tree or a single channel; names of volumes are relative to it."""

    ranks: ClassVar[tuple[str, ...]]
    """What the names of a whole path are called, the channel last."""

    @property
    @abstractmethod
    def top(self) -> tuple[str, ...]:
        """The names that the remote's own address has, as many as there are ranks at most."""

    def locate(self, name: str) -> Address:
        """Return the address of `name`, which together with the remote's own path is a whole path; PlanError for others."""
        names = tuple(part for part in name.split("/") if part)
        if len(self.top) == len(self.ranks) and names in ((), self.top[-1:]):
            return self.address
        if len(self.top) + len(names) != len(self.ranks):
            missing = "/".join(self.ranks[len(self.top) :])
            raise PlanError(f"{self.url}: {name!r} names no channel; write {missing or 'no name at all'}")
        return replace(self.address, path="/".join((self.address.path, *names)))

    def destination(self, name: str) -> Address:
        """Return where a new volume goes: the channel that the remote names, or `name` in it."""
        return self.address if len(self.top) == len(self.ranks) else self.locate(name)

    def name_of(self, names: tuple[str, ...]) -> str:
        """Return the name, relative to the remote, of the channel with a whole path."""
        return "/".join(names[len(self.top) :]) or names[-1]

    def entry(self, names: tuple[str, ...]) -> Entry:
        """Return what is known of the channel with a whole path; what is wrong with it is its `problem`."""
        name = self.name_of(names)
        address = self.locate(name)
        try:
            return entry_of(name, address, api.open(address))
        except NdbatchError as error:
            return Entry(name, address.url, address.scheme, problem=error.message)

"""An ndstore as a Remote: `ndstore://host`, or a token of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ndbatch.errors import NdbatchError, PlanError
from ndbatch.remotes import api
from ndbatch.remotes.address import Address
from ndbatch.remotes.http.client import in_flight
from ndbatch.remotes.ndstore.service import Service, connected, place_of
from ndbatch.remotes.remote import Entry, Remote, entry_of


class NdstoreRemote(Remote):
    """A service, a token or a single channel; names of volumes are relative to it."""

    @property
    def service(self) -> Service:
        """The service, for what is no volume."""
        return connected(self.address)

    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the channels of all public tokens, or of the token, sorted by name; `depth` 1 stops at tokens."""
        service, top = self.service, place_of(self.address).names
        tokens = list(top[:1]) or (service.tokens() if depth > 1 else [])
        infos = in_flight(partial(service.info, token) for token in tokens)
        pairs = [
            (token, channel) for token, info in zip(tokens, infos, strict=True) for channel in sorted(info.channels)
        ]
        wanted = [pair for pair in pairs if len(top) < 2 or pair[1] == top[1]]
        names = ["/".join(pair[len(top) :]) or pair[1] for pair in wanted]
        return list(in_flight(partial(self._entry, name) for name in names))

    def locate(self, name: str) -> Address:
        """Return the address of `name`, which together with the remote's own path is token/channel; PlanError for others."""
        top = place_of(self.address).names
        names = tuple(part for part in name.split("/") if part)
        if len(top) == 2 and names in ((), top[-1:]):
            return self.address
        if len(top) + len(names) != 2:
            missing = ("token", "channel")[len(top) :]
            raise PlanError(f"{self.url}: {name!r} names no channel; write {'/'.join(missing) or 'no name at all'}")
        return replace(self.address, path="/".join((self.address.path, *names)))

    def destination(self, name: str) -> Address:
        """Return where a new volume goes: the channel that the remote names, or `name` in its token."""
        return self.address if len(place_of(self.address).names) == 2 else self.locate(name)

    def _entry(self, name: str) -> Entry:
        address = self.locate(name)
        try:
            return entry_of(name, address, api.open(address))
        except NdbatchError as error:
            return Entry(name, address.url, address.scheme, problem=error.message)

"""An ndstore as a Remote: `ndstore://host`, or a token of it."""

from __future__ import annotations

from functools import partial

from ndbatch.remotes.http.client import in_flight
from ndbatch.remotes.http.tree import TreeRemote
from ndbatch.remotes.ndstore.service import Service, connected, place_of
from ndbatch.remotes.remote import Entry


class NdstoreRemote(TreeRemote):
    """A service, a token or a single channel; names of volumes are relative to it."""

    ranks = ("token", "channel")

    @property
    def service(self) -> Service:
        """The service, for what is no volume."""
        return connected(self.address)

    @property
    def top(self) -> tuple[str, ...]:
        """The names of token and channel that the address has."""
        return place_of(self.address).names

    def ls(self, depth: int = 3) -> list[Entry]:
        """Return the channels of all public tokens, or of the token, sorted by name; `depth` 1 stops at tokens."""
        service, top = self.service, self.top
        tokens = list(top[:1]) or (service.tokens() if depth > 1 else [])
        infos = in_flight(partial(service.info, token) for token in tokens)
        pairs = [
            (token, channel) for token, info in zip(tokens, infos, strict=True) for channel in sorted(info.channels)
        ]
        wanted = [pair for pair in pairs if len(top) < 2 or pair[1] == top[1]]
        return list(in_flight(partial(self.entry, pair) for pair in wanted))

"""Calls of a BOSS service other than voxels: collections, experiments, channels, coordinate frames, downsampling; and errors.

Documents go as the service has them (JSON, fields in x, y, z). Every resource is a tuple of names: (collection,),
(collection, experiment) or (collection, experiment, channel).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ndbatch.errors import Conflict, Corrupt, Denied, NdbatchError, NotFound, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.boss.place import resource_of, token_for
from ndbatch.remotes.http.client import Client, Reply, client, segment, standard_meaning

Document = dict[str, Any]
KINDS = ("collection", "experiment", "channel")
BAD_ARGUMENT = 1003
"""Code of names that are taken, and of metadata keys that are or are not there."""
TAKEN = (6001, 6002)


def meaning(reply: Reply) -> NdbatchError | None:
    """Return what an error of BOSS means; None where the standard says it.

    A 429 with a document is a quota of bytes a day, which no pause within a run gives back; without one it comes from something
    before the service and passes. `fields["code"]` is the service's own number for the error.
    """
    try:
        said = json.loads(reply.body)
    except ValueError:
        return None
    if not isinstance(said, dict) or not ("message" in said or "detail" in said):
        return None
    words, code = " ".join(str(said.get("message", said.get("detail"))).split()), said.get("code", 0)
    facts = {"url": reply.url, "status": reply.status, "code": code}
    if reply.status == 429:
        return RemoteError(
            f"{reply.url}: the quota of this day is used up ({words}); run the same command again tomorrow, what is done is kept",
            **facts,
        )
    if reply.status in (401, 403):
        return Denied(
            f"{reply.url} refused ({reply.status}): {words}; give a token that may do this, in token:, "
            "~/.intern/intern.cfg or INTERN_TOKEN",
            **facts,
        )
    if code in TAKEN:
        return Conflict(f"{reply.url}: {words}", **facts)
    plain = standard_meaning(reply)
    return type(plain)(f"{reply.url} answered {reply.status}: {words} (code {code})", **facts)


def connected(address: Address) -> Service:
    """Return the service that an address leads to. Nothing is asked of it. Denied where the token is missing."""
    base = resource_of(address).base
    return Service(client(base, {"Authorization": f"Token {token_for(address, base)}"}, meaning))


class Service:
    """Resources of one BOSS service. Methods raise NotFound, Denied, Conflict, Transient or RemoteError."""

    def __init__(self, client: Client) -> None:
        self.client = client

    # -- the tree ----------------------------------------------------------------------------------------------------

    def children(self, names: Sequence[str]) -> list[str]:
        """Return the names of what is in the service (), in a collection or in an experiment, sorted."""
        kind = KINDS[len(names)]
        if names:  # the list of what is not there is answered with a failure of the service
            self.document(names)
        found = self._json(f"{_path(names)}/{kind}/" if names else f"/v1/{kind}/")
        return sorted(str(name) for name in found.get(f"{kind}s", ()))

    def document(self, names: Sequence[str]) -> Document:
        """Return what is known of a resource."""
        return self._json(_path(names))

    def create(self, names: Sequence[str], facts: Mapping[str, Any]) -> Document:
        """Make a resource. Conflict where the name is taken."""
        return self._made(_path(names), {"name": names[-1], **facts}, "/".join(names))

    def update(self, names: Sequence[str], facts: Mapping[str, Any]) -> Document:
        """Change fields of a resource and return all of them. `sources` and `related` of a channel stay as they are."""
        known = self.document(names)
        if len(names) == len(KINDS):  # a change that does not say them empties them
            facts = {name: known.get(name, []) for name in ("sources", "related")} | dict(facts)
        return self._put(_path(names), facts)

    def delete(self, names: Sequence[str]) -> None:
        """Remove a resource that has nothing in it."""
        self.client.delete(_path(names), expect=(204,))

    # -- coordinate frames ---------------------------------------------------------------------------------------------

    def frames(self) -> list[str]:
        """Return the names of all coordinate frames, sorted."""
        return sorted(str(name) for name in self._json("/v1/coord/").get("coords", ()))

    def frame(self, name: str) -> Document:
        """Return a coordinate frame."""
        return self._json(f"/v1/coord/{segment(name)}")

    def create_frame(self, name: str, facts: Mapping[str, Any]) -> Document:
        """Make a coordinate frame. Conflict where the name is taken."""
        return self._made(f"/v1/coord/{segment(name)}", {"name": name, **facts}, f"the coordinate frame {name}")

    def delete_frame(self, name: str) -> None:
        """Remove a coordinate frame that no experiment uses."""
        self.client.delete(f"/v1/coord/{segment(name)}", expect=(204,))

    # -- levels ----------------------------------------------------------------------------------------------------------

    def pyramid(self, names: Sequence[str]) -> Document:
        """Return status, extents and voxel sizes of the levels of a channel, in x, y, z."""
        return self._json(_pyramid(names))

    def downsample(self, names: Sequence[str]) -> None:
        """Have the levels of a channel made; they are queued. Conflict where they are made now, or there already."""
        self.client.post(_pyramid(names), expect=(201,), again=False)

    def cancel_downsample(self, names: Sequence[str]) -> None:
        """Stop the making of levels. Conflict where none are made."""
        self.client.delete(_pyramid(names), expect=(204,))

    # -- wire --------------------------------------------------------------------------------------------------------------

    def _json(self, path: str) -> Document:
        reply = self.client.get(path, headers={"Accept": "application/json"})
        return _mapping(reply)

    def _put(self, path: str, facts: Mapping[str, Any]) -> Document:
        headers = {"Content-Type": "application/json"}
        return _mapping(self.client.put(path, json.dumps(dict(facts)).encode(), headers=headers))

    def _made(self, path: str, facts: Mapping[str, Any], what: str) -> Document:
        try:
            return _mapping(self.client.post_json(path, dict(facts), expect=(201,)))
        except RemoteError as error:
            if error.fields.get("code") != BAD_ARGUMENT:
                raise
            try:
                self._json(path)
            except NotFound:
                raise error from None
            raise Conflict(f"{what} exists already at {self.client.base}", **error.fields) from None


def _path(names: Sequence[str]) -> str:
    return "/v1" + "".join(f"/{kind}/{segment(name)}" for kind, name in zip(KINDS, names, strict=False))


def _pyramid(names: Sequence[str]) -> str:
    return f"/v1/downsample/{'/'.join(map(segment, names))}/"


def _mapping(reply: Reply) -> Document:
    found = reply.json()
    if not isinstance(found, dict):
        raise Corrupt(f"{reply.url} answered with JSON that is no object", url=reply.url)
    return found

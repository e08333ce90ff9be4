"""Requests to a DVID server: what an address names, who asks, and what the server's answers mean.

A DVID answers 400 to nearly everything that is wrong and says in words what it was, so the words decide (DVID source,
`server/web.go`, `datastore/repo.go`).
"""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ndbatch.errors import Conflict, Denied, NdbatchError, NotFound, PlanError, RemoteError
from ndbatch.geometry import Shape
from ndbatch.remotes.address import Address
from ndbatch.remotes.http.client import Client, Reply, base_and_path, client, segment

OPTIONS = ("app", "downres", "level", "supervoxels", "user")
"""Options of an address: who asks (`user`, `app`); for a new labelmap, how many coarser levels it makes of itself
(`downres`); and whether labels are read as supervoxels, not as bodies (`supervoxels=true`)."""
TOKEN = "DVID_ADMIN_TOKEN"
"""Variable of the environment where the clients of DVID keep the server's admin token."""
PORT = 8000
REQUEST_VOXELS = 256**3
"""Most voxels of one request: larger ones take a lock of the whole server, and do not run side by side."""
MEANINGS: tuple[tuple[str, type[RemoteError], str], ...] = (
    (r"locked node|can't modify locked", Denied, "the version is locked; name an open one, or make one with newversion"),
    (r"read-only mode", Denied, "the server is only read"),
    (r"admin", Denied, f"it needs the admin token; put it into {TOKEN}"),
    (r"token|authoriz|permission", Denied, "look at the token"),
    (r"already exists|duplicate", Conflict, "choose another name"),
    (r"UUID is not present|match to|[Uu]nknown (UUID|version)|no UUID|invalid data instance|not found|does not exist", NotFound,
     "look at the version and the name"),
)  # fmt: skip
"""Words of an answer of 400, the error that they stand for, and what to do."""


def meaning(reply: Reply) -> NdbatchError | None:
    """Return what an answer of 400 says in words, and that a refusal wants a token; None where the code alone tells."""
    said = " ".join(reply.text.split())[:300]
    if reply.status in (401, 403):
        return Denied(
            f"{reply.url} refused ({reply.status}): {said}; give the token in token: or {TOKEN}",
            url=reply.url,
            status=reply.status,
        )
    if reply.status != 400:
        return None
    for words, kind, remedy in MEANINGS:
        if re.search(words, said):
            return kind(f"{reply.url}: {said}; {remedy}", url=reply.url, status=400)
    return None


def joined(values: Shape) -> str:
    """Return whole numbers in C-order as they stand in a path: x first, joined by `_`."""
    return "_".join(str(int(value)) for value in reversed(values))


@dataclass(frozen=True)
class Place:
    """What an address names: a server, a version of a repository in it, and a data instance. Picklable."""

    address: Address
    base: str
    uuid: str = ""
    instance: str = ""

    @classmethod
    def of(cls, address: Address) -> Place:
        """Return the parts of `dvid://host[:port][/uuid[/instance]]`. PlanError for more parts than that."""
        base, parts = base_and_path(address, "http")
        if len(parts) > 2:
            raise PlanError(
                f"{address.url}: a volume is dvid://host:port/version/instance, and {parts[2]} is one part more"
            )
        host = base.partition("://")[2]
        if base.startswith("http://") and ":" not in host.rpartition("]")[2]:
            base = f"{base}:{PORT}"
        return cls(address, base, *parts)

    @property
    def url(self) -> str:
        """The address as the user would write it."""
        return self.address.url

    def require_instance(self) -> Place:
        """Return itself; PlanError where the address names no instance."""
        if not self.instance:
            raise PlanError(f"{self.url} names no data instance; write dvid://host:port/version/instance")
        return self

    @cached_property
    def user(self) -> str:
        """Who asks, as the server's log keeps it."""
        return self.address.option("user") or os.environ.get("DVID_USER", "") or _login()

    @cached_property
    def _asking(self) -> tuple[Client, dict[str, str]]:
        token = self.address.token.resolve() if self.address.token else os.environ.get(TOKEN, "")
        signed = token.count(".") == 2  # a JSON web token, which names a user; an admin token is a word of the server
        headers = {"Authorization": f"Bearer {token}"} if signed else {}
        query = {"u": self.user, "app": self.address.option("app", "ndbatch")}
        return client(self.base, headers, meaning), query | ({"admintoken": token} if token and not signed else {})

    def request(self, method: str, path: str, query: dict[str, Any] | None = None, **options: Any) -> Reply:
        """Send a request to `/api` + `path`; the options are those of `Client.request`."""
        asking, always = self._asking
        return asking.request(method, f"/api{path}", query={**always, **(query or {})}, **options)

    def get(self, path: str, query: dict[str, Any] | None = None, **options: Any) -> Reply:
        """GET of the data instance: `path` follows its name."""
        return self.request("GET", self.data(path), query, **options)

    def post(self, path: str, body: bytes, query: dict[str, Any] | None = None, **options: Any) -> Reply:
        """POST to the data instance."""
        return self.request("POST", self.data(path), query, body=body, **options)

    def data(self, path: str) -> str:
        """Return the path of something of the data instance."""
        return f"/node/{segment(self.uuid)}/{segment(self.instance)}{path}"

    def named(self, instance: str) -> Place:
        """Return the place of another instance of the same version."""
        return Place(self.address, self.base, self.uuid, instance)

    def locked(self) -> bool:
        """Return whether the version is locked, so that nothing in it can change."""
        return bool(self.request("GET", f"/node/{segment(self.uuid)}/status").json()["Locked"])

    def require_open(self) -> None:
        """Raise Denied where the version is locked."""
        if self.locked():
            raise Denied(
                f"{self.url}: version {self.uuid} is locked, and nothing in it can be written; name an open version, or make "
                "one with ndbatch.connect(...).newversion()",
                url=self.url,
            )

    def repository(self) -> dict[str, Any]:
        """Return what the server tells of the repository: its versions, its instances. NotFound for an unknown version."""
        try:
            found: dict[str, Any] = self.request("GET", f"/repo/{segment(self.uuid)}/info").json()
        except NotFound as error:
            raise self.missing(f"there is no version {self.uuid}: {error}") from None
        return found

    def missing(self, why: str) -> NotFound:
        """Return the error for an address at which nothing is."""
        return NotFound(f"{self.url}: {self.address.path} is not there; {why}", url=self.url)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "ndbatch"

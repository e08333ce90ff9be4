"""The service: its catalogue, its voxels, who may write; and the application that all protocols are mounted on."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import Denied
from ndbatch.server.catalogue import Catalogue, Channel
from ndbatch.server.voxels import Voxels

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from ndbatch.remotes.base import Volume
    from ndbatch.server.calls import Call

PROTOCOLS = (
    "ndbatch.server.startpage",
    "ndbatch.server.viewer",
    "ndbatch.server.ndstore",
    "ndbatch.server.boss",
    "ndbatch.server.dvid",
    "ndbatch.server.chunked.precomputed",
    "ndbatch.server.chunked.omezarr",
)
"""Modules with a function `routes(service) -> list of starlette routes`, in the order in which they are asked."""
TOLD = "open"
"""What `ndbatch.open` is told of a channel's volume beside its address, among the channel's `extra`."""
STATE = ".ndbatch-serve"
"""The folder of what a service keeps, below its root."""
BODY = 2**31
"""Most bytes of a body: what an ndstore took."""


@dataclass(frozen=True)
class Access:
    """Who may write: `anyone` who reaches the service, `token` who shows one of `tokens`, or `nobody`."""

    write: str = "token"
    tokens: tuple[str, ...] = ()

    def require_write(self, call: Call) -> None:
        """Raise Denied unless the request may change something. Tokens are compared in constant time."""
        if self.write == "anyone":
            return
        shown = call.token or call.query.get("admintoken", "")
        if self.write == "token" and any(hmac.compare_digest(shown.encode(), one.encode()) for one in self.tokens):
            return
        raise Denied("writing needs the header Authorization: Token ..., with the token that ndbatch serve printed")


class Service:
    """Volumes below the folder `root`, served. What the service keeps lies in `root/.ndbatch-serve`."""

    def __init__(self, root: Path, access: Access | None = None, body_limit: int = BODY) -> None:
        self.root = root.resolve()
        self.state = self.root / STATE
        self.access = access or Access(tokens=(secrets.token_hex(20),))
        self.body_limit = body_limit
        self.catalogue = Catalogue(self.state / "catalogue.db", self.root)
        self.voxels = Voxels(self.state)

    def volume(self, channel: Channel, level: int = 0) -> Volume:
        """Return a channel's volume at a level."""
        return self.voxels.open(channel.url, level, channel.extra.get(TOLD))

    def place_for(self, dataset: str, project: str, channel: str) -> Path:
        """Return where the volume of a new channel is made: three checked names below the root. Denied where a link leads out."""
        place = self.root / dataset / project / f"{channel}.zarr"
        if not self.holds(place):
            raise Denied(f"{dataset}/{project} is a link that leads out of the folder; nothing is made there")
        return place

    def holds(self, path: Path) -> bool:
        """Return whether a path lies below the root, once links are followed."""
        return path.resolve().is_relative_to(self.root)


def application(service: Service, protocols: Sequence[str] = PROTOCOLS) -> Any:
    """Return the ASGI application that serves all `protocols`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware

    routes: list[BaseRoute] = []
    for name in protocols:
        make: Callable[[Service], list[BaseRoute]] = import_module(name).routes
        routes += make(service)
    cors = Middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
    )
    return Starlette(routes=routes, middleware=[cors])

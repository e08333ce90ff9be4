"""A service on a port: started, told when it answers, and stopped without losing a write that was answered.

Several processes answer one port: the socket is opened once, and each of them takes connections from it. What they share is
in files: the catalogue, the locks of chunks, and the number that tells them to open volumes anew.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndbatch.errors import Denied, PlanError, missing_extra
from ndbatch.remotes.remote import Entry
from ndbatch.server.memory import GivesBack, share_arenas
from ndbatch.server.scan import Watch, fill, fill_configured
from ndbatch.server.service import STATE, Access, Service, application
from ndbatch.server.settings import Settings
from ndbatch.server.workers import keep_running

GRACE = 30
"""Seconds that requests in flight have to end when the service is stopped."""
WAITING = 2048
"""Connections that wait to be taken."""


@dataclass(frozen=True)
class Answering:
    """What a process of several does: it makes a service of its own over the folder, and answers."""

    root: Path
    write: str
    tokens: tuple[str, ...] = field(repr=False)

    def __call__(self, bound: socket.socket) -> None:
        """Answer on `bound` until SIGTERM."""
        share_arenas()
        server(GivesBack(watched(Service(self.root, Access(self.write, self.tokens))))).run(sockets=[bound])


def watched(service: Service) -> Any:
    """Return the application of a service whose folder is looked through again when somebody lists."""
    service.catalogue.look = Watch(service)
    return application(service)


def prepared(told: Settings) -> tuple[Service, list[Entry], str]:
    """Return the service with its catalogue filled, what cannot be served, and the token if it was made just now, else nothing.

    Raises Denied where the folder cannot be written, for the service keeps its catalogue in it.
    """
    try:
        (told.root / STATE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Denied(
            f"{told.root / STATE} cannot be made ({error.strerror}), and the service keeps its catalogue there; name the "
            "volumes in a YAML file whose folder: can be written"
        ) from None
    token, made = (told.token.resolve(), False) if told.token else kept_token(told.root / STATE / "token")
    service = Service(told.root, Access(told.write, (token,)))
    fill_configured(service, told.volumes)
    return service, fill(service), token if made else ""


def kept_token(path: Path) -> tuple[str, bool]:
    """Return the token in the file `path` and whether it was made now; nobody but its owner may read the file."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_text().strip()
        if not found:
            raise PlanError(f"{path} is empty; remove it, and a new token is made") from None
        return found, False
    token = secrets.token_hex(20)
    with open(file, "w") as out:
        out.write(token + "\n")
    return token, True


def serve(service: Service, bound: socket.socket, workers: int = 1) -> None:
    """Answer on a bound socket until Ctrl-C or SIGTERM; requests in flight are answered first. KeyboardInterrupt may end it."""
    if workers == 1:
        server(GivesBack(watched(service))).run(sockets=[bound])
    else:
        require_server()
        keep_running(Answering(service.root, service.access.write, service.access.tokens), bound, workers)


def require_server() -> Any:
    """Return uvicorn; MissingExtra tells what to install."""
    try:
        import uvicorn
    except ImportError:
        raise missing_extra("uvicorn", "serve", "ndbatch serve") from None
    return uvicorn


def server(app: Any) -> Any:
    """Return the uvicorn server of an application, not started."""
    uvicorn = require_server()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=75,
        backlog=WAITING,
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; PlanError where the port is taken or the host is none of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host.strip("[]"), port))
        bound.listen(WAITING)  # who connects now waits until a process takes the connection
    except OSError as error:
        bound.close()
        raise PlanError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port, or 0 for a free one"
        ) from None
    return bound


def base_address(host: str, bound: socket.socket) -> str:
    """Return `http://host:port` as clients of this machine write it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{bound.getsockname()[1]}"


@contextmanager
def in_background(service: Service, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of this process; yield `http://host:port` once it answers, and stop at the end."""
    bound = listening(host, port)
    running = server(watched(service))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, name="ndbatch-serve", daemon=True)
    thread.start()
    while not running.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield base_address(host, bound)
    finally:
        running.should_exit = True
        thread.join()
        bound.close()

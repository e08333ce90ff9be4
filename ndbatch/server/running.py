"""A service on a port: started, told when it answers, and stopped without losing a write that was answered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ndbatch.errors import PlanError, missing_extra
from ndbatch.server.service import Service, application

GRACE = 30
"""Seconds that requests in flight have to end when the service is stopped."""


def server(service: Service) -> Any:
    """Return the uvicorn server of a service, not started."""
    try:
        import uvicorn
    except ImportError:
        raise missing_extra("uvicorn", "serve", "ndbatch serve") from None
    config = uvicorn.Config(
        application(service),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=75,
        backlog=2048,
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """Return a bound socket; PlanError where the port is taken or the host is none of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PlanError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port, or 0 for a free one"
        ) from None
    return bound


@contextmanager
def in_background(service: Service, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of this process; yield `http://host:port` once it answers, and stop at the end."""
    bound = listening(host, port)
    running = server(service)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, name="ndbatch-serve", daemon=True)
    thread.start()
    while not running.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield f"http://{host}:{bound.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
        bound.close()

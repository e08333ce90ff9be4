"""A service on a free port of this machine, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndbatch.server.running import in_background
from ndbatch.server.scan import fill
from ndbatch.server.service import Access, Service


@contextmanager
def serving(root: Path, access: Access | None = None) -> Iterator[tuple[str, Service]]:
    """Serve the folder `root` from a thread of this process: yield `http://127.0.0.1:PORT` and the service.

    Anyone may write, unless `access` says otherwise.
    """
    service = Service(root, access or Access("anyone"))
    fill(service)
    with in_background(service) as url:
        yield url, service

"""Workers of a local dask cluster that know nothing of the script that started them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from distributed import Nanny
from distributed.core import Status

STARTS = 4
"""Attempts to start a worker process that is killed while it starts."""


class QuietNanny(Nanny):  # type: ignore[misc]
    """Starts, and starts again, a worker process that does not run the main script.

    multiprocessing runs the main script in every process that it spawns, so that a script without a main guard would
    start another cluster in each worker. Workers find users' functions by their text and need nothing of it.
    """

    async def instantiate(self) -> Any:
        """Start the worker process; again where it is killed before it has begun, which dask takes for the cluster's failure."""
        with _no_main():
            for _ in range(STARTS - 1):
                first = self.status in (Status.init, Status.starting)  # later, dask itself starts the worker again
                status = await super().instantiate()
                if status != Status.stopped or not first:
                    return status
            return await super().instantiate()


_hiding: list[ModuleType] = []
"""The main module, once for each worker that is being started; only the event loop's thread looks at it."""


@contextmanager
def _no_main() -> Iterator[None]:
    """Let an empty module stand for the main one as long as any worker is being started."""
    if not _hiding:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    else:
        main = _hiding[-1]
    _hiding.append(main)
    try:
        yield
    finally:
        _hiding.remove(main)
        if not _hiding:
            sys.modules["__main__"] = main

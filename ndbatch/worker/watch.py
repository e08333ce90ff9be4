"""A watch on the memory of this process: better to lose one block, and say why, than to freeze the machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

import psutil

LOOK_EVERY = 0.05
"""Seconds between two looks."""
EXIT_CODE = 137
"""What shells show for a process that was killed for memory."""


class Watch:
    """Calls `over(used, limit)` and ends the process when its resident memory exceeds `limit` bytes.

    `seen` is told the memory at every look. A context manager; the watching thread ends with it.
    """

    def __init__(
        self, limit: int | None, over: Callable[[int, int], None], seen: Callable[[int], None] | None = None
    ) -> None:
        self.limit = limit
        self._over, self._seen = over, seen
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._look, daemon=True, name="ndbatch-watch")

    def _look(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            used = self._process.memory_info().rss
            if self._seen is not None:
                self._seen(used)
            if self.limit is not None and used > self.limit:
                self._over(used, self.limit)
                time.sleep(LOOK_EVERY)  # lets a message about it leave the process
                os._exit(EXIT_CODE)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

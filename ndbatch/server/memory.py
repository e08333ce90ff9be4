"""Memory of a process that answers: used again by the next request, whichever thread answers, and given back when none comes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from typing import Any

IDLE = 0.5
"""Seconds without a request after which memory is given back."""
ARENAS = 2
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def share_arenas() -> None:
    """Let all threads of this process allocate from `ARENAS` arenas, unless MALLOC_ARENA_MAX says how many; glibc only.

    glibc gives threads up to eight arenas a core, and each keeps the most that it ever held. Requests meet another thread each
    time, so that memory would grow for hours, to the largest request times the number of arenas.
    """
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


class GivesBack:
    """An ASGI application that does what `app` does, and gives what is free of the heap back to the system when nobody asks.

    glibc does so by itself only with what lies at a heap's end, so that one small object keeps all below it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._under_way = 0
        self._due: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        self._under_way += 1
        if self._due is not None:
            self._due.cancel()
            self._due = None
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
            if not self._under_way:
                loop = asyncio.get_running_loop()
                self._due = loop.call_later(IDLE, loop.run_in_executor, None, give_back)


def give_back() -> None:
    """Give what is free of the heap back to the system; glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

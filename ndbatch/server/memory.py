"""Memory of a process that answers: used again by the next request, whichever thread answers it."""

from __future__ import annotations

import ctypes
import os
import sys

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

"""How patient a client is: pauses with jitter, a budget of retries for each host, waits that a host asks for, a rate.

A service that begins to fail gets fewer requests, never more: all clients of a process share one `Host`, whose budget gives
one retry for every `1 / SHARE` requests beyond the first `FLOOR`. A host that asks for time (Retry-After) gets it from all
threads.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

PAUSE, LONGEST = 0.2, 20.0
"""Seconds before the second attempt, doubled for each further one, and the most that is waited."""
SHARE, FLOOR = 0.2, 50.0
"""Retries that each request earns, and those that are there from the start; earned ones add up to `FLOOR` again."""
TRICKLE = 0.5
"""Retries a second that come back by themselves, so that a host that recovered is trusted again."""


def pause(attempt: int) -> float:
    """Return the seconds to wait after attempt number `attempt` (1, 2 ...): doubling, cut at `LONGEST`, with jitter."""
    return min(LONGEST, PAUSE * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer asks to wait (seconds or an HTTP date, RFC 9110 section 10.2.3), 0 where it asks none."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Host:
    """What all requests of a process to one host share. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = FLOOR
        self._counted = time.monotonic()
        self._held_until = 0.0
        self._next_free = 0.0

    def earn(self) -> None:
        """Count a request, which earns `SHARE` of a retry; its own repetitions earn nothing."""
        with self._lock:
            self._left = min(FLOOR, self._left + SHARE)

    def may_retry(self) -> bool:
        """Take one retry from the budget; False where none is left."""
        with self._lock:
            now = time.monotonic()
            self._left = min(FLOOR, self._left + (now - self._counted) * TRICKLE)
            self._counted = now
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def hold(self, seconds: float) -> None:
        """Let no request begin for `seconds`, because the host asked for it; `LONGEST` at most."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + min(seconds, LONGEST))

    def begin(self, rate: float | None = None) -> None:
        """Wait until a request may begin: after what the host asked for, and at most `rate` requests a second."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._held_until)
            if rate:
                start = max(start, self._next_free)
                self._next_free = start + 1 / rate
        if start > now:
            time.sleep(start - now)


@cache
def host(origin: str) -> Host:
    """Return this process's record of the host `origin`, such as `https://host:8000`."""
    return Host()


os.register_at_fork(after_in_child=host.cache_clear)  # a lock may be held by a thread that is not here any more

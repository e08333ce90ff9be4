"""A clock that was set back under dask, whose loops wait by the time of day: they may then be silent for as long as it was."""

from __future__ import annotations

import time

from ndbatch.errors import ClusterError

SET_BACK = 30.0
"""Seconds back that a loop may wait for without a word: clocks are set by so much in the ordinary course of things."""
QUIET = 10.0
"""Seconds without a reply, at the least, before the clock is blamed; and four times the longest pause between replies."""


class Clock:
    """Tells a cluster that went silent because the clock was set back from one that is busy."""

    def __init__(self) -> None:
        self._origin = time.time() - time.monotonic()
        self._last, self._longest = time.monotonic(), 0.0

    def heard(self) -> None:
        """Note that a batch came back, or that the first ones go out."""
        now = time.monotonic()
        self._last, self._longest = now, max(self._longest, now - self._last)

    def require_steady(self, title: str) -> None:
        """Raise ClusterError where the clock was set back, and the cluster `title` has been silent since for too long."""
        back = self._origin - (time.time() - time.monotonic())
        if back > SET_BACK and time.monotonic() - self._last > max(QUIET, 4 * self._longest):
            raise ClusterError(
                f"{title} is silent since the clock of this machine was set back by {back:,.0f} s: dask waits by the time "
                "of day; what is done is kept: start the cluster anew, and run the same command again"
            )

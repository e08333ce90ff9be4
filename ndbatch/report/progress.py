"""What a user sees while a run goes on: live bars on a terminal, a line now and then elsewhere, next to nothing if quiet.

One observer, three ways of showing. Nothing here raises: a closed pipe silences the display, never the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from ndbatch.events import (
    BlockFailed,
    BlocksDone,
    Event,
    RunEnded,
    RunStarted,
    StageEnded,
    StageStarted,
    Warned,
    WorkerLost,
    WorkersReady,
)
from ndbatch.report.tally import Tally
from ndbatch.report.words import count, duration, facts

if TYPE_CHECKING:
    from rich.console import Console

    from ndbatch.report.live import LiveBars

Mode = Literal["auto", "live", "plain", "quiet"]
SHOWN_FAILURES = 10
"""Failed blocks told one by one; further ones are counted (all are in the journal and the report)."""


class Progress:
    """An observer that shows a run on `console` (standard error if not given).

    `mode` auto is live on a terminal and plain elsewhere; quiet shows failures, warnings and the end alone. `every` is
    the least time in seconds between two plain progress lines; `clock` gives seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        mode: Mode = "auto",
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if console is None:
            from ndbatch.report.live import PipeConsole

            console = PipeConsole(stderr=True)
        self._console = console
        self._mode: Mode = ("live" if console.is_terminal else "plain") if mode == "auto" else mode
        self._every = every
        self._clock = clock
        self._spoken = -float("inf")
        self._bars: LiveBars | None = None
        self._silent = False
        self.tally = Tally()

    def __call__(self, event: Event) -> None:
        """Show `event`."""
        now = self._clock()
        self.tally.take(event, now)
        if self._silent:
            return
        try:
            self._show(event, now)
        except (OSError, SystemExit):
            self._silent = True

    def close(self) -> None:
        """Leave the last state of the bars standing and give the terminal back; closing twice is fine."""
        if self._bars is not None:
            try:
                self._bars.stop()
            except (OSError, SystemExit):
                self._silent = True
            self._bars = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- showing ---------------------------------------------------------------------------------------------------

    def _show(self, event: Event, now: float) -> None:
        match event:
            case BlockFailed():
                self._failure(event)
            case Warned():
                self._say(f"warning: {event.message}")
            case WorkerLost():
                self._say(f"worker {event.worker} was lost and replaced: {event.reason}")
            case WorkersReady() if event.dashboard and self._mode != "quiet":
                self._say(f"dashboard: {event.dashboard}")
            case RunEnded():
                self._refresh(now)
                self.close()
                self._say(_ending(event))
            case _ if self._mode == "live":
                self._live(event, now)
            case _ if self._mode == "plain":
                self._plain(event, now)
            case _:
                pass

    def _live(self, event: Event, now: float) -> None:
        if isinstance(event, RunStarted):
            from ndbatch.report.live import LiveBars

            self._say(_beginning(event))
            self._bars = LiveBars(self._console, self.tally)
        self._refresh(now)

    def _plain(self, event: Event, now: float) -> None:
        match event:
            case RunStarted():
                self._say(_beginning(event))
            case StageStarted():
                before = f", {event.skipped:,} done before" if event.skipped else ""
                self._say(f"{self.tally.title(event.stage)}: {count(event.blocks, 'block')}{before}")
                self._spoken = now
            case BlocksDone() if now - self._spoken >= self._every and event.stage in self.tally.stages:
                self._say(f"{self.tally.title(event.stage)}: {self.tally.stages[event.stage].line(now)}")
                self._spoken = now
            case StageEnded():
                self._say(self._stage_end(event))
            case _:
                pass

    def _stage_end(self, event: StageEnded) -> str:
        title = self.tally.title(event.stage) if event.stage in self.tally.stages else event.name
        counts = event.counts
        parts = [f"{title}: {count(counts.done + counts.skipped, 'block')} done in {duration(event.seconds)}"]
        parts += [f"{n:,} {word}" for n, word in ((counts.failed, "failed"), (counts.orphaned, "not tried")) if n]
        parts += [f"{name} {told}" for name, told in facts(event.facts) if len(told) <= 60]
        return ", ".join(parts)

    def _failure(self, event: BlockFailed) -> None:
        failed = self.tally.failed
        if failed <= SHOWN_FAILURES:
            tries = "" if event.attempts <= 1 else f" after {event.attempts} attempts"
            self._say(f"block {event.block} ({event.box}) failed{tries}: {event.kind}: {_first_line(event.error)}")
        elif failed == SHOWN_FAILURES + 1:
            self._say("more blocks failed; they are counted from here on, and told one by one in the report")

    def _refresh(self, now: float) -> None:
        if self._bars is not None:
            self._bars.update(self.tally, now)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _beginning(event: RunStarted) -> str:
    stages = f" in {count(len(event.stages), 'stage')}" if len(event.stages) > 1 else ""
    workers = "" if event.executor == "inline" else f" on {count(event.workers, 'worker')}"
    return f"{event.name}: {count(event.blocks, 'block')}{stages}{workers} ({event.executor}), in {event.directory}"


def _ending(event: RunEnded) -> str:
    counts = event.counts
    parts = [f"{count(counts.done + counts.skipped, 'block')} of {counts.planned:,} done"]
    parts += [f"{counts.skipped:,} of them before"] if counts.skipped else []
    parts += [f"{counts.failed:,} failed"] if counts.failed else []
    parts += [f"{counts.orphaned:,} not tried because of that"] if counts.orphaned else []
    left = counts.pending + counts.running
    parts += [f"{left:,} left; the same command continues"] if left else []
    return f"{event.status} after {duration(event.seconds)}: {', '.join(parts)}"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"

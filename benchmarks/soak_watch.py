"""What a soak looks at while it goes on: memory, descriptors and threads of every process, and whether they grow.

A `Watch` samples all processes below this one once a second. Growth is the slope of a straight line through medians: samples
that follow each other are alike, so a line through all of them would claim to know more than it does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from scipy import stats

MIB = 2**20
PARTS = 12
"""Medians that a line is laid through."""
PATIENCE = 10.0
"""Seconds that a dead process may wait to be asked how it ended."""


@dataclass(frozen=True)
class Sample:
    """What one process had at one moment: bytes that only it has and its share of others, descriptors, threads, children."""

    seconds: float
    blocks: int
    memory: int
    resident: int
    descriptors: int
    threads: int
    children: int


@dataclass(frozen=True)
class Slope:
    """A rate of growth with its 95 % interval, `low` to `high`; in what was given, for one step of what it was given over."""

    rate: float
    low: float
    high: float

    def scaled(self, factor: float) -> Slope:
        """Return the slope in other units."""
        return Slope(self.rate * factor, self.low * factor, self.high * factor)

    def grows(self, limit: float) -> bool:
        """Return whether there is growth (the interval is above 0) and it is more than `limit`."""
        return self.low > 0 and self.rate > limit


def slope(over: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Return the slope of `values` over `over` (ascending), through the medians of up to 12 parts; None for fewer than 4."""
    parts = min(PARTS, len(values))
    if parts < 4 or over[-1] <= over[0]:
        return None
    x = [float(np.median(part)) for part in np.array_split(np.asarray(over, float), parts)]
    y = [float(np.median(part)) for part in np.array_split(np.asarray(values, float), parts)]
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, parts - 2)) * float(line.stderr)
    return Slope(float(line.slope), float(line.slope) - half, float(line.slope) + half)


def pooled(series: Iterable[tuple[Sequence[float], Sequence[float]]]) -> Slope | None:
    """Return the common slope of many short series, each with a level of its own: workers that live as long as a run.

    Each series counts by the medians of its first and its last third; the interval is that of their differences. None for
    fewer than 4 series of at least 6 samples.
    """
    steps, rises = [], []
    for over, values in series:
        third = len(values) // 3
        if third < 2 or (step := float(np.median(over[-third:]) - np.median(over[:third]))) <= 0:
            continue
        steps.append(step)
        rises.append(float(np.median(values[-third:]) - np.median(values[:third])))
    if len(steps) < 4:
        return None
    x, y = np.array(steps), np.array(rises)
    rate = float((x * y).sum() / (x * x).sum())
    error = float(np.sqrt(((y - rate * x) ** 2).sum() / (len(x) - 1) / (x * x).sum()))
    half = float(stats.t.ppf(0.975, len(x) - 1)) * error
    return Slope(rate, rate - half, rate + half)


@dataclass
class Watch:
    """Samples every process below this one, once a second, from a thread. `role` names a process; None: it is not looked at."""

    role: Callable[[psutil.Process], str | None]
    marker: str
    """`NAME=value` in the environment of all that this soak started."""
    blocks: int = 0
    """Blocks done so far, which samples are counted by."""
    series: dict[tuple[str, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    rest: dict[tuple[str, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    """Samples between two runs, when nothing is under way."""
    zombies: dict[int, float] = field(default_factory=dict)
    """Dead processes that nobody has asked after, and since when."""
    unreaped: set[str] = field(default_factory=set)
    """Those that stayed so for more than `PATIENCE` seconds."""
    _begun: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(1.0):
            self.look(self.series)

    def look(self, into: dict[tuple[str, int], list[Sample]]) -> None:
        """Take one sample of every process, and note it in `series` or `rest`."""
        seconds, dead = time.monotonic() - self._begun, set()
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    dead.add(process.pid)
                    if seconds - self.zombies.setdefault(process.pid, seconds) > PATIENCE:
                        self.unreaped.add(f"{process.name()} of {psutil.Process(process.ppid()).name()}")
                elif role := self.role(process):
                    into[role, process.pid].append(self._sample(process, seconds))
        for pid in set(self.zombies) - dead:
            self.zombies.pop(pid, None)

    def _sample(self, process: psutil.Process, seconds: float) -> Sample:
        memory = process.memory_full_info()
        return Sample(
            seconds,
            self.blocks,
            memory.pss,
            memory.rss,
            process.num_fds(),
            process.num_threads(),
            len(process.children()),
        )

    def marked(self) -> list[psutil.Process]:
        """Return all processes with the marker in their environment, whoever is their parent now, but not this one."""
        found, wanted = [], self.marker.encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError, psutil.Error):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(psutil.Process(int(entry.name)))
        return found


def files(*folders: Path) -> set[str]:
    """Return the paths of all that is below `folders`, folders too, relative to each."""
    return {str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*")}

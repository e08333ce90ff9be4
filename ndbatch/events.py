"""What happens in a run, as frozen values: observers (progress, events.jsonl, report) see nothing else.

Events are about batches and exceptions, never one a block, so that a run of 1e8 blocks tells as much as one of 1e3.
Times are seconds; bytes are those of arrays in memory, not of compressed files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """Blocks by outcome. They add up to `planned` at every moment."""

    planned: int = 0
    done: int = 0
    skipped: int = 0
    """Done by an earlier run of the same command."""
    failed: int = 0
    orphaned: int = 0
    """Never tried, because something that they depend on failed."""
    pending: int = 0
    running: int = 0

    @property
    def balanced(self) -> bool:
        """Whether the conservation law holds."""
        parts = self.done + self.skipped + self.failed + self.orphaned + self.pending + self.running
        return parts == self.planned and min(parts, self.pending, self.running, self.done) >= 0

    def __add__(self, other: Counts) -> Counts:
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True, slots=True)
class Event:
    """Anything that happened."""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The plan holds and work begins."""

    name: str
    directory: str
    executor: str
    workers: int
    stages: tuple[str, ...]
    blocks: int
    """Blocks of all stages together."""


@dataclass(frozen=True, slots=True)
class WorkersReady(Event):
    """The first workers of a cluster are there; `dashboard` is the address of its pages, or empty."""

    workers: int
    dashboard: str


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage begins; `skipped` of its blocks were done before."""

    stage: int
    name: str
    blocks: int
    skipped: int
    voxels: int


@dataclass(frozen=True, slots=True)
class BlocksDone(Event):
    """A batch came back: `blocks` of it are done and in the journal."""

    stage: int
    blocks: int
    voxels: int
    bytes_read: int
    bytes_written: int
    read: float
    compute: float
    write: float
    waited: float
    """Seconds that computing stood still because its input was not there yet."""
    stalled: float
    """Seconds that computing stood still because its last result was not written yet."""
    worker: int


@dataclass(frozen=True, slots=True)
class BlockRetried(Event):
    """A block failed and will be tried again."""

    stage: int
    block: int
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class BlockFailed(Event):
    """A block failed for good; the others go on."""

    stage: int
    block: int
    box: str
    attempts: int
    kind: str
    """Name of the error class, such as StepError, OutOfMemory, TimeLimit, WorkerKilled."""
    error: str


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """A worker process died and was replaced."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class StageEnded(Event):
    """A stage is over: every block has an outcome. `facts` are what its passes found out (thresholds, numbers of objects)."""

    stage: int
    name: str
    counts: Counts
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """The run is over. `status` is done, failed or interrupted."""

    status: str
    counts: Counts
    seconds: float


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something the reader should know that does not stop the run."""

    message: str


Observer = Callable[[Event], None]
"""Anything that takes events; it may keep state of its own and must not raise."""

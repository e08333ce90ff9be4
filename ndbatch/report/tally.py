"""How far a run is, counted from its events: what the progress display and its plain lines both show."""

from __future__ import annotations

from dataclasses import dataclass, field

from ndbatch.events import BlockFailed, BlockRetried, BlocksDone, Counts, Event, RunStarted, StageEnded, StageStarted
from ndbatch.report.words import count, duration, nbytes, percent, scaled


@dataclass
class StageTally:
    """One stage as seen so far. `started` and `now` are seconds of one clock; bytes are those of arrays in memory."""

    index: int
    name: str
    blocks: int
    skipped: int
    started: float
    done: int = 0
    failed: int = 0
    retried: int = 0
    voxels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    ended: float | None = None
    counts: Counts | None = None

    @property
    def settled(self) -> int:
        """Blocks that have an outcome, those of earlier sessions included."""
        return self.counts.planned - self.counts.pending if self.counts else self.skipped + self.done + self.failed

    def seconds(self, now: float) -> float:
        """Seconds since the stage began, or that it took."""
        return max((self.ended if self.ended is not None else now) - self.started, 1e-9)

    def left(self, now: float) -> float | None:
        """Seconds to go at the mean rate of this session; None before anything came back."""
        fresh = self.done + self.failed
        return self.seconds(now) / fresh * (self.blocks - self.settled) if fresh else None

    def rates(self, now: float) -> str:
        """Return voxels and bytes a second, in words."""
        seconds = self.seconds(now)
        parts = [f"{scaled(self.voxels / seconds, 'voxel')}/s"] if self.voxels else []
        if self.bytes_read or self.bytes_written:
            parts.append(
                f"{nbytes(self.bytes_read / seconds)}/s read, {nbytes(self.bytes_written / seconds)}/s written"
            )
        return ", ".join(parts)

    def line(self, now: float) -> str:
        """Return the state of the stage as one line."""
        share = percent(self.settled / self.blocks) if self.blocks else "100 %"
        parts = [f"{self.settled:,} of {count(self.blocks, 'block')} ({share})", self.rates(now)]
        parts.append(f"{self.failed:,} failed" if self.failed else "")
        left = self.left(now)
        parts.append(f"{duration(left)} left" if left is not None and self.settled < self.blocks else "")
        return ", ".join(part for part in parts if part)


@dataclass
class Tally:
    """A whole run as seen so far."""

    name: str = ""
    blocks: int = 0
    started: float = 0.0
    stages: dict[int, StageTally] = field(default_factory=dict)
    planned_stages: int = 0

    def take(self, event: Event, now: float) -> None:
        """Count `event`, which happened at `now`."""
        match event:
            case RunStarted():
                self.name, self.blocks, self.started = event.name, event.blocks, now
                self.planned_stages, self.stages = len(event.stages), {}
            case StageStarted():
                self.stages[event.stage] = StageTally(event.stage, event.name, event.blocks, event.skipped, now)
            case BlocksDone() | BlockFailed() | BlockRetried() if event.stage in self.stages:
                self._count(self.stages[event.stage], event)
            case StageEnded() if event.stage in self.stages:
                self.stages[event.stage].ended = now
                self.stages[event.stage].counts = event.counts
            case _:
                pass

    @staticmethod
    def _count(stage: StageTally, event: BlocksDone | BlockFailed | BlockRetried) -> None:
        if isinstance(event, BlocksDone):
            stage.done += event.blocks
            stage.voxels += event.voxels
            stage.bytes_read += event.bytes_read
            stage.bytes_written += event.bytes_written
        elif isinstance(event, BlockFailed):
            stage.failed += 1
        else:
            stage.retried += 1

    @property
    def settled(self) -> int:
        """Blocks of all stages that have an outcome."""
        return sum(stage.settled for stage in self.stages.values())

    @property
    def failed(self) -> int:
        """Blocks of all stages that failed for good."""
        return sum(stage.failed for stage in self.stages.values())

    def left(self, now: float) -> float | None:
        """Seconds to go for the whole run at the mean rate of this session; None before anything came back."""
        fresh = sum(stage.done + stage.failed for stage in self.stages.values())
        return (now - self.started) / fresh * max(self.blocks - self.settled, 0) if fresh else None

    def title(self, index: int) -> str:
        """Return `[1/2] name` of a stage."""
        return f"[{index + 1}/{max(self.planned_stages, index + 1)}] {self.stages[index].name}"

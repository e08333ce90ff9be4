"""The executor contract: takes batches, gives back what came of them. It decides nothing; the engine does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ndbatch.worker.work import Batch, BatchResult, Work


@dataclass(frozen=True)
class WorkerDeath:
    """A worker process ended while it held a batch. `kind` names the error class that tells why."""

    ticket: int
    worker: int
    kind: str
    error: str
    culprit: int | None = None
    started: bool = True


Reply = BatchResult | WorkerDeath


def at_once(work: Work, offers: Mapping[str, float], workers: int) -> int:
    """Return how many of the `workers` of this machine may do blocks of `work` at the same time.

    All of them, where each offers what a step asks for. Where nothing is said there is one GPU or the like at most, and a
    second process that took its memory would take down both: one.
    """
    return workers if all(offers.get(name, 0) >= amount for name, amount in work.resources.items()) else 1


class Executor(ABC):
    """Runs batches of one stage at a time. All methods are called from the driver's thread."""

    workers: int
    dashboard: str = ""
    """Address of pages that show the workers, or nothing."""
    batch_seconds: float = 0.5
    """Seconds of work that a batch is made to take: what it costs to send one is to be little beside it."""

    @abstractmethod
    def begin(self, work: Work) -> None:
        """Get ready for the batches of a stage; called when no batch is under way."""

    @abstractmethod
    def room(self) -> int:
        """Return how many more batches it wants now, so that workers never wait for the driver."""

    @abstractmethod
    def submit(self, batch: Batch) -> None:
        """Take a batch; returns at once."""

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[Reply]:
        """Return replies, waiting for the first for at most `seconds`."""

    def drain(self) -> None:
        """Begin no batch that was not begun; those come back untouched, or are done where that cannot be known."""
        return

    @abstractmethod
    def close(self) -> None:
        """Stop everything that was started, also after an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Blocks in this process: one after another (`inline`), or on threads."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ndbatch.executors.base import Executor, Reply, at_once
from ndbatch.worker.batch import BatchRunner
from ndbatch.worker.work import Batch, BatchResult, Work


class InlineExecutor(Executor):
    """Computes in the driver's own thread: for debugging, `try`, and very small volumes."""

    def __init__(self) -> None:
        self.workers = 1
        self._runner: BatchRunner | None = None
        self._waiting: Batch | None = None

    def begin(self, work: Work) -> None:
        """Open the stage's volumes in this process."""
        self.close()
        self._runner = BatchRunner(work)

    def room(self) -> int:
        """Return 1 when nothing waits."""
        return 1 if self._waiting is None else 0

    def submit(self, batch: Batch) -> None:
        """Keep the batch until `wait`."""
        self._waiting = batch

    def wait(self, seconds: float) -> Sequence[Reply]:
        """Compute what waits."""
        batch, self._waiting = self._waiting, None
        if batch is None or self._runner is None:
            threading.Event().wait(seconds)
            return ()
        return (self._runner.run(batch),)

    def close(self) -> None:
        """Let the reading and writing threads go."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class ThreadsExecutor(Executor):
    """Computes on threads of this process: no copies, no start-up; good where kernels release the interpreter lock.

    A thread cannot be killed: a block over its time limit is given up and its thread left behind, and memory is not
    watched block by block.
    """

    def __init__(self, workers: int, offers: Mapping[str, float] | None = None) -> None:
        self.workers, self._offers = workers, offers or {}
        self._tasks: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[BatchResult | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0

    def begin(self, work: Work) -> None:
        """Start one thread a worker for this stage."""
        self._stop()
        for number in range(at_once(work, self._offers, self.workers)):
            thread = threading.Thread(target=self._serve, args=(work, number), daemon=True, name=f"ndbatch-{number}")
            thread.start()
            self._threads.append(thread)

    def _serve(self, work: Work, number: int) -> None:
        runner, ahead = BatchRunner(work, number), deque[Batch | None]()

        def following() -> Batch | None:
            """Take the next batch out of the queue, if there is one."""
            with suppress(queue.Empty):
                ahead.append(self._tasks.get_nowait())
            return ahead[0] if ahead else None

        try:
            while (batch := ahead.popleft() if ahead else self._tasks.get()) is not None:
                self._results.put(runner.run(batch, following))
        except BaseException as error:
            self._results.put(error)
        finally:
            runner.close()

    def room(self) -> int:
        """Return what is missing to one running and one waiting batch for each thread."""
        return 2 * len(self._threads) - self._under_way

    def submit(self, batch: Batch) -> None:
        """Queue the batch."""
        self._under_way += 1
        self._tasks.put(batch)

    def wait(self, seconds: float) -> Sequence[Reply]:
        """Return the results that are there, waiting for the first."""
        found: list[Reply] = []
        try:
            result = self._results.get(timeout=seconds)
            while True:
                if isinstance(result, BaseException):
                    raise result
                self._under_way -= 1
                found.append(result)
                result = self._results.get_nowait()
        except queue.Empty:
            return found

    def drain(self) -> None:
        """Take back the batches that no thread has taken yet."""
        with suppress(queue.Empty):
            while (batch := self._tasks.get_nowait()) is not None:
                self._results.put(BatchResult(batch.ticket, untouched=batch.blocks))

    def _stop(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=5)
        self._threads.clear()
        self._under_way = 0

    def close(self) -> None:
        """Stop the threads after the batch they are at."""
        self._stop()

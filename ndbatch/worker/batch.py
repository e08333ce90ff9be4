"""A batch of blocks: block N is computed while block N+1 is read, be it of the next batch, and block N-1 is written."""

from __future__ import annotations

import errno
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from ndbatch.engine import Fault
from ndbatch.errors import NdbatchError, OutOfMemory, RemoteError, StepError, TimeLimit, Transient
from ndbatch.geometry import Block
from ndbatch.journal import LONGEST_WAIT, RECEIPT
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.function.loading import search_in
from ndbatch.worker import block as single
from ndbatch.worker.work import Batch, BatchResult, Work

T = TypeVar("T")
FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
"""System errors that trying again does not cure."""


class _Stuck(Exception):
    """A block ran out of time in a thread that cannot be stopped."""


@dataclass
class _Timed:
    """A value and the seconds it took to get it."""

    value: Any
    seconds: float


@dataclass
class _Collected:
    """What a batch gathers as it goes."""

    receipts: list[tuple[float, ...]] = field(default_factory=list)
    payloads: single.Payloads = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    voxels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    retire: bool = False


class BatchRunner:
    """Runs batches of one stage in one worker. Threads for reading and writing live as long as the runner.

    `notice` is told the block that is computed now (-1 for none), so that whoever watches the process knows the culprit.
    """

    def __init__(self, work: Work, worker: int = 0, notice: Callable[[int], None] | None = None) -> None:
        self.work = work
        search_in(work.search)
        self._worker = worker
        self._notice = notice or (lambda block: None)
        self._reader = ThreadPoolExecutor(work.ahead, "ndbatch-read") if work.stage.loads else None
        self._writer = ThreadPoolExecutor(1, "ndbatch-write") if work.stage.stores else None
        self._coming: dict[int, Future[_Timed]] = {}
        """What is being read, by block."""

    def close(self) -> None:
        """Let the threads go; what hangs is left behind."""
        for lane in (self._reader, self._writer):
            if lane is not None:
                lane.shutdown(wait=False, cancel_futures=True)
        self._coming.clear()

    def run(self, batch: Batch, following: Callable[[], Batch | None] = lambda: None) -> BatchResult:
        """Do the blocks of `batch` and return what came of each; faults are data, nothing is raised.

        `following` gives the batch that will be run next, if it is there already; it is asked once, when the input of the first
        block has come after which this batch has too few left, and the first blocks of that batch are read from then on.
        """
        begun = time.perf_counter()
        found = _Collected()
        writing: tuple[Block, Future[_Timed], list[float]] | None = None
        indices, depth = list(batch.blocks), self.work.ahead
        upcoming = list(indices)
        for number, index in enumerate(indices, 1):
            block = self.work.grid[index]
            self._notice(index)
            try:
                self._read(upcoming[number - 1 : number - 1 + depth])
                patches, timing = self._arrived(self._coming.pop(index, None))
                if len(upcoming) == len(indices) < number + depth:
                    upcoming += self._first(following()) or [-1]
                self._read(upcoming[number : number + depth])
                writing = self._one(block, patches, timing, batch, found, writing)
            except BaseException as error:
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                found.faults.append(fault_of(index, error))
                found.retire |= isinstance(error.__cause__, _Stuck)
            found.touched.add(index)
            if found.retire:
                break
        self._settle(writing, found)
        self._notice(-1)
        return self._result(batch, found, time.perf_counter() - begun)

    def _first(self, batch: Batch | None) -> list[int]:
        """Return the first blocks of `batch`, as many as are read ahead."""
        return list(islice(batch.blocks, self.work.ahead)) if batch is not None else []

    def _one(
        self,
        block: Block,
        patches: dict[str, Patch],
        timing: list[float],
        batch: Batch,
        found: _Collected,
        writing: tuple[Block, Future[_Timed], list[float]] | None,
    ) -> tuple[Block, Future[_Timed], list[float]] | None:
        """Compute a block and hand its result to the writer; return what is being written now."""
        states = batch.states.get(block.index, {})
        start = time.perf_counter()
        results, payloads = self._limited(lambda: single.compute(self.work, block, patches, states))
        computed = time.perf_counter()
        self._settle(writing, found)
        timing = [timing[0], computed - start, 0.0, timing[1], time.perf_counter() - computed]
        found.payloads.extend(payloads)
        found.voxels += block.core.size
        found.bytes_read += sum(p.data.nbytes for p in patches.values())
        if self._writer is None:
            found.receipts.append((block.index, 0, *timing))
            return None
        found.bytes_written += sum(int(a.nbytes) for a in results.values())
        return block, self._writer.submit(_timed, single.store, self.work, block, results), timing

    def _read(self, blocks: Sequence[int]) -> None:
        """Begin to read the input of `blocks`, where there is anything to read; what was begun for others is let go."""
        if self._reader is None:
            return
        for stale in self._coming.keys() - set(blocks):
            self._coming.pop(stale).cancel()
        for index in blocks:
            if index >= 0 and index not in self._coming:
                self._coming[index] = self._reader.submit(_timed, single.load, self.work, self.work.grid[index])

    def _arrived(self, coming: Future[_Timed] | None) -> tuple[dict[str, Patch], list[float]]:
        """Wait for a block's input; return it with the seconds of reading and of waiting."""
        if coming is None:
            return {}, [0.0, 0.0]
        start = time.perf_counter()
        try:
            timed = coming.result(self.work.time_limit)
        except FutureTimeout:
            raise TimeLimit(self._too_long("reading its input"), passing=True) from _Stuck()
        return timed.value, [timed.seconds, time.perf_counter() - start]

    def _settle(self, writing: tuple[Block, Future[_Timed], list[float]] | None, found: _Collected) -> None:
        """Wait until a block is written; only then it is done."""
        if writing is None:
            return
        block, future, timing = writing
        try:
            timed = future.result(self.work.time_limit)
        except FutureTimeout:
            error = TimeLimit(self._too_long("writing its result"), passing=True)
            found.faults.append(fault_of(block.index, error))
            found.retire = True
        except Exception as error:
            found.faults.append(fault_of(block.index, error))
        else:
            timing[2] = timed.seconds
            found.receipts.append((block.index, timed.value, *timing))

    def _limited(self, function: Callable[[], T]) -> T:
        """Call `function`, for at most the time limit where there is one."""
        limit = self.work.time_limit
        if limit is None:
            return function()
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=call, daemon=True, name="ndbatch-compute").start()
        try:
            return future.result(limit)
        except FutureTimeout:
            raise TimeLimit(self._too_long("computing")) from _Stuck()

    def _too_long(self, doing: str) -> str:
        return (
            f"time limit: {doing} took longer than time_limit, {self.work.time_limit:g} s; raise time_limit, use smaller "
            "blocks, or look why it does not return"
        )

    def _result(self, batch: Batch, found: _Collected, seconds: float) -> BatchResult:
        failed = {f.block for f in found.faults}
        rows = [
            (*row[:-2], *(min(seconds, LONGEST_WAIT) for seconds in row[-2:]), self._worker, 0)
            for row in found.receipts
        ]
        return BatchResult(
            ticket=batch.ticket,
            receipts=np.array(rows, RECEIPT) if rows else np.empty(0, RECEIPT),
            payloads=tuple(p for p in found.payloads if p[1] not in failed),
            faults=tuple(found.faults),
            untouched=Ranges.of([_array(batch.blocks, found.touched)]) if found.retire else Ranges(),
            seconds=seconds,
            voxels=found.voxels,
            bytes_read=found.bytes_read,
            bytes_written=found.bytes_written,
            retire=found.retire,
        )


def _array(blocks: Ranges, without: set[int]) -> Array:
    return np.array([b for b in blocks if b not in without], np.int64)


def _timed(function: Callable[..., Any], *arguments: Any) -> _Timed:
    start = time.perf_counter()
    value = function(*arguments)
    return _Timed(value, time.perf_counter() - start)


def fault_of(block: int, error: BaseException) -> Fault:
    """Return an exception as data: its family, one sentence, whether it may pass, and the traceback for the log."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, MemoryError):
        text = "out of memory: Python could not allocate what the block asked for; use smaller blocks or fewer workers"
        return Fault(block, OutOfMemory.__name__, text, traceback=trace)
    if isinstance(error, NdbatchError):
        cause = error.__cause__
        passing = isinstance(error, Transient) or _may_pass(cause) or bool(error.fields.get("passing"))
        shown = str(error.fields.get("traceback", trace))
        return Fault(block, type(error).__name__, error.message, passing, shown)
    if isinstance(error, OSError):
        kind = Transient if _may_pass(error) else RemoteError
        return Fault(block, kind.__name__, f"{type(error).__name__}: {error}", _may_pass(error), trace)
    return Fault(block, StepError.__name__, f"{type(error).__name__}: {error}", traceback=trace)


def _may_pass(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno not in FINAL

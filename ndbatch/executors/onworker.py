"""What runs inside dask: on a worker, the one function that it calls; on the scheduler, a lookout for workers that die.

The lookout makes two things of dask's that ndbatch needs otherwise: a task whose worker died comes back at once instead of
being sent to kill three more workers, and the scheduler knows what each worker was at when it left. Both touch this run's
tasks alone, so that a scheduler shared with others behaves to them as before. Its class travels by value: the scheduler
needs no ndbatch.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ndbatch.executors.settings import SINGLE_THREADED
from ndbatch.worker.work import Batch, Work

OWN_LIMIT = 0.9
"""Share of its own --memory-limit that a worker may use: above 0.95 its nanny kills it without a word."""
FLUSHED_WITHIN = 1.0
"""Seconds a worker waits at most until the scheduler was told which block it begins."""


def stage_plugin(distributed: Any, key: str, data: bytes) -> Any:
    """Return the plugin that keeps a stage's work, pickled, on each worker; dask is only imported where it is used."""

    class StageWork(distributed.WorkerPlugin):  # type: ignore[misc]
        """Keeps the stage's work, pickled, on the worker."""

        def __init__(self, key: str, data: bytes) -> None:
            self.key, self.data, self.environment = key, data, SINGLE_THREADED

        def setup(self, worker: Any) -> None:
            for name, value in self.environment.items():
                os.environ.setdefault(name, value)
            worker.__dict__.setdefault("ndbatch_work", {})[self.key] = self.data

        def teardown(self, worker: Any) -> None:
            worker.__dict__.get("ndbatch_work", {}).pop(self.key, None)

    return StageWork(key, data)


def lookout_plugin(distributed: Any, run: str, silence: float) -> Any:
    """Return the scheduler's plugin: events of topic `run` say who left, at what; who is at a batch may be silent `silence` s."""

    class Lookout(distributed.SchedulerPlugin):  # type: ignore[misc]
        def __init__(self, run: str) -> None:
            self.run, self.name, self.at = run, run, dict[str, tuple[str, int, int]]()
            self.silence, self.heard = silence, dict[str, tuple[float, float]]()
            self.pulse: asyncio.Task[None] | None = None

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler
            scheduler.stream_handlers[f"{self.run}-at"] = self.note
            if scheduler.worker_ttl and scheduler.worker_ttl < self.silence:
                self.pulse = asyncio.create_task(self.vouch(scheduler.worker_ttl / 4))

        def note(self, worker: str = "", stage: str = "", ticket: int = -1, block: int = -1, **_: Any) -> None:
            self.at[worker] = (stage, ticket, block)

        async def vouch(self, every: float) -> None:
            # A step that holds the interpreter lock is no death. By what was given out: no word leaves a silent worker.
            while True:
                await asyncio.sleep(every)
                now = time.time()
                for address, worker in self.scheduler.workers.items():
                    heard, vouched = self.heard.get(address, (now, 0.0))
                    heard = heard if worker.last_seen == vouched else worker.last_seen
                    if now - heard < self.silence and any(str(t.key).startswith(self.run) for t in worker.processing):
                        worker.last_seen = now
                    self.heard[address] = (heard, worker.last_seen)

        def update_graph(self, scheduler: Any, *, tasks: Any = (), **_: Any) -> None:
            for key in tasks:
                if str(key).startswith(self.run) and key in scheduler.tasks:
                    scheduler.tasks[key].suspicious = scheduler.allowed_failures

        def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
            self.heard.pop(worker, None)
            stage, ticket, block = self.at.pop(worker, ("", -1, -1))
            if stage:
                task = scheduler.tasks.get(f"{stage}-{ticket}")
                cut = task is not None and task.state not in ("memory", "erred", "released")
                note = {"left": worker, "stage": stage, "ticket": ticket, "block": block, "cut": cut}
                scheduler.log_event(self.run, note)

        async def close(self) -> None:
            self.scheduler.stream_handlers.pop(f"{self.run}-at", None)
            if self.pulse is not None:
                self.pulse.cancel()

    return Lookout(run)


_local = threading.local()


def run_on_worker(
    run: str, stage: str, batch: Batch, watched: bool = False, shares: Mapping[str, float] | None = None
) -> Any:
    """Run `batch` of a stage: the one function that dask calls. The stage is opened once a thread.

    With `watched` the scheduler knows of each block before it begins, so that a death names its culprit. `shares` says, by
    name of worker, how many times its promise of memory it may use, since neighbours made room.
    """
    from distributed import get_worker

    from ndbatch.worker.watch import Watch

    worker = get_worker()
    _open(worker, stage)
    at: list[int] = _local.at
    told = partial(_tell, worker, run, stage, batch.ticket)
    _local.watched = told if watched else None
    told(-1, wait=watched)
    limit = _local.limit
    if limit is not None:
        limit = int(limit * (shares or {}).get(str(worker.name), 1))
        own = worker.memory_manager.memory_limit
        limit = min(limit, int(OWN_LIMIT * own)) if own else limit

    def over(used: int, limit: int) -> None:
        text = f"out of memory: the worker used {used / 2**30:.2f} GiB, it was promised {limit / 2**30:.2f} GiB"
        note = {"stage": stage, "ticket": batch.ticket, "block": at[0], "error": f"{text}; use smaller blocks"}
        worker.log_event(run, note)

    with Watch(limit, over):
        return _local.runner.run(batch)


def _open(worker: Any, stage: str) -> None:
    """Open the stage in this thread, where it is not the one that is open."""
    from ndbatch.worker.batch import BatchRunner
    from ndbatch.worker.process import Broken, unpickled

    if getattr(_local, "key", None) == stage:
        return
    if getattr(_local, "runner", None) is not None:
        _local.runner.close()
    work = unpickled(worker.ndbatch_work[stage])
    _local.at, _local.limit, _local.key = [-1], None, stage
    if isinstance(work, Work):
        _local.runner = BatchRunner(work, hash(worker.address) % 2**16, _noticing(_local.at))
        _local.limit = work.memory_limit if worker.state.nthreads == 1 else None
    else:
        _local.runner = Broken(work if isinstance(work, Exception) else TypeError(type(work).__name__))


def _noticing(at: list[int]) -> Callable[[int], None]:
    """Return what the runner tells the block it begins: this thread's own place, and the scheduler where it watches."""

    def notice(block: int) -> None:
        at[0] = block
        watched = getattr(_local, "watched", None)
        if watched is not None and block >= 0:
            watched(block, wait=True)

    return notice


def _tell(worker: Any, run: str, stage: str, ticket: int, block: int, *, wait: bool) -> None:
    """Tell the scheduler what this worker begins; with `wait`, return when the message has left."""
    message = {"op": f"{run}-at", "stage": stage, "ticket": ticket, "block": block}
    stream = worker.batched_stream
    if not wait:
        worker.loop.add_callback(stream.send, message)
        return

    async def send() -> None:
        stream.send(message)
        while stream.buffer:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.005)

    with suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(send(), worker.loop.asyncio_loop).result(FLUSHED_WITHIN)


def can_open(stage: str, dask_worker: Any = None) -> str:
    """Return what keeps this worker from opening the stage, or nothing. Run on every worker before the first block."""
    from ndbatch.errors import NdbatchError
    from ndbatch.steps.function.loading import search_in
    from ndbatch.worker.process import unpickled

    work = unpickled(dask_worker.ndbatch_work[stage])
    error = work if isinstance(work, Exception) else None
    if isinstance(work, Work):
        search_in(work.search)
        try:
            for number in {call.step for call in work.stage.calls}:
                work.steps[number].operation.require_here()
        except Exception as lacking:
            error = lacking
    if error is None:
        return ""
    return error.message if isinstance(error, NdbatchError) else f"{type(error).__name__}: {error}"

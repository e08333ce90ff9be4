"""Blocks in worker processes of this machine: each its own interpreter, started fresh (never forked).

Each worker has a pipe of its own and one batch waiting beside the one it computes, so that it never stands idle. What it
is computing stands in a small shared page, so that when a worker dies its culprit is known and only that block is blamed.
A worker is started as `python -m ndbatch.worker.process`, not through multiprocessing: a script without a main guard
is safe, and nothing of the driver is inherited but the pipe.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

from ndbatch.errors import OutOfMemory, TimeLimit, WorkerKilled
from ndbatch.executors.base import Executor, Reply, WorkerDeath, at_once
from ndbatch.executors.settings import SINGLE_THREADED
from ndbatch.worker.page import Page
from ndbatch.worker.work import Batch, BatchResult, Work


@dataclass
class _Worker:
    """A process, its pipe, its page, and the batches it holds, the first one under way."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    page: Page
    held: deque[Batch] = field(default_factory=deque)
    since: float = 0.0
    retiring: bool = False


class ProcessesExecutor(Executor):
    """Runs batches in `workers` processes. What users' functions print goes to `log`."""

    def __init__(self, workers: int, log: Path | None = None, offers: Mapping[str, float] | None = None) -> None:
        self.workers, self._offers, self._at_once = workers, offers or {}, workers
        self._log: IO[bytes] | None = log.open("ab") if log else None
        self._numbers = itertools.count()
        self._pool: list[_Worker] = []
        self._work: Work | None = None
        self._replies: list[Reply] = []
        self._kills = oom_kills()
        self._draining = False

    def begin(self, work: Work) -> None:
        """Send the stage's work to every worker; start those that are missing."""
        self._work = work
        self._at_once = at_once(work, self._offers, self.workers)
        for worker in list(self._pool):
            self._send(worker, work)
        while len(self._pool) < self.workers:
            self._start()

    def room(self) -> int:
        """Return what is missing to one running and one waiting batch for each worker."""
        return 2 * self._at_once - sum(len(w.held) for w in self._pool)

    def submit(self, batch: Batch) -> None:
        """Give the batch to the worker that holds the fewest."""
        worker = min(self._pool[: self._at_once], key=lambda w: len(w.held))
        if not worker.held:
            worker.since = time.monotonic()
        worker.held.append(batch)
        self._send(worker, batch)

    def wait(self, seconds: float) -> Sequence[Reply]:
        """Return results and deaths, waiting for the first."""
        self._kill_overdue()
        pipes = {worker.pipe: worker for worker in self._pool}
        for ready in wait(list(pipes), 0 if self._replies else min(seconds, 1.0)):
            worker = pipes[ready]  # type: ignore[index]
            try:
                self._receive(worker, worker.pipe.recv())
            except (EOFError, ConnectionError):
                self._bury(worker)
        replies, self._replies = self._replies, []
        return replies

    def drain(self) -> None:
        """Let each worker come to the end of the batch it is at, and give back the one that waits."""
        self._draining = True
        for worker in self._pool:
            worker.page.drain()

    def close(self) -> None:
        """Kill the workers; what they had not reported is done again by the next run."""
        for worker in self._pool:
            worker.process.kill()
        for worker in self._pool:
            worker.process.wait()
            worker.pipe.close()
            worker.page.close()
        self._pool.clear()
        if self._log is not None:
            self._log.close()
            self._log = None

    # -- one worker ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the page
        page = Page.create(file)
        number = next(self._numbers)
        command = [
            sys.executable,
            "-m",
            "ndbatch.worker.process",
            str(theirs.fileno()),
            str(file.fileno()),
            str(number),
        ]
        output = self._log if self._log is not None else subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), file.fileno()),
            env={**os.environ, **SINGLE_THREADED, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        theirs.close()
        worker = _Worker(number, process, Connection(ours.detach()), page)
        self._pool.append(worker)
        if self._work is not None:
            self._send(worker, self._work)

    def _send(self, worker: _Worker, message: Work | Batch) -> None:
        try:
            worker.pipe.send(message)
        except (BrokenPipeError, ConnectionError):
            return  # the pipe's end is noticed in `wait`, which knows what to tell

    def _receive(self, worker: _Worker, result: BatchResult) -> None:
        worker.held.popleft()
        worker.since = time.monotonic()
        self._replies.append(result)
        if result.retire:
            worker.retiring = True
            self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that ended, and tell what became of its batches."""
        self._pool.remove(worker)
        if worker.retiring:
            worker.process.kill()
        code = worker.process.wait()
        culprit, verdict = worker.page.block, worker.page.verdict
        kind, error = ("", "") if worker.retiring else self._cause(code, verdict, worker)
        for place, batch in enumerate(worker.held):
            first = place == 0 and not worker.retiring
            known = culprit if first and culprit >= 0 else None
            self._replies.append(WorkerDeath(batch.ticket, worker.number, kind, error, known, started=first))
        worker.pipe.close()
        worker.page.close()
        if not self._draining:
            self._start()

    def _cause(self, code: int, verdict: str, worker: _Worker) -> tuple[str, str]:
        """Return the error class and sentence for a worker that ended with `code`."""
        used = f"{worker.page.memory / 2**30:.2f} GiB"
        limit = self._work.memory_limit if self._work else None
        promised = f", it was promised {limit / 2**30:.2f} GiB" if limit else ""
        if verdict == "memory":
            text = f"out of memory: the worker used {used}{promised}; use smaller blocks, fewer workers, or raise cluster: memory"
            return OutOfMemory.__name__, text
        if verdict == "time":
            text = "time limit: the block did not return and its worker was stopped; raise time_limit or use smaller blocks"
            return TimeLimit.__name__, text
        kills, self._kills = self._kills, oom_kills()
        if code == -signal.SIGKILL and self._kills > kills:
            text = (
                f"out of memory: the system killed the worker, which used {used}; use smaller blocks or fewer workers"
            )
            return OutOfMemory.__name__, text
        if code < 0:
            name = signal.Signals(-code).name
            return WorkerKilled.__name__, f"killed: the worker process was ended by {name} (it used {used})"
        return WorkerKilled.__name__, f"killed: the worker process ended by itself with exit code {code}"

    def _kill_overdue(self) -> None:
        """Kill workers whose interpreter hangs, so that they could not give up their block themselves."""
        limit = self._work.time_limit if self._work else None
        if limit is None:
            return
        now = time.monotonic()
        for worker in self._pool:
            started = worker.page.since
            if worker.held and worker.page.block >= 0 and started > 0 and now - started > 2 * limit + 5:
                worker.page.set_verdict("time")
                worker.process.kill()


def oom_kills() -> int:
    """Return how many processes the system has killed for memory in this control group (Linux; 0 elsewhere)."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        try:
            lines = path.read_text().split()
        except OSError:
            continue
        if "oom_kill" in lines:
            return int(lines[lines.index("oom_kill") + 1])
    return 0

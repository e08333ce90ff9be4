"""Batches on a dask cluster: one it starts on this machine, or a running scheduler by its address.

dask sees batches, never blocks or arrays: a task is a ticket and a range of block numbers, a result is receipts. The
work of a stage travels once to each worker as a plugin, so that workers which join or are restarted later have it too.
"""

from __future__ import annotations

import logging
import pickle
import queue
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from ndbatch.errors import OutOfMemory, RemoteError, WorkerKilled, missing_extra
from ndbatch.executors.base import Executor, Reply, WorkerDeath
from ndbatch.worker.work import Batch, Work

QUIET = {
    "distributed.scheduler.allowed-failures": 0,  # a killed batch comes back at once, and the engine finds its culprit
    "distributed.worker.memory.target": False,  # nothing but receipts is ever kept on a worker
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,  # the worker's own watch ends it, and says why
}
START_WITHIN = 60.0
"""Seconds to wait for the first worker of a running scheduler."""


class DaskExecutor(Executor):
    """Runs batches as dask tasks, two or three a thread under way."""

    def __init__(self, workers: int, address: str | None, scratch: Path) -> None:
        try:
            import distributed
        except ImportError:
            raise missing_extra("distributed", "dask", "cluster: {kind: dask}") from None
        self._distributed = distributed
        self._cluster: Any = None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if address is None:
            self._cluster = self._local_cluster(workers, scratch)
            address = self._cluster.scheduler_address
        self._client = self._connect(str(address))
        self.workers = workers if self._cluster is not None else self._first_workers(str(address))
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._under_way: dict[int, Any] = {}
        self._key = ""

    def _local_cluster(self, workers: int, scratch: Path) -> Any:
        import dask

        from ndbatch.executors.nanny import QuietNanny

        scratch.mkdir(parents=True, exist_ok=True)
        with dask.config.set(QUIET), _deaf_to_ctrl_c():
            return self._distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                worker_class=QuietNanny,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # any free port; the default is one port on every interface
                memory_limit=0,
                local_directory=str(scratch),
                silence_logs=logging.CRITICAL,
            )

    def _connect(self, address: str) -> Any:
        try:
            return self._distributed.Client(address, timeout=10, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise RemoteError(
                f"cluster.address: no dask scheduler answers at {address} ({error}); start one with: dask scheduler",
                url=address,
            ) from None

    def _first_workers(self, address: str) -> int:
        try:
            self._client.wait_for_workers(1, timeout=START_WITHIN)
        except TimeoutError:
            raise RemoteError(
                f"the dask scheduler at {address} has no worker after {START_WITHIN:g} s; start some with: dask worker {address}",
                url=address,
            ) from None
        return max(1, int(sum(self._client.nthreads().values())))

    def begin(self, work: Work) -> None:
        """Send the stage's work to all workers, those that come later included."""
        self._forget()
        self._key = f"ndbatch-{uuid.uuid4().hex}"
        self._client.register_plugin(_plugin(self._distributed)(self._key, pickle.dumps(work)), name=self._key)

    def room(self) -> int:
        """Return what is missing to three batches for each thread."""
        return 3 * self.workers - len(self._under_way)

    def submit(self, batch: Batch) -> None:
        """Submit the batch as one task."""
        future = self._client.submit(
            run_on_worker, self._key, batch, key=f"{self._key}-{batch.ticket}", pure=False, retries=0
        )
        self._under_way[batch.ticket] = future
        future.add_done_callback(lambda done, ticket=batch.ticket: self._finished.put((ticket, done)))

    def wait(self, seconds: float) -> Sequence[Reply]:
        """Return results and deaths, waiting for the first."""
        replies: list[Reply] = []
        try:
            ticket, future = self._finished.get(timeout=seconds)
            while True:
                if self._under_way.pop(ticket, None) is not None:
                    replies.append(self._reply(ticket, future))
                future.release()
                ticket, future = self._finished.get_nowait()
        except queue.Empty:
            return replies

    def _reply(self, ticket: int, future: Any) -> Reply:
        if future.status == "finished":
            result: Reply = future.result()
            return result
        error = future.exception() if future.status == "error" else None
        notes = self._client.get_events(self._key) or ()
        for _, note in reversed(list(notes)):
            if note["ticket"] == ticket:
                return WorkerDeath(ticket, 0, OutOfMemory.__name__, note["error"], culprit=note["block"])
        text = f"killed: the dask worker died under it ({type(error).__name__ if error else future.status})"
        return WorkerDeath(ticket, 0, WorkerKilled.__name__, text)

    def _forget(self) -> None:
        for future in self._under_way.values():
            future.cancel()
        self._under_way.clear()
        if self._key:
            self._client.unregister_worker_plugin(self._key)
            self._key = ""

    def close(self) -> None:
        """Disconnect, and stop the cluster where it was started here. A second Ctrl-C waits for that, about a second."""
        with _deaf_to_ctrl_c():
            try:
                self._forget()
            finally:
                self._client.close()
                if self._cluster is not None:
                    self._cluster.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start threads and processes that Ctrl-C does not reach, those they start later included; here it only waits.

    A terminal sends Ctrl-C to the whole process group, but only the driver decides. Signal masks are inherited: by the
    thread in which dask starts its workers, and by every worker that this thread starts or restarts.
    """
    resource_tracker.ensure_running()  # it lifts the mask of the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _plugin(distributed: Any) -> Any:
    """Return the plugin class; dask is only imported where it is used."""

    class StageWork(distributed.WorkerPlugin):  # type: ignore[misc]
        """Keeps the stage's work, pickled, on the worker."""

        def __init__(self, key: str, data: bytes) -> None:
            self.key, self.data = key, data

        def setup(self, worker: Any) -> None:
            worker.__dict__.setdefault("ndbatch_work", {})[self.key] = self.data

        def teardown(self, worker: Any) -> None:
            worker.__dict__.get("ndbatch_work", {}).pop(self.key, None)

    return StageWork


_local = threading.local()


def run_on_worker(key: str, batch: Batch) -> Any:
    """Run `batch` of the stage `key`: the one function that dask calls. The stage is opened once a thread."""
    from distributed import get_worker

    from ndbatch.worker.batch import BatchRunner
    from ndbatch.worker.process import Broken, unpickled
    from ndbatch.worker.watch import Watch

    worker = get_worker()
    if getattr(_local, "key", None) != key:
        if getattr(_local, "runner", None) is not None:
            _local.runner.close()
        work = unpickled(worker.ndbatch_work[key])
        _local.at, _local.limit, _local.key = [-1], None, key
        if isinstance(work, Work):
            _local.runner = BatchRunner(work, hash(worker.address) % 2**16, partial(_local.at.__setitem__, 0))
            _local.limit = work.memory_limit if worker.state.nthreads == 1 else None
        else:
            _local.runner = Broken(work if isinstance(work, Exception) else TypeError(type(work).__name__))
    at = _local.at

    def over(used: int, limit: int) -> None:
        text = f"out of memory: the worker used {used / 2**30:.2f} GiB, it was promised {limit / 2**30:.2f} GiB"
        worker.log_event(key, {"ticket": batch.ticket, "block": at[0], "error": f"{text}; use smaller blocks"})

    with Watch(_local.limit, over):
        return _local.runner.run(batch)

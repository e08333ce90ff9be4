"""Batches on a dask cluster, wherever its workers come from.

dask sees batches, never blocks or arrays: a task is a ticket and a range of block numbers, a result is receipts. The
work of a stage travels once to each worker as a plugin, so that workers which join or are restarted later have it too.
Workers may come and go: the window follows their number, the first one is enough to begin.
"""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ndbatch.errors import ClusterError, OutOfMemory, RemoteError, WorkerKilled
from ndbatch.executors.agreement import require_same_versions, require_stage_opens
from ndbatch.executors.base import Executor, Reply, WorkerDeath
from ndbatch.executors.deployments import Deployment, deaf_to_ctrl_c
from ndbatch.executors.onworker import lookout_plugin, run_on_worker, stage_plugin
from ndbatch.worker.work import Batch, Work

WINDOW = 3
"""Batches under way for each thread: one that runs, and two that keep it from waiting."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the workers."""
ACCOUNTED_WITHIN = 3.0
"""Seconds that a queue gets to say why a job ended before the worker's death is told without its word."""


class DaskExecutor(Executor):
    """Runs batches as dask tasks, two or three a thread under way. ClusterError where no worker starts in `patience` s."""

    batch_seconds = 2.0

    def __init__(self, deployment: Deployment, patience: float) -> None:
        import distributed

        self._distributed, self._deployment, self._patience = distributed, deployment, patience
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._under_way: dict[int, Any] = {}
        self._batches: dict[int, Batch] = {}
        self._done: deque[int] = deque(maxlen=10_000)
        self._suspects: set[int] = set()
        self._shares: dict[str, float] = {}
        self._run = f"ndbatch-{uuid.uuid4().hex}"
        self._stage, self._stages = "", 0
        self._needs: Mapping[str, float] = {}
        self._names: dict[str, str] = {}
        self._able: list[str] = []
        self._asked: dict[str, float] = {}
        self._where: dict[int, frozenset[str]] = {}
        self._threads, self._looked, self._alone_since = 0, 0.0, time.monotonic()
        self._client: Any = None
        self._watching = False
        try:
            self._client = self._connect()
            self._first_worker()
            require_same_versions(self._client, deployment.title)
            self._client.register_plugin(lookout_plugin(distributed, self._run))
            self._watching = True
            self.dashboard = str(deployment.dashboard or self._client.dashboard_link or "")
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        address = self._deployment.address
        try:
            return self._distributed.Client(
                address, timeout=10, set_as_default=False, security=self._deployment.security
            )
        except (OSError, TimeoutError) as error:
            raise RemoteError(
                f"cluster.address: no dask scheduler answers at {address} ({error}); start one with: dask scheduler",
                url=address,
            ) from None

    def _first_worker(self) -> None:
        """Wait for the first worker, and say in the queue's own words what is wrong where none comes."""
        deadline = time.monotonic() + self._patience
        while not self._look(now=True):
            self._deployment.tend()
            title, refused = self._deployment.title, self._deployment.refused()
            if refused:
                raise ClusterError(
                    f"{title} refused the job: {refused}; change cluster: queue, memory, cores or walltime"
                )
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{title} has no worker after {self._patience:g} s: {self._deployment.waiting()}; wait longer with "
                    "cluster: start_within, or change what is asked of it"
                )
            time.sleep(0.1)

    def _look(self, *, now: bool = False) -> int:
        """Look, not too often, how many threads there are, and which workers offer what the stage needs."""
        if now or time.monotonic() - self._looked > LOOK_EVERY:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            self._names = {address: str(entry["name"]) for address, entry in workers.items()}
            self._able = [a for a, entry in workers.items() if _offers(entry.get("resources") or {}, self._needs)]
            self._threads = sum(int(workers[address]["nthreads"]) for address in self._able)
            self._looked = time.monotonic()
            if self._threads:
                self._alone_since = self._looked
        return self._threads

    @property
    def workers(self) -> int:  # type: ignore[override]
        """Threads there are, or will be once all jobs have started."""
        return max(1, self._threads, self._deployment.expected)

    def _require_workers(self) -> None:
        """Raise ClusterError where all workers have been gone for as long as the first was waited for."""
        if not self._threads and time.monotonic() - self._alone_since > self._patience:
            raise ClusterError(
                f"{self._deployment.title} lost all its workers and has none for {self._patience:g} s: "
                f"{self._deployment.waiting()}; what is done is kept: run the same command again"
            )

    def begin(self, work: Work) -> None:
        """Send the stage's work to all workers, those that come later included. ClusterError where it cannot be opened."""
        self._forget()
        self._stages += 1
        self._stage, self._suspects = f"{self._run}-{self._stages}", set()
        self._client.register_plugin(stage_plugin(self._distributed, self._stage, pickle.dumps(work)), name=self._stage)
        require_stage_opens(self._client, self._stage, self._deployment.title)
        self._needs = work.resources
        if not self._look(now=True) and self._needs:
            raise ClusterError(
                f"{self._deployment.title}: no worker offers {dict(self._needs)}, which a step asks for; start workers with "
                "--resources, or write cluster: {resources: {...}}"
            )

    def room(self) -> int:
        """Return what is missing to three batches for each thread there is now."""
        self._deployment.tend()
        threads = self._look()
        self._require_workers()
        # With no worker left a few batches wait at the scheduler, but those that not every worker may do wait here.
        return max(0, WINDOW * (threads if self._needs else max(1, threads)) - len(self._under_way))

    def submit(self, batch: Batch) -> None:
        """Submit the batch as one task, for any worker, or for those that offer what the stage needs."""
        watched = bool(self._suspects) and not self._suspects.isdisjoint(batch.blocks)
        where: dict[str, Any] = {}
        if self._needs:
            self._where[batch.ticket] = frozenset(self._able)
            where = {"workers": self._able, "allow_other_workers": False}
        future = self._client.submit(
            run_on_worker,
            self._run,
            self._stage,
            batch,
            watched,
            self._shares or None,
            key=f"{self._stage}-{batch.ticket}",
            pure=False,
            retries=0,
            **where,
        )
        self._under_way[batch.ticket], self._batches[batch.ticket] = future, batch
        future.add_done_callback(lambda done, ticket=batch.ticket: self._finished.put((ticket, done)))

    def wait(self, seconds: float) -> Sequence[Reply]:
        """Return results and deaths, waiting for the first."""
        replies: list[Reply] = []
        try:
            ticket, future = self._finished.get(timeout=seconds)
            while True:
                if self._under_way.get(ticket) is future:
                    replies.append(self._reply(ticket, future))
                    self._forget_batch(ticket)
                future.release()
                ticket, future = self._finished.get_nowait()
        except queue.Empty:
            if not replies and self._needs:
                replies = self._stranded()
            return replies

    def _stranded(self) -> list[Reply]:
        """Take back batches whose workers, the only ones that could do them, are all gone; others have come since."""
        self._look()
        lost: list[Reply] = []
        for ticket, future in list(self._under_way.items()):
            if self._able and self._where[ticket].isdisjoint(self._able) and future.status == "pending":
                future.cancel(force=True)
                self._forget_batch(ticket)
                lost.append(WorkerDeath(ticket, 0, "", "", started=False))
        return lost

    def _forget_batch(self, ticket: int) -> None:
        del self._under_way[ticket], self._batches[ticket]
        self._where.pop(ticket, None)

    # -- deaths -------------------------------------------------------------------------------------------------------

    def _reply(self, ticket: int, future: Any) -> Reply:
        if future.status == "finished":
            self._done.append(ticket)
            result: Reply = future.result()
            return result
        if future.status != "error":
            raise ClusterError(
                f"{self._deployment.title} is gone (a batch was {future.status}); what is done is kept: start it, and run the "
                "same command again"
            )
        error = future.exception()
        if not isinstance(error, self._distributed.KilledWorker):
            text = f"the dask worker could not run the batch: {type(error).__name__}: {error}"
            return WorkerDeath(ticket, 0, WorkerKilled.__name__, text)
        address, name = str(error.last_worker.address), str(error.last_worker.name)
        said, left = self._notes(ticket, address)
        if said is not None:
            text = said["error"] + self._make_room(name)
            return WorkerDeath(ticket, 0, OutOfMemory.__name__, text, culprit=said["block"])
        if left is not None and left["ticket"] != ticket and left["ticket"] not in self._done:
            return WorkerDeath(ticket, 0, "", "", started=False)
        self._suspects.update(self._batches[ticket].blocks)
        culprit = left["block"] if left is not None and left["ticket"] == ticket and left["block"] >= 0 else None
        ended = self._accounted(name)
        if ended is not None:
            return WorkerDeath(ticket, 0, ended.kind, ended.error, culprit if ended.blame else None, ended.blame)
        text = f"killed: the dask worker {name} died under it"
        return WorkerDeath(ticket, 0, WorkerKilled.__name__, text, culprit)

    def _notes(self, ticket: int, address: str) -> tuple[Any, Any]:
        """Return the note of the worker about its memory, and that of the lookout about where the worker was; or None."""
        said = left = None
        for _, note in self._client.get_events(self._run) or ():
            if note["stage"] == self._stage:
                if note.get("left") == address:
                    left = note
                elif "error" in note and note["ticket"] == ticket:
                    said = note
        return said, left

    def _accounted(self, name: str) -> Any:
        """Return why the worker's job ended, in the queue's words, which may be a moment behind; or None."""
        first = self._asked.setdefault(name, time.monotonic())
        while True:
            ended = self._deployment.ended(name)
            if ended is not None or time.monotonic() - first > ACCOUNTED_WITHIN or not self._deployment.accounts:
                return ended
            time.sleep(0.3)

    def _make_room(self, name: str) -> str:
        """Halve the workers that share memory with the one that ran out of it; each of those left may use twice as much.

        Return what is to be told of it.
        """
        known = dict(self._names)  # those before its death: it comes again, if at all, by the same name
        self._look(now=True)
        group = {known.get(a) or self._names[a] for a in self._deployment.neighbours(name, {**known, **self._names})}
        names = [name, *sorted(group - {name})]
        kept, ended = names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :]
        if not ended:
            return ""
        for worker in kept:
            self._shares[worker] = self._shares.get(worker, 1.0) * len(names) / len(kept)
        self._client.retire_workers([a for a, worker in self._names.items() if worker in ended], close_workers=True)
        self._look(now=True)
        return f"; {len(kept)} of {len(names)} workers go on, with the memory of the others"

    # -- end ----------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        for future in self._under_way.values():
            future.cancel()
        self._under_way.clear()
        self._batches.clear()
        self._where.clear()
        self._done.clear()
        if self._stage:
            self._client.unregister_worker_plugin(self._stage)
            self._stage = ""

    def close(self) -> None:
        """Disconnect, and stop the cluster where it was started here. A second Ctrl-C waits for that, about a second."""
        with deaf_to_ctrl_c():
            try:
                if self._client is not None:
                    self._forget()
                    if self._watching:
                        self._client.unregister_scheduler_plugin(self._run)
            except (OSError, TimeoutError):
                pass  # the scheduler is gone, and its plugins with it
            finally:
                if self._client is not None:
                    self._client.close()
                self._deployment.close()


def _offers(resources: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in needs.items())

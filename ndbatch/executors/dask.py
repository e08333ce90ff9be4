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

from ndbatch.errors import ClusterError, OutOfMemory, RemoteError, TimeLimit, WorkerKilled
from ndbatch.executors.agreement import require_same_versions, require_stage_opens
from ndbatch.executors.base import Executor, Reply, WorkerDeath
from ndbatch.executors.clock import Clock
from ndbatch.executors.deployments import Deployment, deaf_to_ctrl_c
from ndbatch.executors.onworker import lookout_plugin, run_on_worker, stage_plugin
from ndbatch.worker.work import Batch, Work

WINDOW = 3
"""Batches under way for each thread: one that runs, and two that keep it from waiting."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the workers."""
TOO_LONG = (
    "walltime: workers ended in good order, at their lifetime or with their job, before the block was done; raise cluster: "
    "walltime (or --lifetime of the workers), or use smaller blocks"
)
ACCOUNTED_WITHIN = 3.0
"""Seconds that a queue gets to say why a job ended before the worker's death is told without its word."""


class DaskExecutor(Executor):
    """Runs batches as dask tasks, two or three a thread under way. ClusterError where no worker starts in `patience` s.

    For `silence` seconds a worker that is at a batch need not give a sign.
    """

    batch_seconds = 2.0

    def __init__(self, deployment: Deployment, patience: float, silence: float = 3600.0) -> None:
        import distributed

        self._distributed, self._deployment, self._patience = distributed, deployment, patience
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._under_way: dict[int, Any] = {}
        self._batches: dict[int, Batch] = {}
        self._done: deque[int] = deque(maxlen=10_000)
        self._suspects: set[int] = set()
        self._cut: set[int] = set()
        self._left: set[str] = set()
        self._heard, self._paused = 0.0, 0
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
        self._watching, self._clock = False, Clock()
        try:
            self._client = self._connect()
            self._first_worker()
            require_same_versions(self._client, deployment.title)
            self._client.register_plugin(lookout_plugin(distributed, self._run, silence))
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
            said, told = " ".join(str(error).split()), "start one with: dask scheduler"
            if self._deployment.security is not None:
                told = "start one, or look at the certificates in cluster: tls"
            raise RemoteError(
                f"cluster.address: no dask scheduler answers at {address} ({said}); {told}", url=address
            ) from None

    def _first_worker(self) -> None:
        """Wait for the first worker, and say in the queue's own words what is wrong where none comes."""
        deadline = time.monotonic() + self._patience
        while not self._look(now=True):
            self._deployment.tend()
            title, refused = self._deployment.title, self._deployment.refused()
            if refused:
                raise ClusterError(f"{title} {refused}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{title} has no worker after {self._patience:g} s: {self._waiting()}; wait longer with "
                    "cluster: start_within, or change what is asked of it"
                )
            time.sleep(0.1)

    def _look(self, *, now: bool = False) -> int:
        """Look, not too often, how many threads there are, and which workers offer what the stage needs."""
        if now or time.monotonic() - self._looked > LOOK_EVERY:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            self._left |= self._names.keys() - workers.keys()
            self._names = {address: str(entry["name"]) for address, entry in workers.items()}
            self._able = [a for a, entry in workers.items() if _offers(entry.get("resources") or {}, self._needs)]
            self._threads = sum(int(workers[a]["nthreads"]) for a in self._able if _at_work(workers[a]))
            self._paused = sum(entry["status"] == "paused" for entry in workers.values())
            self._looked = time.monotonic()
            if self._threads:
                self._alone_since = self._looked
        return self._threads

    def _waiting(self) -> str:
        """Return why there is nobody to do a batch."""
        if self._paused:
            return (
                f"dask has paused {self._paused} of {len(self._names)} workers, since their memory is nearly full; "
                "start them with a larger --memory-limit, or write a smaller cluster: memory"
            )
        return self._deployment.waiting()

    @property
    def workers(self) -> int:  # type: ignore[override]
        """Threads there are, or will be once all jobs have started."""
        return max(1, self._threads, self._deployment.expected)

    def _require_workers(self) -> None:
        """Raise ClusterError where all workers have been gone for as long as the first was waited for."""
        if not self._threads and time.monotonic() - self._alone_since > self._patience:
            lost = "has no worker that goes on" if self._names else "lost all its workers and has none"
            raise ClusterError(
                f"{self._deployment.title} {lost} for {self._patience:g} s: {self._waiting()}; what is done is kept: run "
                "the same command again"
            )

    def begin(self, work: Work) -> None:
        """Send the stage's work to all workers, those that come later included. ClusterError where it cannot be opened."""
        self._forget()
        self._stages += 1
        self._stage, self._suspects, self._cut = f"{self._run}-{self._stages}", set(), set()
        self._alone_since = time.monotonic()  # between stages nobody looks, and jobs may have ended
        self._tell(stage_plugin(self._distributed, self._stage, pickle.dumps(work)))
        require_stage_opens(self._client, self._stage, self._deployment.title)
        self._needs = work.resources
        if not self._look(now=True) and self._needs:
            raise ClusterError(
                f"{self._deployment.title}: no worker offers {dict(self._needs)}, which a step asks for; start workers with "
                "--resources, or write cluster: {resources: {...}}"
            )

    def _tell(self, plugin: Any) -> None:
        """Give all workers the stage's plugin. One that ends meanwhile makes dask raise, though the others have it."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._client.register_plugin(plugin, name=self._stage)
                return
            except OSError as error:
                if self._client.status != "running" or time.monotonic() > deadline:
                    raise ClusterError(
                        f"{self._deployment.title}: the workers cannot be told what to do, since they end or the scheduler does "
                        f"({type(error).__name__}); look at what they wrote, then run the same command again"
                    ) from None
                time.sleep(0.5)

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
                    self._clock.heard()
                future.release()
                ticket, future = self._finished.get_nowait()
        except queue.Empty:
            if not replies:
                self._clock.require_steady(self._deployment.title)
            if not replies and self._needs:
                replies = self._stranded()
            return replies + self._cut_short()

    def _cut_short(self) -> list[Reply]:
        """Take back batches that workers left unfinished in good order, a second time: their blocks outlast the workers.

        dask itself gives such a batch to another worker, without a word and without an end.
        """
        lost: list[Reply] = []
        if not self._left:
            return lost
        self._left.clear()
        for stamp, note in self._client.get_events(self._run) or ():
            if stamp <= self._heard or not note.get("cut") or note["stage"] != self._stage:
                continue
            self._heard = stamp
            batch = self._batches.get(note["ticket"])
            if batch is None:
                continue
            if self._cut.issuperset(batch.blocks):
                self._under_way[batch.ticket].cancel(force=True)
                self._forget_batch(batch.ticket)
                blocks = list(batch.blocks)
                culprit = blocks[0] if len(blocks) == 1 else None
                lost.append(WorkerDeath(batch.ticket, 0, TimeLimit.__name__, TOO_LONG, culprit))
            self._cut.update(batch.blocks)
        return lost

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
        if future.status == "lost":  # finished, but its worker died before the result was fetched; nobody is to blame
            future.cancel(force=True)
            return WorkerDeath(ticket, 0, "", "", started=False)
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
            except (OSError, TimeoutError, ValueError):
                pass  # the scheduler is gone, and its plugins with it, also where another one has taken its place
            finally:
                if self._client is not None:
                    self._client.close()
                self._deployment.close()


def _offers(resources: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in needs.items())


def _at_work(worker: Mapping[str, Any]) -> bool:
    """Whether dask gives the worker tasks, or it does one still: it is paused while its memory is nearly full."""
    return worker["status"] == "running" or bool(worker["metrics"].get("task_counts", {}).get("executing"))

"""Workers in the jobs of a queue, by dask-jobqueue: submitted, replaced when they end before the run, and accounted for.

The scheduler runs in the driver, which may itself be in a job. A job ends its workers in good order before its walltime,
one after another, so that what they are at is done elsewhere and nothing is called dead.
"""

from __future__ import annotations

import math
import os
import shlex
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import ClusterError, OutOfMemory, TimeLimit, WorkerKilled, missing_extra
from ndbatch.executors.deployments import Ended, Started, deaf_to_ctrl_c, scheduling
from ndbatch.executors.queues import QUEUES, Standing, last_words, with_log
from ndbatch.executors.settings import SETTINGS, environment

if TYPE_CHECKING:
    from ndbatch.config.cluster import Cluster

CLASSES = {"slurm": "SLURM", "lsf": "LSF", "pbs": "PBS", "sge": "SGE", "htcondor": "HTCondor"}
"""How dask-jobqueue begins the names of its classes."""
OVERHEAD = 300 * 2**20
"""Bytes of a job beside its workers' promise: the process that watches over them."""
ASK_EVERY = 5.0
"""Seconds between two looks at the queue."""
REFUSALS = 3
"""Submissions in a row that the queue may refuse before the run is given up where no worker is left."""


class Jobs(Started):
    """Jobs of a queue, each with `cores` workers of one thread."""

    accounts = True

    def __init__(self, cluster: Cluster, logs: Path, limit: float | None) -> None:
        self._config, self._logs = cluster, logs
        self._queue = QUEUES[cluster.kind]()
        self._refusals: list[str] = []
        self._ids: dict[str, str] = {}
        self._standings: dict[str, Standing] = {}
        self._looked = 0.0
        self.expected = cluster.most_workers or 0
        self._lock = threading.Lock()
        logs.mkdir(parents=True, exist_ok=True)
        super().__init__(self._start(limit), f"the {cluster.kind} queue{_named(cluster.queue)}")
        self._ask_for_jobs()

    def _start(self, limit: float | None) -> Any:
        try:
            import dask_jobqueue
        except ImportError:
            raise missing_extra("dask-jobqueue", "hpc", f"cluster: {{kind: {self._config.kind}}}") from None
        import dask

        begins = CLASSES[self._config.kind]
        kind = getattr(dask_jobqueue, f"{begins}Cluster")
        try:
            with dask.config.set(SETTINGS | scheduling(limit)), deaf_to_ctrl_c():
                return _tidy(kind)(job_cls=self._reporting(kind.job_cls), **self._keywords())
        except Exception as error:
            raise ClusterError(
                f"cluster: {self._config.kind}: the jobs cannot be described ({_first_line(error)}); look at cluster.options "
                "and cluster.interface"
            ) from error

    def _reporting(self, kind: Any) -> Any:
        """Return the job class with an ear for what the queue says when it takes or refuses a job."""
        from distributed.core import Status

        refusals, ids, running = self._refusals, self._ids, Status.running

        class Reporting(kind):  # type: ignore[misc]
            async def start(self) -> None:
                try:
                    await super().start()
                except Exception as error:
                    refusals.append(_refusal(str(error)))
                    # Counted as started, or dask would log a traceback; `tend` takes it off again.
                    self.status, self.job_id = running, None
                    return
                refusals.clear()
                ids[str(self.name)] = str(self.job_id)

        return Reporting

    def _keywords(self) -> dict[str, Any]:
        """Return the arguments of dask-jobqueue's class."""
        config = self._config
        job = (config.memory_bytes or 0) * config.cores + OVERHEAD
        known = {
            "cores": config.cores,
            "processes": config.cores,
            "memory": f"{math.ceil(job / 2**20)} MiB",
            "queue": config.queue,
            "account": config.account,
            "walltime": _clock(config.walltime_seconds, to_the_second=config.kind != "lsf"),
            "interface": config.interface,
            "python": config.python,
            "job_extra_directives": list(config.directives),
            "job_script_prologue": [*_exports(), *config.prologue],
            "worker_extra_args": [*self._lifetime(), *_offers(config.resources)],
            "log_directory": str(self._logs),
            "local_directory": "${TMPDIR:-/tmp}",
            "death_timeout": 120,
            "scheduler_options": {"dashboard_address": ":0"},
        }
        if config.kind in ("lsf", "sge"):
            known["project"] = known.pop("account")
        if config.kind == "htcondor":
            for name in ("queue", "account", "walltime"):
                known.pop(name)
            known["job_extra_directives"] = dict(line.split("=", 1) for line in config.directives)
            known["disk"] = "1 GiB"
        if config.kind == "slurm":
            known["job_mem"] = f"{math.ceil(job / 2**20)}M"  # dask-jobqueue would round up to whole GiB
        return {name: value for name, value in {**known, **config.options}.items() if value is not None}

    def _lifetime(self) -> list[str]:
        """Return how long workers live: less than their job, and not all to the same second."""
        walltime = self._config.walltime_seconds
        if walltime is None:
            return []
        margin = min(300.0, max(20.0, 0.1 * walltime))
        stagger = min(120.0, margin / 4)
        return ["--lifetime", f"{max(10.0, walltime - margin - stagger):.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _ask_for_jobs(self) -> None:
        config = self._config
        if config.maximum is not None:
            # One at least: without a worker nothing can be asked, and dask starts none before it is asked something.
            self.cluster.adapt(minimum_jobs=max(1, config.minimum or 0), maximum_jobs=config.maximum, interval="2 s")
        else:
            self.cluster.scale(jobs=config.jobs)

    def tend(self) -> None:
        """Look at the queue now and then, and send a new job for each that ended."""
        if time.monotonic() - self._looked < ASK_EVERY:
            return
        self._look()
        gone = [n for n, job in self._ids.items() if self._ended(job) and n in self.cluster.worker_spec]
        if len(self._refusals):
            gone += [name for name in self.cluster.worker_spec if name not in self._ids]
        for name in gone:
            self.cluster.worker_spec.pop(name, None)
        if gone and self._config.maximum is None and len(self._refusals) < REFUSALS:
            self.cluster.scale(jobs=self._config.jobs)

    def _ended(self, job: str) -> bool:
        return job in self._standings and self._standings[job].state == "ended"

    def _look(self) -> None:
        """Ask the queue about the jobs that have not ended yet."""
        with self._lock:
            self._looked = time.monotonic()
            jobs = [job for job in self._ids.values() if not self._ended(job)]
            if jobs:
                self._standings.update(
                    {
                        job: with_log(standing, last_words(self._logs, job) if standing.state == "ended" else "")
                        for job, standing in self._queue.ask(jobs).items()
                    }
                )

    def refused(self) -> str:
        """Return what the queue said when it took no job, or why none of several jobs came as far as a worker."""
        if self._refusals and (len(self._refusals) >= REFUSALS or not self._ids):
            said = self._refusals[-1]
            return f"refused the job: {said}; change cluster: queue, memory, cores, walltime or directives"
        ended = [job for job in self._ids.values() if self._ended(job)]
        if len(ended) >= REFUSALS:
            return f"ended {len(ended)} jobs before a worker began: {self.waiting()}; look at {self._logs}"
        return ""

    def waiting(self) -> str:
        """Return where the jobs stand, in the queue's words."""
        self._look()
        told = [f"job {job}: {standing.words}" for job, standing in list(self._standings.items())[:3]]
        logs = [
            said for job in self._standings if self._ended(job) and (said := last_words(self._logs, job).split("\n"))
        ]
        lines = [line.strip() for log in logs for line in log[-3:] if line.strip()]
        return (
            "; ".join([*told, *(f"its log ends: {line}" for line in lines[-1:])])
            or "the queue says nothing about its jobs"
        )

    # -- workers ------------------------------------------------------------------------------------------------------

    def ended(self, worker: str) -> Ended | None:
        """Return why the job of `worker` ended, or None while it runs."""
        job = self._ids.get(self._job_name(worker))
        if job is None:
            return None
        self._look()
        standing = self._standings.get(job)
        if standing is None or standing.state != "ended":
            return None
        config, said = self._config, f"{self._config.kind} job {job} ended: {standing.words}"
        if standing.cause == "memory":
            text = f"out of memory: {said}; it was promised {config.memory} a worker: raise cluster: memory or use smaller blocks"
            return Ended(OutOfMemory.__name__, text)
        if standing.cause == "walltime":
            return Ended(TimeLimit.__name__, f"walltime: {said}; raise cluster: walltime or use smaller blocks")
        return Ended(WorkerKilled.__name__, f"killed: {said}", blame=standing.cause == "")

    def _job_name(self, worker: str) -> str:
        """Return the name of the job that runs `worker`; workers of one job have its name and a number."""
        return worker if worker in self._ids else worker.rpartition("-")[0]

    def neighbours(self, worker: str, names: Mapping[str, str]) -> list[str]:
        """Return the workers of the same job."""
        job = self._job_name(worker)
        return [address for address, name in names.items() if self._job_name(name) == job]


def _exports() -> list[str]:
    """Return the lines that set the environment of the workers, the driver's paths of modules included."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment().items()]
    path = os.environ.get("PYTHONPATH")
    return [*lines, f"export PYTHONPATH={shlex.quote(path)}"] if path else lines


def _offers(resources: Mapping[str, float]) -> list[str]:
    """Return how workers tell what they have beside their core."""
    text = ",".join(f"{name}={amount:g}" for name, amount in resources.items())
    return ["--resources", shlex.quote(text)] if text else []


def _clock(duration: float | None, *, to_the_second: bool) -> str | None:
    """Return a walltime as queues read it: HH:MM:SS, or HH:MM rounded up."""
    if duration is None:
        return None
    if not to_the_second:
        minutes = math.ceil(duration / 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"
    seconds = math.ceil(duration)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _refusal(text: str) -> str:
    """Return what the submit command wrote to standard error, on one line."""
    said = text.partition("stderr:\n")[2].strip() or text.strip()
    return " ".join(said.split())


def _tidy(kind: Any) -> Any:
    """Return the cluster class; what it could not make it does not complain of later, as something left open."""
    from distributed.core import Status

    class Tidy(kind):  # type: ignore[misc]
        def __init__(self, **keywords: Any) -> None:
            try:
                super().__init__(**keywords)
            except BaseException:
                self.status = Status.closed
                raise

    return Tidy


def _first_line(error: Exception) -> str:
    """Return what is wrong; dask-jobqueue goes on with all that it was given."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _named(queue: str | None) -> str:
    return f" {queue}" if queue else ""

"""Where blocks are computed: the `cluster` of a configuration. It is never part of what decides the output."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ndbatch.config.document import Auto, Document, Duration, Memory, Positive
from ndbatch.config.quantities import parse_bytes, parse_seconds

QUEUES = ("slurm", "lsf", "pbs", "sge", "htcondor")
"""Kinds whose workers are jobs of a queue."""
DASK = ("dask", "local", *QUEUES)
"""Kinds that are dask clusters."""
_FOR_QUEUES = (
    "jobs", "minimum", "maximum", "cores", "queue", "account", "walltime", "directives", "prologue", "interface", "python",
)  # fmt: skip


def _is_dotted(path: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", path):
        raise ValueError(f"{path!r} is no dotted path; write one such as dask_kubernetes.operator.KubeCluster")
    return path


class Tls(Document):
    """Certificates for a scheduler that asks for them. Files, never their contents."""

    ca: str
    """File of the authority that signed the certificates."""
    cert: str
    """File of the certificate of this machine."""
    key: str
    """File of the certificate's private key."""


class Cluster(Document):
    """Where blocks are computed."""

    kind: Literal["inline", "threads", "processes", "local", "dask", "slurm", "lsf", "pbs", "sge", "htcondor"] = (
        "processes"
    )
    """inline: in this process, one after another; threads and processes: on this machine; local: on a dask cluster of this
    machine, with a dashboard; dask: on a running scheduler (address) or one that a class starts (starts); the others: in
    jobs of that queue."""
    workers: Positive | Auto = "auto"
    """Blocks computed at the same time; auto is one for each core. Queues take jobs and cores instead."""
    memory: Memory = "auto"
    """Memory promised to each worker, such as 4 GB; auto divides 80 % of what is free here. Queues must be told."""
    address: str | None = None
    """Address of a running dask scheduler, such as tcp://host:8786 or tls://host:8786; for kind: dask."""
    tls: Tls | None = None
    """Certificates for an address that begins with tls://."""
    starts: Annotated[str, AfterValidator(_is_dotted)] | None = None
    """Dotted path of a dask Cluster class to start, such as dask_kubernetes.operator.KubeCluster; for kind: dask."""
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Further keyword arguments of the Cluster class: of starts, or of dask-jobqueue's class for the queue."""
    jobs: Positive = 1
    """Jobs to keep in the queue; a job that ends before the run does is replaced."""
    minimum: Annotated[int, Field(ge=0)] | None = None
    """Fewest jobs, where their number follows the work; one is kept in any case until the run ends."""
    maximum: Positive | None = None
    """Most jobs, where their number follows the work; jobs is not used then."""
    cores: Positive = 1
    """Cores of a job; each is a worker with the memory promised."""
    queue: str | None = None
    """Queue or partition to send jobs to; the site's default if not given."""
    account: str | None = None
    """Account or project that the jobs are charged to."""
    walltime: Duration | None = None
    """Longest time a job may take, such as 4 h; its workers end in good order before. The site's default if not given."""
    directives: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further lines for the head of the job script, such as --gres=gpu:1."""
    prologue: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Shell lines that a job runs before its workers, such as module load cuda."""
    interface: str | None = None
    """Network interface over which workers and driver talk, such as ib0."""
    python: str | None = None
    """Python that workers run; that of the driver if not given."""
    resources: dict[str, Annotated[float | int, Field(gt=0)]] = {}  # noqa: RUF012 - pydantic copies it
    """What each worker offers beside its core, such as {gpu: 1}, for steps that ask for it."""
    start_within: Duration | None = None
    """How long to wait for the first worker; 10 min in a queue, 1 min elsewhere, if not given."""

    @model_validator(mode="after")
    def _address_is_for_dask(self) -> Cluster:
        if self.address is not None and self.kind != "dask":
            raise ValueError(
                f"address: {self.address} is that of a dask scheduler; it needs kind: dask, not {self.kind}"
            )
        if self.starts is not None and self.kind != "dask":
            raise ValueError(f"starts: {self.starts} is a dask cluster; it needs kind: dask, not {self.kind}")
        if self.address is not None and self.starts is not None:
            raise ValueError("address is of a running scheduler and starts begins another; leave one out")
        if self.tls is not None and (self.kind in ("inline", "threads", "processes")):
            raise ValueError(f"tls: a dask scheduler's certificates; they need kind: dask, not {self.kind}")
        return self

    @model_validator(mode="after")
    def _queues_are_told(self) -> Cluster:
        if self.kind not in QUEUES:
            fields = type(self).model_fields
            given = [name for name in _FOR_QUEUES if getattr(self, name) != fields[name].default]
            if given:
                raise ValueError(f"{given[0]}: is for jobs of a queue ({', '.join(QUEUES)}), not for {self.kind}")
        else:
            self._check_queue()
        if self.options and self.starts is None and self.kind not in QUEUES:
            raise ValueError("options: are keyword arguments of a Cluster class; they need starts, or a queue")
        return self

    def _check_queue(self) -> None:
        if self.memory == "auto":
            raise ValueError(f"memory: {self.kind} must be told the memory of each worker, such as memory: 4 GB")
        if self.workers != "auto":
            raise ValueError(
                f"workers: {self.kind} counts jobs; write jobs: {self.workers} (each with cores: 1) instead of workers"
            )
        if self.minimum is not None and self.maximum is None:
            raise ValueError("minimum: goes with maximum; write the most jobs too")
        if self.maximum is not None and self.jobs > 1:
            raise ValueError("jobs and maximum both say how many jobs; leave one out")
        if self.maximum is not None and (self.minimum or 0) > self.maximum:
            raise ValueError(f"minimum: {self.minimum} jobs are more than maximum: {self.maximum}")

    @property
    def is_queue(self) -> bool:
        """Whether workers are jobs of a queue."""
        return self.kind in QUEUES

    @property
    def is_dask(self) -> bool:
        """Whether blocks are computed by dask workers."""
        return self.kind in DASK

    @property
    def is_elsewhere(self) -> bool:
        """Whether workers may be on other machines, so that this one's cores and memory say nothing about theirs."""
        return self.is_queue or self.address is not None or self.starts is not None

    @property
    def most_workers(self) -> int | None:
        """Workers there will be at most, where jobs of a queue are counted; None elsewhere."""
        return (self.maximum or self.jobs) * self.cores if self.is_queue else None

    @property
    def memory_bytes(self) -> int | None:
        """Bytes promised to each worker; None where the planner chooses."""
        return None if self.memory == "auto" else parse_bytes(self.memory)

    @property
    def walltime_seconds(self) -> float | None:
        """Seconds a job may take; None where the site decides."""
        return None if self.walltime is None else parse_seconds(self.walltime)

    @property
    def patience(self) -> float:
        """Seconds to wait for the first worker."""
        if self.start_within is not None:
            return parse_seconds(self.start_within)
        return 600.0 if self.is_queue else 60.0

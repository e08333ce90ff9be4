"""Where the dask workers come from: a scheduler that runs already, a cluster of this machine, a class, or a queue.

A deployment gives an address to connect to and is then tended, a few times a minute, by the executor. What it started it
stops; what others started it leaves running.
"""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import ClusterError, ConfigError, missing_extra
from ndbatch.executors.settings import SETTINGS, environment

if TYPE_CHECKING:
    from ndbatch.config.cluster import Cluster


@dataclass(frozen=True)
class Ended:
    """Why a worker is gone, as its queue tells it: the class of the error, a sentence, and whether a block is to blame."""

    kind: str
    error: str
    blame: bool = True


class Deployment(ABC):
    """Workers, and the scheduler that they listen to."""

    title: str
    """What a message calls it."""
    expected: int = 0
    """Workers that were asked for, where that is known."""
    accounts: bool = False
    """Whether `ended` can say why a worker is gone, maybe a moment later."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the scheduler listens."""

    @property
    def security(self) -> Any:
        """What a client needs to connect, or None."""
        return None

    @property
    def dashboard(self) -> str:
        """Address of the scheduler's pages, or nothing."""
        return ""

    def tend(self) -> None:  # noqa: B027 - most have nothing to replace
        """Replace what ended before its time; called every few seconds."""

    def refused(self) -> str:
        """Return why no worker will ever come, as the end of a sentence that begins with the title; or nothing."""
        return ""

    def waiting(self) -> str:
        """Return why no worker has started yet, in the words of whoever starts them."""
        return ""

    def ended(self, worker: str) -> Ended | None:
        """Return why the worker of that name is gone, or None where nobody knows (yet)."""
        return None

    def neighbours(self, worker: str, names: Mapping[str, str]) -> list[str]:
        """Return the workers, `worker` among them, that share its memory; `names` are all, name by address."""
        return []

    def close(self) -> None:  # noqa: B027 - a running scheduler is not stopped
        """Stop what was started."""


class Running(Deployment):
    """A scheduler that somebody else started; it is left running."""

    def __init__(self, cluster: Cluster) -> None:
        distributed = _distributed()
        self._address = str(cluster.address)
        self.title = f"the dask scheduler at {self._address}"
        self._security = None
        if cluster.tls is not None:
            files = {name: str(Path(path).expanduser()) for name, path in cluster.tls.model_dump().items()}
            for name, path in files.items():
                if not Path(path).is_file():
                    raise ConfigError(f"cluster.tls.{name}: there is no file {path}")
            self._security = distributed.Security(
                tls_ca_file=files["ca"],
                tls_client_cert=files["cert"],
                tls_client_key=files["key"],
                require_encryption=True,
            )
        elif self._address.startswith("tls://"):
            raise ConfigError(
                f"cluster.address: {self._address} asks for certificates; write tls: {{ca: FILE, cert: FILE, key: FILE}}"
            )

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        return self._address

    @property
    def security(self) -> Any:
        """The certificates."""
        return self._security

    def waiting(self) -> str:
        """Say how workers are started by hand."""
        return f"start some with: dask worker {self._address} --nthreads 1"


class Started(Deployment):
    """A cluster object of dask that was started here and is closed here."""

    def __init__(self, cluster: Any, title: str) -> None:
        self.cluster, self.title = cluster, title

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        return str(self.cluster.scheduler_address)

    @property
    def security(self) -> Any:
        """What the cluster made for its clients."""
        return getattr(self.cluster, "security", None)

    @property
    def dashboard(self) -> str:
        """Address of the scheduler's pages."""
        return str(getattr(self.cluster, "dashboard_link", "") or "")

    def close(self) -> None:
        """Stop the workers and the scheduler."""
        self.cluster.close()


class Local(Started):
    """A scheduler and worker processes of one thread each on this machine, which share its memory."""

    def neighbours(self, worker: str, names: Mapping[str, str]) -> list[str]:
        """Return all workers."""
        return list(names)


def deploy(cluster: Cluster, workers: int, scratch: Path, logs: Path, limit: float | None) -> Deployment:
    """Return the deployment that `cluster` names, started. `scratch` and `logs` are folders to use; `limit` is the longest
    that a block may take, in seconds. ClusterError or ConfigError where it does not start."""
    if cluster.is_queue:
        from ndbatch.executors.jobs import Jobs

        return Jobs(cluster, logs, limit)
    if cluster.address is not None:
        return Running(cluster)
    if cluster.starts is not None:
        return _class_of(cluster, workers, limit)
    return _local(workers, scratch, cluster.resources, limit)


def _local(workers: int, scratch: Path, resources: Mapping[str, float], limit: float | None) -> Deployment:
    distributed = _distributed()
    import dask

    from ndbatch.executors.nanny import QuietNanny

    scratch.mkdir(parents=True, exist_ok=True)
    with dask.config.set(SETTINGS | scheduling(limit)), deaf_to_ctrl_c():
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            worker_class=QuietNanny,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port; the default is one port on every interface
            memory_limit=0,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
            resources=dict(resources) or None,
            env=environment(),
        )
    return Local(cluster, "the dask cluster of this machine")


def _class_of(cluster: Cluster, workers: int, limit: float | None) -> Deployment:
    """Start the class that `starts` names, with `options`, and ask it for workers."""
    _distributed()
    import importlib

    import dask

    path = str(cluster.starts)
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cluster.starts: {path} cannot be imported ({error}); install its package") from None
    try:
        with dask.config.set(SETTINGS | scheduling(limit)), deaf_to_ctrl_c():
            made = kind(**cluster.options)
            if cluster.workers != "auto":
                made.scale(workers)
    except Exception as error:
        raise ClusterError(
            f"cluster.starts: {path} did not start ({type(error).__name__}: {error}); look at its options"
        ) from error
    return Started(made, path)


def silence(limit: float | None) -> float:
    """Return how many seconds a scheduler waits for a sign of a worker. A step that holds the interpreter lock gives none,
    so it must be longer than any block: an hour, or twice the time limit. A machine that is gone is noticed by its connection.
    """
    return max(300.0, 2 * limit) if limit else 3600.0


def scheduling(limit: float | None) -> dict[str, Any]:
    """Return what a scheduler of our own is told: for how long a worker may be silent."""
    return {"distributed.scheduler.worker-ttl": f"{silence(limit):.0f} s"}


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
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


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise missing_extra("distributed", "dask", "cluster: {kind: dask}") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return distributed

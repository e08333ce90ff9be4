"""Where blocks are computed: in this process, on threads, in processes, or on a dask cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ndbatch.executors.base import Executor

if TYPE_CHECKING:
    from ndbatch.config.cluster import Cluster


def make_executor(cluster: Cluster, workers: int, directory: Path, limit: float | None = None) -> Executor:
    """Return the executor that `cluster` names; what users' functions print goes to `directory`/run.log.

    `limit` is the longest that a block may take, in seconds. ClusterError where a cluster gives no worker.
    """
    match cluster.kind:
        case "inline":
            from ndbatch.executors.local import InlineExecutor

            return InlineExecutor()
        case "threads":
            from ndbatch.executors.local import ThreadsExecutor

            return ThreadsExecutor(workers, cluster.resources)
        case "processes":
            from ndbatch.executors.processes import ProcessesExecutor

            return ProcessesExecutor(workers, directory / "run.log", cluster.resources)
        case _:
            from ndbatch.executors.dask import DaskExecutor
            from ndbatch.executors.deployments import deploy, silence

            deployment = deploy(cluster, workers, directory / "scratch" / "dask", directory / "jobs", limit)
            return DaskExecutor(deployment, cluster.patience, silence(limit))

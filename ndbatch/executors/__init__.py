"""Where blocks are computed: in this process, on threads, in processes, or on a dask cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ndbatch.executors.base import Executor

if TYPE_CHECKING:
    from ndbatch.config.model import Cluster


def make_executor(cluster: Cluster, workers: int, directory: Path) -> Executor:
    """Return the executor that `cluster` names; what users' functions print goes to `directory`/run.log."""
    match cluster.kind:
        case "inline":
            from ndbatch.executors.local import InlineExecutor

            return InlineExecutor()
        case "threads":
            from ndbatch.executors.local import ThreadsExecutor

            return ThreadsExecutor(workers)
        case "processes":
            from ndbatch.executors.processes import ProcessesExecutor

            return ProcessesExecutor(workers, directory / "run.log")
        case "dask":
            from ndbatch.executors.dask import DaskExecutor

            return DaskExecutor(workers, cluster.address, directory / "scratch" / "dask")

"""Workers of a local dask cluster that die before they have begun."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ndbatch.executors.deployments import _local


def test_a_cluster_starts_though_a_worker_is_killed_while_it_starts(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        """Kill the first worker as soon as it is there, long before it can have begun."""
        while not killed:
            with suppress(psutil.Error):
                for child in psutil.Process().children():
                    if any("spawn_main" in word for word in child.cmdline()):
                        child.kill()
                        killed.append(child.pid)
                        return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    deployment = _local(1, tmp_path, {}, None)
    try:
        thread.join()
        with deployment.cluster.get_client() as client:
            assert client.submit(sum, [2, 3]).result(timeout=180) == 5
            assert len(client.scheduler_info()["workers"]) == 1
    finally:
        deployment.close()
    assert killed

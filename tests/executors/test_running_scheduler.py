"""A dask cluster that somebody else started, by its own command lines."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import RemoteError

from .conftest import Runner, Seen


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler and two workers of one thread, on loopback and free ports; their address."""
    told = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    place = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    processes = [subprocess.Popen([*dask, "scheduler", *place, "--scheduler-file", str(told)], **quiet)]
    try:
        deadline = time.monotonic() + 180
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        address = str(json.loads(told.read_text())["address"])
        own = ["--nworkers", "2", "--nthreads", "1", "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        processes.append(
            subprocess.Popen([*dask, "worker", address, *own, "--local-directory", str(tmp_path)], **quiet)
        )
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=180)


def test_a_job_runs_on_it_and_leaves_it_running(
    scheduler: str, run: Runner, image: Any, tmp_path: Path, seen: Seen
) -> None:
    cluster = {"kind": "dask", "address": scheduler}
    result = run("dask", "double", step={"halo": 2}, cluster=cluster)
    assert result.counts.done == 12
    assert np.array_equal(nb.open(f"{tmp_path}/runs/job/out.zarr")[...], image * 2)
    again = run("dask", "in_place", cluster=cluster, name="other")
    assert again.counts.done == 12


def test_no_scheduler_is_one_sentence(run: Runner, image: Any) -> None:
    with pytest.raises(
        RemoteError, match=r"no dask scheduler answers at tcp://127.0.0.1:9 .*start one with: dask scheduler"
    ):
        run("dask", "double", cluster={"kind": "dask", "address": "tcp://127.0.0.1:9"})

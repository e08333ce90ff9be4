"""Clusters that are really started: a scheduler and workers by their own command lines, and a Slurm of one node."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import from_mapping
from tests.clusters.slurm import OneNodeSlurm, absent

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "count-nuclei.yaml"
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of this folder leave what dask does not close: its sockets to schedulers and workers that were killed."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            sockets = r"ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
            item.add_marker(pytest.mark.filterwarnings(sockets))


@pytest.fixture(autouse=True)
def _left_sockets_end_here() -> Iterator[None]:
    """Have what was left found at the end of its test, not in the next one."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNodeSlurm]:
    """A Slurm of one node; sbatch and the others of this process talk to it."""
    if reason := absent():
        pytest.skip(reason)
    with OneNodeSlurm(tmp_path_factory.mktemp("slurm") / "node") as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


def demo(directory: Path, cluster: Mapping[str, Any]) -> Any:
    """Return the demo's configuration, in 32 blocks, to run in `directory` on `cluster`: nothing else differs."""
    document = yaml.safe_load(DEMO.read_text())
    document |= {"directory": str(directory), "cluster": dict(cluster), "blocks": {"z": 30, "y": 64, "x": 64}}
    return from_mapping(document, DEMO.parent)


def contents(directory: Path) -> dict[str, bytes]:
    """Return every byte that a run of the demo made, by file, but for who made it, when and on what."""
    made = [p for p in (directory / "labels.zarr").rglob("*") if p.is_file()] + [directory / "cells.parquet"]
    found = {str(path.relative_to(directory)): path.read_bytes() for path in made}
    group = json.loads(found["labels.zarr/zarr.json"])
    del group["attributes"]["ndbatch"]["provenance"]
    return found | {"labels.zarr/zarr.json": json.dumps(group).encode()}


class Seen(list[events.Event]):
    """An observer that keeps the events; `then` is called once, after `after` blocks are done."""

    def __init__(self, after: int = 0, then: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._after, self._then = after, then

    def __call__(self, event: events.Event) -> None:
        self.append(event)
        if isinstance(event, events.StageEnded | events.RunEnded):
            assert event.counts.balanced, event
        done = sum(e.blocks for e in self if isinstance(e, events.BlocksDone))
        if self._then is not None and done >= self._after:
            then, self._then = self._then, None
            then()

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


@dataclass
class Site:
    """A scheduler and workers, each its own process of its own command line."""

    folder: Path
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""

    def start(self, host: str = "127.0.0.1") -> None:
        told = self.folder / "scheduler.json"
        place = ["--host", host, "--port", "0", "--dashboard-address", f"{host}:0"]
        self._run((), "scheduler", *place, "--scheduler-file", str(told), *self.options)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            with suppress(OSError, ValueError):  # not there yet, or not written to its end
                self.address = str(json.loads(told.read_text())["address"])
                return
            time.sleep(0.05)
        raise RuntimeError("the scheduler did not come up")

    def worker(
        self, *options: str, host: str = "127.0.0.1", within: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker that listens at `host`, by a command that `within` begins."""
        own = ["--nthreads", "1", "--host", host, "--dashboard-address", f"{host}:0"]
        place = ["--local-directory", str(self.folder / "scratch")]
        return self._run(within, "worker", self.address, *own, *place, *self.options, *options, **environment)

    def _run(self, within: Sequence[str], *words: str, **environment: str) -> subprocess.Popen[bytes]:
        everything = {**os.environ, **self.environment, **environment}
        command = [*within, sys.executable, "-m", "dask", *words]
        self.processes.append(subprocess.Popen(command, cwd=self.folder, env=everything, **QUIET))
        return self.processes[-1]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(timeout=3)  # a nanny whose worker was killed may take half a minute
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return what starts a scheduler; all that was started is stopped."""
    with ExitStack() as stack:

        def start(*options: str, **environment: str) -> Site:
            made = Site(tmp_path, options, environment)
            stack.callback(made.stop)
            made.start()
            return made

        yield start


@pytest.fixture(scope="session")
def local_result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the demo makes on processes of this machine."""
    directory = tmp_path_factory.mktemp("local")
    assert nb.run(demo(directory, {"kind": "processes", "workers": 2}), report=False).status == "done"
    return contents(directory)

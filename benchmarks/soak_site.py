"""What a soak runs on: a service behind a bad network, a dask cluster, one driver that goes on for hours, and what kills them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from crash_test import ROOT

from ndbatch.config.secret import Secret
from ndbatch.remotes.address import parse
from ndbatch.remotes.registry import store_class

TOKEN = "NDBATCH_SOAK_TOKEN"
BLOCKS = {"z": 16, "y": 128, "x": 128}
SHORT_HISTORY = {
    "DASK_DISTRIBUTED__ADMIN__LOG_LENGTH": "100",
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__LOG_LENGTH": "60",
    "DASK_DISTRIBUTED__DIAGNOSTICS__COMPUTATIONS__MAX_HISTORY": "10",
    "DASK_DISTRIBUTED__SCHEDULER__EVENTS_CLEANUP_DELAY": "10s",
}
"""dask keeps what happened in its last hour, and its last thousands of messages, which grow through all of a soak: 21 MiB an
hour of a scheduler, 3 of a nanny. So it has all that it ever keeps after some minutes, and what grows then is something else."""
SOON = 60.0
"""Seconds within which what was started must be up, and what lost its driver must be gone."""


@dataclass
class Site:
    """All that runs for the whole soak, below `top`; `environment` is that of everything which is started."""

    top: Path
    environment: dict[str, str]
    url: str = ""
    """`127.0.0.1:PORT` of the service itself."""
    server: subprocess.Popen[bytes] = field(init=False)
    scheduler: subprocess.Popen[bytes] = field(init=False)
    spared: subprocess.Popen[bytes] = field(init=False)
    """The nanny of the dask worker that is never killed, so that its memory has a history."""
    hunted: subprocess.Popen[bytes] = field(init=False)
    """The nanny of the one that is."""
    address: str = ""
    """Of the scheduler."""
    driver: subprocess.Popen[str] = field(init=False)

    @property
    def served(self) -> Path:
        """The folder that the service writes to."""
        return self.top / "served"

    def start(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command of this Python in the environment of the soak; its output goes to a file unless said otherwise."""
        with (self.top / "log.txt").open("ab") as log:
            streams = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, **options}
            return subprocess.Popen([sys.executable, *command], cwd=self.top, env=self.environment, **streams)

    def start_service(self) -> None:
        """Start `ndbatch serve` in two processes over the sample volume."""
        sample = {
            "url": str(ROOT / "examples/data/nuclei_cells3d.tif"),
            "voxel_size": {"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"},
        }
        document = {"volumes": {"cells3d/nuclei": sample}, "folder": "served"}
        (self.top / "serve.yaml").write_text(yaml.safe_dump(document))
        options = ["--port", "0", "--workers", "2", "--token-env", TOKEN]
        self.server = self.start("-m", "ndbatch", "serve", "serve.yaml", *options)
        self.url = _until(
            lambda: (re.findall(r"http://(127\.0\.0\.1:\d+)/ serves", (self.top / "log.txt").read_text()) or [""])[0],
            "the service did not come up",
        )

    def exercise(self, rounds: int = 4, together: int = 3) -> None:
        """Give the service the work of several runs at once, so that its processes have now what they need at their busiest.

        Memory for a request is kept for the next ones; a process that happened to be asked less would fill up for half an hour.
        """
        folder = self.top / "exercise"
        for number in range(rounds):
            started = []
            for one in range(together):
                job, name = folder / str(one) / "job.yaml", f"exercise{one}"
                job.parent.mkdir(parents=True)
                source, target = f"ndstore://{self.url}/cells3d/nuclei", f"ndstore://{self.url}/soak/{name}"
                job.write_text(yaml.safe_dump(configuration(source, target, {"kind": "threads", "workers": 8})))
                started.append(self.start("-m", "ndbatch", "run", str(job), "--quiet"))
            codes = [process.wait() for process in started]
            if any(codes):
                raise SystemExit(f"the service is not up to {together} runs at once, in round {number}")
            for one in range(together):
                remove(f"ndstore://{self.url}/soak/exercise{one}")
            shutil.rmtree(folder)

    def start_cluster(self) -> None:
        """Start a scheduler and two workers, each with its nanny."""
        told = self.top / "scheduler.json"
        here = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = self.start("-m", "dask", "scheduler", *here, "--port", "0", "--scheduler-file", str(told))

        def address() -> str:
            with suppress(OSError, ValueError):
                return str(json.loads(told.read_text())["address"])
            return ""

        self.address = _until(address, "the scheduler did not come up")
        own = ["--nthreads", "1", "--local-directory", str(self.top / "scratch"), "--memory-limit", "2GB"]
        self.spared, self.hunted = (self.start("-m", "dask", "worker", self.address, *here, *own) for _ in range(2))

    def start_driver(self) -> None:
        """Start the process that runs one configuration after the other."""
        pipe = subprocess.PIPE
        self.driver = self.start(__file__, stdin=pipe, stdout=pipe, text=True)

    def drive(self, config: Path) -> dict[str, Any]:
        """Let the driver run a configuration; return what it says of it: `status`, `blocks`, `error`."""
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(f"{config}\n")
        self.driver.stdin.flush()
        line = self.driver.stdout.readline()
        if not line:
            raise SystemExit(f"the driver ended by itself: {(self.top / 'log.txt').read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Stop all, politely first."""
        for name in ("driver", "hunted", "spared", "scheduler", "server"):
            process: subprocess.Popen[Any] | None = getattr(self, name, None)
            if process is None:
                continue
            if process.stdin is not None:
                process.stdin.close()  # the driver ends when nothing more comes
            else:
                process.terminate()
            try:
                process.wait(SOON)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"the {name} did not end within {SOON:g} s of being asked", flush=True)

    def role(self, process: psutil.Process) -> str | None:
        """Return what a process is."""
        words = process.cmdline()
        if any("resource_tracker" in word for word in words):
            return None
        if process.pid == self.driver.pid:
            return "driver"
        if "ndbatch.worker.process" in words:
            return "worker (processes)"
        if process.pid == self.scheduler.pid:
            return "dask scheduler"
        above = {process.ppid(), process.pid}
        for nanny, what in ((self.spared, "dask worker"), (self.hunted, "dask worker that is killed")):
            if nanny.pid in above:
                return what if process.pid != nanny.pid else "dask nanny"
        if self.server.pid in above:
            return "service"
        return "worker (own dask cluster)" if any("spawn_main" in word for word in words) else None

    def victims(self, driver: int, kind: str) -> list[psutil.Process]:
        """Return the workers of a run that may be killed: of its driver's own, or of the cluster."""
        with suppress(psutil.Error):
            above = psutil.Process(self.hunted.pid if kind == "cluster" else driver)
            mark = "ndbatch.worker.process" if kind == "processes" else "spawn_main"
            return [p for p in above.children() if any(mark in word for word in p.cmdline())]
        return []


def _until(call: Callable[[], str], complaint: str) -> str:
    """Return the first answer of `call` that is not empty."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if answer := call():
            return answer
        time.sleep(0.05)
    raise SystemExit(complaint)


def configuration(source: str, target: str, cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main job: nuclei and a table of them, from a service to a service."""
    return {
        "name": "soak",
        "inputs": {"image": source},
        "steps": [
            {"nuclei": {"input": "image", "diameter": "11 um", "output": "labels"}},
            {"measure": {"labels": "labels", "intensity": "image", "output": "cells"}},
        ],
        "outputs": {"labels": {"url": target, "token": {"env": TOKEN}}, "cells": "cells.parquet"},
        "region": {"x": [0, 128]},
        "blocks": BLOCKS,
        "cluster": dict(cluster),
        "retry": {"attempts": 8, "budget": 1.0, "wait": 0.1},
    }


def contents(site: Site, run: Path, name: str) -> dict[str, str]:
    """Return the hash of every file of the channel `name` in the service's folder, and of the table in the run directory."""
    found: dict[str, str] = {}
    for path in sorted(site.served.rglob(f"{name}*/**/*")):
        if path.is_file() and ".ndbatch-serve" not in path.parts:
            data = path.read_bytes()
            if path.name == "zarr.json":  # which names its channel
                data = data.replace(name.encode(), b"labels")
            found[re.sub(rf".*/{name}\.?", "", str(path))] = hashlib.sha256(data).hexdigest()
    table = run / "cells.parquet"
    found["cells.parquet"] = hashlib.sha256(table.read_bytes()).hexdigest() if table.exists() else "absent"
    return found


def remove(url: str) -> None:
    """Remove a channel from the service."""
    address = parse(url).with_token(Secret(env=TOKEN))
    store_class(address.scheme).delete(address)


@contextmanager
def killing(victims: Callable[[], list[psutil.Process]], every: float, killed: list[str]) -> Iterator[None]:
    """Kill one of `victims` at random moments, `every` seconds on average, and note it in `killed`."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(random.expovariate(1 / every)):
            if found := victims():
                with suppress(psutil.Error, ProcessLookupError):
                    os.kill(random.choice(found).pid, signal.SIGKILL)
                    killed.append("worker")

    thread = threading.Thread(target=loop, name="killer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Be the driver: run the configurations that standard input names, and say how each went.

    It lives as a service does, and its threads share memory as those of `ndbatch serve` do: with an arena for each it would
    grow for half an hour (275 to 285 MiB of its own in runs 20 to 60; 262 to 264 with two arenas).
    """
    from ndbatch.server.memory import share_arenas

    share_arenas()
    import ndbatch as nb
    from ndbatch.errors import NdbatchError

    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            result = nb.run(line.strip())
            answer = {"status": result.status, "blocks": result.counts.done, "error": ""}
        except NdbatchError as error:
            answer = {"status": "failed", "blocks": 0, "error": str(error)}
        forget_schedulers()
        print(json.dumps(answer), flush=True)


def forget_schedulers() -> None:
    """Let dask forget the local clusters that were closed: a cache without bound of its own keeps 0.2 MiB of each for ever."""
    core = sys.modules.get("distributed.core")
    if core is not None:
        core._expects_comm.cache_clear()


if __name__ == "__main__":
    main()

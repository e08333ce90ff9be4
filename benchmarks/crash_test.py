"""kill -9 at random moments, then the same command again: every chunk and every table must be what it would have been.

    python benchmarks/crash_test.py [--rounds 20] [--clusters threads processes dask address slurm] [--seed 1]

The main job (nuclei with coarser levels, then a table of them) and a chain of global passes run on real data, once
undisturbed. Then, for each round, a run is started and killed at a random moment: a worker, the driver alone, or the whole
process group; the scheduler of a running dask cluster (`address`); a job of a queue (`slurm`, a real one of one node).
The same command is given again until it ends by itself (a killed worker must not even need that). Then every file of the
outputs is compared with the undisturbed run's. Prints a line a round; exits 1 on the first difference.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

import ndbatch as nb

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # tests/clusters starts a Slurm


class Cluster:
    """Where the job runs, of `kind`; what it is told of it, and what of it can be killed."""

    victims: tuple[str, ...] = ("worker", "driver", "group")

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def told(self) -> dict[str, Any]:
        """The key `cluster` of the configuration."""
        return {"kind": self.kind, "workers": 2}

    @property
    def environment(self) -> Mapping[str, str]:
        """What the job's environment holds beside this process' own."""
        return {}

    def workers(self, driver: int) -> list[psutil.Process]:
        """Return the processes that compute."""
        found = psutil.Process(driver).children(recursive=True)
        return [c for c in found if "resource_tracker" not in " ".join(_words(c))]

    def kill(self, victim: str) -> str:
        """Kill what only this kind of cluster has; return what was killed."""
        raise ValueError(victim)

    def mend(self) -> None:
        """Start again what a user would start again before the same command."""

    def close(self) -> None:
        """Stop what was started."""


class Threads(Cluster):
    """Threads of the driver: they die with it."""

    victims = ("driver", "group")


class Address(Cluster):
    """A dask scheduler and two workers that run already, each by its own command line."""

    victims = ("scheduler", "worker", "driver", "scheduler")

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind)
        folder.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._folder, self._processes = folder, list[subprocess.Popen[bytes]]()
        self.mend()

    @property
    def told(self) -> dict[str, Any]:
        """The address of the scheduler, or what to ask the queue for."""
        return {"kind": "dask", "address": f"tcp://127.0.0.1:{self._port}"}

    def workers(self, driver: int) -> list[psutil.Process]:
        """Return the worker processes and the nannies that start them again."""
        nannies = [psutil.Process(p.pid) for p in self._processes[1:] if p.poll() is None]
        return [w for nanny in nannies for w in nanny.children(recursive=True) if "spawn_main" in " ".join(_words(w))]

    def kill(self, victim: str) -> str:
        """Kill the scheduler."""
        self._processes[0].kill()
        return "killed the scheduler"

    def mend(self) -> None:
        """Start the scheduler and its workers anew where the scheduler is gone."""
        if self._processes and self._processes[0].poll() is None:
            return
        self.close()
        here = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        self._start("scheduler", *here, "--port", str(self._port))
        for _ in range(2):
            place = ["--nthreads", "1", "--local-directory", str(self._folder)]
            self._start("worker", self.told["address"], *here, *place)

    def _start(self, *words: str) -> None:
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-m", "dask", *words]
        self._processes.append(subprocess.Popen(command, cwd=self._folder, stdin=quiet, stdout=quiet, stderr=quiet))

    def close(self) -> None:
        """Stop the workers, then the scheduler."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


class Slurm(Cluster):
    """A real Slurm of one node, in which the driver asks for jobs of one worker."""

    victims = ("job", "driver", "cancelled job")

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind)
        from tests.clusters.slurm import OneNodeSlurm, absent

        if reason := absent():
            raise SystemExit(f"slurm: {reason}")
        self._slurm = OneNodeSlurm(folder).__enter__()

    @property
    def told(self) -> dict[str, Any]:
        """The address of the scheduler, or what to ask the queue for."""
        return {"kind": "slurm", "jobs": 2, "memory": "1 GB", "interface": "lo", "walltime": "20 min"}

    @property
    def environment(self) -> Mapping[str, str]:
        """The variable that makes sbatch talk to this Slurm."""
        return self._slurm.environment

    def kill(self, victim: str) -> str:
        """Kill or cancel one of the jobs that run."""
        jobs = self._slurm.jobs()
        if not jobs:
            return "was over before the kill"
        job, signals = random.choice(jobs), ["--signal=KILL", "--full"] if victim == "job" else []
        self._slurm.call("scancel", *signals, job)
        return f"{'killed' if victim == 'job' else 'cancelled'} a job of {len(jobs)}"

    def mend(self) -> None:
        """Take away the jobs of a driver that was killed, as their user would."""
        for job in [*self._slurm.jobs("PENDING"), *self._slurm.jobs()]:
            self._slurm.call("scancel", "--full", job)

    def close(self) -> None:
        """Stop the daemons."""
        self._slurm.close()


@contextmanager
def started(kind: str, folder: Path) -> Iterator[Cluster]:
    """Yield the cluster of a kind that the command line names; what it takes is stopped at the end."""
    kinds: dict[str, Any] = {"address": Address, "slurm": Slurm}
    cluster: Cluster = kinds[kind](kind, folder) if kind in kinds else (Threads if kind == "threads" else Cluster)(kind)
    try:
        yield cluster
    finally:
        cluster.close()


def configuration(cluster: Cluster) -> dict[str, object]:
    """Return the job: several stages, labels with coarser levels, a mask, an HDF5 file, two tables; many small blocks."""
    return {
        "name": "crash",
        "inputs": {
            "image": {
                "url": str(ROOT / "examples/data/nuclei_cells3d.tif"),
                "voxel_size": {"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"},
            }
        },
        "steps": [
            {"nuclei": {"input": "image", "diameter": "11 um", "output": "labels"}},
            {"measure": {"labels": "labels", "intensity": "image", "output": "cells"}},
            {"filter": {"input": "image", "method": "gaussian", "sigma": 2, "output": "smooth"}},
            {"threshold": {"input": "smooth", "method": "otsu", "output": "mask"}},
            {"components": {"input": "mask", "output": "parts"}},
            {"measure": {"labels": "parts", "output": "part_table"}},
        ],
        "region": {"y": [64, 192], "x": [64, 192]},
        "outputs": {
            "labels": {"url": "labels.zarr", "chunks": {"z": 16, "y": 32, "x": 32}, "pyramid": {"levels": 2}},
            "smooth": {"url": "smooth.h5::/smooth", "dtype": "uint16"},
            "mask": {"url": "mask.zarr", "chunks": {"z": 32, "y": 64, "x": 64}},
            "parts": {"url": "parts.zarr", "chunks": {"z": 32, "y": 64, "x": 64}},
            "cells": "cells.parquet",
            "part_table": "parts.parquet",
        },
        "blocks": {"z": 32, "y": 64, "x": 64},
        "cluster": cluster.told,
    }


def command(folder: Path) -> list[str]:
    """Return the command line of the job in `folder`."""
    return [sys.executable, "-m", "ndbatch", "run", str(folder / "job.yaml"), "--quiet"]


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file that the job writes as a result; records of when and where are left aside."""
    result: dict[str, str] = {}
    run = folder / "runs/crash"
    for name in ("labels.zarr", "mask.zarr", "parts.zarr"):
        for path in sorted((run / name).rglob("*")):
            if path.is_file():
                result[str(path.relative_to(run))] = _digest(path)
    for name in ("cells.parquet", "parts.parquet"):
        result[name] = _digest(run / name)
    # The file tells when it was made, among its voxels.
    smooth = nb.open(f"{run}/smooth.h5::/smooth")[...]
    result["smooth.h5"] = hashlib.sha256(smooth.tobytes()).hexdigest()
    return result


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; of metadata files, without the provenance that names time and host."""
    data = path.read_bytes()
    if path.name in ("zarr.json", ".zattrs", "attributes.json"):
        document = json.loads(data)
        _drop(document, "provenance")
        data = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _drop(document: object, key: str) -> None:
    if isinstance(document, dict):
        document.pop(key, None)
        for value in document.values():
            _drop(value, key)


def undisturbed(cluster: Cluster, folder: Path) -> tuple[dict[str, str], float]:
    """Run the job once from start to end; return its contents and seconds."""
    _prepare(cluster, folder)
    begun = time.monotonic()
    subprocess.run(command(folder), check=True, stdout=subprocess.DEVNULL, env={**os.environ, **cluster.environment})
    return contents(folder), time.monotonic() - begun


def _prepare(cluster: Cluster, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(configuration(cluster)))


def disturbed(cluster: Cluster, folder: Path, victim: str, after: float) -> tuple[dict[str, str], str]:
    """Start the job, kill `victim` after `after` seconds, and go on until it is done; return contents and what happened."""
    _prepare(cluster, folder)
    told: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "env": {**os.environ, **cluster.environment},
    }
    process = subprocess.Popen(command(folder), start_new_session=True, **told)
    time.sleep(after)
    words = _kill(process, cluster, victim)
    _, errors = process.communicate(timeout=300)
    codes = [process.returncode]
    while codes[-1] != 0 and len(codes) < 4:
        _end_group(process)
        cluster.mend()
        again = subprocess.run(command(folder), timeout=300, check=False, **told)
        codes.append(again.returncode)
        errors = again.stderr
    if codes[-1] != 0 or b"Traceback" in errors:
        raise SystemExit(f"{cluster.kind}: the job did not end after {words}: exit codes {codes}\n{errors.decode()}")
    cluster.mend()
    return contents(folder), f"{words}, exit codes {codes}"


def _kill(process: subprocess.Popen[bytes], cluster: Cluster, victim: str) -> str:
    if process.poll() is not None:
        return "was over before the kill"
    if victim in ("scheduler", "job", "cancelled job"):
        return cluster.kill(victim)
    workers = cluster.workers(process.pid) if victim == "worker" else []
    if workers:
        _quietly_kill(random.choice(workers).pid)
        return f"killed a worker of {len(workers)}"
    if victim == "driver":
        _quietly_kill(process.pid)
        return "killed the driver"
    _end_group(process)
    return "killed the process group"


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _quietly_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def compare(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the names of files that differ, are missing or are too many."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def rounds(cluster: Cluster, folder: Path, number: int, expected: dict[str, str], seconds: float) -> None:
    """Kill the job `number` times; exit 1 on the first difference."""
    for count, victim in zip(range(1, number + 1), itertools.cycle(cluster.victims), strict=False):
        after = random.uniform(0.15, 0.9) * seconds
        found, told = disturbed(cluster, folder, victim, after)
        while told.startswith("was over"):
            after *= 0.7
            found, told = disturbed(cluster, folder, victim, after)
        wrong = compare(expected, found)
        print(f"  {count:2d}. after {after:5.2f} s {told}: {'DIFFERS' if wrong else 'identical'}", flush=True)
        if wrong:
            raise SystemExit(f"{len(wrong)} files differ: {wrong[:10]}")


def main() -> None:
    """Run all rounds; exit 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="kills for each kind of cluster")
    parser.add_argument("--clusters", nargs="+", default=["threads", "processes", "dask", "address"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="ndbatch-crash-") as top:
        reference: dict[str, str] = {}
        for kind in options.clusters:
            with started(kind, Path(top) / kind / "cluster") as cluster:
                expected, seconds = undisturbed(cluster, Path(top) / kind / "whole")
                if reference and compare(reference, expected):
                    differing = compare(reference, expected)[:5]
                    raise SystemExit(f"{kind} wrote other bytes than {options.clusters[0]}: {differing}")
                reference = expected
                print(f"{kind}: {len(expected)} files in {seconds:.1f} s undisturbed", flush=True)
                rounds(cluster, Path(top) / kind / "killed", options.rounds, expected, seconds)
    print(f"{options.rounds} kills on each of {', '.join(options.clusters)}: every file identical")


if __name__ == "__main__":
    main()

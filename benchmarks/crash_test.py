"""kill -9 at random moments, then the same command again: every chunk and every table must be what it would have been.

    python benchmarks/crash_test.py [--rounds 20] [--clusters threads processes dask] [--seed 1]

The main job (nuclei, then a table of them) and a chain of global passes run on real data, once undisturbed. Then, for each
round, a run is started and killed at a random moment: a worker, the driver alone, or the whole process group. The same
command is given again until it ends by itself (a killed worker must not even need that). Then every file of the
outputs is compared with the undisturbed run's. Prints a line a round; exits 1 on the first difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[1]
VICTIMS = ("worker", "driver", "group")


def configuration(kind: str) -> dict[str, object]:
    """Return the job: several stages, a label volume, a mask, two tables; small blocks, so that there are many."""
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
            "labels": {"url": "labels.zarr", "chunks": {"z": 32, "y": 64, "x": 64}},
            "mask": {"url": "mask.zarr", "chunks": {"z": 32, "y": 64, "x": 64}},
            "parts": {"url": "parts.zarr", "chunks": {"z": 32, "y": 64, "x": 64}},
            "cells": "cells.parquet",
            "part_table": "parts.parquet",
        },
        "blocks": {"z": 32, "y": 64, "x": 64},
        "cluster": {"kind": kind, "workers": 2},
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


def undisturbed(kind: str, folder: Path) -> tuple[dict[str, str], float]:
    """Run the job once from start to end; return its contents and seconds."""
    _prepare(kind, folder)
    begun = time.monotonic()
    subprocess.run(command(folder), check=True, stdout=subprocess.DEVNULL)
    return contents(folder), time.monotonic() - begun


def _prepare(kind: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(configuration(kind)))


def disturbed(kind: str, folder: Path, victim: str, after: float) -> tuple[dict[str, str], str]:
    """Start the job, kill `victim` after `after` seconds, and go on until it is done; return contents and what happened."""
    _prepare(kind, folder)
    process = subprocess.Popen(
        command(folder), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    time.sleep(after)
    told = _kill(process, victim)
    _, errors = process.communicate(timeout=300)
    codes = [process.returncode]
    while codes[-1] != 0 and len(codes) < 4:
        _end_group(process)
        again = subprocess.run(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=300)
        codes.append(again.returncode)
        errors = again.stderr
    if codes[-1] != 0:
        raise SystemExit(f"{kind}: the job did not end after {told}: exit codes {codes}\n{errors.decode()}")
    return contents(folder), f"{told}, exit codes {codes}"


def _kill(process: subprocess.Popen[bytes], victim: str) -> str:
    if process.poll() is not None:
        return "was over before the kill"
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [c for c in children if "resource_tracker" not in " ".join(_words(c))]
    if victim == "worker" and workers:
        chosen = random.choice(workers)
        _quietly_kill(chosen.pid)
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


def main() -> None:
    """Run all rounds; exit 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="kills for each kind of cluster")
    parser.add_argument("--clusters", nargs="+", default=["threads", "processes", "dask"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="ndbatch-crash-") as top:
        reference: dict[str, str] | None = None
        for kind in options.clusters:
            expected, seconds = undisturbed(kind, Path(top) / kind / "whole")
            if reference is not None and compare(reference, expected):
                raise SystemExit(
                    f"{kind} wrote other bytes than {options.clusters[0]}: {compare(reference, expected)[:5]}"
                )
            reference = expected
            print(f"{kind}: {len(expected)} files in {seconds:.1f} s undisturbed", flush=True)
            for number in range(options.rounds):
                victim = VICTIMS[number % 3] if kind != "threads" else VICTIMS[1 + number % 2]
                after = random.uniform(0.15, 0.9) * seconds
                found, told = disturbed(kind, Path(top) / kind / "killed", victim, after)
                while told.startswith("was over"):
                    after *= 0.7
                    found, told = disturbed(kind, Path(top) / kind / "killed", victim, after)
                wrong = compare(expected, found)
                print(
                    f"  {number + 1:2d}. after {after:5.2f} s {told}: {'DIFFERS' if wrong else 'identical'}", flush=True
                )
                if wrong:
                    raise SystemExit(f"{len(wrong)} files differ: {wrong[:10]}")
    print(f"{options.rounds} kills on each of {', '.join(options.clusters)}: every file identical")


if __name__ == "__main__":
    main()

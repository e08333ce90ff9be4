"""A disk that is slow to sync: a driver that is killed while it waits for it loses nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import ndbatch as nb

from .conftest import files

SLOW = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Every sync is counted by a byte in the file SYNCS and takes 30 ms more; the one numbered DIE ends the process instead. */
static int slowly(long call, int file) {
    struct timespec wait = {0, 30000000};
    int log = open(getenv("SYNCS"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (write(log, ".", 1) != 1) abort();
    long count = lseek(log, 0, SEEK_END);
    close(log);
    nanosleep(&wait, 0);
    if (getenv("DIE") && count == atol(getenv("DIE"))) kill(getpid(), SIGKILL);
    return syscall(call, file);
}
int fsync(int file) { return slowly(SYS_fsync, file); }
int fdatasync(int file) { return slowly(SYS_fdatasync, file); }
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a library that makes syncs slow."""
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler, cc, to make syncs slow")
    (tmp_path / "slow.c").write_text(SLOW)
    library = tmp_path / "slow.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "slow.c"], check=True)
    return library


def run(folder: Path, library: Path | None = None, die: int = 0) -> int:
    """Run the job in `folder` in a process of its own; return its exit code."""
    environment = {**os.environ, "SYNCS": str(folder / "syncs"), **({"LD_PRELOAD": str(library)} if library else {})}
    (folder / "syncs").unlink(missing_ok=True)
    command = [sys.executable, "-m", "ndbatch", "run", "job.yaml", "--quiet"]
    return subprocess.run(
        command, cwd=folder, env=environment | ({"DIE": str(die)} if die else {}), timeout=120
    ).returncode


def outputs(folder: Path) -> dict[Path, bytes]:
    """Return what the run gave: the chunks of the volume and the table."""
    found = files(folder / "runs/job")
    return {
        path.relative_to(folder): data for path, data in found.items() if "c/" in str(path) or path.suffix == ".parquet"
    }


def test_killed_while_the_disk_syncs(tmp_path: Path, slow: Path) -> None:
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": [
            {"threshold": {"input": "image", "value": 100, "output": "mask"}},
            {"components": {"input": "mask", "output": "labels"}},
            {"measure": {"labels": "labels", "output": "cells"}},
        ],
        "outputs": {"labels": {"url": "labels.zarr", "chunks": {"z": 8, "y": 8, "x": 8}}, "cells": "cells.parquet"},
        "blocks": {"z": 8, "y": 8, "x": 8},
        "cluster": {"kind": "inline"},
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        data = np.random.default_rng(4).integers(0, 130, (16, 16, 16), dtype="uint8")
        image = nb.create(
            folder / "image.zarr", shape=data.shape, dtype="uint8", chunks=(8, 8, 8), voxel_size=(1, 1, 1)
        )
        image.write(image.domain, data)
        (folder / "job.yaml").write_text(yaml.safe_dump(document))
    assert run(whole, slow) == 0
    count = (whole / "syncs").stat().st_size
    assert count > 10
    for nth in (3, count // 3, count // 2):  # of what is left each time
        assert run(killed, slow, die=nth) == -signal.SIGKILL
    assert run(killed, slow) == 0
    assert outputs(killed) == outputs(whole)
    assert len(outputs(whole)) == 9

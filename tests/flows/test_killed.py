"""kill -9 inside every pass that is not over blocks: the same command goes on, each time, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import ndbatch as nb
from ndbatch.testing.serving import serving

from .conftest import files

CHUNKS = {"z": 4, "y": 8, "x": 8}
KILLED = """
import os, signal, sys
from types import SimpleNamespace
from ndbatch import finish, run, runner, states
from ndbatch.journal import Journal
from ndbatch.remotes.ndstore.volume import NdstoreVolume
from ndbatch.remotes.zarr.volume import ZarrVolume
from ndbatch.verify import mend

where, nth = sys.argv[1], int(sys.argv[2])
left = [nth]

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def dying(function, after=False, counts=lambda *arguments: True):
    # Kill at the n-th call that counts, before or after it.
    def call(*arguments, **options):
        left[0] -= counts(*arguments)
        if left[0] < 1 and not after:
            die()
        result = function(*arguments, **options)
        if left[0] < 1:
            die()
        return result
    return call

def cut(rows):
    # The n-th item is never given.
    for number, row in enumerate(rows):
        if number == nth:
            die()
        yield row

def is_level(volume, *rest):
    return bool(volume.address.option("level"))

def of_stage(number):
    return lambda journal, entry: entry.stage == number

PLACES = {
    "in a reduction": lambda: setattr(Journal, "payloads", lambda *a, f=Journal.payloads: cut(f(*a))),
    "before a level": lambda: setattr(ZarrVolume, "_write", dying(ZarrVolume._write, counts=is_level)),
    "before receipts": lambda: setattr(Journal, "record", dying(Journal.record)),
    "in the table": lambda: setattr(finish, "write_batches", lambda p, e, b, f=finish.write_batches: f(p, e, cut(b))),
    "after the table's name": lambda: setattr(finish, "os", SimpleNamespace(replace=dying(os.replace, after=True))),
    "after levels of the service": lambda: setattr(NdstoreVolume, "propagate", dying(NdstoreVolume.propagate, True)),
    "after the attributes": lambda: setattr(runner, "mark_complete", dying(runner.mark_complete, after=True)),
    "after damage is taken back": lambda: setattr(runner, "take_back", dying(runner.take_back, after=True)),
}
PLACES[where]()
run("job.yaml", report=False, retry_damaged="damage" in where)
"""
EVERYWHERE = (
    ("in a reduction", 3), ("before receipts", 2), ("before a level", 2), ("in the table", 0), ("after the table's name", 1),
    ("after the attributes", 1),
)  # fmt: skip


def killed(folder: Path, where: str, nth: int) -> None:
    """Give the command in a process of its own, which kills itself at a place."""
    environment = {**os.environ, "PYTHONPATH": str(Path(nb.__file__).parents[1])}
    words = [sys.executable, "-c", KILLED, where, str(nth)]
    done = subprocess.run(words, cwd=folder, env=environment, timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, f"{where}: {done.returncode} {done.stderr}"


def make(folder: Path, outputs: dict[str, Any], *steps: dict[str, Any]) -> Path:
    """Make a folder with an image of a few bright bars and a job."""
    folder.mkdir()
    data = np.zeros((16, 32, 32), "uint16")
    for start in range(1, 30, 5):
        data[start // 3 : start // 3 + 4, start : start + 3, 3 : 34 - start] = 1000 + start
    volume = nb.create(
        folder / "image.zarr", shape=data.shape, dtype="uint16", chunks=(8, 16, 16), voxel_size=(1, 1, 1)
    )
    volume.write(volume.domain, data)
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": list(steps),
        "outputs": outputs,
        "blocks": {"z": 8, "y": 16, "x": 16},
        "cluster": {"kind": "inline"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Return every file of the outputs; metadata without the record of who made them, and when."""
    found = {}
    for path, data in files(folder / "runs/job").items():
        name = str(path.relative_to(folder))
        if path.name == "zarr.json":
            document = json.loads(data)
            for key in ("provenance", "fingerprint"):  # who and when; the fingerprint knows when the input was written
                document.get("attributes", {}).get("ndbatch", {}).pop(key, None)
            found[name] = json.dumps(document).encode()
        elif ".zarr/" in name or path.suffix in (".csv", ".h5"):
            found[name] = data
    return found


PARTS = (
    {"threshold": {"input": "image", "method": "otsu", "output": "mask"}},
    {"components": {"input": "mask", "output": "parts"}},
    {"measure": {"labels": "parts", "intensity": "image", "output": "cells"}},
)
MADE = {
    "parts": {"url": "parts.zarr", "chunks": CHUNKS, "dtype": "uint32", "pyramid": {"levels": 2}},
    "cells": "cells.csv",
}


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, folder = (make(tmp_path / name, MADE, *PARTS) for name in ("whole", "killed"))
    assert nb.run(whole / "job.yaml", report=False).status == "done"
    for where, nth in EVERYWHERE:
        killed(folder, where, nth)
    result = nb.run(folder / "job.yaml", report=False)
    assert (result.status, result.rows["cells"]) == ("done", 6)
    assert results(folder) == results(whole)
    assert nb.check(folder / "runs/job").ok
    left = {p.name for p in (folder / "runs/job").iterdir()} - {p.name for p in (whole / "runs/job").iterdir()}
    assert not {name for name in left if not name.startswith("journal.sqlite")}


def test_mending_that_is_killed_is_gone_on_with(tmp_path: Path) -> None:
    """A file that is written whole, and its sound blocks that were brought back, survive too."""
    outputs = {"parts": {"url": "parts.h5"}, "cells": "cells.csv"}
    folder = make(tmp_path / "job", outputs, *PARTS)
    assert nb.run(folder / "job.yaml", report=False).status == "done"
    volume = nb.open(folder / "runs/job/parts.h5")
    sound, table = volume[...], (folder / "runs/job/cells.csv").read_bytes()
    data = bytearray((folder / "runs/job/parts.h5").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "runs/job/parts.h5").write_bytes(data)
    (folder / "runs/job/cells.csv").write_bytes(table[:-3])
    killed(folder, "after damage is taken back", 1)
    assert nb.run(folder / "job.yaml", report=False).status == "done"
    assert np.array_equal(nb.open(folder / "runs/job/parts.h5")[...], sound)
    assert (folder / "runs/job/cells.csv").read_bytes() == table
    assert nb.check(folder / "runs/job").ok


def test_levels_that_a_service_makes_are_there_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as (url, _):
        host = url.removeprefix("http://")
        copy = {"copy": {"input": "image", "output": "out"}}
        for name in ("whole", "killed"):
            output = {"url": f"ndstore://{host}/{name}/image", "pyramid": {"levels": 1}}
            folder = make(tmp_path / name, {"out": output}, copy)
            document = yaml.safe_load((folder / "job.yaml").read_text())
            (folder / "job.yaml").write_text(yaml.safe_dump({**document, "blocks": "auto"}))
            if name == "killed":
                killed(folder, "after levels of the service", 1)
            assert nb.run(folder / "job.yaml", report=False).status == "done"
        for level in (0, 1):
            one, other = (nb.open(f"ndstore://{host}/{name}/image?level={level}") for name in ("whole", "killed"))
            assert np.array_equal(one[...], other[...])
            assert one[...].any()

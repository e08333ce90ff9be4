"""A journal that is damaged anywhere: told in a sentence, rebuilt from what is sound, and the run ends as it would have."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import NdbatchError
from ndbatch.journal import FILE, Journal
from ndbatch.report.status import status_lines
from ndbatch.report.summary import summarise
from ndbatch.verify import check

RECORDS = {"config.yaml", "events.jsonl", "plan.json", "provenance.json", "proof.json", "run.lock", "run.log"}


def run(folder: Path) -> nb.Result:
    """Two stages without rows, and a table: 8 blocks each."""
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": [
            {"copy": {"input": "image", "output": "same"}},
            {"threshold": {"input": "same", "method": "otsu", "output": "mask"}},
            {"components": {"input": "mask", "output": "parts"}},
            {"measure": {"labels": "parts", "output": "cells"}},
        ],
        "outputs": {
            **{name: {"url": f"{name}.zarr", "chunks": {"z": 4, "y": 4, "x": 4}} for name in ("same", "parts")},
            "cells": "cells.csv",
        },
        "blocks": {"z": 4, "y": 4, "x": 4},
        "cluster": {"kind": "inline"},
    }
    return nb.run(from_mapping(document, folder), report=False)


def results(folder: Path, proven: bool) -> dict[str, bytes]:
    """Return every file of the outputs; not the metadata that say who made them and when, unless that is `proven`."""
    there = [p for p in sorted((folder / "runs/job").rglob("*")) if p.is_file()]
    own = RECORDS if proven else RECORDS | {"zarr.json"}
    return {str(p): p.read_bytes() for p in there if p.name not in own and not p.name.startswith("journal")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("done")
    data = np.random.default_rng(1).integers(0, 100, (8, 8, 8), dtype="uint8")
    data[1:3, 2:7, 1:2] = data[5:7, 5:7, 5:8] = 250
    volume = nb.create(folder / "image.zarr", shape=data.shape, dtype="uint8", chunks=(4, 4, 4), voxel_size=(1, 1, 1))
    volume.write(volume.domain, data)
    assert run(folder).status == "done"
    return folder


@pytest.fixture
def folder(done: Path) -> Path:
    """The finished run, as it was."""
    kept = done / "kept"
    if kept.exists():
        shutil.rmtree(done / "runs")
        shutil.copytree(kept, done / "runs")
    else:
        shutil.copytree(done / "runs", kept)
    return done


def flipped(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 40))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncated(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def zeroed(path: Path, rng: random.Random) -> None:
    """A page of the disk that was never written."""
    data, at = bytearray(path.read_bytes()), 4096 * rng.randrange(path.stat().st_size // 4096)
    data[at : at + 4096] = bytes(4096)
    path.write_bytes(data)


def emptied(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


HARMS: list[Callable[[Path, random.Random], None]] = [flipped, flipped, flipped, truncated, zeroed, emptied]


def told(act: Callable[[], Any]) -> str:
    """Return the sentence that `act` ends with, if any; anything but an error of ndbatch fails the test."""
    message = ""
    try:
        act()
    except NdbatchError as error:
        message = error.message
    assert len(message.splitlines()) <= 1
    assert len(message) < 600
    return message


def status(directory: Path) -> None:
    with Journal.read(directory) as journal:
        status_lines(journal)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_to_the_file_it_is_told_and_the_run_ends_with_the_same_bytes(seed: int, folder: Path) -> None:
    rng, directory = random.Random(seed), folder / "runs/job"
    proven = seed % 5 != 4
    before = results(folder, proven)
    HARMS[seed % len(HARMS)](directory / FILE, rng)
    if not proven:  # without it who made the outputs is lost, and they are made again
        (directory / "proof.json").unlink()
    said = [told(lambda: summarise(directory)), told(lambda: status(directory)), told(lambda: check(directory))]
    again = told(lambda: run(folder))
    assert all("--rebuild" in message for message in [*said, again] if message)
    assert results(folder, proven) == before, "what is told changes nothing"
    if again:
        assert not check(directory, rebuild=True).mismatches
        assert run(folder).status == "done"
    assert results(folder, proven) == before
    assert check(directory).ok


def test_a_log_that_is_missing_is_a_run_that_stopped_earlier(folder: Path) -> None:
    """What had not come from the write-ahead log into the file is done again, or is told to be missing."""
    directory, before = folder / "runs/job", results(folder, proven=False)
    with Journal.write(directory) as journal:
        journal.forget(0, [1, 2])
        journal.unset("complete")
        early = (directory / FILE).read_bytes()
        assert (directory / f"{FILE}-wal").stat().st_size
    assert run(folder).counts.done == 2
    for suffix in ("-wal", "-shm"):
        (directory / f"{FILE}{suffix}").unlink(missing_ok=True)
    (directory / FILE).write_bytes(early)
    if told(lambda: run(folder)):
        check(directory, rebuild=True)
    assert run(folder).status == "done"
    assert results(folder, proven=False) == before
    assert check(directory).ok


def copied(folder: Path) -> nb.Result:
    """A run without rows and payloads, into a file that is written whole and into chunks."""
    outputs = {"a": {"url": "a.zarr", "chunks": {"z": 4, "y": 4, "x": 4}}, "b": "b.npy"}
    document = {
        "name": "copied",
        "inputs": {"image": "image.zarr"},
        "steps": [{"copy": {"input": "image", "output": name}} for name in outputs],
        "outputs": outputs,
        "blocks": {"z": 4, "y": 4, "x": 4},
        "cluster": {"kind": "inline"},
        "directory": str(folder / "runs/job/copied"),
    }
    return nb.run(from_mapping(document, folder), report=False)


def test_a_lost_plan_is_taken_from_the_file_beside_and_receipts_are_proven_by_the_outputs(folder: Path) -> None:
    assert copied(folder).status == "done"
    directory, before = folder / "runs/job/copied", results(folder, proven=True)
    (directory / FILE).write_bytes(b"")
    assert "--rebuild" in told(lambda: copied(folder))
    found = check(directory, rebuild=True)
    assert (found.proven, found.blocks, found.ok) == (8, 8, True)
    assert copied(folder).nothing_to_do
    assert results(folder, proven=True) == before


def test_receipts_are_not_proven_by_outputs_that_are_damaged_too(folder: Path) -> None:
    assert copied(folder).status == "done"
    directory, before = folder / "runs/job/copied", results(folder, proven=True)
    next(p for p in sorted(directory.rglob("*")) if p.parts[-5:-3] == ("0", "c")).unlink()
    (directory / FILE).write_bytes(b"")
    assert check(directory, rebuild=True).proven == 0
    assert copied(folder).counts.done == 8
    assert results(folder, proven=True) == before


def test_a_plan_that_is_lost_with_its_copy_is_told(folder: Path) -> None:
    directory = folder / "runs/job"
    (directory / FILE).write_bytes(b"")
    text = (directory / "plan.json").read_text()
    (directory / "plan.json").write_text(text.replace('"z"', '"y"', 1) if '"z"' in text else text.replace("8", "9", 1))
    assert "holds no plan" in told(lambda: check(directory, rebuild=True))
    assert "--rebuild" in told(lambda: run(folder))

"""Resume is keyed by what decides the output: nothing else stops it, and nothing changed is reused in silence."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import NdbatchError, PlanError
from ndbatch.journal import Journal
from ndbatch.verify import check

Job = Callable[..., nb.Result]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    data = np.arange(16 * 16 * 16, dtype="uint16").reshape(16, 16, 16)
    volume = nb.create(
        f"{tmp_path}/image.zarr", shape=data.shape, dtype="uint16", chunks=(8, 8, 8), voxel_size=(1, 1, 1)
    )
    volume.write(volume.domain, data)
    (tmp_path / "mine.py").write_text("def shift(image, by=1):\n    return image + by\n")

    def start(fresh: bool = False, **changes: Any) -> nb.Result:
        document: dict[str, Any] = {
            "name": "job",
            "inputs": {"image": "image.zarr"},
            "steps": [{"mine:shift": {"input": "image", "output": "out", "parameters": {"by": 2}}}],
            "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 8, "y": 8, "x": 8}}},
            "blocks": {"z": 8, "y": 8, "x": 8},
            "cluster": {"kind": "inline"},
            **changes,
        }
        return nb.run(from_mapping(document, tmp_path), fresh=fresh, report=False)

    return start


def refused(job: Job, **changes: Any) -> str:
    with pytest.raises(PlanError) as caught:
        job(**changes)
    text = str(caught.value)
    assert "was begun with something else" in text
    assert "--fresh" in text
    return text


def test_a_changed_parameter_is_refused_and_named(job: Job) -> None:
    job()
    steps = [{"mine:shift": {"input": "image", "output": "out", "parameters": {"by": 3}}}]
    assert "steps.0.parameters.by: 2 -> 3" in refused(job, steps=steps)


def test_a_changed_function_is_refused(job: Job, tmp_path: Path) -> None:
    job()
    (tmp_path / "mine.py").write_text("def shift(image, by=1):\n    return image - by\n")
    assert "steps.0.source: " in refused(job)


def test_a_changed_input_is_refused(job: Job, tmp_path: Path) -> None:
    job()
    time.sleep(0.01)
    volume = nb.open(f"{tmp_path}/image.zarr")
    volume.write(volume.domain, np.zeros(volume.shape, "uint16"))
    assert "inputs.image.version: " in refused(job)


@pytest.mark.parametrize("changes", [{"region": {"z": (0, 8)}}, {"blocks": {"z": 16, "y": 8, "x": 8}}])
def test_a_changed_geometry_is_refused(job: Job, changes: dict[str, Any]) -> None:
    job()
    assert next(iter(changes)).rstrip("s") in refused(job, **changes)


def test_workers_and_retries_may_change(job: Job) -> None:
    job()
    assert job(cluster={"kind": "threads", "workers": 3, "memory": "3 GB"}, retry={"attempts": 9}).nothing_to_do


def test_automatic_blocks_stay_as_they_were_begun(job: Job) -> None:
    job(blocks="auto", cluster={"kind": "threads", "workers": 1})
    assert job(blocks="auto", cluster={"kind": "threads", "workers": 8}).nothing_to_do


def test_fresh_starts_over_and_removes_only_what_the_run_made(job: Job, tmp_path: Path) -> None:
    job()
    (tmp_path / "runs/job/notes.txt").write_text("mine")
    steps = [{"mine:shift": {"input": "image", "output": "out", "parameters": {"by": 3}}}]
    result = job(steps=steps, fresh=True)
    assert result.counts.done == 8
    assert nb.open(f"{tmp_path}/runs/job/out.zarr")[0, 0, 0] == 3
    assert (tmp_path / "runs/job/notes.txt").read_text() == "mine"


def test_fresh_with_a_broken_configuration_removes_nothing(job: Job, tmp_path: Path) -> None:
    job()
    with pytest.raises(NdbatchError):
        job(region={"z": (0, 99)}, fresh=True)
    assert nb.open(f"{tmp_path}/runs/job/out.zarr")[0, 0, 0] == 2
    assert job().nothing_to_do


def test_a_target_that_is_not_this_runs_is_not_touched(job: Job, tmp_path: Path) -> None:
    other = nb.create(f"{tmp_path}/other.zarr", shape=(4, 4, 4), dtype="uint8")
    with pytest.raises(
        PlanError, match=r"other.zarr exists already with shape \(4, 4, 4\) where \(16, 16, 16\) is due"
    ):
        job(outputs={"out": f"{tmp_path}/other.zarr"}, blocks="auto")
    assert other.version() == nb.open(f"{tmp_path}/other.zarr").version()


def test_a_target_that_went_away_is_told(job: Job, tmp_path: Path) -> None:
    import shutil

    job()
    shutil.rmtree(tmp_path / "runs/job/out.zarr")
    with pytest.raises(
        PlanError, match=r"is gone, but the journal says that 8 of its blocks are done; do them again with.*--damaged"
    ):
        job()


def test_check_finds_a_damaged_output_and_rebuild_mends_it(job: Job, tmp_path: Path) -> None:
    job()
    directory = tmp_path / "runs/job"
    assert check(directory).ok
    assert check(directory).blocks == 8
    volume = nb.open(f"{directory}/out.zarr")
    whole = volume[...]
    volume.write(nb.Box((0, 8, 0), (1, 9, 1)), np.array([[[9]]], "uint16"))
    report = check(directory)
    (mismatch,) = report.mismatches
    assert (mismatch.block, mismatch.box) == (2, "z: [0, 8], y: [8, 16], x: [0, 8]")
    assert not report.ok
    check(directory, rebuild=True)
    assert job().counts.done == 1
    assert np.array_equal(nb.open(f"{directory}/out.zarr")[...], whole)
    assert check(directory).ok


def test_a_truncated_chunk_is_found(job: Job, tmp_path: Path) -> None:
    job()
    chunk = next(p for p in sorted((tmp_path / "runs/job/out.zarr/0/c").rglob("*")) if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:20])
    (mismatch,) = check(tmp_path / "runs/job").mismatches
    assert "Invalid blosc-compressed data" in mismatch.reason
    assert "0/c/0/0/0" in mismatch.reason


def test_a_destroyed_journal_is_told_rebuilt_and_gone_on_from(job: Job, tmp_path: Path) -> None:
    job()
    directory = tmp_path / "runs/job"
    path = directory / "journal.sqlite"
    data = bytearray(path.read_bytes())
    data[:100] = os.urandom(100)
    path.write_bytes(bytes(data))
    for leftover in ("journal.sqlite-wal", "journal.sqlite-shm"):
        (directory / leftover).unlink(missing_ok=True)
    with pytest.raises(NdbatchError, match=r"cannot be trusted.*ndbatch check .* --rebuild"):
        job()


def test_a_second_driver_is_refused(job: Job, tmp_path: Path) -> None:
    job()
    with Journal.write(tmp_path / "runs/job"), pytest.raises(NdbatchError, match=f"in use by process {os.getpid()}"):
        job()

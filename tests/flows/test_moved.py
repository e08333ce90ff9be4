"""A project that is moved or copied, a run directory that is renamed: the run goes on where it is now, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import ndbatch as nb
from ndbatch.config.load import load
from ndbatch.errors import PlanError
from ndbatch.events import BlocksDone, Event
from ndbatch.journal import Journal
from ndbatch.verify import check

from .conftest import Job, files

JOB = {
    "name": "job",
    "inputs": {"image": "data/image.zarr"},
    "steps": [
        {"mine.py:bright": {"input": "image", "output": "mask"}},
        {"components": {"input": "mask", "output": "labels"}},
        {"measure": {"labels": "labels", "output": "cells"}},
    ],
    "outputs": {
        "labels": {"url": "labels.zarr", "chunks": {"z": 8, "y": 8, "x": 8}},
        "cells": "../../tables/cells.parquet",
    },
    "blocks": {"z": 8, "y": 8, "x": 8},
    "cluster": {"kind": "inline"},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a configuration, its input and a step of its own; a run makes a volume there and a table beside it."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "tables").mkdir()
    data = np.random.default_rng(6).integers(0, 130, (16, 16, 16), dtype="uint8")
    image = nb.create(
        folder / "data/image.zarr", shape=data.shape, dtype="uint8", chunks=(8, 8, 8), voxel_size=(1, 1, 1)
    )
    image.write(image.domain, data)
    (folder / "mine.py").write_text("def bright(image):\n    return (image > 100).astype('uint8')\n")
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    return folder


def run(folder: Path, *, fresh: bool = False, stop: bool = False) -> nb.Result:
    """Run the job of a folder; with `stop` until its third batch is back."""
    seen: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, BlocksDone):
            seen.append(event)
            if stop and len(seen) == 3:
                raise KeyboardInterrupt

    return nb.run(load(folder / "job.yaml"), fresh=fresh, report=False, observers=[watch])


def outputs(folder: Path) -> dict[Path, bytes]:
    """Return the chunks of the volume and the table."""
    found = {**files(folder / "runs"), **files(folder / "tables")}
    return {p.relative_to(folder): data for p, data in found.items() if "c/" in str(p) or p.suffix == ".parquet"}


def test_a_project_that_is_moved_halfway_goes_on(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "whole")
    run(tmp_path / "whole")
    assert run(project, stop=True).status == "interrupted"
    moved = tmp_path / "elsewhere" / "project"
    moved.parent.mkdir()
    project.rename(moved)
    went_on = run(moved)
    assert went_on.status == "done"
    assert went_on.counts.done < went_on.counts.planned
    assert outputs(moved) == outputs(tmp_path / "whole")
    assert len(outputs(moved)) == 9
    assert not project.exists()
    moved.rename(project)
    assert check(project / "runs/job").ok
    assert run(project).nothing_to_do


def test_fresh_in_a_copy_leaves_the_original_alone(project: Path, tmp_path: Path) -> None:
    run(project)
    before = files(project)
    shutil.copytree(project, tmp_path / "copy")
    assert run(tmp_path / "copy").nothing_to_do
    assert run(tmp_path / "copy", fresh=True).counts.done > 0
    assert files(project) == before
    assert outputs(tmp_path / "copy") == outputs(project)


def test_a_run_directory_is_a_place_of_its_own(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`retry` and `check` take it, renamed and moved; inputs and outputs beside it are still where they were."""
    run(project)
    ndbatch = Job(project, capfd)
    whole, now = outputs(project), project / "runs/kept"
    (project / "runs/job").rename(now)
    ndbatch("retry", str(now)).refused("no failed blocks")
    shutil.rmtree(now / "labels.zarr/0/c/0")
    found = ndbatch("check", str(now))
    assert (found.code, found.out.count("stage")) == (1, 4), found.said
    assert ndbatch("retry", str(now), "--damaged", "-q").code == 0
    assert outputs(project) == {Path(str(p).replace("runs/job", "runs/kept")): data for p, data in whole.items()}
    project.rename(tmp_path / "moved")
    assert ndbatch("check", str(tmp_path / "moved/runs/kept")).code == 0


def test_fresh_removes_nothing_where_something_else_is_in_the_way(project: Path) -> None:
    run(project)
    config = load(project / "job.yaml", ["outputs.labels=other.zarr"])
    nb.create(project / "runs/job/other.zarr", shape=(2, 2, 2), dtype="uint8")
    with pytest.raises(PlanError, match=r"other\.zarr exists already"):
        nb.run(config, fresh=True, report=False)
    with Journal.read(project / "runs/job") as journal:
        assert journal.status == "done"
    assert check(project / "runs/job").ok

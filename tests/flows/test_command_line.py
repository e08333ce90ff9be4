"""The main job as its user runs it: nuclei of a real volume, worker processes, commands in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from pyarrow import parquet

import ndbatch as nb

from .conftest import BLOCK, Job, files, voxels

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples/data/nuclei_cells3d.tif"
SIZE = "{z: 0.29 um, y: 0.26 um, x: 0.26 um}"
SPAN = {"z": [20, 44], "y": [0, 128], "x": [0, 128]}


@pytest.fixture
def nuclei(ndbatch: Job) -> Job:
    """The main job over a part of the volume, small enough to be done in seconds: 4 blocks, 2 worker processes."""
    document = yaml.safe_load((ROOT / "configs/count-nuclei.yaml").read_text())
    document["inputs"]["image"]["url"] = str(DATA)
    document |= {
        "region": SPAN,
        "blocks": {"z": 24, "y": 64, "x": 64},
        "cluster": {"kind": "processes", "workers": 2, "memory": "1 GB"},
    }
    document["outputs"]["labels"] = {"url": "labels.zarr", "chunks": document["blocks"]}
    (ndbatch.folder / "job.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return ndbatch


def run_of(job: Job) -> Path:
    return job.folder / "runs/count-nuclei"


def test_the_main_job_from_the_first_look_to_the_check(nuclei: Job) -> None:
    begun = nuclei.alone("run", "job.yaml")
    assert begun.code == 0, begun.said
    run = run_of(nuclei)
    labels, table = voxels(run / "labels.zarr"), parquet.read_table(run / "cells.parquet")
    assert labels.shape == (24, 128, 128)
    assert table.num_rows == labels.max() == len(np.unique(labels)) - 1 > 0
    assert f"  nuclei: {table.num_rows}\n" in begun.out
    assert str(run / "report.html") in begun.out
    assert "Look at it:  ndbatch show " in begun.out
    assert nb.open(f"{run}/labels.zarr").attributes["complete"] is True
    assert not list(run.glob("scratch*"))
    assert not list(run.glob("staging*"))

    again = nuclei("run", "job.yaml")
    assert again.code == 0
    assert again.out.startswith("count-nuclei: everything was done before (")
    assert nuclei("check", "job.yaml").code == 0

    chunk = next(p for p in sorted((run / "labels.zarr/0/c").rglob("*")) if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    damaged = nuclei("check", "job.yaml")
    assert (damaged.code, "1 not as they were written" in damaged.out) == (1, True), damaged.said
    assert "Traceback" not in damaged.said
    assert nuclei("check", "job.yaml", "--rebuild").code == 1
    mended = nuclei("run", "job.yaml", "--quiet")
    assert mended.code == 0, mended.said
    assert np.array_equal(voxels(run / "labels.zarr"), labels)
    assert parquet.read_table(run / "cells.parquet").equals(table)
    assert nuclei("check", "job.yaml").code == 0

    picture = nuclei.folder / "look.png"
    assert nuclei("show", DATA, "--labels", run / "labels.zarr", "--z", "30", "-o", picture).code == 0
    assert_shows(picture, nb.open(str(DATA)).shape[1:])


def assert_shows(picture: Path, least: tuple[int, ...]) -> None:
    """Assert that a picture is of the proportions of a plane, not smaller than it, and not of one colour."""
    from matplotlib.image import imread

    pixels = imread(picture)
    height, width = pixels.shape[:2]
    assert height >= least[0]
    assert abs(width / height - least[1] / least[0]) < 0.05, (pixels.shape, least)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_try_writes_nothing_but_its_picture(nuclei: Job) -> None:
    before = files(nuclei.folder)
    tried = nuclei.alone("try", "job.yaml", "--slice", "--at", "z=30", "--picture", "look.png")
    assert tried.code == 0, tried.said
    assert "nothing was written" in tried.out
    assert "labels: " in tried.out
    assert_shows(nuclei.folder / "look.png", (128, 128))
    assert set(files(nuclei.folder)) - set(before) == {nuclei.folder / "look.png"}


def test_what_config_prints_is_the_same_job(nuclei: Job) -> None:
    plan = json.loads(nuclei("plan", "job.yaml", "--json", "--set", "blocks={z: 24, y: 64, x: 128}").out)
    assert plan["grid"]["blocks"] == 2
    whole = nuclei("config", "job.yaml", "--set", "blocks={z: 24, y: 64, x: 128}")
    (nuclei.folder / "whole.yaml").write_text(whole.out)
    assert json.loads(nuclei("plan", "whole.yaml", "--json").out) == plan
    assert set(yaml.safe_load(whole.out)) > {"retry", "time_limit", "directory"}
    assert json.loads(nuclei("schema").out)["properties"].keys() == yaml.safe_load(whole.out).keys()
    assert not (nuclei.folder / "runs").exists()


def test_init_writes_a_job_that_plans(nuclei: Job) -> None:
    (nuclei.folder / "first.yaml").write_text(nuclei.alone("init", "nuclei").out)
    document = yaml.safe_load((nuclei.folder / "first.yaml").read_text())
    name = next(iter(document["inputs"]))
    there = ("--set", f"inputs.{name}.url={DATA}")
    nuclei("plan", "first.yaml", *there).refused("diameter", "voxel_size: {z: ")
    planned = nuclei.alone("plan", "first.yaml", "--json", *there, "--set", f"inputs.{name}.voxel_size={SIZE}")
    assert planned.code == 0, planned.said
    assert json.loads(planned.out)["stages"]
    info = json.loads(nuclei("info", DATA, "--json").out)
    assert (info["axes"], info["shape"], info["dtype"]) == ("zyx", list(voxels(DATA).shape), "uint16")


def poll(job: Job, done: int) -> dict[str, Any]:
    """Ask for the status until so many blocks are done; return it."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        told = job("status", "job.yaml", "--json")
        if told.code == 0 and (status := json.loads(told.out))["counts"]["done"] >= done:
            return dict(status)
        time.sleep(0.05)
    raise AssertionError(told.said)


SLOW = "import time\n\ndef work(image):\n    time.sleep(0.15)\n    return image\n"


@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
def test_ctrl_c_reaches_the_whole_group_and_the_same_command_completes(ndbatch: Job, kind: str) -> None:
    """A terminal sends Ctrl-C to the driver and to every worker; users press it twice."""
    block = {"z": 8, "y": 8, "x": 16}
    ndbatch.function(
        SLOW, cluster={"kind": kind, "workers": 2}, blocks=block, outputs={"out": {"url": "out.zarr", "chunks": block}}
    )
    process = ndbatch.start("run", "job.yaml")
    status = poll(ndbatch, 1)
    assert status["status"] == "running"
    assert status["holder"]["pid"] == process.pid
    assert status["counts"]["planned"] == 16
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 3, out + err
    assert "Traceback" not in out + err, out + err
    assert "interrupted" in out + err
    stopped = json.loads(ndbatch("status", "job.yaml", "--json").out)
    assert stopped["status"] in ("interrupted", "stopped"), stopped["status"]
    assert stopped["holder"] is None
    assert nb.open(f"{ndbatch.run}/out.zarr").attributes["complete"] is False
    rest = ndbatch("run", "job.yaml", "--json", "--set", "cluster={kind: threads, workers: 4}")
    assert rest.code == 0, rest.said
    document = json.loads(rest.out)
    assert document["session"]["counts"]["skipped"] >= 1
    assert document["counts"]["done"] == 16
    assert np.array_equal(voxels(ndbatch.run / "out.zarr"), ndbatch.image())


@pytest.mark.parametrize("after", [0.2, 0.4, 0.7])
def test_ctrl_c_at_any_moment_of_the_start(ndbatch: Job, after: float) -> None:
    process = ndbatch.start("run", "job.yaml")
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode in (0, 3), (process.returncode, out, err)
    assert "Traceback" not in out + err, err
    again = ndbatch("run", "job.yaml", "--quiet")
    assert again.code == 0, again.said
    assert np.array_equal(voxels(ndbatch.run / "out.zarr"), ndbatch.image())


FRAGILE = """\
from pathlib import Path

def work(image, block):
    if block.index == 3 and Path({dark!r}).exists():
        raise OSError("no light")
    return image
"""


def test_retry_needs_failures(ndbatch: Job) -> None:
    ndbatch("retry", "job.yaml").refused("runs/job", "no run yet", "ndbatch run")
    dark = ndbatch.folder / "dark"
    dark.touch()
    ndbatch.function(FRAGILE.format(dark=str(dark)), cluster={"kind": "threads"})
    ndbatch("run", "job.yaml", "-q").failed("1 block failed", "OSError: no light", "ndbatch retry job.yaml")
    ndbatch("retry", "job.yaml", "-q").failed("1 block failed")
    dark.unlink()
    retried = ndbatch("retry", "job.yaml", "-q")
    assert retried.code == 0, retried.said
    assert "7 of them before" in retried.out
    ndbatch("retry", "job.yaml").refused("no failed blocks", "done")
    assert np.array_equal(voxels(ndbatch.run / "out.zarr"), ndbatch.image())


def test_a_moved_folder_goes_on_where_it_is(ndbatch: Job, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert ndbatch("run", "job.yaml", "-q").code == 0
    copy = tmp_path_factory.mktemp("moved") / "all"
    shutil.copytree(ndbatch.folder, copy)
    for verb in ("status", "check"):
        assert ndbatch(verb, copy / "runs/job").code == 0


def test_output_that_nobody_reads_is_no_mistake(ndbatch: Job) -> None:
    process = ndbatch.start("run", "job.yaml")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=180)
    assert process.returncode in (0, 1), err
    assert "Traceback" not in err, err
    assert np.array_equal(voxels(ndbatch.run / "out.zarr"), ndbatch.image())


@pytest.mark.parametrize("harm", ["damaged", "gone"])
@pytest.mark.parametrize("name", ["out.zarr", "out.h5::/out", "out.tif"])
def test_an_output_that_came_to_harm_is_made_again(ndbatch: Job, name: str, harm: str) -> None:
    """Of a file that one process writes at the end nothing is kept: it is made anew as a whole."""
    chunks = {} if name.endswith("tif") else {"chunks": {"z": 8, "y": 16, "x": 16}}
    ndbatch.configure(outputs={"out": {"url": name, **chunks}}, cluster={"kind": "threads", "workers": 2})
    assert ndbatch("run", "job.yaml", "-q").code == 0
    out = ndbatch.run / name.partition("::")[0]
    if harm == "gone":
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    elif out.suffix == ".zarr":
        os.truncate(out / "0/c/0/1/0", 30)
    elif out.suffix == ".h5":
        with h5py.File(out, "a") as file:
            file["out"][3, 3, 3] += 1
    else:
        data = out.read_bytes()
        out.write_bytes(data[: len(data) // 2] + b"harm" + data[len(data) // 2 + 4 :])
    ndbatch("check", "job.yaml").failed("not as they were written", "retry job.yaml --damaged")
    mended = ndbatch("retry", "job.yaml", "--damaged", "-q")
    assert mended.code == 0, mended.said
    assert np.array_equal(voxels(ndbatch.run / name), ndbatch.image())
    assert ndbatch("check", "job.yaml").code == 0


@pytest.mark.parametrize("harm", [b"", b"no database at all\n" * 300])
def test_a_journal_that_is_lost_altogether_can_be_started_over(ndbatch: Job, harm: bytes) -> None:
    beside = f"{ndbatch.run}-2/table.csv"
    text = "def work(image, block):\n    return image, [{'block': block.index}]\n"
    outputs = {"out": {"url": "out.zarr", "chunks": BLOCK}, "rows": beside}
    ndbatch.function(text, step={"table": "rows"}, outputs=outputs)
    assert ndbatch("run", "job.yaml", "-q").code == 0
    for path in ndbatch.run.glob("journal.sqlite*"):
        path.unlink()
    (ndbatch.run / "journal.sqlite").write_bytes(harm)
    ndbatch("run", "job.yaml").refused("journal.sqlite cannot be trusted", "--rebuild")
    (ndbatch.run / "plan.json").write_text("{}")
    ndbatch("check", "job.yaml", "--rebuild").refused("the journal holds no plan", "--fresh")
    ndbatch("run", "job.yaml", "--fresh").refused(beside, "exists already")
    Path(beside).unlink()
    fresh = ndbatch("run", "job.yaml", "-q", "--fresh")
    assert fresh.code == 0, fresh.said
    assert np.array_equal(voxels(ndbatch.run / "out.zarr"), ndbatch.image())


def test_a_run_that_an_error_ended_is_not_said_to_have_failed_blocks(ndbatch: Job) -> None:
    assert ndbatch("run", "job.yaml", "-q").code == 0
    shutil.rmtree(ndbatch.run / "out.zarr")
    ndbatch("run", "job.yaml").refused("out.zarr", "is gone", "--fresh")
    told = ndbatch("status", "job.yaml").out
    assert "failed blocks" not in told
    assert "ended with an error" in told


def test_pictures_that_cannot_be_written_are_named_as_asked(ndbatch: Job) -> None:
    ndbatch("try", "job.yaml", "--picture", "absent/look.png").refused("absent/look.png")
    ndbatch("show", "image.zarr", "-o", "absent/look.png").refused("absent/look.png")

"""run, retry, status, check, report by the command line: exit codes, and what is said."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ndbatch.remotes import api

if TYPE_CHECKING:
    from conftest import Command, Start


def voxels(path: Path) -> np.ndarray:
    volume = api.open(str(path))
    return volume.read(volume.domain)


def test_a_run_says_what_it_made_and_the_second_that_all_was_done(job: Path, ndbatch: Command) -> None:
    first = ndbatch("run", "job.yaml", "--quiet")
    run = job / "runs/halves"
    assert first.code == 0
    assert first.out.splitlines()[0].startswith("halves: done, 8 blocks in ")
    assert f"  half    {run / 'half.zarr'}" in first.out
    assert f"  report  {run / 'report.html'}" in first.out
    assert f"Look at it:  ndbatch show {run / 'half.zarr'} --output halves-half.png" in first.out
    assert (run / "report.html").stat().st_size > 1000
    np.testing.assert_array_equal(voxels(run / "half.zarr"), voxels(job / "image.zarr") // 2)

    second = ndbatch("run", "job.yaml", "--quiet")
    assert second.code == 0
    assert second.out.startswith("halves: everything was done before (8 blocks); --fresh starts over\n")

    third = ndbatch("run", "job.yaml", "--quiet", "--fresh")
    assert third.code == 0
    assert third.out.startswith("halves: done, 8 blocks in ")


def test_failed_blocks_are_told_by_kind_and_can_be_retried(job: Path, ndbatch: Command) -> None:
    (job / "broken").touch()
    failed = ndbatch("run", "job.yaml", "--quiet")
    assert failed.code == 1
    lines = failed.out.splitlines()
    assert lines[0] == "halves: 1 block failed; 7 of 8 are done and kept"
    assert lines[1] == "  StepError: 1 block"
    assert lines[2].startswith("    block 3 (z: [0, 8], y: [16, 32], x: [16, 32]): ")
    assert "work.py:half raised RuntimeError: no light [bold]here[/bold] (work.py, line " in lines[2]
    assert "Try them again:  ndbatch retry job.yaml" in lines
    assert "no light [bold]here[/bold]" in failed.err, "what looks like markup is shown as it is"
    assert ndbatch("retry", "job.yaml", "--quiet").code == 1
    (job / "broken").unlink()
    mended = ndbatch("retry", "job.yaml", "--quiet")
    assert (mended.code, mended.out.splitlines()[0].partition(" in ")[0]) == (0, "halves: done, 8 blocks")
    np.testing.assert_array_equal(voxels(job / "runs/halves/half.zarr"), voxels(job / "image.zarr") // 2)
    again = ndbatch("retry", "job.yaml")
    assert again.code == 2
    assert "no failed blocks" in again.err


def test_overrides_are_in_the_command_that_goes_on(job: Path, ndbatch: Command) -> None:
    (job / "broken").touch()
    failed = ndbatch("run", "job.yaml", "--quiet", "--set", "name=other", "--set", "steps.0.work.py:half.halo=1 um")
    assert failed.code == 1
    assert "ndbatch retry job.yaml --set name=other --set 'steps.0.work.py:half.halo=1 um'" in failed.out
    recorded = (job / "runs/other/config.yaml").read_text()
    assert recorded.splitlines()[:3] == [
        f"# from {job / 'job.yaml'}", "# --set 'name=other'", "# --set 'steps.0.work.py:half.halo=1 um'",
    ]  # fmt: skip


def test_json_is_all_that_is_on_standard_output(job: Path, ndbatch: Command) -> None:
    (job / "broken").touch()
    ran = ndbatch("run", "job.yaml", "--json")
    document = json.loads(ran.out)
    assert (ran.code, document["exit_code"], document["counts"]["failed"]) == (1, 1, 1)
    assert document["failures"]["kinds"] == {"StepError": 1}
    (job / "broken").unlink()
    document = json.loads(ndbatch("retry", "job.yaml", "--json").out)
    assert (document["status"], document["nothing_to_do"]) == ("done", False)
    assert json.loads(ndbatch("run", "job.yaml", "--json").out)["nothing_to_do"] is True
    assert json.loads(ndbatch("status", "job.yaml", "--json").out)["counts"]["done"] == 8
    assert json.loads(ndbatch("check", "runs/halves", "--json").out)["ok"] is True
    plan = json.loads(ndbatch("plan", "job.yaml", "--json").out)
    assert plan["grid"]["blocks"] == 8
    refused = ndbatch("run", "job.yaml", "--json", "--set", "blocks=3")
    assert (refused.code, refused.out) == (2, "")


def test_status_and_report_take_the_directory_or_the_configuration(job: Path, ndbatch: Command) -> None:
    before = ndbatch("status", "job.yaml")
    assert before.code == 2
    assert f"{job / 'runs/halves'} holds no run" in before.err
    ndbatch("run", "job.yaml", "--quiet")
    for place in ("job.yaml", "runs/halves"):
        assert ndbatch("status", place).out.startswith("halves: done\n  8 of 8 blocks done (100 %)")
        (job / "runs/halves/report.html").unlink()
        assert ndbatch("report", place).out == f"{job / 'runs/halves/report.html'}\n"
        assert (job / "runs/halves/report.html").exists()


def test_check_finds_what_was_changed_and_mends_it(job: Path, ndbatch: Command) -> None:
    ndbatch("run", "job.yaml", "--quiet")
    assert ndbatch("check", "job.yaml").out == f"{job / 'runs/halves'}: 8 blocks read again, all as they were written\n"
    volume = api.open(str(job / "runs/halves/half.zarr"))
    good = volume.read(volume.domain)
    changed = good.copy()
    changed[0, 0, 0] ^= 1
    volume.write(volume.domain, changed)
    found = ndbatch("check", "job.yaml")
    assert found.code == 1
    assert "8 blocks read again, 1 not as they were written" in found.out
    assert "  stage 1, block 0 (z: [0, 8], y: [0, 16], x: [0, 16]): the voxels are not those" in found.out
    assert "mend it:  ndbatch retry job.yaml --damaged" in found.out
    assert "1 not as they were written" in ndbatch("check", "job.yaml", "--rebuild").out
    assert ndbatch("run", "job.yaml", "--quiet").code == 0
    np.testing.assert_array_equal(voxels(job / "runs/halves/half.zarr"), good)
    assert ndbatch("check", "job.yaml").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_run_ends_with_3_and_goes_on(
    job: Path, ndbatch: Command, start: Start, number: signal.Signals
) -> None:
    (job / "slow").touch()
    process = start("run", "job.yaml")
    deadline = time.monotonic() + 180
    meanwhile = ""
    while time.monotonic() < deadline and not re.search("[1-7] of 8", meanwhile):
        time.sleep(0.1)
        meanwhile = ndbatch("status", "job.yaml").out
    assert meanwhile.startswith(f"halves: running (process {process.pid} on ")
    process.send_signal(number)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 3, err
    assert "Traceback" not in err
    assert out.startswith("halves: interrupted; ")
    assert "Go on:  ndbatch run job.yaml" in out
    (job / "slow").unlink()
    rest = ndbatch("run", "job.yaml", "--quiet")
    assert rest.code == 0
    assert "of them before" in rest.out.splitlines()[0]
    np.testing.assert_array_equal(voxels(job / "runs/halves/half.zarr"), voxels(job / "image.zarr") // 2)

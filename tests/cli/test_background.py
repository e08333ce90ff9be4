"""Runs in the background: started, shown again from elsewhere, stopped, and told of when they do not begin."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.journal.lock import holder_of, take_lock
from ndbatch.report.following import event_of, follow

JOB = """
name: job
inputs: {image: image.zarr}
steps:
  - slow.py:wait: {input: image, output: out, parameters: {folder: .}}
outputs: {out: {url: out.zarr, chunks: {z: 4, y: 8, x: 8}}}
blocks: {z: 4, y: 8, x: 8}
cluster: {kind: threads, workers: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A job of 8 blocks, of which all but the first wait for a file `go`; whatever still runs at the end is stopped."""
    data = np.arange(32 * 8 * 8, dtype="uint16").reshape(32, 8, 8)
    nb.create(f"{tmp_path}/image.zarr", shape=data.shape, dtype=data.dtype, chunks=(4, 8, 8)).write(
        nb.open(f"{tmp_path}/image.zarr").domain, data
    )
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n\n\ndef wait(image, block, folder):\n"
        "    while block.index and not Path(folder, 'go').exists():\n        time.sleep(0.05)\n    return image\n"
    )
    (tmp_path / "job.yaml").write_text(JOB.replace("folder: .", f"folder: {tmp_path}"))
    yield tmp_path
    (tmp_path / "go").touch()  # a run that does not hold its directory yet ends by itself
    if (held := holder_of(tmp_path / "runs/job")) is not None:
        os.kill(held["pid"], signal.SIGKILL)


def ndbatch(folder: Path, *words: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ndbatch", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)


def test_a_run_goes_on_without_the_terminal_that_started_it(folder: Path) -> None:
    started = ndbatch(folder, "run", "job.yaml", "--detach")
    assert started.returncode == 0, started.stderr
    pid = int(re.findall(r"as process (\d+)", started.stdout)[0])
    assert os.getsid(pid) == pid != os.getsid(0)
    command = [sys.executable, "-m", "ndbatch", "attach", "job.yaml"]
    attached = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert attached.stderr is not None
    assert attached.stderr.readline().startswith("job: 8 blocks")
    (folder / "go").touch()
    out, error = attached.communicate(timeout=180)
    assert attached.returncode == 0
    assert "done after" in error
    assert "job: done" in out
    assert ndbatch(folder, "attach", "runs/job").returncode == 0
    assert nb.open(f"{folder}/runs/job/out.zarr").attributes["complete"] is True


def test_ctrl_c_stops_the_showing_and_kill_stops_the_run(folder: Path) -> None:
    command = [sys.executable, "-m", "ndbatch", "run", "job.yaml", "--follow"]
    showing = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert showing.stdout is not None
    assert showing.stderr is not None
    out = "".join(showing.stdout.readline() for _ in range(3))
    assert showing.stderr.readline().startswith("job: 8 blocks")
    showing.send_signal(signal.SIGINT)
    _, error = showing.communicate(timeout=180)
    assert showing.returncode == 0, error
    assert "the run goes on; look again:  " in error
    held = holder_of(folder / "runs/job")
    assert held is not None
    assert f"Stop it:  kill {held['pid']}" in out
    os.kill(held["pid"], signal.SIGTERM)
    attached = ndbatch(folder, "attach", "job.yaml")
    assert attached.returncode == 3
    assert "interrupted" in attached.stdout


def test_ctrl_c_while_a_run_begins_leaves_it_alone(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n\n"
        f"Path('{folder}/imported').touch()\nwhile not Path('{folder}/go').exists():\n    time.sleep(0.05)\n\n\n"
        "def wait(image, block, folder):\n    return image\n"
    )
    command = [sys.executable, "-m", "ndbatch", "run", "job.yaml", "--follow"]
    showing = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until((folder / "imported").exists)
    showing.send_signal(signal.SIGINT)
    _, error = showing.communicate(timeout=180)
    assert showing.returncode == 0, error
    (pid,) = re.findall(r"process (\d+) goes on in the background", error)
    (folder / "go").touch()
    until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())
    assert nb.open(f"{folder}/runs/job/out.zarr").attributes["complete"] is True


def test_attach_waits_for_the_journal_of_a_driver_that_has_just_begun(folder: Path) -> None:
    directory = folder / "runs/job"
    directory.mkdir(parents=True)
    held = take_lock(directory)
    command = [sys.executable, "-m", "ndbatch", "attach", "runs/job"]
    shown: subprocess.Popen[str] | None = None
    try:
        shown = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            shown.wait(timeout=3)
    finally:
        held.release()
    _, error = shown.communicate(timeout=180)
    assert shown.returncode == 2
    assert "holds no run yet" in error


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_does_not_begin_says_why(folder: Path) -> None:
    (folder / "slow.py").unlink()
    started = ndbatch(folder, "run", "job.yaml", "--detach")
    assert started.returncode == 2
    assert "slow.py" in started.stderr
    assert ndbatch(folder, "attach", "job.yaml").returncode == 2


def test_events_are_read_as_they_were_written() -> None:
    counts = events.Counts(planned=3, done=3)
    told = {"time": "2026-01-01T00:00:00.000Z", "type": "RunEnded", "status": "done", "seconds": 1.5}
    assert event_of({**told, "counts": {"planned": 3, "done": 3}}) == events.RunEnded("done", counts, 1.5)
    assert event_of({"time": "", "type": "SomethingNewer"}) is None


def test_a_torn_line_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text('{"time": "", "type": "Warned", "message": "before"}\n{"time": "", "type": "Warn')
    answers = iter([True, True, False])

    def alive() -> bool:
        again = next(answers)
        if not again:
            with log.open("a") as file:
                file.write('ed", "message": "after"}\n')
        return again

    assert list(follow(tmp_path, alive)) == [events.Warned("before"), events.Warned("after")]

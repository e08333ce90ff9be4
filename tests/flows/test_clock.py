"""A clock that is set while a run goes on, forwards or backwards by a day: nothing is tried, waited for or told wrongly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import from_mapping
from ndbatch.errors import ClusterError
from ndbatch.executors.clock import Clock as DaskClock
from ndbatch.journal import Journal
from ndbatch.report.status import status_lines
from ndbatch.report.summary import summarise

DAY = 86_400
SLOW = "import time\n\n\ndef slow(image):\n    time.sleep(0.05)\n    return image + 1\n"


def job(folder: Path, cluster: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a job of 16 blocks of a twentieth of a second, with a time limit."""
    data = np.arange(16 * 16 * 8, dtype="uint16").reshape(16, 16, 8)
    image = nb.create(folder / "image.zarr", shape=data.shape, dtype="uint16", chunks=(4, 4, 8), voxel_size=(1, 1, 1))
    image.write(image.domain, data)
    (folder / "mine.py").write_text(SLOW)
    return {
        "name": "job",
        "inputs": {"image": str(folder / "image.zarr")},
        "steps": [{"mine:slow": {"input": "image", "output": "out"}}],
        "outputs": {"out": {"url": str(folder / "out.zarr"), "chunks": {"z": 4, "y": 4, "x": 8}}},
        "blocks": {"z": 4, "y": 4, "x": 8},
        "directory": str(folder / "work"),
        "cluster": cluster,
        "time_limit": "60 s",
        **changes,
    }


class Clock:
    """An observer that sets the clock by `by` seconds once `after` batches are back."""

    def __init__(self, set_by: Callable[[int], object], by: int, after: int = 3) -> None:
        self._set, self._by, self._left, self.told = set_by, by, after, list[events.Event]()

    def __call__(self, event: events.Event) -> None:
        self.told.append(event)
        if isinstance(event, events.BlocksDone):
            self._left -= 1
            if self._left == 0:
                self._set(self._by)


def require_sane(folder: Path, seconds: float) -> None:
    """No time that is told is longer than the run or shorter than nothing."""
    with Journal.read(folder / "work") as journal:
        (session,) = journal.sessions()
        lines = status_lines(journal)
    assert 0 < session["ended"] - session["started"] <= seconds + 1
    found = summarise(folder / "work")
    assert found["counts"]["done"] == 16
    assert 0 < found["seconds"] <= seconds + 1
    (stage,) = found["stages"]
    assert 0.05 <= stage["seconds"] <= seconds + 1
    assert stage["retried"] == 0
    assert stage["voxels_per_second"] > 16 * 16 * 8 / (seconds + 1)
    assert " d" not in lines[1].partition("started")[2].partition(",")[2], lines


@pytest.mark.parametrize("by", [DAY, -DAY])
def test_the_clock_of_the_driver_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    true, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + shift[0])
    document = job(tmp_path, {"kind": "threads", "workers": 2})
    clock = Clock(lambda seconds: shift.__setitem__(0, seconds), by)
    begun = time.monotonic()
    result = nb.run(from_mapping(document, tmp_path), observers=[clock])
    seconds = time.monotonic() - begun
    assert (result.status, shift) == ("done", [by])
    assert 0 < result.seconds <= seconds
    require_sane(tmp_path, seconds)


def test_sessions_that_a_clock_set_back_lies_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was killed counts until its last event, also where the next one seems to have begun before it."""
    document = job(tmp_path, {"kind": "inline"})
    config, true, shift = from_mapping(document, tmp_path), time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + shift[0])

    def stop(event: events.Event) -> None:
        if isinstance(event, events.BlocksDone):
            raise KeyboardInterrupt

    assert nb.run(config, observers=[stop], report=False).status == "interrupted"
    with Journal.write(tmp_path / "work") as journal:
        journal.database.execute("UPDATE sessions SET ended = NULL, status = 'running'")
        journal.database.commit()
    shift[0] = -DAY
    assert nb.run(config, report=False).status == "done"
    assert 0 < summarise(tmp_path / "work")["seconds"] < 600


SHIFTED = """
import mmap, os, struct, time
with open(os.environ["NDBATCH_TEST_CLOCK"], "r+b") as file:
    _page = mmap.mmap(file.fileno(), 8)
_true = time.time
time.time = lambda: _true() + struct.unpack("<q", _page[:8])[0]
"""
"""What every interpreter runs first that finds it on its path: its clock goes wrong by the seconds in a page all share."""
CHILD = """
import json, struct, sys, time
from pathlib import Path
import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import from_mapping
from tests.flows.test_clock import Clock

if __name__ == "__main__":
    folder, by = Path(sys.argv[1]), int(sys.argv[2])

    def set_clock(seconds):
        with (folder / "clock").open("r+b") as file:
            file.write(struct.pack("<q", seconds))

    clock = Clock(set_clock, by)
    begun, first = time.monotonic(), time.time()
    result = nb.run(from_mapping(json.loads((folder / "job.json").read_text()), folder), observers=[clock], report=False)
    lost = [e.reason for e in clock.told if isinstance(e, events.WorkerLost)]
    print(json.dumps([result.status, time.monotonic() - begun, time.time() - first, lost]))
"""


@pytest.mark.parametrize(("kind", "by"), [("processes", -DAY), ("dask", DAY)])
def test_the_clock_of_all_processes_is_set(tmp_path: Path, kind: str, by: int) -> None:
    """Driver, workers and scheduler see the new time at once."""
    (tmp_path / "job.json").write_text(json.dumps(job(tmp_path, {"kind": kind, "workers": 2})))
    (tmp_path / "clock").write_bytes(bytes(8))
    (tmp_path / "sitecustomize.py").write_text(SHIFTED)
    (tmp_path / "child.py").write_text(CHILD)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "child.py", str(tmp_path), str(by)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "NDBATCH_TEST_CLOCK": str(tmp_path / "clock")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, seconds, shown, lost = json.loads(done.stdout.splitlines()[-1])
    assert (status, lost) == ("done", [])
    assert abs(shown - seconds - by) < 60  # the clock was set
    require_sane(tmp_path, seconds)


def test_a_cluster_that_is_silent_since_the_clock_was_set_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask's loops wait by the time of day, a day where it was set back by one: better a sentence than such a wait."""
    day, seconds = [1e9], [100.0]
    monkeypatch.setattr(time, "time", lambda: day[0])
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    clock = DaskClock()

    def passes(step: float) -> None:
        day[0], seconds[0] = day[0] + step, seconds[0] + step

    passes(5)
    clock.heard()
    passes(600)
    clock.require_steady("the cluster")  # busy, not silent: no clock was set
    day[0] += DAY
    clock.require_steady("the cluster")  # forwards nothing waits
    day[0] -= 2 * DAY
    clock.heard()
    passes(600)
    clock.require_steady("the cluster")  # a pause as long was seen before
    passes(2000)
    with pytest.raises(
        ClusterError, match=r"the cluster is silent since the clock .* set back by 86,400 s.*same command"
    ):
        clock.require_steady("the cluster")

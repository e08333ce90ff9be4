"""Ctrl-C once: the blocks under way are finished and kept. Twice: the run stops now. After either the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

import ndbatch as nb
from ndbatch.config.load import load
from ndbatch.executors.base import Reply
from ndbatch.executors.processes import ProcessesExecutor
from ndbatch.journal import Journal
from ndbatch.worker.work import Batch

FUNCTION = '''\
import time
from pathlib import Path

HERE = Path(__file__).parent


def work(image, block):
    """Take as many seconds as the file `seconds` says; leave a mark at the beginning and at the end."""
    (HERE / f"begun-{block.index}").touch()
    time.sleep(float((HERE / "seconds").read_text()))
    (HERE / f"ended-{block.index}").touch()
    return image + 1
'''
Start = Callable[[], subprocess.Popen[str]]


def make_image(folder: Path) -> None:
    """Make an image of 32 blocks, and the function beside it."""
    data = np.arange(32 * 8 * 4, dtype="uint16").reshape(32, 8, 4)
    image = nb.create(folder / "image.zarr", shape=data.shape, dtype="uint16", chunks=(1, 8, 4), voxel_size=(1, 1, 1))
    image.write(image.domain, data)
    (folder / "mine.py").write_text(FUNCTION)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the job of 32 blocks in a process group of its own; whatever is left of it is killed."""
    make_image(tmp_path)
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ndbatch", "run", str(tmp_path / "job.yaml")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def job(folder: Path, kind: str, seconds: float) -> None:
    chunks = {"z": 1, "y": 8, "x": 4}
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": [{"mine:work": {"input": "image", "output": "out"}}],
        "outputs": {"out": {"url": "out.zarr", "chunks": chunks}},
        "blocks": chunks,
        "cluster": {"kind": kind, "workers": 2},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    (folder / "seconds").write_text(str(seconds))


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marks(folder: Path, kind: str) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in folder.glob(f"{kind}-*")}


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run once a moment has passed in which the system takes them away."""
    _, alive = psutil.wait_procs(processes, timeout=180)
    return list(alive)


def require_whole(folder: Path) -> None:
    """The same command does the rest, and what comes of it is right."""
    (folder / "seconds").write_text("0")
    config = load(folder / "job.yaml")
    assert nb.run(config, report=False).status == "done"
    assert np.array_equal(nb.open(folder / "runs/job/out.zarr")[...], nb.open(folder / "image.zarr")[...] + 1)


@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
def test_once_finishes_what_is_under_way(tmp_path: Path, start: Start, kind: str) -> None:
    job(tmp_path, kind, 0.6)
    process = start()
    wait_for(
        lambda: len(marks(tmp_path, "ended")) > 1 and len(marks(tmp_path, "begun")) > len(marks(tmp_path, "ended"))
    )
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 3, out + err
    assert "what is under way is finished first" in err
    assert out.startswith("job: interrupted; ")
    assert "Go on:" in out
    assert "Traceback" not in out + err
    assert left_of(family) == []
    ended = marks(tmp_path, "ended")
    assert marks(tmp_path, "begun") == ended  # nothing was cut short
    assert len(ended) < 32
    with Journal.read(tmp_path / "runs/job") as journal:
        assert journal.status == "interrupted"
        assert set(journal.done(0)) == ended
    require_whole(tmp_path)


class Late(ProcessesExecutor):
    """A worker of which the driver hears late: Ctrl-C comes when it has begun its second batch, and the first is not told yet."""

    folder: Path

    def wait(self, seconds: float) -> Sequence[Reply]:
        if not (self.folder / "interrupted").exists():
            wait_for(lambda: len(marks(self.folder, "begun")) == 2)
            (self.folder / "interrupted").touch()
            signal.raise_signal(signal.SIGINT)
            return ()
        return super().wait(seconds)


class Early(ProcessesExecutor):
    """Ctrl-C comes while the first batches are on their way: the workers hear of it before they begin them."""

    deadline = 0.0

    def submit(self, batch: Batch) -> None:
        if not self.deadline:
            self.deadline = time.monotonic() + 180
            self.drain()
            signal.raise_signal(signal.SIGINT)
        super().submit(batch)

    def wait(self, seconds: float) -> Sequence[Reply]:
        assert time.monotonic() < self.deadline, "a batch was neither begun nor given back"
        return super().wait(seconds)


def test_a_batch_that_is_not_begun_any_more_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(tmp_path)
    job(tmp_path, "processes", 0)
    with monkeypatch.context() as patched:
        patched.setattr("ndbatch.runner.make_executor", lambda *arguments: Early(2, tmp_path / "log.txt"))
        assert nb.run(load(tmp_path / "job.yaml"), report=False).status == "interrupted"
    assert marks(tmp_path, "begun") == set()
    require_whole(tmp_path)


def test_a_batch_that_was_just_begun_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(tmp_path)
    job(tmp_path, "processes", 0.5)
    monkeypatch.setattr(Late, "folder", tmp_path, raising=False)
    with monkeypatch.context() as patched:
        patched.setattr("ndbatch.runner.make_executor", lambda *arguments: Late(1, tmp_path / "log.txt"))
        assert nb.run(load(tmp_path / "job.yaml"), report=False).status == "interrupted"
    assert marks(tmp_path, "begun") == marks(tmp_path, "ended")
    with Journal.read(tmp_path / "runs/job") as journal:
        assert set(journal.done(0)) == marks(tmp_path, "ended")
    require_whole(tmp_path)


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_twice_stops_now(tmp_path: Path, start: Start, kind: str) -> None:
    job(tmp_path, kind, 600)
    process = start()
    wait_for(lambda: len(marks(tmp_path, "begun")) >= 2)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    wait_for(lambda: "Ctrl-C again stops now" in process.stderr.readline())
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 3, out + err
    assert "Traceback" not in out + err
    assert left_of(family) == []
    assert marks(tmp_path, "ended") == set()
    require_whole(tmp_path)

"""A small job, and the command line in this process or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ndbatch.cli.app import main
from ndbatch.remotes import api

FUNCTIONS = '''\
import time
from pathlib import Path

HERE = Path(__file__).parent

def half(image, block):
    """Fail on block 3 while there is a file `broken`; take half a second a block while there is a file `slow`."""
    if block.index == 3 and (HERE / "broken").exists():
        raise RuntimeError("no light [bold]here[/bold]")
    if (HERE / "slow").exists():
        time.sleep(0.5)
    return image // 2
'''

CONFIG = """\
name: halves
inputs:
  image: {url: image.zarr, voxel_size: {z: 0.5 um, y: 0.2 um, x: 0.2 um}}
steps:
  - work.py:half: {input: image, output: half}
outputs:
  half: {url: half.zarr, chunks: {z: 8, y: 16, x: 16}}
blocks: {z: 8, y: 16, x: 16}
cluster: {kind: inline}
retry: {attempts: 1}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with image.zarr (16 x 32 x 32, 8 blocks), work.py and job.yaml; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    voxels = np.random.default_rng(1).integers(0, 255, (16, 32, 32), dtype=np.uint8)
    volume = api.create("image.zarr", shape=voxels.shape, dtype="uint8", chunks=(8, 16, 16), base=tmp_path)
    volume.write(volume.domain, voxels)
    (tmp_path / "work.py").write_text(FUNCTIONS)
    (tmp_path / "job.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def ndbatch(capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command line in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Outcome(int(left.value.code or 0), out, err)

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command line in a process of its own, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def call(*words: object, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ndbatch", *map(str, words)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def program_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands to copy name the program as it can be called: as for a user whose environment is active."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)

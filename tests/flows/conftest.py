"""A small real job, and the command line: in this process for what is refused, in one of its own for what runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ndbatch as nb
from ndbatch.cli.app import main

SHAPE = (16, 32, 32)
BLOCK = {"z": 8, "y": 16, "x": 16}


Mount = Callable[..., Path]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    def refused(self, *words: str) -> None:
        """Assert that nothing was begun: exit code 2, one error on standard error that holds all `words`."""
        assert self.code == 2, self.said
        assert self.out == ""
        assert self.err.count("error:") == 1, self.err
        self._tells(words)

    def failed(self, *words: str) -> None:
        """Assert that blocks failed: exit code 1, and all `words` are told."""
        assert self.code == 1, self.said
        self._tells(words)

    def _tells(self, words: tuple[str, ...]) -> None:
        assert "Traceback" not in self.said, self.said
        assert "ndbatch itself failed" not in self.said, self.said
        for word in words:
            assert word in self.said, f"{word!r} is not in: {self.said}"


@dataclass(frozen=True)
class Job:
    """A folder with a configuration `job.yaml`; commands run in it."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def configure(self, **changes: Any) -> dict[str, Any]:
        """Write job.yaml: copy image.zarr (8 blocks) with `changes`; a change to None removes the key."""
        document: dict[str, Any] = {
            "name": "job",
            "inputs": {"image": "image.zarr"},
            "steps": [{"copy": {"input": "image", "output": "out"}}],
            "outputs": {"out": {"url": "out.zarr", "chunks": BLOCK}},
            "blocks": BLOCK,
            "cluster": {"kind": "inline"},
            "retry": {"attempts": 1, "kills": 1, "wait": 0},
            **changes,
        }
        document = {key: value for key, value in document.items() if value is not None}
        (self.folder / "job.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return document

    def function(self, text: str, **changes: Any) -> None:
        """Write work.py with `text` and a configuration that runs its function `work`."""
        (self.folder / "work.py").write_text(text)
        step = {"input": "image", "output": "out", **changes.pop("step", {})}
        self.configure(steps=[{f"{changes.pop('name', 'work:work')}": step}], **changes)

    def __call__(self, *words: object) -> Outcome:
        """Run a command line in this process."""
        self.capture.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as left:
                main([str(word) for word in words])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = self.capture.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    def alone(self, *words: object) -> Outcome:
        """Run a command line in a process of its own."""
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=180)
        finally:
            process.kill()
        return Outcome(process.returncode, out, err)

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command line in a process of its own, in a process group of its own."""
        command = [sys.executable, "-m", "ndbatch", *map(str, words)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
        )

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "runs/job"

    def image(self) -> np.ndarray[Any, Any]:
        return voxels(self.folder / "image.zarr")


def voxels(place: Path | str) -> np.ndarray[Any, Any]:
    """Return all voxels of a volume."""
    volume = nb.open(str(place))
    return volume.read(volume.domain)


def files(folder: Path) -> dict[Path, bytes]:
    """Return every file below `folder` with what is in it."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def ndbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Job:
    """A job of 8 blocks over image.zarr (uint16, values 0 to 65535, chunks as the blocks), in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    data = np.linspace(0, 65535, num=int(np.prod(SHAPE))).round().astype("uint16").reshape(SHAPE)
    volume = nb.create(
        f"{tmp_path}/image.zarr", shape=SHAPE, dtype="uint16", chunks=tuple(BLOCK.values()), voxel_size=(2, 1, 1)
    )
    volume.write(volume.domain, data)
    job = Job(tmp_path, capfd)
    job.configure()
    return job


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system of so much memory at a folder, or bind a folder read-only; it goes away with the test."""
    mounted: list[Path] = []

    def call(folder: Path, *options: str) -> Path:
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield call
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

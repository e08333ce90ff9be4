"""A disk of a few megabytes that can be filled to a given room: a tmpfs of its own, where this process may mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A file system of its own at `path`."""

    path: Path

    def fill(self, room: int) -> None:
        """Leave `room` KiB free."""
        facts = os.statvfs(self.path)
        with (self.path / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - room * 1024))

    def free(self) -> None:
        """Make space again."""
        (self.path / "filler").unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nothing be written for a while, not by root either."""
        _mount("-o", "remount,ro", str(self.path))
        try:
            yield
        finally:
            _mount("-o", "remount,rw", str(self.path))


@contextmanager
def small_disk(path: Path, megabytes: int = 8) -> Iterator[Disk]:
    """Mount a disk at the new folder `path`; the test is skipped, with the reason, where that is refused."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)


def _mount(*words: str) -> None:
    if shutil.which("mount") is None or os.geteuid():
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")

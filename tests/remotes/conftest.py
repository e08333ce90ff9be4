"""What the tests of volumes share: an unprivileged moment, and a size limit on files in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ndbatch.remotes.base import Array

NOBODY = 65534
PREAMBLE = """
import resource, sys, warnings
warnings.simplefilter("error")
import numpy as np
import ndbatch as nb
"""


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be nobody for a moment: root may do everything, which proves nothing about permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def script(code: str, *arguments: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, *arguments], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with room for 200 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def image() -> Array:
    """Return uint16 voxels whose every value tells its place."""
    return np.arange(12 * 40 * 50, dtype="uint16").reshape(12, 40, 50)


@pytest.fixture
def cut() -> Callable[[str, float], None]:
    """Return a function that keeps only the first part of a file."""

    def shorten(path: str, share: float) -> None:
        os.truncate(path, int(os.path.getsize(path) * share))

    return shorten

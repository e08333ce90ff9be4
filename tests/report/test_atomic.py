"""Files of the run directory: whole or not at all, and nothing beside them, whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ndbatch.report.atomic import write_bytes, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from ndbatch.report.atomic import write_text
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
write_text(Path(sys.argv[1]), "half")
"""


def test_what_a_killed_process_had_begun_goes_with_the_next_write(tmp_path: Path) -> None:
    file = write_text(tmp_path / "plan.json", "old")
    died = subprocess.run([sys.executable, "-c", KILLED, str(file)])
    assert died.returncode == -signal.SIGKILL
    assert (len(os.listdir(tmp_path)), file.read_text()) == (2, "old")
    (tmp_path / f".plan.json.{os.getpid()}-of-one-that-lives").touch()
    (tmp_path / ".plan.json.mine").touch()
    write_text(file, "new")
    names = {".plan.json.mine", f".plan.json.{os.getpid()}-of-one-that-lives", "plan.json"}
    assert ({path.name for path in tmp_path.iterdir()}, file.read_text()) == (names, "new")


def test_an_error_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_bytes(tmp_path / "report.html", b"old")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*report\.html"):
        write_bytes(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("report.html", b"old")]

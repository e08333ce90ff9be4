"""The journal's file on disks of every sort: without shared memory, after a kill, moved from one sort to another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ndbatch.errors import JournalError
from ndbatch.journal import FILE, Journal, opening
from ndbatch.journal.filesystem import FileSystem

DOCUMENT = {"stages": []}
KILLED = """
import os, sys
from pathlib import Path
from ndbatch.journal import Journal, opening
from ndbatch.journal.filesystem import FileSystem
if sys.argv[2] == "remote":
    opening.file_system = lambda _: FileSystem("/", "nfs4", True, False)
journal = Journal.write(Path(sys.argv[1]))
journal.begin({"stages": []})
journal.set("mark", "kept")
journal.database.execute("PRAGMA cache_size = 1")
journal.database.execute("BEGIN IMMEDIATE")
journal.database.executemany("INSERT INTO meta VALUES (?, ?, 0)", ((f"half-{n}", "x" * 5000) for n in range(200)))
os.kill(os.getpid(), 9)
"""


def mode(journal: Journal) -> str:
    return str(journal.database.execute("PRAGMA journal_mode").fetchone()[0])


def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "file_system", lambda _: FileSystem("/", "nfs4", remote=True, locks_here_only=False))


def test_a_network_file_system_gets_a_log_without_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.write(tmp_path) as journal:
        assert mode(journal) == "wal"
        journal.begin(DOCUMENT)
        journal.set("mark", "kept")
    remote(monkeypatch)
    with Journal.write(tmp_path) as journal, Journal.read(tmp_path) as reader:
        assert mode(journal) == "truncate"
        journal.set("second", "too")
        assert (reader.get("mark"), reader.get("second")) == ("kept", "too")
        assert not (tmp_path / f"{FILE}-shm").exists()
    monkeypatch.undo()
    with Journal.write(tmp_path) as journal:
        assert mode(journal) == "wal"
        assert journal.get("second") == "too"


def test_shared_memory_that_cannot_be_had_is_done_without(tmp_path: Path) -> None:
    with Journal.write(tmp_path) as journal:
        journal.begin(DOCUMENT)
    (tmp_path / f"{FILE}-shm").symlink_to("nowhere")  # SQLite follows no link, so no file can be made there
    with Journal.write(tmp_path) as journal:
        assert mode(journal) == "truncate"
        journal.set("mark", "kept")
    with Journal.read(tmp_path) as reader:
        assert reader.get("mark") == "kept"


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_driver_killed_in_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Who only looks sees all that was committed and nothing else, and so does the next driver."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), place], check=False)
    assert done.returncode == -9
    assert any((tmp_path / f"{FILE}{log}").exists() for log in ("-wal", "-journal"))
    if place == "remote":
        remote(monkeypatch)
    for _ in range(2):
        with Journal.read(tmp_path) as reader:
            assert reader.status == "dead"
            assert reader.get("mark") == "kept"
            assert reader.database.execute("SELECT count(*) FROM meta WHERE key LIKE 'half%'").fetchone() == (0,)
    with Journal.write(tmp_path) as journal:
        assert journal.get("mark") == "kept"
        assert journal.database.execute("SELECT count(*) FROM meta WHERE key LIKE 'half%'").fetchone() == (0,)


def test_the_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(Exception, match=r"Input/output error; mend that, then run the same command again"):
            Journal.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    with pytest.raises(JournalError, match="holds no run"):
        Journal.read(tmp_path)
    with Journal.write(tmp_path) as journal:
        assert journal.status == "planned"

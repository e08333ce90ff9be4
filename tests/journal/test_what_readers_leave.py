"""Looking at a run leaves nothing in its directory."""

from __future__ import annotations

from pathlib import Path

from ndbatch.journal import Journal


def test_reading_a_journal_leaves_no_file(tmp_path: Path) -> None:
    with Journal.write(tmp_path) as journal:
        journal.begin({"name": "job", "stages": []})
        journal.end("done")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert before == ["journal.sqlite", "run.lock"]
    with Journal.read(tmp_path) as journal:
        assert journal.status == "done"
    assert sorted(path.name for path in tmp_path.iterdir()) == before

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ndbatch.errors import JournalError
from ndbatch.journal import Journal
from ndbatch.report.status import status_lines
from ndbatch.report.summary import in_words, stage_traffic, summarise, worked

Make = Callable[..., Path]


def test_a_done_run(run_directory: Make) -> None:
    directory = run_directory()
    summary = summarise(directory)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["status"] == "done"
    assert summary["balanced"]
    assert summary["counts"]["planned"] == summary["counts"]["done"] == 8
    first, second = summary["stages"]
    assert first["facts"] == {"nuclei": {"nuclei": 5, "threshold": 812.5}}
    assert (second["bytes_read"], second["retried"]) == (400_000, 1)
    assert second["times"]["waited"] == pytest.approx(1.6, rel=1e-3)  # a half float
    assert second["seconds_per_block"]["mean"] == pytest.approx(0.03 + 0.115)
    assert summary["outputs"]["cells"]["rows"] == 5
    assert "equivalent" not in summary["outputs"]["cells"]["columns"]
    assert summary["waited_for"]["kind"] == "reading"


def test_words_of_a_done_run(run_directory: Make) -> None:
    directory = run_directory()
    lines = in_words(summarise(directory))
    assert lines[0].startswith("count-nuclei: done in ")
    assert lines[0].endswith("8 of 8 blocks done")
    assert "  nuclei: 5" in lines
    assert f"  cells: {directory / 'cells.parquet'} (5 rows)" in lines
    assert any(line.startswith("  The run waited for reading") for line in lines)
    assert lines[-1] == "  warning: the last block is small"


def test_a_failed_run_counts_what_was_not_tried_as_such(run_directory: Make) -> None:
    directory = run_directory("failed", failed=[2])
    summary = summarise(directory)
    assert summary["balanced"]
    assert (summary["counts"]["failed"], summary["counts"]["done"]) == (1, 7)
    assert summary["failures"]["kinds"] == {"StepError": 1}
    assert any("StepError: <b>bad & worse</b> value" in line for line in in_words(summary))


def test_an_interrupted_run_says_what_is_left(run_directory: Make) -> None:
    summary = summarise(run_directory("interrupted"))
    assert summary["counts"]["pending"] == 2
    assert "  2 blocks left; the same command continues" in in_words(summary)


def test_tables_that_are_gone_or_moved(run_directory: Make, tmp_path: Path) -> None:
    directory = run_directory()
    moved = directory.rename(tmp_path / "elsewhere")
    assert summarise(moved)["outputs"]["cells"]["rows"] == 5
    (moved / "cells.parquet").unlink()
    output = summarise(moved)["outputs"]["cells"]
    assert output["rows"] is None
    assert "there is no table" in output["problem"]


def test_without_events_only_their_numbers_are_missing(run_directory: Make) -> None:
    directory = run_directory()
    (directory / "events.jsonl").unlink()
    summary = summarise(directory)
    assert summary["counts"]["done"] == 8
    assert summary["stages"][0]["voxels_per_second"] is None


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no run"):
        summarise(tmp_path)


def event(at: float, kind: str, **fields: object) -> str:
    return json.dumps({"time": f"2026-01-01T00:00:{at:06.3f}Z", "type": kind, **fields})


def blocks(at: float, number: int) -> str:
    return event(at, "BlocksDone", stage=0, blocks=number, voxels=100, bytes_read=10, bytes_written=5)


def test_pauses_between_sessions_do_not_count(tmp_path: Path) -> None:
    lines = [
        event(0, "RunStarted"), event(0, "StageStarted", stage=0), blocks(2, 4),
        event(40, "RunStarted"), event(40, "StageStarted", stage=0), blocks(43, 2), event(44, "StageEnded", stage=0),
    ]  # fmt: skip
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    seen = stage_traffic(tmp_path)[0]
    assert (seen.seconds, seen.voxels, seen.fresh) == (pytest.approx(6), 200, 2)


def test_a_killed_session_counts_until_its_last_event(tmp_path: Path) -> None:
    from ndbatch.report.eventlog import seconds_of

    lines = [event(0, "RunStarted"), blocks(2, 4), event(40, "RunStarted"), blocks(43, 2)]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    start = seconds_of("2026-01-01T00:00:00Z")
    sessions = [{"started": start, "ended": None}, {"started": start + 40, "ended": start + 50}]
    assert worked(sessions, tmp_path) == [pytest.approx(2), pytest.approx(10)]


def test_status_of_a_run_that_goes_on_elsewhere(run_directory: Make) -> None:
    directory = run_directory("running")
    with Journal.write(directory), Journal.read(directory) as journal:
        lines = status_lines(journal)
    assert lines[0].startswith("count-nuclei: running (process ")
    assert "6 of 8 blocks done (75 %)" in lines[1]
    assert lines[-1].startswith("  [2/2] nuclei + measure: 2 of 4 blocks done (50 %)")
    assert lines[-1].endswith(" left")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("done", "done"),
        ("interrupted", "the same command continues it"),
        ("dead", "ended without a word; the same command continues it"),
    ],
)
def test_status_of_a_run_that_ended(run_directory: Make, status: str, words: str) -> None:
    with Journal.read(run_directory(status)) as journal:
        lines = status_lines(journal)
    assert lines[0].endswith(words)
    assert not any(line.endswith(" left") for line in lines)


def test_status_tells_failures_and_facts(run_directory: Make) -> None:
    with Journal.read(run_directory("failed", failed=[0, 3])) as journal:
        lines = status_lines(journal)
    assert "      threshold: 812.5" in lines
    assert lines[-1] == "  block 3 (z: [0, 24], y: [0, 32]): StepError: <b>bad & worse</b> value"

import json
from pathlib import Path

import numpy as np

from ndbatch.events import BlocksDone, Counts, RunEnded, StageEnded, Warned
from ndbatch.report.eventlog import EventLog, read_events, seconds_of, timestamp


def test_events_are_readable_at_once_and_appended_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log(Warned("first"))
        assert [e["message"] for e in read_events(path)] == ["first"], "flushed per event"
    with EventLog(path) as log:
        log(RunEnded("done", Counts(3, 3), 1.5))
    first, last = read_events(path)
    assert (first["type"], last["type"]) == ("Warned", "RunEnded")
    assert last["counts"]["done"] == 3
    assert seconds_of(last["time"]) >= seconds_of(first["time"]) > 1.7e9


def test_a_torn_last_line_is_skipped_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log(Warned("before"))
    with path.open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00.000Z", "type": "Warned", "mess')
    assert [e["message"] for e in read_events(path)] == ["before"]
    with EventLog(path) as log:
        log(Warned("after"))
    assert [e["message"] for e in read_events(path)] == ["before", "after"]


def test_bytes_that_are_no_text_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'\xff\xfe\x00\n[1, 2]\n"text"\n{"time": "2026-01-01T00:00:00Z", "type": "A"}\n')
    assert [e["type"] for e in read_events(path)] == ["A"]


def test_a_missing_file_holds_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none.jsonl")) == []


def test_numbers_of_numpy_and_undefined_ones_are_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    facts = {"threshold": np.float32(2.5), "ids": np.arange(2), "undefined": float("nan"), "where": Path("a")}
    with EventLog(path) as log:
        log(StageEnded(0, "measure", Counts(), 0.1, facts))
    line = json.loads(path.read_text(), parse_constant=lambda name: f"not JSON: {name}")
    assert line["facts"] == {"threshold": 2.5, "ids": [0, 1], "undefined": None, "where": "a"}


def test_a_log_that_cannot_be_written_goes_quiet_and_says_why(tmp_path: Path) -> None:
    log = EventLog(Path("/dev/full"))
    log(BlocksDone(0, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.0, 0.0, 0))
    assert "No space left" in log.broken
    log(Warned("still alive"))
    log.close()


def test_timestamps_are_utc_with_milliseconds() -> None:
    assert timestamp().endswith("Z")
    assert len(timestamp()) == len("2026-01-31T12:00:00.000Z")

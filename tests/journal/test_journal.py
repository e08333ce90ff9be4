"""The journal against a model: whatever is recorded, killed, damaged and rebuilt, it never claims what is not there."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ndbatch.errors import JournalError
from ndbatch.geometry import Box, Grid
from ndbatch.journal import FILE, RECEIPT, Entry, Failure, Journal
from ndbatch.journal.salvage import rebuild
from ndbatch.remotes.base import Array

GRID = Grid.over(Box.of_shape((30,)), (1,))
DOCUMENT = {"stages": [{"index": 0, "blocks": 30, "payloads": ["p"]}, {"index": 1, "blocks": 30, "payloads": []}]}


def receipts(blocks: list[int]) -> Array:
    result = np.zeros(len(blocks), RECEIPT)
    result["block"] = blocks
    result["checksum"] = [b * 7 for b in blocks]
    return result


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.write(tmp_path) as opened:
        opened.begin(DOCUMENT)
        yield opened


class Model(RuleBasedStateMachine):
    """Batches are recorded and forgotten, the journal is closed and opened again."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.journal = Journal.write(self.path)
        self.journal.begin(DOCUMENT)
        self.done: dict[int, set[int]] = {0: set(), 1: set()}
        self.payloads: dict[int, bytes] = {}

    @rule(stage=st.integers(0, 1), blocks=st.sets(st.integers(0, 29), min_size=1), data=st.binary(max_size=20))
    def record(self, stage: int, blocks: set[int], data: bytes) -> None:
        new = sorted(blocks - self.done[stage])
        rows = [("p", b, data) for b in new] if stage == 0 else []
        self.journal.record(Entry(stage, receipts(new), rows))
        self.done[stage] |= set(new)
        if stage == 0:
            self.payloads.update(dict.fromkeys(new, data))

    @rule(stage=st.integers(0, 1), blocks=st.sets(st.integers(0, 29)))
    def forget(self, stage: int, blocks: set[int]) -> None:
        self.journal.forget(stage, blocks)
        self.done[stage] -= blocks
        if stage == 0:
            self.payloads = {b: d for b, d in self.payloads.items() if b not in blocks}

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal.write(self.path)

    @rule()
    def rebuild(self) -> None:
        self.journal.close()
        assert rebuild(self.path) == (sum(map(len, self.done.values())), 0)
        self.journal = Journal.write(self.path)

    @invariant()
    def says_what_was_recorded(self) -> None:
        for stage, blocks in self.done.items():
            assert list(self.journal.done(stage)) == sorted(blocks)
            assert self.journal.receipts(stage)["block"].tolist() == sorted(blocks)
        kept = {block.index: data for block, data in self.journal.payloads(0, "p", GRID)}
        assert kept == self.payloads
        assert list(kept) == sorted(kept)

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_a_second_driver_is_told_who_holds_the_run(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=rf"in use by process {os.getpid()} on .*ndbatch status"):
        Journal.write(tmp_path)


def test_a_reader_sees_a_running_driver_and_a_dead_one(journal: Journal, tmp_path: Path) -> None:
    journal.record(Entry(0, receipts([1, 2, 3]), [("p", b, b"x") for b in (1, 2, 3)]))
    with Journal.read(tmp_path) as reader:
        assert reader.status == "running"
        assert reader.holder is not None
        assert reader.holder["pid"] == os.getpid()
        assert reader.counts()[0].done == 3
        assert reader.counts()[0].pending == 27
    journal.close()
    with Journal.read(tmp_path) as reader:
        assert reader.status == "dead"


def test_killed_in_the_middle_of_a_transaction_nothing_of_it_is_there(tmp_path: Path) -> None:
    """The receipt and the rows of a batch are there together or not at all."""
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from journal.test_journal import DOCUMENT, receipts
from ndbatch.journal import Entry, Journal
from pathlib import Path

class Dying(list):
    def __iter__(self):
        yield from list.__iter__(self)
        os.kill(os.getpid(), 9)

journal = Journal.write(Path({str(tmp_path)!r}))
journal.begin(DOCUMENT)
journal.record(Entry(0, receipts([0]), [("p", 0, b"whole")]))
journal.record(Entry(0, receipts([1]), Dying([("p", 1, b"torn")])))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with Journal.write(tmp_path) as journal:
        assert list(journal.done(0)) == [0]
        assert [data for _, data in journal.payloads(0, "p", GRID)] == [b"whole"]


def test_failures_are_kept_until_cleared(journal: Journal) -> None:
    failure = Failure(1, 4, "z: [4, 5]", 3, "StepError", "your function raised", "Traceback ...")
    journal.record(Entry(1, receipts([]), failures=[failure]))
    assert journal.failures() == [failure]
    assert journal.counts()[1].failed == 1
    journal.clear_failures()
    assert journal.failures() == []


def test_a_flipped_byte_is_found_and_rebuilt_around(journal: Journal, tmp_path: Path) -> None:
    journal.record(Entry(0, receipts([0, 1]), [("p", b, b"x") for b in (0, 1)]))
    journal.record(Entry(0, receipts([2, 3]), [("p", b, b"x") for b in (2, 3)]))
    journal.record(Entry(0, receipts([4, 5]), [("p", b, b"x") for b in (4, 5)]))
    journal.close()
    with sqlite3.connect(tmp_path / FILE) as database:
        (blob,) = database.execute("SELECT receipts FROM batches WHERE rowid = 1").fetchone()
        database.execute("UPDATE batches SET receipts = ? WHERE rowid = 1", (b"\xff" + blob[1:],))
        database.execute("UPDATE payloads SET data = ? WHERE block = 3", (b"y",))
    database.close()
    with Journal.read(tmp_path) as reader, pytest.raises(JournalError, match=r"cannot be trusted.*--rebuild"):
        reader.done(0)
    kept, lost = rebuild(tmp_path)
    assert (kept, lost) == (
        2,
        4,
    )  # the last batch stays; batch 1, payload 3 and with it both receipts of its batch are gone
    with Journal.read(tmp_path) as reader:
        reader.verify()
        assert list(reader.done(0)) == [4, 5]
        assert reader.document == DOCUMENT


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match=r"journal.sqlite cannot be trusted: file is not a database.*--rebuild"):
        Journal.read(tmp_path)


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no run"):
        Journal.read(tmp_path)


def test_a_receipt_takes_36_bytes() -> None:
    assert RECEIPT.itemsize == 36


def test_the_look_through_a_journal_that_is_being_written_is_of_one_moment(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.record(Entry(0, receipts([1]), [("p", 1, b"x")]))
    with Journal.read(tmp_path) as reader:
        batches = reader.sealed_batches

        def while_written(stage: int) -> Iterator[tuple[int, Array, int, int]]:
            yield from batches(stage)
            journal.record(Entry(stage, receipts([2 + stage]), [("p", 2 + stage, b"y")]))

        monkeypatch.setattr(reader, "sealed_batches", while_written)
        reader.verify()
        monkeypatch.undo()
        assert list(reader.done(0)) == [1, 2]


def test_the_journal_of_an_older_version_is_told_and_never_read(tmp_path: Path) -> None:
    """Its receipts are of another size: neither a run nor a rebuild takes them for its own."""
    with Journal.write(tmp_path) as journal:
        journal.begin({"stages": []})
        journal.set("format", "2")
    before = (tmp_path / FILE).read_bytes()
    for read in (Journal.read, Journal.write, rebuild):
        with pytest.raises(
            JournalError, match=r"is a journal of format 2, this ndbatch writes format 3; run with --fresh"
        ):
            read(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before

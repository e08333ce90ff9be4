"""The journal of a run: which blocks are done, with proof, and the rows they gave. The truth that resume relies on.

One SQLite file (WAL) in the run directory, written by the driver alone. A transaction holds all that came back of a
batch: receipts, payloads and rows, failures. A block's voxels are on disk before its receipt is committed, so a run
killed at any moment has at worst done a block that it will do again, with the same bytes.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ndbatch.errors import JournalError
from ndbatch.events import Counts
from ndbatch.geometry import Block, Grid
from ndbatch.journal.lock import holder_of, take_lock
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import Array

FORMAT = 1
FILE = "journal.sqlite"

RECEIPT = np.dtype(
    [
        ("block", "<u8"),
        ("checksum", "<u8"),
        ("read", "<f4"),
        ("compute", "<f4"),
        ("write", "<f4"),
        ("waited", "<f4"),
        ("stalled", "<f4"),
        ("worker", "<u2"),
        ("attempt", "<u2"),
    ]
)
"""A block's receipt, 40 bytes: CRC-32 of what it wrote (in the upper bits of `checksum` one for each of its stage's arrays
that needed no writing), and seconds (see events.BlocksDone)."""

CHECKSUM_BITS = 32
"""Bits of `checksum` that are the CRC-32."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (stage INTEGER NOT NULL, receipts BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS payloads (stage INTEGER NOT NULL, name TEXT NOT NULL, block INTEGER NOT NULL,
                                     data BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS payload_of ON payloads (stage, name, block);
CREATE TABLE IF NOT EXISTS failures (stage INTEGER NOT NULL, block INTEGER NOT NULL, box TEXT NOT NULL,
                                     attempts INTEGER NOT NULL, kind TEXT NOT NULL, error TEXT NOT NULL,
                                     traceback TEXT NOT NULL, PRIMARY KEY (stage, block)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stages (stage INTEGER PRIMARY KEY, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, host TEXT NOT NULL,
                                     pid INTEGER NOT NULL, status TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Failure:
    """A block that could not be done, in words."""

    stage: int
    block: int
    box: str
    attempts: int
    kind: str
    error: str
    traceback: str = ""


@dataclass(frozen=True)
class Entry:
    """What one batch adds to the journal."""

    stage: int
    receipts: Array
    """RECEIPT records of the blocks that are done."""
    payloads: Sequence[tuple[str, int, bytes]] = ()
    """(name, block, bytes): payloads of passes and rows of tables."""
    failures: Sequence[Failure] = field(default=())


class Journal:
    """The journal of the run in `directory`. Open it with `Journal.write` (the driver, one at a time) or `Journal.read`."""

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.directory = directory
        self.database = connection
        """The open file; only the modules of this package touch it."""
        self._lock = lock
        self._session: int | None = None

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def exists(cls, directory: Path) -> bool:
        """Return whether a run was begun in `directory`."""
        return (directory / FILE).exists()

    @classmethod
    def write(cls, directory: Path) -> Self:
        """Open for writing, created where there is none. JournalError if another driver holds the run directory."""
        directory.mkdir(parents=True, exist_ok=True)
        lock = take_lock(directory)
        try:
            connection = _connect(directory / FILE)
            connection.executescript(_SCHEMA)
            journal = cls(directory, connection, lock)
            journal._check_format()
        except (sqlite3.DatabaseError, JournalError) as error:
            os.close(lock)
            raise _damaged(directory, error) from None
        return journal

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Open for reading, also while a driver writes. JournalError where no run was begun or the file is damaged."""
        if not cls.exists(directory):
            raise JournalError(f"{directory} holds no run: there is no {FILE} in it", path=str(directory))
        try:
            journal = cls(directory, _connect(directory / FILE), None)
            journal._check_format()
        except (sqlite3.DatabaseError, JournalError) as error:
            raise _damaged(directory, error) from None
        return journal

    @classmethod
    def discard(cls, directory: Path, aside: Path | None = None, first: Callable[[], object] = lambda: None) -> None:
        """Remove the journal, or move it to `aside`; `first` is called before, while no other driver can begin.

        Raises JournalError, and calls nothing, if a driver holds the run directory.
        """
        lock = take_lock(directory)
        try:
            first()
            for suffix in ("", "-wal", "-shm"):
                file = directory / (FILE + suffix)
                if aside is not None and file.exists():
                    file.replace(aside.with_name(aside.name + suffix))
                file.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close the file and give the run directory free."""
        self.database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_format(self) -> None:
        row = self.database.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        if row is not None and int(row[0]) != FORMAT:
            raise JournalError(f"journal of format {row[0]}, this ndbatch writes format {FORMAT}; run with --fresh")

    # -- the plan and the sessions --------------------------------------------------------------------------------------

    @property
    def document(self) -> dict[str, Any]:
        """The plan as it was when the run began (plan.json); empty before `begin`."""
        row = self.database.execute("SELECT value FROM meta WHERE key = 'plan'").fetchone()
        return dict(json.loads(row[0])) if row else {}

    def begin(self, document: dict[str, Any]) -> None:
        """Keep the plan, once, and open a session of work."""
        with self.database:
            if not self.document:
                values = [("format", str(FORMAT)), ("plan", json.dumps(document))]
                self.database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
            self._session = self.database.execute(
                "INSERT INTO sessions (started, host, pid, status) VALUES (?, ?, ?, 'running')",
                (time.time(), socket.gethostname(), os.getpid()),
            ).lastrowid

    def end(self, status: str) -> None:
        """Close the session of work with its status: done, failed or interrupted."""
        with self.database:
            self.database.execute(
                "UPDATE sessions SET ended = ?, status = ? WHERE id = ?", (time.time(), status, self._session)
            )

    def sessions(self) -> list[dict[str, Any]]:
        """Return every stretch of work on this run, in order."""
        rows = self.database.execute("SELECT started, ended, host, pid, status FROM sessions ORDER BY id")
        return [dict(zip(("started", "ended", "host", "pid", "status"), row, strict=True)) for row in rows]

    @property
    def holder(self) -> dict[str, Any] | None:
        """The driver that holds the run directory now (pid, host), or None."""
        return holder_of(self.directory)

    @property
    def status(self) -> str:
        """planned, running, done, failed, interrupted, or dead (a driver that ended without a word)."""
        sessions = self.sessions()
        if not sessions:
            return "planned"
        last = str(sessions[-1]["status"])
        return "dead" if last == "running" and self.holder is None else last

    # -- what came back -------------------------------------------------------------------------------------------------

    def record(self, entry: Entry) -> None:
        """Commit what a batch brought, in one transaction."""
        done = entry.receipts["block"].tolist()
        with self.database:
            if done:
                blob = entry.receipts.tobytes()
                self.database.execute("INSERT INTO batches VALUES (?, ?, ?)", (entry.stage, blob, zlib.crc32(blob)))
            if entry.payloads:
                self.database.executemany(
                    "INSERT OR REPLACE INTO payloads VALUES (?, ?, ?, ?, ?)",
                    ((entry.stage, name, block, data, zlib.crc32(data)) for name, block, data in entry.payloads),
                )
            if entry.failures:
                self.database.executemany(
                    "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                    ((f.stage, f.block, f.box, f.attempts, f.kind, f.error, f.traceback) for f in entry.failures),
                )

    def done(self, stage: int) -> Ranges:
        """Return the blocks of `stage` that have a receipt."""
        return Ranges.of(receipts["block"] for receipts in self.batches(stage))

    def receipts(self, stage: int) -> Array:
        """Return the RECEIPT records of `stage`, in block order."""
        parts = list(self.batches(stage))
        if not parts:
            return np.empty(0, RECEIPT)
        merged = np.concatenate(parts)
        return merged[np.argsort(merged["block"], kind="stable")]

    def batches(self, stage: int) -> Iterator[Array]:
        """Yield the RECEIPT records of `stage`, batch by batch as they came. JournalError where one is damaged."""
        for number, blob, crc in self.database.execute(
            "SELECT rowid, receipts, crc FROM batches WHERE stage = ?", (stage,)
        ):
            if zlib.crc32(blob) != crc or len(blob) % RECEIPT.itemsize:
                raise _damaged(self.directory, f"batch {number} does not match its checksum")
            yield np.frombuffer(blob, RECEIPT)

    def payloads(self, stage: int, name: str, grid: Grid) -> Iterable[tuple[Block, bytes]]:
        """Return the payloads `name` of `stage` in block order, streamed; they can be iterated again."""
        return _Payloads(self, stage, name, grid)

    def forget(self, stage: int, blocks: Iterable[int]) -> None:
        """Take back the receipts and payloads of `blocks`, so that they are done again."""
        gone = np.fromiter(blocks, np.uint64)
        kept = [receipts[~np.isin(receipts["block"], gone)] for receipts in self.batches(stage)]
        with self.database:
            self.database.execute("DELETE FROM batches WHERE stage = ?", (stage,))
            blobs = [receipts.tobytes() for receipts in kept if len(receipts)]
            self.database.executemany(
                "INSERT INTO batches VALUES (?, ?, ?)", ((stage, b, zlib.crc32(b)) for b in blobs)
            )
            self.database.executemany(
                "DELETE FROM payloads WHERE stage = ? AND block = ?", ((stage, int(b)) for b in gone.tolist())
            )

    # -- failures and facts ---------------------------------------------------------------------------------------------

    def failures(self) -> list[Failure]:
        """Return the blocks that failed for good, in order."""
        rows = self.database.execute(
            "SELECT stage, block, box, attempts, kind, error, traceback FROM failures ORDER BY stage, block"
        )
        return [Failure(*row) for row in rows]

    def clear_failures(self) -> None:
        """Forget all failures: a new session tries those blocks again."""
        with self.database:
            self.database.execute("DELETE FROM failures")

    def set_facts(self, stage: int, facts: dict[str, Any]) -> None:
        """Keep what the passes of `stage` found out; a stage with facts is over."""
        with self.database:
            self.database.execute("INSERT OR REPLACE INTO stages VALUES (?, ?)", (stage, json.dumps(facts)))

    def facts(self) -> dict[int, dict[str, Any]]:
        """Return what the passes found out, by stage."""
        return {stage: json.loads(text) for stage, text in self.database.execute("SELECT stage, facts FROM stages")}

    def get(self, key: str) -> str | None:
        """Return a small text kept under `key`."""
        row = self.database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def unset(self, key: str) -> None:
        """Forget what is kept under `key`."""
        with self.database:
            self.database.execute("DELETE FROM meta WHERE key = ?", (key,))

    def set(self, key: str, value: str) -> None:
        """Keep a small text under `key`."""
        with self.database:
            self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def counts(self) -> list[Counts]:
        """Return the blocks of each stage by outcome, as the journal knows them (nothing runs while nobody holds it)."""
        failed = dict(self.database.execute("SELECT stage, count(*) FROM failures GROUP BY stage").fetchall())
        result = []
        for stage in self.document.get("stages", []):
            index, planned = stage["index"], stage["blocks"]
            done = len(self.done(index))
            lost = failed.get(index, 0)
            result.append(Counts(planned=planned, done=done, failed=lost, pending=planned - done - lost))
        return result


class _Payloads:
    """Payloads of one name, read from the file as they are iterated."""

    def __init__(self, journal: Journal, stage: int, name: str, grid: Grid) -> None:
        self._source = (journal, stage, name, grid)

    def __iter__(self) -> Iterator[tuple[Block, bytes]]:
        journal, stage, name, grid = self._source
        query = "SELECT block, data, crc FROM payloads WHERE stage = ? AND name = ? ORDER BY block"
        for block, data, crc in journal.database.execute(query, (stage, name)):
            if zlib.crc32(data) != crc:
                raise _damaged(journal.directory, f"payload {name} of block {block} does not match its checksum")
            yield grid[block], data


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level="DEFERRED")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _damaged(directory: Path, reason: object) -> JournalError:
    return JournalError(
        f"the journal {directory / FILE} cannot be trusted: {reason}; what is sound in it can be kept with: "
        f"ndbatch check {directory} --rebuild",
        path=str(directory / FILE),
    )

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ndbatch.events import Counts
from ndbatch.geometry import Block, Grid
from ndbatch.journal.entry import Entry, Failure
from ndbatch.journal.faults import storage_errors
from ndbatch.journal.lock import Lock, holder_of, take_lock
from ndbatch.journal.moved import here
from ndbatch.journal.schema import FILE, FORMAT, PLAN, RECEIPT, absent, connect, damaged, guarded, is_sealed, seal
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import Array

_PAYLOADS = (
    "SELECT count(*), ifnull(sum(crc), 0) FROM payloads NOT INDEXED WHERE stage = ?",
    "SELECT count(*) FROM payloads INDEXED BY payload_of WHERE stage = ?",
)
_ONE = "WHERE stage = ? AND name = ? AND block = ?"


class Journal:
    """The journal of the run in `directory`. Open it with `Journal.write` (the driver, one at a time) or `Journal.read`."""

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: Lock | None) -> None:
        self.directory = directory
        self.database = connection
        """The open file; only the modules of this package touch it."""
        self._lock = lock
        self._session: int | None = None
        self._begun = time.time() - time.monotonic()  # a clock that is set meanwhile changes no time of a session

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def exists(cls, directory: Path) -> bool:
        """Return whether `directory` holds a journal."""
        return (directory / FILE).exists()

    @classmethod
    def begun(cls, directory: Path) -> bool:
        """Return whether a run was begun in `directory`, though its journal may be lost."""
        return cls.exists(directory) or (directory / PLAN).exists()

    @classmethod
    def write(cls, directory: Path) -> Self:
        """Open for writing, made where there is none. JournalError if another driver holds it, NoRoom, Denied."""
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock, new = take_lock(directory), not cls.exists(directory)
            try:
                journal = cls(directory, connect(directory, write=True), lock)
                if not new:
                    journal._require_plan()
            except BaseException:
                lock.release()
                raise
        return journal

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Open for reading, also while a driver writes. JournalError where no run was begun or the file is damaged."""
        if not cls.exists(directory):
            raise absent(directory)
        with storage_errors(directory):
            journal = cls(directory, connect(directory), None)
            try:
                journal._require_plan()
            except BaseException:
                journal.close()
                raise
        return journal

    def _require_plan(self) -> None:
        """Raise JournalError where the journal has lost its plan: it is committed before any other file of a run is there."""
        tables = self.database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
        if (not tables or not self.document) and (self.directory / PLAN).exists():
            raise damaged(self.directory, "it holds no plan, though a run was begun")

    def verify(self) -> None:
        """Raise JournalError where the file is not as it was written, or lacks payloads that its receipts tell of.

        A run that goes on does this first; rows are checked again when they are read.
        """
        self.database.execute("BEGIN")  # a driver may go on meanwhile: all is looked at as it is at one moment
        try:
            self._verify()
        finally:
            self.database.rollback()

    def _verify(self) -> None:
        (told,) = self.database.execute("PRAGMA quick_check(1)").fetchone()
        if told != "ok":
            raise damaged(self.directory, " ".join(str(told).split()))
        for (key,) in self.database.execute("SELECT key FROM meta").fetchall():
            self.get(key)
        for stage in self.document.get("stages", []):
            index, (count, digest) = stage["index"], (0, 0)
            for _, _, payloads, part in self.sealed_batches(index):
                count, digest = count + payloads, digest + part
            found = [self.database.execute(query, (index,)).fetchone() for query in _PAYLOADS]
            if found != [(count, digest), (count,)]:
                raise damaged(self.directory, f"payloads of stage {index + 1} are missing")

    @classmethod
    def discard(cls, directory: Path, aside: Path | None = None, first: Callable[[], object] = lambda: None) -> None:
        """Remove the journal, or move it to `aside`; `first` is called before, while no other driver can begin.

        Raises JournalError, and calls nothing, if a driver holds the run directory.
        """
        lock = take_lock(directory)
        try:
            first()
            if aside is None:
                (directory / PLAN).unlink(missing_ok=True)  # first: alone it tells of a run whose journal was lost
            for suffix in ("", "-wal", "-shm", "-journal"):
                file = directory / (FILE + suffix)
                if aside is not None and file.exists():
                    file.replace(aside.with_name(aside.name + suffix))
                file.unlink(missing_ok=True)
        finally:
            lock.release()

    def close(self) -> None:
        """Close the file and give the run directory free."""
        self.database.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the plan and the sessions --------------------------------------------------------------------------------------

    @property
    def document(self) -> dict[str, Any]:
        """The plan as it was when the run began (plan.json), paths where its folder is now; empty before `begin`."""
        return here(self.stored_document, self.directory)

    @property
    def stored_document(self) -> dict[str, Any]:
        """The plan with the paths that it was kept with."""
        text = self.get("plan")
        with guarded(self.directory):
            return {} if text is None else dict(json.loads(text))

    def begin(self, document: dict[str, Any]) -> None:
        """Keep the plan, once, with its paths where the folder is now, and open a session of work."""
        kept = self.stored_document
        now = here(kept, self.directory) or document
        with self.database:
            if now != kept:
                self._put({"format": str(FORMAT), "plan": json.dumps(now)})
            self._session = self.database.execute(
                "INSERT INTO sessions (started, host, pid, status) VALUES (?, ?, ?, 'running')",
                (self._begun + time.monotonic(), socket.gethostname(), os.getpid()),
            ).lastrowid

    def end(self, status: str) -> None:
        """Close the session of work with its status: done, failed or interrupted."""
        with self.database:
            self.database.execute(
                "UPDATE sessions SET ended = ?, status = ? WHERE id = ?",
                (self._begun + time.monotonic(), status, self._session),
            )

    def sessions(self) -> list[dict[str, Any]]:
        """Return every stretch of work on this run, in order."""
        rows = self.database.execute("SELECT started, ended, host, pid, status FROM sessions ORDER BY id")
        with guarded(self.directory):
            return [
                {
                    "started": float(a),
                    "ended": None if b is None else float(b),
                    "host": str(h),
                    "pid": int(p),
                    "status": str(s),
                }
                for a, b, h, p, s in rows
            ]

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
        """Commit what a batch brought, in one transaction. Payloads are of blocks that have a receipt in it."""
        rows = [
            (entry.stage, name, block, seal(entry.stage, name, block, data), data)
            for name, block, data in entry.payloads
        ]
        with self.database:
            self._add(entry.stage, entry.receipts.tobytes(), len(rows), sum(row[3] for row in rows))
            self.database.executemany("INSERT OR REPLACE INTO payloads VALUES (?, ?, ?, ?, ?)", rows)
            self.database.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((f.stage, f.block, f.box, f.attempts, f.kind, f.error, f.traceback) for f in entry.failures),
            )

    def _add(self, stage: int, blob: bytes, payloads: int, digest: int) -> None:
        if blob:
            crc = seal(stage, blob, payloads, digest)
            self.database.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", (stage, blob, payloads, digest, crc))

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
        for _, receipts, _, _ in self.sealed_batches(stage):
            yield receipts

    def sealed_batches(self, stage: int) -> Iterator[tuple[int, Array, int, int]]:
        """Yield, for each batch of `stage`, its row, receipts, number of payloads and the sum of their CRCs."""
        for number, blob, payloads, digest, crc in self.database.execute(
            "SELECT rowid, receipts, payloads, digest, crc FROM batches WHERE stage = ?", (stage,)
        ):
            if not is_sealed((stage, blob, payloads, digest), crc) or len(blob) % RECEIPT.itemsize:
                raise damaged(self.directory, f"batch {number} does not match its checksum")
            yield number, np.frombuffer(blob, RECEIPT), payloads, digest

    def payloads(self, stage: int, name: str, grid: Grid) -> Iterable[tuple[Block, bytes]]:
        """Return the payloads `name` of `stage` in block order, streamed; they can be iterated again."""
        return _Payloads(self, stage, name, grid)

    def forget(self, stage: int, blocks: Iterable[int]) -> None:
        """Take back the receipts and payloads of `blocks`, so that they are done again."""
        with self.database:
            self._forget(stage, blocks)

    def take_back(self, blocks: Mapping[int, Iterable[int]], unset: Iterable[str], known: Mapping[str, str]) -> None:
        """Take back receipts and payloads, by stage, forget the texts `unset` and keep those `known`: all or nothing."""
        with self.database:
            for stage, numbers in blocks.items():
                self._forget(stage, numbers)
            self.database.executemany("DELETE FROM meta WHERE key = ?", ((key,) for key in unset))
            self._put(known)

    def _forget(self, stage: int, blocks: Iterable[int]) -> None:
        gone = np.unique(np.fromiter(blocks, np.uint64))
        names = [
            row[0] for row in self.database.execute("SELECT DISTINCT name FROM payloads WHERE stage = ?", (stage,))
        ]
        for number, receipts, payloads, digest in list(self.sealed_batches(stage)):
            mask = np.isin(receipts["block"], gone)
            if not mask.any():
                continue
            for key in [(stage, name, block) for block in receipts["block"][mask].tolist() for name in names]:
                for (crc,) in self.database.execute(f"SELECT crc FROM payloads {_ONE}", key).fetchall():
                    payloads, digest = payloads - 1, digest - crc
                self.database.execute(f"DELETE FROM payloads {_ONE}", key)
            self.database.execute("DELETE FROM batches WHERE rowid = ?", (number,))
            self._add(stage, receipts[~mask].tobytes(), payloads, digest)

    # -- failures and facts ---------------------------------------------------------------------------------------------

    def failures(self) -> list[Failure]:
        """Return the blocks that failed for good, in order."""
        rows = self.database.execute(
            "SELECT stage, block, box, attempts, kind, error, traceback FROM failures ORDER BY stage, block"
        )
        with guarded(self.directory):
            return [Failure(int(s), int(b), str(x), int(n), str(k), str(e), str(t)) for s, b, x, n, k, e, t in rows]

    def clear_failures(self) -> None:
        """Forget all failures: a new session tries those blocks again."""
        with self.database:
            self.database.execute("DELETE FROM failures")

    def set_facts(self, stage: int, facts: dict[str, Any]) -> None:
        """Keep what the passes of `stage` found out; a stage with facts is over."""
        text = json.dumps(facts)
        with self.database:
            self.database.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?)", (stage, text, seal(stage, text)))

    def facts(self) -> dict[int, dict[str, Any]]:
        """Return what the passes found out, by stage."""
        found = {}
        for stage, text, crc in self.database.execute("SELECT stage, facts, crc FROM stages"):
            if not is_sealed((stage, text), crc):
                raise damaged(self.directory, f"the facts of stage {stage} do not match their checksum")
            found[stage] = json.loads(text)
        return found

    def get(self, key: str) -> str | None:
        """Return a small text kept under `key`."""
        row = self.database.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
        if row is not None and not is_sealed((key, row[0]), row[1]):
            raise damaged(self.directory, f"{key} does not match its checksum")
        return None if row is None else str(row[0])

    def unset(self, key: str) -> None:
        """Forget what is kept under `key`."""
        with self.database:
            self.database.execute("DELETE FROM meta WHERE key = ?", (key,))

    def set(self, key: str, value: str) -> None:
        """Keep a small text under `key`."""
        with self.database:
            self._put({key: value})

    def _put(self, values: Mapping[str, str]) -> None:
        rows = [(key, value, seal(key, value)) for key, value in values.items()]
        self.database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", rows)

    @property
    def mending(self) -> dict[int, Ranges] | None:
        """The blocks, by stage, that are done again because their output was found damaged; None where none are."""
        text = self.get("mending")
        return None if text is None else {int(k): Ranges(tuple(map(tuple, v))) for k, v in json.loads(text).items()}

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
        query = "SELECT block, crc, data FROM payloads WHERE stage = ? AND name = ? ORDER BY block"
        last = -1
        for block, crc, data in journal.database.execute(query, (stage, name)):
            # A damaged index would lead to one row twice and to another never, which its checksum cannot tell.
            if not is_sealed((stage, name, block, data), crc) or block <= last:
                raise damaged(journal.directory, f"payload {name} of block {block} does not match its checksum")
            last = block
            yield grid[block], data

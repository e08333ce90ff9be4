"""Rebuilding a damaged journal: every record that can be read and matches its checksum is kept, the rest is done again.

A batch is kept whole or not at all: it tells how many payloads it brought and the sum of their checksums, so that a
receipt never stands without its rows. A lost plan is taken from plan.json, which carries a checksum of its own.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import JournalError
from ndbatch.journal.schema import FILE, FORMAT, PLAN, RECEIPT, absent, is_sealed, require_format, seal
from ndbatch.journal.store import Journal
from ndbatch.remotes.base import Array

_COLUMNS = {
    "meta": ("key", "value", "crc"),
    "stages": ("stage", "facts", "crc"),
    "sessions": ("id", "started", "ended", "host", "pid", "status"),
    "batches": ("stage", "receipts", "payloads", "digest", "crc"),
    "payloads": ("stage", "name", "block", "data", "crc"),
}
"""What is copied of each table; `crc` is the checksum of what stands before it."""
_KEYS = {"meta": "key", "stages": "stage", "sessions": "id"}
_SESSION = ((int,), (float, int), (float, int, type(None)), (str,), (int,), (str,))
"""Types of a session, which has no checksum: it decides nothing."""


def rebuild(directory: Path) -> tuple[int, int]:
    """Put a new journal with the sound records in the place of the old one, which is kept as `journal.sqlite.damaged`.

    Returns the receipts kept, and the records and receipts lost. Raises JournalError where no run is, or where neither the
    journal nor plan.json tells its plan; then everything stays as it was.
    """
    aside, part = directory / f"{FILE}.damaged", directory / ".rebuilt"
    if not any((directory / name).exists() for name in (FILE, aside.name, PLAN)):
        raise absent(directory)
    there = Journal.exists(directory)
    found: list[tuple[int, int]] = []
    # The old journal stays in its place until the new one is whole.
    build = lambda: found.append(_build(directory / FILE if there else aside, directory, part))  # noqa: E731
    Journal.discard(directory, aside=aside, first=build)
    (part / FILE).replace(directory / FILE)
    shutil.rmtree(part)
    return found[0]


def _build(old: Path, directory: Path, part: Path) -> tuple[int, int]:
    """Make a journal in the folder `part` of what is sound in the file `old`."""
    shutil.rmtree(part, ignore_errors=True)
    with closing(sqlite3.connect(old)) as source:
        with suppress(sqlite3.DatabaseError):  # what cannot be read says no format
            require_format(source, directory)
        if _plan_in(source) is None and _plan_beside(directory) is None:
            raise JournalError(
                f"{directory}: the journal holds no plan, and neither does {PLAN}; start the run again with --fresh"
            )
        with Journal.write(part) as journal:
            lost = sum(_copy(source, journal, table) for table in _COLUMNS)
            document = journal.stored_document or _plan_beside(directory) or {}
            journal.take_back({}, (), {"format": str(FORMAT), "plan": json.dumps(document)})
            gone = sum(_require_payloads(journal, stage["index"]) for stage in document["stages"])
            kept = sum(len(journal.done(stage["index"])) for stage in document["stages"])
    return kept, lost + gone


def plan_text(document: dict[str, Any]) -> str:
    """Return the text of plan.json: the plan, and under `seal` a checksum that tells whether it is as it was written."""
    return json.dumps({**document, "seal": seal(json.dumps(document))}, indent=1)


def _plan_beside(directory: Path) -> dict[str, Any] | None:
    """Return the plan in plan.json; None where there is none, or one that is not as it was written."""
    try:
        document = dict(json.loads((directory / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    told = document.pop("seal", None)
    return document if told == seal(json.dumps(document)) else None


def _plan_in(source: sqlite3.Connection) -> str | None:
    """Return the plan of a damaged file where it is sound."""
    try:
        row = source.execute("SELECT value, crc FROM meta WHERE key = 'plan'").fetchone()
    except sqlite3.DatabaseError:
        return None
    return str(row[0]) if row is not None and is_sealed(("plan", row[0]), row[1]) else None


def _copy(source: sqlite3.Connection, journal: Journal, table: str) -> int:
    """Copy the sound rows of `table`; return how many were not sound."""
    bad, columns = 0, _COLUMNS[table]
    marks = ", ".join("?" * len(columns))
    with journal.database as database:
        for row in _readable(source, table):
            if row is None or not _is_sound(table, row):
                bad += 1
                continue
            database.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)
    return bad


def _is_sound(table: str, row: tuple[Any, ...]) -> bool:
    if table == "sessions":
        return all(isinstance(value, kinds) for value, kinds in zip(row, _SESSION, strict=True))
    if table == "batches" and (not isinstance(row[1], bytes) or len(row[1]) % RECEIPT.itemsize):
        return False
    return is_sealed(row[:-1], row[-1])


def _readable(source: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...] | None]:
    """Yield the rows of a table of a damaged file, one by one by their key; None for one that cannot be read."""
    key = _KEYS.get(table, "rowid")
    found: list[Any] = []
    try:
        # Never by an index: one that is damaged hides rows.
        for row in source.execute(f"SELECT {key} FROM {table} NOT INDEXED"):
            found.append(row[0])
    except sqlite3.DatabaseError:
        yield None
    for value in found:
        try:
            query = f"SELECT {', '.join(_COLUMNS[table])} FROM {table} WHERE {key} = ?"
            yield source.execute(query, (value,)).fetchone()
        except (sqlite3.DatabaseError, OverflowError):
            yield None


def _require_payloads(journal: Journal, stage: int) -> int:
    """Take back the receipts of batches whose payloads are not all there, and payloads without a receipt; return how many
    receipts that are."""
    query = "SELECT block, crc FROM payloads WHERE stage = ?"
    rows = np.array(journal.database.execute(query, (stage,)).fetchall(), np.int64).reshape(-1, 2)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    sums, gone = np.r_[0, np.cumsum(rows[:, 1])], 0
    with journal.database as database:
        for number, receipts, payloads, digest in list(journal.sealed_batches(stage)):
            if _brought(receipts, rows[:, 0], sums) != (payloads, digest):
                database.execute("DELETE FROM batches WHERE rowid = ?", (number,))
                gone += len(receipts)
        done = journal.done(stage)
        lonely = [(stage, block) for block in np.unique(rows[:, 0]).tolist() if block not in done]
        database.executemany("DELETE FROM payloads WHERE stage = ? AND block = ?", lonely)
    return gone


def _brought(receipts: Array, blocks: Array, sums: Array) -> tuple[int, int]:
    """Return how many payloads the blocks of `receipts` have, and the sum of their checksums."""
    low = np.searchsorted(blocks, receipts["block"].astype(np.int64), "left")
    high = np.searchsorted(blocks, receipts["block"].astype(np.int64), "right")
    return int((high - low).sum()), int((sums[high] - sums[low]).sum())

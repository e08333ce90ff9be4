"""Rebuilding a damaged journal: every record that can be read and matches its checksum is kept, the rest is done again."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import JournalError
from ndbatch.journal.store import FILE, RECEIPT, Journal
from ndbatch.ranges import Ranges

_COLUMNS = {"meta": 2, "stages": 2, "sessions": 6, "batches": 3, "payloads": 5}
_CHECKED = {"batches": 1, "payloads": 3}
"""Where the bytes stand that the last column is the checksum of."""
_KEYS = {"meta": "key", "stages": "stage", "sessions": "id"}


def rebuild(directory: Path) -> tuple[int, int]:
    """Put a new journal with the sound records in the place of the old one, which is kept as `journal.sqlite.damaged`.

    Returns the receipts kept, and the records and receipts lost. Raises JournalError where no run is.
    """
    if not Journal.exists(directory):
        raise JournalError(f"{directory} holds no run: there is no {FILE} in it")
    aside = directory / f"{FILE}.damaged"
    Journal.discard(directory, aside=aside)
    kept = lost = 0
    source = sqlite3.connect(aside)
    try:
        with Journal.write(directory) as journal:
            for table in _COLUMNS:
                sound, bad = _copy(source, journal, table)
                kept += sound if table == "batches" else 0
                lost += bad
            gone = _require_payloads(journal)
    finally:
        source.close()
    return kept - gone, lost + gone


def _copy(source: sqlite3.Connection, journal: Journal, table: str) -> tuple[int, int]:
    """Copy the sound rows of `table`; return how many (receipts, for batches) and how many were not sound."""
    sound = bad = 0
    marks = ", ".join("?" * _COLUMNS[table])
    with journal.database as database:
        for row in _readable(source, table):
            if row is None or (table in _CHECKED and zlib.crc32(row[_CHECKED[table]]) != row[-1]):
                bad += 1
                continue
            database.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
            sound += len(row[1]) // RECEIPT.itemsize if table == "batches" else 1
    return sound, bad


def _readable(source: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...] | None]:
    """Yield the rows of a table of a damaged file, one by one by their key; None for one that cannot be read."""
    key = _KEYS.get(table, "rowid")
    try:
        found = [row[0] for row in source.execute(f"SELECT {key} FROM {table}")]
    except sqlite3.DatabaseError:
        yield None
        return
    for value in found:
        try:
            yield source.execute(f"SELECT * FROM {table} WHERE {key} = ?", (value,)).fetchone()
        except sqlite3.DatabaseError:
            yield None


def _require_payloads(journal: Journal) -> int:
    """Take back receipts whose payloads are missing; return how many. A done block has every payload of its stage."""
    gone = 0
    for stage in journal.document.get("stages", []):
        for name in stage["payloads"]:
            query = "SELECT block FROM payloads WHERE stage = ? AND name = ?"
            blocks = [row[0] for row in journal.database.execute(query, (stage["index"], name))]
            lacking = journal.done(stage["index"]).minus(Ranges.of([np.array(blocks, np.int64)]))
            if len(lacking):
                journal.forget(stage["index"], lacking)
                gone += len(lacking)
    return gone

"""The file that a journal is: its tables, what seals each row, and how damage is told.

Every row that decides anything carries a CRC-32 of all its columns, so that a flipped bit in a number is found as one in a
blob is. A batch also keeps how many payloads came with it, and the sum of their CRCs: a payload that is lost, with the
page it stood on, is missed.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import JournalError
from ndbatch.journal.opening import connect_to_read, connect_to_write, create

FORMAT = 3
FILE = "journal.sqlite"
PLAN = "plan.json"
"""The plan beside the journal, for readers; what is left of a run that lost its journal."""

RECEIPT = np.dtype(
    [
        ("block", "<u8"),
        ("checksum", "<u8"),
        ("read", "<f4"),
        ("compute", "<f4"),
        ("write", "<f4"),
        ("waited", "<f2"),
        ("stalled", "<f2"),
        ("worker", "<u2"),
        ("attempt", "<u2"),
    ]
)
"""A block's receipt, 36 bytes: CRC-32 of what it wrote (in the upper bits of `checksum` one for each of its stage's arrays
that needed no writing), and seconds (see events.BlocksDone), of waiting at most `LONGEST_WAIT`."""

LONGEST_WAIT = 6e4
"""Seconds of waiting that a receipt can tell, most of a day: half a float is enough for what is only summed."""

CHECKSUM_BITS = 32
"""Bits of `checksum` that are the CRC-32."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (stage INTEGER NOT NULL, receipts BLOB NOT NULL, payloads INTEGER NOT NULL,
                                    digest INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS payloads (stage INTEGER NOT NULL, name TEXT NOT NULL, block INTEGER NOT NULL,
                                     crc INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS payload_of ON payloads (stage, name, block);
CREATE TABLE IF NOT EXISTS failures (stage INTEGER NOT NULL, block INTEGER NOT NULL, box TEXT NOT NULL,
                                     attempts INTEGER NOT NULL, kind TEXT NOT NULL, error TEXT NOT NULL,
                                     traceback TEXT NOT NULL, PRIMARY KEY (stage, block)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stages (stage INTEGER PRIMARY KEY, facts TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, host TEXT NOT NULL,
                                     pid INTEGER NOT NULL, status TEXT NOT NULL);
"""

DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
"""What SQLite says of a file that is not as it was written; a table that is missing is among it. A full disk is not."""


def seal(*values: object) -> int:
    """Return the CRC-32 of `values`, numbers, texts and blobs, in order."""
    crc = 0
    for value in values:
        crc = zlib.crc32(value if isinstance(value, bytes) else f"{value!r};".encode(errors="replace"), crc)
    return crc


def is_sealed(values: tuple[object, ...], crc: object) -> bool:
    """Return whether `crc` is the checksum of `values`, those of a row of the journal."""
    return seal(*values) == crc


def absent(directory: Path) -> JournalError:
    """Return the error for a directory without a journal: no run was begun there, or its plan.json tells that one was."""
    if (directory / PLAN).exists():
        reason = f"the journal of the run in {directory} is gone; `ndbatch check {directory} --rebuild` makes it anew from the "
        return JournalError(f"{reason}outputs, and `ndbatch run --fresh` starts over", path=str(directory))
    return JournalError(f"{directory} holds no run: there is no {FILE} in it", path=str(directory))


def damaged(directory: Path, reason: object) -> JournalError:
    """Return the error for a journal that is not as it was written."""
    return JournalError(
        f"the journal {directory / FILE} cannot be trusted: {reason}; what is sound in it can be kept with: "
        f"ndbatch check {directory} --rebuild",
        path=str(directory / FILE),
    )


@contextmanager
def guarded(directory: Path) -> Iterator[None]:
    """Turn what SQLite, or the look at a value, says of a damaged file into a JournalError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Text that is no UTF-8 is told without a code.
        code = getattr(error, "sqlite_errorcode", None)
        if code is None or code & 0xFF in DAMAGED:
            raise damaged(directory, error) from None
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise damaged(directory, f"it holds a value of another kind ({error})") from None


class _Connection(sqlite3.Connection):
    """A connection whose cursors tell damage as a JournalError, whoever reads from them."""

    directory: Path

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return a cursor that is guarded."""
        return super().cursor(_Cursor)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def executescript(self, *arguments: Any) -> Any:
        with guarded(self.directory):
            return super().executescript(*arguments)


class _Cursor(sqlite3.Cursor):
    connection: _Connection

    def execute(self, *arguments: Any) -> Any:
        with guarded(self.connection.directory):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        with guarded(self.connection.directory):
            return super().executemany(*arguments)

    def fetchone(self) -> Any:
        with guarded(self.connection.directory):
            return super().fetchone()

    def fetchall(self) -> Any:
        with guarded(self.connection.directory):
            return super().fetchall()

    def __next__(self) -> Any:
        with guarded(self.connection.directory):
            return super().__next__()


def connect(directory: Path, *, write: bool = False) -> sqlite3.Connection:
    """Open the journal file in `directory`, made where there is none and `write` is True. JournalError where it is no
    journal, sqlite3.Error and OSError where the disk does not do its part."""

    def make(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(*arguments, **options, factory=_Connection)
        connection.directory = directory
        return connection

    path = directory / FILE
    if write and not path.exists():
        create(path, SCHEMA)
    connection = (connect_to_write if write else connect_to_read)(path, make)
    try:
        _require_tables(connection, directory)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_tables(connection: sqlite3.Connection, directory: Path) -> None:
    """Raise JournalError where another version of ndbatch wrote the file, or tables of a journal are missing."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "meta" in tables:
        require_format(connection, directory)
    if tables and not tables >= {"meta", "batches", "payloads", "failures", "stages", "sessions"}:
        raise damaged(directory, "tables are missing in it")


def require_format(connection: sqlite3.Connection, directory: Path) -> None:
    """Raise JournalError where an older ndbatch wrote the file: its receipts are of another size."""
    row = connection.execute("SELECT * FROM meta WHERE key = 'format'").fetchone()
    if row is None or (len(row) > 2 and not is_sealed(row[:2], row[2])):  # the first format had no checksum
        return
    if str(row[1]).isdigit() and int(row[1]) < FORMAT:
        raise JournalError(
            f"{directory / FILE} is a journal of format {row[1]}, this ndbatch writes format {FORMAT}; run with --fresh"
        )

"""Opening a journal's file in the way that its file system allows.

SQLite's write-ahead log needs memory that all who read share, which file systems of networks do not give: there the older
log that is written before each change (TRUNCATE) is used, slower and as safe.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from ndbatch.journal.filesystem import file_system, room_at
from ndbatch.journal.lock import holder_of

Make = Callable[..., sqlite3.Connection]
"""What makes a connection, called as `sqlite3.connect` is."""
PATIENCE = 30.0
"""Seconds to wait for another program that has the file."""
ROOM = 2**20
"""Free bytes below which an error of the disk means that it is full: SQLite does not always say so."""


def create(path: Path, schema: str) -> None:
    """Put a new, empty file with the tables of `schema` in place, whole or not at all. The caller holds the lock."""
    aside = path.with_name(f".{path.name}.new")
    for left in (aside, *_logs(path)):
        left.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(aside)) as database:
            database.execute("PRAGMA journal_mode = MEMORY")
            database.executescript(schema)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def connect_to_write(path: Path, make: Make) -> sqlite3.Connection:
    """Open an existing file for the driver, which holds the lock; sqlite3.Error where it cannot be."""
    if not file_system(path.parent).remote:
        connection = make(path, timeout=PATIENCE, isolation_level="DEFERRED")
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if mode == "wal":
                connection.execute("PRAGMA synchronous = NORMAL")
                return connection
        except sqlite3.OperationalError as error:
            # Shared memory that cannot be had is an error of the disk; so is a full one, which is told.
            if primary(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) or is_full(error, path):
                connection.close()
                raise
        connection.close()
    connection = make(path, timeout=PATIENCE, isolation_level="DEFERRED")
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # an older write-ahead log is read without shared memory
        connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
        connection.execute("PRAGMA locking_mode = NORMAL").fetchone()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # gives the exclusive lock back
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path, make: Make) -> sqlite3.Connection:
    """Open the file to read it, also while a driver writes and where nothing may be written; sqlite3.Error where it cannot be.

    A reader that may write nothing cannot remove the log either which it opened, so that is only for where it must be.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode="
    if all(os.access(place, os.W_OK) for place in (path, path.parent)):
        try:
            connection = _readable(uri + "rw", make)
            connection.execute("PRAGMA query_only = ON")
            return connection
        except sqlite3.OperationalError as error:
            if primary(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
                raise
    try:
        return _readable(uri + "ro", make)
    except sqlite3.OperationalError as error:
        if primary(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
            raise
        if (
            not os.statvfs(path).f_flag & os.ST_RDONLY
            and os.access(path.parent, os.W_OK)
            and holder_of(path.parent) is None
        ):
            return _readable(uri + "rw", make)  # what a killed driver left half done is undone first
        if any(log.exists() and log.stat().st_size for log in _logs(path) if log.name[-4:] != "-shm"):
            raise
        return _readable(uri + "ro&immutable=1", make)  # nothing is written here: no lock and no log are needed


def _readable(uri: str, make: Make) -> sqlite3.Connection:
    connection = make(uri, uri=True, timeout=PATIENCE, isolation_level="DEFERRED")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _logs(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))


def primary(error: sqlite3.Error) -> int:
    """Return the kind of an error without its refinement; 0 where SQLite gave none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Return whether an error means that there is no room; files without a log and shared memory say an error of the disk."""
    if primary(error) == sqlite3.SQLITE_FULL:
        return True
    room = room_at(path) if primary(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) else None
    return room is not None and room < ROOM

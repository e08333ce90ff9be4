"""What is wrong with the disk of a journal, or with the file, in a sentence that says what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndbatch.errors import Denied, JournalError, NdbatchError, NoRoom, RemoteError
from ndbatch.journal.opening import PATIENCE, is_full, primary
from ndbatch.journal.schema import FILE, damaged

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into one sentence for the reader; what is journaled stays.

    Raises NoRoom for a full disk, Denied for one that may not be written, JournalError for the rest.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _of_database(directory, error) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise _of_system(directory, error) from error


def _of_database(directory: Path, error: sqlite3.Error) -> NdbatchError:
    path, kind = directory / FILE, primary(error)
    name = str(getattr(error, "sqlite_errorname", ""))
    if is_full(error, directory):
        return NoRoom(
            f"{directory}: no room to write the journal; free some space there, then run the same command again: what was "
            "journaled is kept",
            path=str(path),
        )
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return Denied(
            f"{path} cannot be opened or written ({error}); change the permissions of {directory}, or name another place with "
            "directory:",
            path=str(path),
        )
    if kind in (sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS) or ("LOCK" in name and kind == sqlite3.SQLITE_IOERR):
        return JournalError(
            f"{path}: its file system has no locks ({error}); keep the run directory on a disk of this machine with "
            "directory:, outputs may stay where they are",
            path=str(path),
        )
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(
            f"{path}: another program has kept it for {PATIENCE:g} s ({error}); end that program, then run the same "
            "command again",
            path=str(path),
        )
    if kind == sqlite3.SQLITE_IOERR:
        return JournalError(
            f"{path}: the disk gives errors ({error}, {name}); look at the disk, then run the same command again",
            path=str(path),
        )
    return damaged(directory, error)


def _of_system(directory: Path, error: OSError) -> RemoteError:
    where, said = error.filename or directory, error.strerror or str(error)
    if error.errno in _FULL:
        return NoRoom(
            f"{where}: no room to write ({said}); free some space there, then run the same command again",
            path=str(where),
        )
    if error.errno in _DENIED:
        return Denied(
            f"{where}: {said}; change the permissions or name another place, then run the same command again",
            path=str(where),
        )
    return RemoteError(f"{where}: {said}; mend that, then run the same command again", path=str(where))

"""The lock of a run directory: one driver at a time, free again however the driver ends.

A `flock` on `run.lock` where the file system has locks that all machines see: the system gives it back by itself. Where
it has none, `run.holder` is made, which only one can make, with the name of its maker; a maker of this machine that
has ended is recognised, one of another machine is never taken for dead.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ndbatch.errors import JournalError
from ndbatch.journal.filesystem import file_system

LOCK, HOLDER = "run.lock", "run.holder"
_WITHOUT = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What `flock` answers where a file system has no locks."""
_TRIES, _PAUSE = 25, 0.02
"""Who only looks holds the lock for a moment too; a driver is not refused for that."""


class Lock:
    """The run directory, held. Released by `release`, or by the end of the process."""

    def __init__(self, handle: int, holder: Path | None = None) -> None:
        self._handle: int | None = handle
        self._holder = holder

    def release(self) -> None:
        """Give the run directory free; doing it twice is fine."""
        if self._handle is None:
            return
        if self._holder is not None:
            with suppress(OSError):  # a disk that went away: the file is recognised as that of a process that ended
                self._holder.unlink()
        os.close(self._handle)
        self._handle = None


def take_lock(directory: Path) -> Lock:
    """Return the lock of the run directory. JournalError, which tells who holds it, where another driver does; OSError
    where the file cannot be written."""
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not file_system(directory).locks_here_only and _locked(handle, directory):
            os.ftruncate(handle, 0)
            os.pwrite(handle, _signature(), 0)
            return Lock(handle)
        return Lock(handle, _taken_by_name(directory))
    except BaseException:
        os.close(handle)
        raise


def holder_of(directory: Path) -> dict[str, Any] | None:
    """Return the process that holds the run directory (pid, host, since: seconds since 1970), or None."""
    if (named := _named(directory / HOLDER)) is not None:
        return named if _lives(named) else None
    try:
        with (directory / LOCK).open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                return None if error.errno in _WITHOUT else _read(handle.read())
    except FileNotFoundError:
        pass
    return None


def _locked(handle: int, directory: Path) -> bool:
    """Take the lock and return True; False where the file system has none. JournalError where somebody has it."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _WITHOUT:
                return False
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        time.sleep(_PAUSE)
    raise _in_use(directory, _read(os.pread(handle, 1000, 0)))


def _taken_by_name(directory: Path) -> Path:
    """Make the holder's file with this process' name, in the place of one whose maker has ended; return its path."""
    path = directory / HOLDER
    for _ in range(_TRIES):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            found = _named(path) or {}
            if _lives(found):
                raise _in_use(directory, found, None if _is_here(found) else path) from None
            _remove_dead(path, directory)
            continue
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_signature())
        except OSError:
            path.unlink()
            raise
        return path
    raise _in_use(directory, _named(path) or {}, path)


def _remove_dead(path: Path, directory: Path) -> None:
    """Remove the file of a holder that has ended, if it still is one once nobody else of this machine removes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as alone:
        place = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()
        try:
            alone.bind(f"\0ndbatch-{place}")  # a name without a file, which the system gives back by itself
        except OSError:
            time.sleep(_PAUSE)
            return
        found = _named(path)
        if found is not None and not _lives(found):
            path.unlink()


def _in_use(directory: Path, who: dict[str, Any], remove: Path | None = None) -> JournalError:
    since = who.get("since")
    began = time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(since)) if isinstance(since, int | float) else ""
    gone = (
        f"; its file system has no locks that all machines see, so if that process is gone, remove {remove}"
        if remove
        else ""
    )
    return JournalError(
        f"{directory} is in use by process {who.get('pid', '?')} on {who.get('host', '?')}{began}; wait for it, or look at it "
        f"with: ndbatch status {directory}{gone}",
        path=str(directory),
    )


# -- who a process is ---------------------------------------------------------------------------------------------------


def _signature() -> bytes:
    """Return this process as the file tells it: what a reader wants to know, and what shows whether it still lives."""
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    return json.dumps({**told, **_machine(), "born": _born(os.getpid())}).encode()


def _machine() -> dict[str, str]:
    """Return what names this machine, since when it runs, and the space in which numbers of processes mean something here."""
    return {
        "machine": _text(Path("/etc/machine-id")),
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "space": _link(Path("/proc/self/ns/pid")),
    }


def _born(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was; nothing where there is no such process."""
    words = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return words[19] if len(words) > 19 and words[0] not in "ZX" else ""


def _is_here(who: dict[str, Any]) -> bool:
    """Return whether the process is one that would be seen here."""
    mine = _machine()
    same = who.get("host") == socket.gethostname() and all(who.get(key) == value for key, value in mine.items())
    return same and all(mine.values())


def _lives(who: dict[str, Any]) -> bool:
    """Return whether the process may live: it does, or it cannot be seen from here."""
    if _is_here(who):
        return _born(int(who.get("pid", 0))) == who.get("born")
    mine = _machine()
    restarted = who.get("host") == socket.gethostname() and who.get("machine") == mine["machine"] != ""
    return not (restarted and bool(who.get("boot")) and bool(mine["boot"]) and who["boot"] != mine["boot"])


def _named(path: Path) -> dict[str, Any] | None:
    """Return what a holder's file says, empty where it says nothing; None where there is none."""
    try:
        return _read(path.read_bytes())
    except FileNotFoundError:
        return None


def _read(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:  # killed, or looked at, while it was written
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""

"""The lock of a run directory: on file systems with locks and without, free again after a crash, never taken from the living."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ndbatch.errors import JournalError
from ndbatch.journal import Journal, lock
from ndbatch.journal.filesystem import FileSystem, described

HOLDING = (
    "import sys, time; from pathlib import Path; from ndbatch.journal import lock; {}; "
    "held = lock.take_lock(Path(sys.argv[1]))"
)
NO_FLOCK = "import fcntl; fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError({}, 'not here'))"


def begun(directory: Path, before: str = "pass") -> subprocess.Popen[bytes]:
    """Start a process that holds the run directory until it is killed."""
    code = HOLDING.format(before) + "; print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What makes a process find no flock, and does so here; nothing for a file system that has it."""
    if request.param is None:
        return "pass"

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return NO_FLOCK.format(request.param)


def test_who_holds_it_is_told_and_a_crash_frees_it(tmp_path: Path, before: str) -> None:
    process = begun(tmp_path, before)
    try:
        with pytest.raises(JournalError) as refused:
            lock.take_lock(tmp_path)
        text = refused.value.message
        assert f"in use by process {process.pid} on {socket.gethostname()} since 20" in text
        assert f"ndbatch status {tmp_path}" in text
        held = lock.holder_of(tmp_path)
        assert held is not None
        assert held["pid"] == process.pid
    finally:
        killed(process)
    assert lock.holder_of(tmp_path) is None
    mine = lock.take_lock(tmp_path)
    assert (lock.holder_of(tmp_path) or {})["pid"] == os.getpid()
    with pytest.raises(JournalError, match=f"in use by process {os.getpid()} "):
        lock.take_lock(tmp_path)
    mine.release()
    mine.release()
    assert lock.holder_of(tmp_path) is None
    lock.take_lock(tmp_path).release()


def test_who_looks_does_not_keep_a_driver_out(tmp_path: Path) -> None:
    lock.take_lock(tmp_path).release()
    looking, over = os.open(tmp_path / "run.lock", os.O_RDONLY), threading.Event()
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, lambda: (os.close(looking), over.set())).start()
    lock.take_lock(tmp_path).release()
    assert over.is_set()


def test_a_lock_that_could_not_be_signed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            lock.take_lock(tmp_path)
    lock.take_lock(tmp_path).release()


@pytest.mark.parametrize("before", [errno.ENOLCK], indirect=True)
@pytest.mark.usefixtures("before")
def test_the_lock_of_another_machine_is_never_taken(tmp_path: Path) -> None:
    """Nobody here can see whether a process there lives: the reader is told what to remove once it is known to be gone."""
    lock.take_lock(tmp_path).release()
    foreign = {"pid": 1, "host": "node7", "since": 1.7e9, "machine": "m7", "boot": "another", "born": "5"}
    (tmp_path / lock.HOLDER).write_text(json.dumps(foreign))
    with pytest.raises(
        JournalError, match=r"in use by process 1 on node7 since 2023.*has no locks.*remove .*run\.holder"
    ):
        lock.take_lock(tmp_path)
    assert (lock.holder_of(tmp_path) or {})["host"] == "node7"
    (tmp_path / lock.HOLDER).unlink()
    lock.take_lock(tmp_path).release()


@pytest.mark.parametrize("before", [errno.ENOLCK], indirect=True)
@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("changes", [{"boot": "before the restart"}, {"born": "5"}, {"pid": 2**22 + 1}])
def test_a_holder_that_is_gone_is_recognised(tmp_path: Path, changes: dict[str, object]) -> None:
    """A machine that was started anew, a number that another process has now, no process at all."""
    first = lock.take_lock(tmp_path)
    found = json.loads((tmp_path / lock.HOLDER).read_text())
    first.release()
    (tmp_path / lock.HOLDER).write_text(json.dumps({**found, **changes}))
    lock.take_lock(tmp_path).release()


@pytest.mark.parametrize("before", [errno.ENOLCK], indirect=True)
def test_of_many_that_find_a_dead_holder_one_gets_in(tmp_path: Path, before: str) -> None:
    killed(begun(tmp_path, before))
    taken: list[lock.Lock] = []
    refused: list[str] = []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        try:
            taken.append(lock.take_lock(tmp_path))
        except JournalError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)
    taken[0].release()


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2,local_lock=none
31 22 0:41 / /scratch rw - nfs server:/scratch rw,vers=3,nolock,local_lock=all
32 22 0:42 / /lustre rw - lustre mds:/fs rw,flock
33 22 0:43 / /lustre/mine rw - lustre mds:/fs rw,localflock
34 22 0:44 / /with\\040space ro - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/run", FileSystem("/", "ext4", remote=False, locks_here_only=False)),
        ("/home/me/runs", FileSystem("/home", "nfs4", remote=True, locks_here_only=False)),
        ("/scratch/run", FileSystem("/scratch", "nfs", remote=True, locks_here_only=True)),
        ("/lustre/other", FileSystem("/lustre", "lustre", remote=True, locks_here_only=False)),
        ("/lustre/mine/run", FileSystem("/lustre/mine", "lustre", remote=True, locks_here_only=True)),
        ("/with space/x", FileSystem("/with space", "fuse.sshfs", remote=True, locks_here_only=True)),
    ],
)
def test_what_the_system_says_of_a_folder(path: str, expected: FileSystem) -> None:
    assert described(Path(path), MOUNTS) == expected


def test_locks_that_other_machines_do_not_see_are_not_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = FileSystem("/scratch", "nfs", remote=True, locks_here_only=True)
    monkeypatch.setattr(lock, "file_system", lambda _: there)
    with Journal.write(tmp_path) as journal:
        assert journal.database.execute("PRAGMA journal_mode").fetchone() in [("wal",), ("truncate",)]
        assert (tmp_path / lock.HOLDER).exists()
    assert not (tmp_path / lock.HOLDER).exists()

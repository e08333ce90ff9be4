"""The lock of a run directory: one driver at a time, freed by the system however the driver ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from ndbatch.errors import JournalError


def take_lock(directory: Path) -> int:
    """Return an open file that holds the run directory; the system frees it when the process ends, however it ends."""
    handle = os.open(directory / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held = os.read(handle, 1000).decode(errors="replace")
        os.close(handle)
        who = json.loads(held) if held.startswith("{") else {}
        raise JournalError(
            f"{directory} is in use by process {who.get('pid', '?')} on {who.get('host', '?')}; wait for it, or look at it "
            f"with: ndbatch status {directory}",
            path=str(directory),
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    return handle


def holder_of(directory: Path) -> dict[str, Any] | None:
    """Return the process that holds the run directory (pid, host), or None."""
    path = directory / "run.lock"
    if not path.exists():
        return None
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = handle.read()
            return dict(json.loads(text)) if text.startswith(b"{") else {"pid": None, "host": None}
    return None

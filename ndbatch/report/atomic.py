"""Files of the run directory appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import psutil


def write_bytes(path: Path, data: bytes) -> Path:
    """Replace `path` by `data` in one step, on the disk before the name appears; OSError as the system says it.

    What processes that were killed here had begun to write goes away.
    """
    sibling = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}")
    try:
        _remove_left(path)
        with sibling.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, path)
    except OSError as error:
        sibling.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """Replace `path` by `text` as UTF-8 in one step."""
    return write_bytes(path, text.encode())


def _remove_left(path: Path) -> None:
    """Remove the beginnings of `path` whose processes are not there any more."""
    start = f".{path.name}."
    for name in os.listdir(path.parent):
        process = name.removeprefix(start).partition("-")[0]
        if name.startswith(start) and process.isdigit() and not psutil.pid_exists(int(process)):
            path.with_name(name).unlink(missing_ok=True)

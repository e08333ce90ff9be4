"""Who, what, when, with which versions: the record that goes with the outputs of a run.

It never holds the environment, and secrets in the command line are masked.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ndbatch.report.eventlog import timestamp

LIBRARIES = (
    "numpy", "scipy", "scikit-image", "connected-components-3d", "tensorstore", "tifffile", "pyarrow", "pydantic",
    "h5py", "dask", "distributed", "zarr", "pandas", "matplotlib",
)  # fmt: skip
"""Packages whose version may decide the bytes of an output, or explain its speed."""

_SECRET = r"(?:[\w.-]*(?:token|password|passwd|secret|api[_-]?key|access[_-]?key|credential)s?[\w-]*)"
_OPTION = re.compile(rf"--?{_SECRET}", re.IGNORECASE)
_ASSIGNED = re.compile(rf"({_SECRET}\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s&,;}}]+)", re.IGNORECASE)
_LOGIN = re.compile(r"(\w[\w+.-]*://)[^/\s@]+@")
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
MASK = "***"


def provenance(plan_document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run of the plan `plan_document` that starts now; JSON types only."""
    import psutil

    return {
        "name": plan_document.get("name"),
        "fingerprint": plan_document.get("fingerprint"),
        "started": timestamp(),
        "command": masked(sys.argv),
        "working_directory": str(Path.cwd()),
        "user": _user(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "ndbatch": _version("ndbatch"),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def masked(command: Sequence[str]) -> list[str]:
    """Return the words of a command line with tokens, passwords, keys and logins in URLs replaced by `***`."""
    result: list[str] = []
    hide = False
    for word in command:
        if hide and not word.startswith("-"):
            result.append(MASK)
            hide = False
            continue
        hide = _OPTION.fullmatch(word) is not None
        result.append(masked_text(word))
    return result


def masked_text(text: str) -> str:
    """Return `text` with values given to tokens, passwords and keys, and logins in URLs, replaced by `***`."""
    text = _ASSIGNED.sub(rf"\g<1>{MASK}", text)
    return _BEARER.sub(rf"\g<1> {MASK}", _LOGIN.sub(rf"\g<1>{MASK}@", text))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _user() -> str | None:
    """Return the login name, or None where the system knows none (as in some containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None

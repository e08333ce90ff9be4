"""Models: classes and factories of users that are set up once a process, and the files that they are read from.

A model takes seconds and gigabytes to load, a patch milliseconds. So it is made once in each worker, whatever the number of
threads in it, and kept until the process ends, the source changes, or another model takes its place.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ndbatch.steps.function.loading import beside

KEPT = 2
"""Models that a process holds at once: two steps of one pipeline."""

_MODELS: OrderedDict[str, Any] = OrderedDict()
_LOCK = threading.Lock()


def once(key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` made when `key` was first asked for in this process; the least used of KEPT + 1 is let go."""
    with _LOCK:
        if key not in _MODELS:
            _MODELS[key] = make()
        _MODELS.move_to_end(key)
        while len(_MODELS) > KEPT:
            _MODELS.popitem(last=False)
        return _MODELS[key]


def set_up(function: Callable[..., Any], text: str, source: str, arguments: Mapping[str, Any]) -> Any:
    """Return what the class or factory `function`, known as `text` of `source`, makes of `arguments`, once a process.

    Arguments that are paths of files beside the configuration become whole paths. What it raises itself comes through.
    """
    whole = {name: _path(value) for name, value in arguments.items()}
    key = json.dumps([text, source, whole, files_of(whole)], sort_keys=True)
    return once(key, lambda: function(**whole))


def _path(value: Any) -> Any:
    found = beside(value) if isinstance(value, str) else None
    return value if found is None else str(found)


def files_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return, for every argument that is the path of a file or folder, a hash of what is in it: weights decide results."""
    found = {name: beside(value) for name, value in arguments.items() if isinstance(value, str)}
    return {name: content_hash(path) for name, path in found.items() if path is not None}


def content_hash(path: Path) -> str:
    """Return a hash of a file's bytes, or of the names and bytes of all files in a folder; kept until one of them changes."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.relative_to(path)}\0{_hash(file, state.st_size, state.st_mtime_ns)}\0".encode())
    return digest.hexdigest()[:16]


_HASHES: dict[Path, tuple[int, int, str]] = {}


def _hash(file: Path, size: int, changed: int) -> str:
    known = _HASHES.get(file)
    if known is None or known[:2] != (size, changed):
        with file.open("rb") as opened:
            known = size, changed, hashlib.file_digest(opened, "sha256").hexdigest()
        _HASHES[file] = known
    return known[2]

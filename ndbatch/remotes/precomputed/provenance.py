"""The `provenance` file of a precomputed layer: where it came from and what was done to it, as cloud-volume keeps it.

`{"description", "owners", "sources", "processing": [{"method": {...}, "by", "date"}, ...]}`; igneous and cloud-volume read
it and append to `processing`. Convention: cloudvolume/provenance.py of cloud-volume 12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

EMPTY: Mapping[str, Any] = {"description": "", "owners": [], "sources": [], "processing": []}


def with_run(text: bytes | None, run: Mapping[str, Any]) -> bytes:
    """Return the file with an entry for `run` at the end, or in the place of the entry of the same fingerprint.

    `text` is the file as it is, or None where there is none. What it says beside is kept; a file that is not understood is
    kept whole under `description`, for it is somebody's record.
    """
    document = _understood(text)
    entry = {
        "method": {
            "task": "ndbatch",
            "name": run.get("name"),
            "fingerprint": run.get("fingerprint"),
            "version": run.get("ndbatch"),
            "command": run.get("command"),
        },
        "by": str(run.get("user") or "unknown"),
        "date": str(run.get("started") or ""),
    }
    others = [old for old in document["processing"] if not _same_run(old, run.get("fingerprint"))]
    sources = dict.fromkeys([*document["sources"], *run.get("inputs", ())])
    return json.dumps({**document, "sources": list(sources), "processing": [*others, entry]}, indent=2).encode()


def _understood(text: bytes | None) -> dict[str, Any]:
    """Return the document with every list that an entry is added to; cloud-volume writes `sources` as "" when empty."""
    if not text:
        return dict(EMPTY)
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return {**EMPTY, "description": text.decode(errors="replace")}
    lists = {name: document.get(name) or [] for name in ("owners", "sources", "processing")}
    return {**EMPTY, **document, **{n: v if isinstance(v, list) else [v] for n, v in lists.items()}}


def _same_run(entry: Any, fingerprint: Any) -> bool:
    method = entry.get("method") if isinstance(entry, Mapping) else None
    return isinstance(method, Mapping) and method.get("task") == "ndbatch" and method.get("fingerprint") == fingerprint

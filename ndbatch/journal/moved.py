"""The plan of a run whose folder was moved or copied since: its paths are where the folder is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ndbatch.portable import Portable


def here(document: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Return a plan with its paths as they are seen from `directory`, the run directory now.

    Where the run directory still lies in the same place below the folder of the configuration, that folder was moved with
    all that is in it; else the run directory alone was. Other paths stay as they are.
    """
    before, now = Path(document.get("directory", directory)), directory.resolve()
    if before == now or "directory" not in document:
        return document
    base = Path(document["base"])
    inside = before.relative_to(base).parts if before.is_relative_to(base) else ()
    together = bool(inside) and now.parts[-len(inside) :] == inside
    old, new = (base, Path(*now.parts[: -len(inside)])) if together else (before, now)
    moved: dict[str, Any] = Portable(new).facts(Portable(old).text(document))
    return {**moved, "directory": str(now), "base": str(new if together else base)}

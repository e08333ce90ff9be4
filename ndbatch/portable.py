"""Facts as text that stays true when a folder is moved, or copied: paths below it are kept relative to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = "\\u0000/"
"""Stands for the folder: NUL, as JSON writes it, is in no path."""


class Portable:
    """Writes and reads JSON for the folder `root`."""

    def __init__(self, root: Path) -> None:
        folder = json.dumps(str(root).rstrip("/") + "/")[1:-1]
        self._folder, self._paths = folder, re.compile(f'(?<="){re.escape(folder)}|(?<=://){re.escape(folder)}')

    def text(self, facts: Any) -> str:
        """Return facts (JSON types) as text."""
        return self._paths.sub(lambda _: HERE, json.dumps(facts))

    def facts(self, text: str) -> Any:
        """Return the facts that `text` holds, with paths where the folder is now."""
        return json.loads(text.replace(HERE, self._folder))

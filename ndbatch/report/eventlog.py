"""events.jsonl: everything that happened in a run, one JSON object a line, for programs and for later questions.

Each line holds `time` (UTC, ISO 8601), `type` (the event's class name) and the event's fields. Lines are appended and
flushed one by one, also by a later session of the same run. A line torn by a crash is skipped when the file is read.
Times of one session are that of its begin and the seconds since: a clock that is set meanwhile changes none of them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ndbatch.events import Event


class EventLog:
    """An observer that appends every event to a file.

    A full disk or a lost folder must not stop the run: the log then goes quiet and `broken` says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = ""
        torn = _torn(path)
        self._file = path.open("a", encoding="utf-8")
        self._begun = time.time() - time.monotonic()
        if torn:
            self._file.write("\n")

    def __call__(self, event: Event) -> None:
        """Append `event`."""
        if self.broken:
            return
        when = datetime.fromtimestamp(self._begun + time.monotonic(), UTC)
        line = {"time": timestamp(when), "type": type(event).__name__, **plain(asdict(event))}
        try:
            self._file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:
            self.broken = f"{self.path}: {error}"

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        try:
            self._file.close()
        except OSError as error:
            self.broken = f"{self.path}: {error}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of `path` in order; torn or foreign lines are skipped, a missing file holds none."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and "type" in event and "time" in event:
                    yield event
    except FileNotFoundError:
        return


def timestamp(moment: datetime | None = None) -> str:
    """Return `moment` (now if not given) as UTC in ISO 8601 with milliseconds: `2026-01-31T12:00:00.000Z`."""
    when = (moment or datetime.now(UTC)).astimezone(UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """Return the time `text` of an event as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def plain(value: Any) -> Any:
    """Return `value` with JSON types only: numpy numbers as Python's, infinite and undefined ones as null."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _torn(path: Path) -> bool:
    """Return whether the file ends in the middle of a line."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return False
            file.seek(-1, 2)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False

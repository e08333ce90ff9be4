"""Following a run from outside: the events that its driver writes down, as they come, for the observers of another process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ndbatch import events

LOOK_EVERY = 0.2
"""Seconds between two looks at the file."""
_KINDS: Mapping[str, type[events.Event]] = {kind.__name__: kind for kind in events.Event.__subclasses__()}


def event_of(entry: Mapping[str, Any]) -> events.Event | None:
    """Return the event that a line of events.jsonl holds; None for one of a kind or with fields unknown here."""
    kind = _KINDS.get(str(entry.get("type")))
    if kind is None:
        return None
    given = {field.name: entry[field.name] for field in fields(kind) if field.name in entry}
    if "counts" in given:
        given["counts"] = events.Counts(**given["counts"])
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    except TypeError:
        return None


def follow(directory: Path, alive: Callable[[], bool]) -> Iterator[events.Event]:
    """Yield the events of the session that goes on in `directory`, and those that come, until it ends or `alive` says no.

    A line that is not complete yet is waited for.
    """
    path = directory / "events.jsonl"
    place, rest = _last_start(path), b""
    while True:
        living = alive()
        for line in _new(path, place):
            place += len(line)
            rest += line
            if not rest.endswith(b"\n"):
                break
            event, rest = _parsed(rest), b""
            if event is not None:
                yield event
            if isinstance(event, events.RunEnded):
                return
        if not living:
            return
        time.sleep(LOOK_EVERY)


def _last_start(path: Path) -> int:
    """Return where the session that goes on begins in the run's events, in bytes: at their end, if the last one is over."""
    start = place = 0
    for line in _new(path, 0):
        if b'"type": "RunStarted"' in line:
            start = place
        place += len(line)
        if b'"type": "RunEnded"' in line:
            start = place
    return start


def _new(path: Path, place: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(place)
            yield from file
    except FileNotFoundError:
        return


def _parsed(line: bytes) -> events.Event | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return event_of(entry) if isinstance(entry, dict) else None

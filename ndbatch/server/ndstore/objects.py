"""RAMON objects of served channels, in tables of the catalogue: one row an object, and one row for each value, to be asked for.

A channel that is made through the service begins without objects. One that was found in the folder keeps them, also while its
file is away.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.ramon.dialects import FLAT_KEYS, TYPE, from_json, to_nested
from ndbatch.ramon.model import LARGEST_ID, RELATED, Annotation, Neuron, Segment, written
from ndbatch.ramon.store import FIELDS

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Catalogue, Channel

SCHEMA = """
CREATE TABLE IF NOT EXISTS ramon_object (channel TEXT, id INTEGER, type INTEGER NOT NULL, confidence REAL NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (channel, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ramon_value (channel TEXT, key TEXT, value TEXT, id INTEGER,
    PRIMARY KEY (channel, key, value, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ramon_value_of ON ramon_value (channel, id);
"""
MADE_ANEW = """
CREATE TRIGGER IF NOT EXISTS ramon_made_anew AFTER INSERT ON channel WHEN json_extract(new.body, '$.made') BEGIN
    DELETE FROM ramon_object WHERE channel = new.project || '/' || new.name;
    DELETE FROM ramon_value WHERE channel = new.project || '/' || new.name;
END
"""
CONDITIONS = {"lt": "<", "gt": ">"}


class ObjectTable:
    """The objects of one channel."""

    def __init__(self, catalogue: Catalogue, channel: Channel) -> None:
        _require_tables(catalogue)
        self._catalogue = catalogue
        self._key = f"{channel.project}/{channel.name}"
        self._name = channel.name

    def get(self, ids: Iterable[int]) -> list[Annotation]:
        """Return objects in the order of `ids`. NotFound where one is absent."""
        found = []
        for number in ids:
            bodies = self._rows("SELECT body FROM ramon_object WHERE channel=? AND id=?", self._key, number)
            if not bodies:
                raise NotFound(f"the object {number} does not exist in {self._name}")
            found.append(from_json(json.loads(bodies[0][0])))
        return found

    def put(self, things: Sequence[Annotation], update: bool) -> list[int]:
        """Store objects, all or none, and return their ids, new ones for those that have none.

        Conflict where an id is taken, unless it is an `update`, which replaces all that was known of the object.
        """
        with self._catalogue.transaction() as rows:
            wanting = sum(not thing.id for thing in things)
            fresh = iter(self.reserve(wanting) if wanting else ())
            made = [thing if thing.id else replace(thing, id=next(fresh)) for thing in things]
            for thing in made:
                if update:
                    self._remove(rows, thing.id)
                self._insert(rows, thing)
        return [thing.id for thing in made]

    def delete(self, ids: Iterable[int]) -> None:
        """Remove objects."""
        with self._catalogue.transaction() as rows:
            for number in ids:
                self._remove(rows, number)

    def reserve(self, count: int) -> range:
        """Take `count` ids that nobody else is given. PlanError where there are not as many left."""
        with self._catalogue.transaction() as rows:
            largest = rows.execute("SELECT max(id) FROM ramon_object WHERE channel=?", (self._key,)).fetchone()[0] or 0
            first = self._catalogue.reserve(f"ids:{self._key}", count, largest + 1)
            if first + count - 1 > LARGEST_ID:
                raise PlanError(f"{count} ids from {first} on are beyond {LARGEST_ID}")
        return range(first, first + count)

    def query(self, predicates: Iterable[tuple[str, str, str]] = ()) -> list[int]:
        """Return the ids, sorted, of objects that fit all of `predicates`: key, eq, lt or gt, and value as text.

        Keys are those of flat JSON or of pairs, or names of fields; `type` and `status` stand for their own.
        """
        values: list[Any]
        text, values = "SELECT id FROM ramon_object AS o WHERE channel=?", [self._key]
        for key, how, value in predicates:
            if key in ("type", TYPE):
                text, values = f"{text} AND type=?", [*values, value]
            elif how in CONDITIONS:
                text, values = f"{text} AND confidence {CONDITIONS[how]} CAST(? AS REAL)", [*values, value]
            else:
                keys = sorted({key, *(written_as.json for written_as in FIELDS.get(key, ()))} - {""})
                marks = ",".join("?" * len(keys))
                text += f" AND EXISTS (SELECT 1 FROM ramon_value WHERE channel=? AND key IN ({marks}) AND value=? AND id=o.id)"
                values += [self._key, *keys, _as_stored(key, value)]
        return [number for (number,) in self._rows(f"{text} ORDER BY id", *values)]

    def related(self, thing: Annotation) -> dict[str, list[int]]:
        """Return the objects that say they belong to this one, by name: `segments` of a neuron ..."""
        return {
            name: self.query([("type", "eq", str(other.number)), (field, "eq", str(thing.id))])
            for (kind, name), (other, field) in RELATED.items()
            if type(thing) is kind
        }

    def labels_of(self, thing: Annotation) -> list[int]:
        """Return the values of the object's voxels: its id, or those of a neuron's segments; none where it has no voxels."""
        if isinstance(thing, Neuron):
            return self.query([("type", "eq", str(Segment.number)), ("seg_neuron", "eq", str(thing.id))])
        return [thing.id] if thing.painted else []

    def neurons_of(self, segments: Iterable[int]) -> set[int]:
        """Return the neurons that some of `segments` belong to."""
        found: set[int] = set()
        text = "SELECT value FROM ramon_value WHERE channel=? AND id=? AND key='seg_neuron'"
        for number in segments:
            found.update(int(value) for (value,) in self._rows(text, self._key, number))
        return found - {0}

    def top_keys(self, count: int, kind: int | None = None) -> list[str]:
        """Return the keys that most objects have, of one type if given; the most frequent first."""
        of = " AND id IN (SELECT id FROM ramon_object WHERE channel=? AND type=?)" if kind else ""
        text = f"SELECT key FROM ramon_value WHERE channel=?{of} GROUP BY key ORDER BY count(DISTINCT id) DESC, key LIMIT ?"
        values = [self._key, *([self._key, kind] if kind else []), count]
        return [key for (key,) in self._rows(text, *values)]

    def present(self, ids: Iterable[int]) -> list[int]:
        """Return those of `ids` that there are."""
        text = "SELECT 1 FROM ramon_object WHERE channel=? AND id=?"
        return [number for number in ids if self._rows(text, self._key, number)]

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._catalogue.rows(statement, *values)

    def _insert(self, rows: sqlite3.Connection, thing: Annotation) -> None:
        body = json.dumps(to_nested(thing))
        try:
            values = (self._key, thing.id, thing.number, thing.confidence, body)
            rows.execute("INSERT INTO ramon_object VALUES (?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError:
            raise Conflict(f"the object {thing.id} exists already in {self._name}; update replaces it") from None
        stored = {(self._key, key, value, thing.id) for key, value in _values(thing)}
        rows.executemany("INSERT INTO ramon_value VALUES (?, ?, ?, ?)", sorted(stored))

    def _remove(self, rows: sqlite3.Connection, number: int) -> None:
        rows.execute("DELETE FROM ramon_object WHERE channel=? AND id=?", (self._key, number))
        rows.execute("DELETE FROM ramon_value WHERE channel=? AND id=?", (self._key, number))


def _values(thing: Annotation) -> Iterator[tuple[str, str]]:
    """Yield keys and values as they are asked for: each element of a list by itself."""
    yield TYPE, str(thing.number)
    for name, how in written(type(thing)).items():
        value = getattr(thing, name)
        if how.kind == "ids":
            yield from ((how.json, str(one)) for one in value)
        elif how.kind in ("place", "point"):
            yield how.json, json.dumps(list(value[::-1]))
        elif how.kind == "pairs":
            yield from ((key, one) for key, one in value.items() if key not in FLAT_KEYS)
        else:
            yield how.json, str(value)


_REAL = {key for name, ways in FIELDS.items() for how in ways if how.kind == "real" for key in (name, how.json)}


def _as_stored(key: str, value: str) -> str:
    """Return a value as it was stored: a real number has one spelling."""
    try:
        return str(float(value)) if key in _REAL else value
    except ValueError:
        return value


def _require_tables(catalogue: Catalogue) -> None:
    _make_tables(catalogue, catalogue.path)


@cache
def _make_tables(catalogue: Catalogue, path: Path) -> None:
    del path
    with catalogue.transaction() as connection:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(MADE_ANEW)

"""RAMON objects out of tables: a row becomes an object, its id the row's label, what is measured fields or pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ndbatch.errors import PlanError
from ndbatch.ramon.model import LARGEST_ID, Annotation, Written, written

if TYPE_CHECKING:
    import pyarrow as pa

IDS = ("label", "id")
"""Columns that hold the id of an object, the first that is there."""
PLACES = {"place", "point"}


def id_column(names: list[str]) -> str | None:
    """Return the column that holds ids; None where objects must be given some."""
    return next((name for name in IDS if name in names), None)


def objects_of(batch: pa.RecordBatch, kind: type[Annotation], first: int | None = None) -> Iterator[Annotation]:
    """Yield an object of the class `kind` for each row.

    A column that is called as a field of the class is that field; a centroid, a position or a location is taken from z, y and
    x, in voxels, whole ones where the field holds whole numbers. Every other value becomes a pair, text by the column's name;
    values that are absent or not finite are left out. Rows without an id get `first`, `first` + 1 ...
    Raises PlanError for an id beyond 2^32-1, with what to do.
    """
    names = batch.schema.names
    column = id_column(names)
    for number, row in enumerate(batch.to_pylist()):
        one = row.pop(column) if column is not None else (first or 0) + number
        if not isinstance(one, int) or not 1 <= one <= LARGEST_ID:
            raise PlanError(
                f"the object {one} cannot be a RAMON object, whose ids are whole numbers from 1 to {LARGEST_ID}; number labels "
                "anew with a relabel step"
            )
        facts: dict[str, Any] = {"id": one, "kvpairs": {}}
        for name, how in written(kind).items():
            if how.kind in PLACES and name not in row and {"y", "x"} <= row.keys():
                facts[name] = _place(row, how)
            elif name in row and name not in ("id", "kvpairs") and row[name] is not None:
                facts[name] = row[name]
        pairs = {name: _text(value) for name, value in row.items() if name not in facts}
        facts["kvpairs"] = {name: text for name, text in pairs.items() if text}
        yield kind(**facts)


def _place(row: dict[str, Any], how: Written) -> tuple[Any, ...]:
    found = [row.get(axis) for axis in "zyx"]
    values = [0.0 if value is None or not math.isfinite(value) else float(value) for value in found]
    return tuple(values) if how.kind == "point" else tuple(math.floor(value + 0.5) for value in values)


def _text(value: Any) -> str:
    """Return a value as text, empty where there is none; numbers as Python writes them, whole to the last bit."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)

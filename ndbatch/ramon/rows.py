"""RAMON objects as rows: one for each object, one column for each field of any class, in parquet and in pandas.

Columns: `id` and `type` (uint32), then the fields of all classes by name. Numbers are int64 or float64, ids a list of uint32,
places and points lists of three numbers, z, y, x, `kvpairs` a map of texts. Fields that a class does not have are null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import Corrupt, NdbatchError, missing_extra
from ndbatch.ramon.model import CLASSES, Annotation, class_of, written

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS: dict[str, str] = {name: how.kind for one in CLASSES for name, how in written(one).items()}
"""The kind of every field of any class, by its name; fields of one name are of one kind, but for `parent`, an id or -1."""
COLUMNS["parent"] = "parent"
MARK = {b"ramon": b"1"}
"""What the schema of a table of objects carries, so that a file is told from other tables."""
BATCH = 10_000
"""Objects of one batch of rows."""


def schema() -> pa.Schema:
    """Return names and types of the columns."""
    import pyarrow as pa

    types = {
        "whole": pa.int64(), "id": pa.uint32(), "parent": pa.int64(), "real": pa.float64(), "text": pa.string(),
        "ids": pa.list_(pa.uint32()), "place": pa.list_(pa.int64()), "point": pa.list_(pa.float64()),
        "pairs": pa.map_(pa.string(), pa.string()),
    }  # fmt: skip
    columns = [pa.field("id", pa.uint32()), pa.field("type", pa.uint32())]
    columns += [pa.field(name, types[kind]) for name, kind in COLUMNS.items() if name != "id"]
    return pa.schema(columns, MARK)


def to_batch(things: Sequence[Annotation]) -> pa.RecordBatch:
    """Return objects as rows, in their order."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {"id": [t.id for t in things], "type": [t.number for t in things]}
    for name, kind in COLUMNS.items():
        if name != "id":
            values = [getattr(thing, name) if name in written(type(thing)) else None for thing in things]
            columns[name] = [None if v is None else list(v.items()) for v in values] if kind == "pairs" else values
    return pa.RecordBatch.from_pydict(columns, schema=schema())


def batches(things: Iterable[Annotation]) -> Iterator[pa.RecordBatch]:
    """Yield objects as rows, `BATCH` at a time; where there are none, the columns alone."""
    waiting: list[Annotation] = []
    none = True
    for thing in things:
        waiting.append(thing)
        if len(waiting) == BATCH:
            yield to_batch(waiting)
            waiting, none = [], False
    if waiting or none:
        yield to_batch(waiting)


def from_rows(table: pa.Table | pa.RecordBatch) -> Iterator[Annotation]:
    """Yield the objects of rows; columns may be missing, and others are left out. Corrupt where a row is no object."""
    known = [name for name in ("id", "type", *COLUMNS) if name in table.schema.names]
    for number, row in enumerate(table.select(list(dict.fromkeys(known))).to_pylist()):
        yield _object(row, number)


def to_table(things: Iterable[Annotation]) -> pa.Table:
    """Return objects as an Arrow table."""
    import pyarrow as pa

    return pa.Table.from_batches(list(batches(things)), schema())


def to_pandas(things: Iterable[Annotation]) -> pd.DataFrame:
    """Return objects as a data frame, with the id as index. Lists and pairs are Python's own; what a class lacks is None."""
    frame = _pandas()
    columns: dict[str, list[Any]] = {name: [] for name in ("type", *(n for n in COLUMNS if n != "id"))}
    ids = []
    for thing in things:
        ids.append(thing.id)
        columns["type"].append(thing.word)
        for name in columns:
            if name != "type":
                columns[name].append(getattr(thing, name) if name in written(type(thing)) else None)
    types = {"whole": "Int64", "id": "Int64", "parent": "Int64", "real": "Float64"}
    made: dict[str, Any] = {
        name: frame.array(values, dtype=types[COLUMNS[name]]) if COLUMNS.get(name) in types else values
        for name, values in columns.items()
    }
    made = {
        name: frame.Series(values, dtype=object) if isinstance(values, list) else values
        for name, values in made.items()
    }
    result: pd.DataFrame = frame.DataFrame(made)
    result.index = frame.Index(ids, dtype="int64", name="id")
    return result


def from_pandas(frame: pd.DataFrame) -> list[Annotation]:
    """Return the objects of a data frame: `type` (number or word), the id as index or column, and fields. Corrupt."""
    rows = frame.reset_index() if "id" not in frame.columns and frame.index.name == "id" else frame
    known = [name for name in ("id", "type", *COLUMNS) if name in rows.columns]
    missing = _pandas().isna
    made = []
    for number, values in enumerate(zip(*(rows[name].tolist() for name in known), strict=True)):
        pairs = zip(known, values, strict=True)
        row = {name: v for name, v in pairs if isinstance(v, list | tuple | dict | np.ndarray) or not missing(v)}
        made.append(_object(row, number))
    return made


def _object(row: dict[str, Any], number: int) -> Annotation:
    try:
        kind = class_of(row.get("type") or 1)
        facts = {name: row[name] for name in written(kind) if row.get(name) is not None}
        return kind(**facts)
    except (NdbatchError, TypeError, ValueError) as error:
        raise Corrupt(f"row {number} is no RAMON object: {error}") from None


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise missing_extra("pandas", "pandas", "RAMON objects in a data frame") from None
    return pd

"""Tables written as their rows come, in the format that the ending of the name tells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import PlanError, StepError

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_ENDINGS = (".parquet", ".napari.csv", ".csv", ".xml", ".yml", ".yaml")
"""Endings that make an output a table: Parquet, the CSV file of napari's points, CSV with the table's own columns,
CellCounter XML, and the YAML of cellfinder. All but Parquet and CSV hold points and nothing else of them."""


def table_ending(name: str) -> str:
    """Return the one of `TABLE_ENDINGS` that `name`, a file name or address, ends in; PlanError where there is none."""
    for ending in TABLE_ENDINGS:
        if name.lower().endswith(ending):
            return ending
    raise PlanError(f"{name}: the name of a table must end in {', '.join(TABLE_ENDINGS[:-1])} or {TABLE_ENDINGS[-1]}")


def write_batches(path: Path, ending: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Stream `batches` into the file `path` in the format of `ending`; return the number of rows.

    An empty table has no columns where no row ever told them. StepError where batches differ in their columns; PlanError
    where a format of points is given rows that are none.
    """
    import pyarrow as pa

    writer: Any = None
    schema: Any = None
    count = 0
    try:
        for batch in batches:
            if writer is None:
                schema = batch.schema
                writer = _opened(path, ending, schema)
            writer.write_batch(_like(batch, schema))
            count += batch.num_rows
        if writer is None and ending == ".csv":
            path.write_text("")
        elif writer is None:
            writer = _opened(path, ending, pa.schema([]))
    finally:
        if writer is not None:
            writer.close()
    return count


def _opened(path: Path, ending: str, schema: pa.Schema) -> Any:
    """Return a writer with `write_batch` and `close`."""
    if ending == ".parquet":
        from pyarrow import parquet

        return parquet.ParquetWriter(str(path), schema)
    if ending == ".csv":
        from pyarrow import csv

        return csv.CSVWriter(str(path), schema)
    from ndbatch.tables.markers import WRITERS

    return WRITERS[ending](path)


def _like(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return `batch` with the columns and types of the first rows; StepError where blocks gave different tables."""
    import pyarrow as pa

    if batch.schema.equals(schema):
        return batch
    if set(batch.schema.names) != set(schema.names):
        raise StepError(f"blocks gave different columns: {', '.join(schema.names)} and {', '.join(batch.schema.names)}")
    try:
        return batch.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise StepError(f"blocks gave columns of different types: {error}; give every column one type") from None

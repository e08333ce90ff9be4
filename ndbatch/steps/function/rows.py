"""Rows of a table from what functions like to return: columns, records, data frames, Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ndbatch.errors import StepError

if TYPE_CHECKING:
    import pyarrow as pa


def as_rows(value: Any, where: str) -> pa.RecordBatch:
    """Return `value` as one Arrow record batch; None is no rows.

    Takes a mapping of columns of one length, a list of mappings, a pandas data frame, a pyarrow Table or RecordBatch.
    Raises StepError for anything else, naming `where` it came from.
    """
    import pyarrow as pa

    try:
        if value is None:
            return pa.RecordBatch.from_pydict({})
        if isinstance(value, pa.RecordBatch):
            return value
        if isinstance(value, Mapping):
            return pa.RecordBatch.from_pydict({str(k): _column(v) for k, v in value.items()})
        if isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value):
            return pa.RecordBatch.from_pylist([{str(k): v for k, v in row.items()} for row in value])
        table = value if isinstance(value, pa.Table) else pa.Table.from_pandas(value, preserve_index=False)
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pydict({})
    except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
        raise StepError(
            f"{where} returned a {type(value).__name__} that is no table ({error}); return a mapping of columns, a list of "
            "mappings, or a data frame"
        ) from None


def _column(values: Any) -> Any:
    """Return a column as Arrow takes it; a single value is a column of one."""
    import numpy as np

    return np.atleast_1d(values) if np.isscalar(values) or isinstance(values, np.ndarray) else list(values)

"""Tables of old and new ids, from a CSV or parquet file or from a mapping; 64-bit ids exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import ConfigError, PlanError, StepError
from ndbatch.remotes.base import Array
from ndbatch.steps.function.loading import beside
from ndbatch.steps.function.models import content_hash

if TYPE_CHECKING:
    import pyarrow as pa

Pairs = tuple[Array, Array]
"""Old ids, ascending, and new ones: each of uint64, or of int64 where any is negative."""


@dataclass(frozen=True)
class IdTable:
    """Old and new ids. A file is named, not carried: each process reads it once."""

    path: str = ""
    content: str = ""
    columns: tuple[str, str] = ("", "")
    pairs: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of_mapping(ids: Mapping[int, int]) -> IdTable:
        """Return the table of `ids`; PlanError for numbers beyond 64 bits."""
        table = IdTable(pairs=tuple(sorted(ids.items())))
        table.read()
        return table

    @staticmethod
    def of_file(path: str, columns: tuple[str, str]) -> IdTable:
        """Return the table of a file, by its path from the configuration's folder; ConfigError where it is not there, is
        neither CSV nor parquet, or lacks the columns."""
        found = beside(path)
        if found is None or not found.is_file():
            raise ConfigError(f"relabel: table {path} does not exist; give the path from the configuration's folder")
        table = IdTable(str(found), content_hash(found), columns)
        table.read()
        return table

    def read(self) -> Pairs:
        """Return the pairs; StepError where the file changed since it was named."""
        if not self.path:
            old, new = zip(*self.pairs, strict=True) if self.pairs else ((), ())
            return _sorted(_as_integers(old, "map"), _as_integers(new, "map"), "map")
        if content_hash(Path(self.path)) != self.content:
            raise StepError(f"relabel: table {self.path} changed during the run; start over with --fresh")
        return _read(self.path, self.content, self.columns)

    def require_within(self, dtype: np.dtype[Any], where: str) -> None:
        """Raise PlanError where a new id does not fit `dtype`."""
        _, new = self.read()
        for value in (int(new.min()), int(new.max())) if len(new) else ():
            if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
                raise PlanError(
                    f"{where}: the new id {value} does not fit {dtype}; set another dtype for this output", value=value
                )

    def look_up(self, ids: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return the new ids of `ids` (integers), of `dtype`, 0 where they are not in the table, and which are (bool)."""
        old, new = self.read()
        if ids.dtype.kind == "i" and old.dtype.kind == "u":
            known = ids >= 0
            wanted = np.where(known, ids, 0).astype(np.uint64)
        elif ids.dtype == np.uint64 and old.dtype.kind == "i":
            known = ids <= np.uint64(2**63 - 1)
            wanted = np.where(known, ids, np.uint64(0)).astype(np.int64)
        else:
            known, wanted = np.ones(len(ids), bool), ids.astype(old.dtype)
        if not len(old):
            return np.zeros(len(ids), dtype), np.zeros(len(ids), bool)
        place = np.minimum(np.searchsorted(old, wanted), len(old) - 1)
        known &= old[place] == wanted
        return np.where(known, new[place], 0).astype(dtype), known


@lru_cache(maxsize=2)
def _read(path: str, content: str, columns: tuple[str, str]) -> Pairs:
    """Return the pairs of a file whose content has the hash `content`."""
    del content
    table = _parquet(path) if path.endswith((".parquet", ".pq")) else _csv(path, columns)
    lacking = [name for name in columns if name not in table.column_names]
    if lacking:
        raise ConfigError(
            f"relabel: table {path} has no column {lacking[0]!r}; it has {', '.join(table.column_names)}: name two of them "
            "with columns: [old, new]"
        )
    old, new = (_column(table, name, path) for name in columns)
    return _sorted(old, new, path)


def _parquet(path: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"relabel: table {path} cannot be read as parquet: {error}") from None


def _csv(path: str, columns: tuple[str, str]) -> pa.Table:
    """Read a CSV file, whose ids beyond 2^63 would be guessed to be floating point numbers."""
    import pyarrow as pa
    import pyarrow.csv

    problem: Exception | None = None
    for dtype in (pa.uint64(), pa.int64()):
        options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, dtype))
        try:
            return pyarrow.csv.read_csv(path, convert_options=options)
        except (pa.ArrowException, OSError) as error:
            problem = problem or error
    raise ConfigError(f"relabel: table {path} cannot be read as CSV of whole numbers: {problem}")


def _column(table: pa.Table, name: str, path: str) -> Array:
    import pyarrow as pa

    column = table[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        kind = "empty cells" if column.null_count else str(column.type)
        raise ConfigError(f"relabel: column {name} of table {path} has {kind}; ids are whole numbers")
    found: Array = column.to_numpy()
    return found


def _as_integers(values: tuple[int, ...], where: str) -> Array:
    dtype = np.int64 if any(value < 0 for value in values) else np.uint64
    try:
        return np.array(values, dtype)
    except OverflowError:
        raise PlanError(f"relabel: {where} has an id beyond 64 bits; use ids from -2^63 up to 2^64 - 1") from None


def _sorted(old: Array, new: Array, where: str) -> Pairs:
    """Return pairs by ascending old ids; PlanError where one id has several new ones."""
    wide = [np.int64 if len(a) and a.dtype.kind == "i" and a.min() < 0 else np.uint64 for a in (old, new)]
    old, new = old.astype(wide[0]), new.astype(wide[1])
    order = np.argsort(old, kind="stable")
    old, new = old[order], new[order]
    twice = (old[1:] == old[:-1]) & (new[1:] != new[:-1])
    if twice.any():
        at = int(np.flatnonzero(twice)[0])
        raise PlanError(
            f"relabel: {where} gives the id {old[at]} two new ones, {new[at]} and {new[at + 1]}; remove one of them"
        )
    return old, new

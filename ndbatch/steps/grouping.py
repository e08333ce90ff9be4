"""Rows of all blocks, brought together by a key, without holding them: an external sort that merges equal keys early.

Rows are gathered up to a limit, combined (one row for each key, ascending), and spilled as a sorted *run*; at the end the
runs are merged in one sweep over the keys. Because rows are combined before they are spilled, many rows of one key never
pile up. What `combine` makes of rows may not depend on how they were grouped before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.remotes.base import Array
from ndbatch.steps.payload import pack_rows, unpack_rows

if TYPE_CHECKING:
    import pyarrow as pa

LIMIT = 32 << 20
"""Bytes of rows that are gathered before they are combined and spilled."""
GATHERED = 4096
"""Most batches that are gathered: each has its own cost, however few its rows."""
FAN_IN = 32
"""Runs of one size that are merged into a larger one."""
ROWS = 1 << 16
"""Rows of a batch of the result."""

Combine = Callable[["pa.Table"], "pa.RecordBatch"]
"""From rows in any order to one row for each key, ascending. A column that only some of the rows came with is null in the
others."""


def merged_by_key(
    rows: Iterable[pa.RecordBatch], key: str, combine: Combine, scratch: Path, limit: int = LIMIT
) -> Iterator[pa.RecordBatch]:
    """Yield batches that together hold one row for each value of the column `key` (integers, no nulls), ascending.

    `rows` are read once, in their order; a batch lacks the columns that none of its rows came with. `scratch` is a folder
    for the runs, which may be twice as large as all rows. Holds about twice `limit` bytes of rows beside what `combine`
    needs to work on them.
    """
    runs = _Runs(key, combine, scratch, limit)
    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in rows:
        if not batch.num_rows:
            continue
        kept.append(batch)
        size += batch.nbytes
        if size >= limit or len(kept) >= GATHERED:
            made = combine(_together(kept))
            if made.nbytes > limit // 2:
                runs.add(made)
                kept, size = [], 0
            else:
                kept, size = [made], made.nbytes
    rest = [combine(_together(kept))] if kept else []
    yield from _swept([iter(rest), *runs.opened()], key, combine)


def in_batches(batches: Iterable[pa.RecordBatch], rows: int = ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the same rows, of one schema, in batches of exactly `rows` but for the last; nothing where there are none.

    A file written from them does not tell how the rows came together.
    """
    import pyarrow as pa

    kept: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        kept.append(batch)
        count += batch.num_rows
        if count >= rows:
            table = pa.Table.from_batches(kept).combine_chunks()
            whole = count // rows * rows
            yield from table.slice(0, whole).to_batches(max_chunksize=rows)
            kept, count = table.slice(whole).to_batches(), count - whole
    if count:
        yield from pa.Table.from_batches(kept).combine_chunks().to_batches()


def _together(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Return all rows, with all columns that any of the batches has."""
    import pyarrow as pa

    return pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="default")


class _Runs:
    """Sorted runs in files: those of one level are about equally large, and a full level becomes one run of the next."""

    def __init__(self, key: str, combine: Combine, scratch: Path, limit: int) -> None:
        self._key, self._combine, self._scratch = key, combine, scratch
        self._piece = max(1, limit // FAN_IN)
        self._levels: list[list[Path]] = []
        self._written = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep a batch of the smallest level."""
        self._keep(0, iter([batch]))

    def opened(self) -> list[Iterator[pa.RecordBatch]]:
        """Return the batches of every run, keys ascending within each."""
        return [_read(path) for level in self._levels for path in level]

    def _keep(self, level: int, batches: Iterator[pa.RecordBatch]) -> None:
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(self._write(batches))
        if len(runs) == FAN_IN:
            self._keep(level + 1, _swept([_read(path) for path in runs], self._key, self._combine))
            for path in runs:
                path.unlink()
            runs.clear()

    def _write(self, batches: Iterator[pa.RecordBatch]) -> Path:
        """Write a run as packed rows, each with its length before it: their columns may differ from batch to batch."""
        path = self._scratch / f"run{self._written}"
        self._written += 1
        with path.open("wb") as file:
            for batch in batches:
                rows = max(1, batch.num_rows * self._piece // max(1, batch.nbytes))
                for first in range(0, batch.num_rows, rows):
                    packed = pack_rows(batch.slice(first, rows))
                    file.write(len(packed).to_bytes(8, "little"))
                    file.write(packed)
        return path


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a run."""
    with path.open("rb") as file:
        while head := file.read(8):
            yield unpack_rows(file.read(int.from_bytes(head, "little")))


class _Cursor:
    """Where the sweep is in one run: the rows of its current batch that are not taken yet."""

    def __init__(self, batches: Iterator[pa.RecordBatch], key: str) -> None:
        self._batches, self._key = batches, key
        self._batch: pa.RecordBatch | None = None
        self.keys: Array = np.empty(0, np.int64)
        self._load()

    def _load(self) -> None:
        self._batch = next((batch for batch in self._batches if batch.num_rows), None)
        if self._batch is not None:
            self.keys = self._batch[self._key].to_numpy()

    @property
    def ended(self) -> bool:
        """Whether all rows are taken."""
        return self._batch is None

    def take(self, horizon: np.generic) -> pa.RecordBatch:
        """Return the rows of the current batch up to the key `horizon`."""
        assert self._batch is not None
        count = int(np.searchsorted(self.keys, horizon, side="right"))
        part = self._batch.slice(0, count)
        if count == len(self.keys):
            self._load()
        else:
            self._batch, self.keys = self._batch.slice(count), self.keys[count:]
        return part


def _swept(runs: Iterable[Iterator[pa.RecordBatch]], key: str, combine: Combine) -> Iterator[pa.RecordBatch]:
    """Yield the rows of sorted runs, merged.

    No run has more rows of any key up to the smallest of the last keys in the current batches, so these are complete.
    """
    cursors = [cursor for cursor in (_Cursor(run, key) for run in runs) if not cursor.ended]
    while cursors:
        horizon = min(cursor.keys[-1] for cursor in cursors)
        parts = [cursor.take(horizon) for cursor in cursors if cursor.keys[0] <= horizon]
        yield parts[0] if len(parts) == 1 else combine(_together(parts))
        cursors = [cursor for cursor in cursors if not cursor.ended]

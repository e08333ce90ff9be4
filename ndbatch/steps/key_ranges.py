"""Rows of many blocks, brought together by a key without holding them all: split by ranges of the key on disk, then read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.remotes.base import Array

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 64 * 2**20
"""Rows that are held at a time, not compressed."""
SAMPLES = 1000
"""Keys looked at of each batch, to cut the keys into ranges of about equal weight."""


def by_key(rows: Iterable[pa.RecordBatch], key: str, scratch: Path, part_bytes: int = PART_BYTES) -> Iterator[pa.Table]:
    """Yield tables that hold all rows of a range of the integer column `key` each, the ranges in rising order.

    `rows` is iterated twice where it holds more than `part_bytes`; its batches share one schema. Within a table the rows
    stand in the order they came in. Files are written to `scratch` and removed again.
    """
    import pyarrow as pa

    held: list[Any] = []
    size, samples = 0, []
    for batch in rows:
        if batch.num_rows:
            size += batch.nbytes
            keys = _keys(batch, key)
            samples.append(np.sort(keys)[:: max(1, len(keys) // SAMPLES)])
            held = [*held, batch] if size <= part_bytes else []
    if not size:
        return
    if size <= part_bytes:
        yield pa.Table.from_batches(held)
        return
    cuts = _cuts(np.concatenate(samples), -(-size // part_bytes))
    yield from _read_back(_spill(rows, key, cuts, scratch))


def _keys(batch: pa.RecordBatch, key: str) -> Array:
    keys: Array = batch.column(key).to_numpy(zero_copy_only=False)
    return keys


def _cuts(samples: Array, parts: int) -> Array:
    """Return the first key of every range but the first: quantiles of the sample."""
    ordered = np.sort(samples)
    places = np.arange(1, parts) * len(ordered) // parts
    cuts: Array = np.unique(ordered[places])
    return cuts


def _spill(rows: Iterable[pa.RecordBatch], key: str, cuts: Array, scratch: Path) -> list[Path]:
    import pyarrow as pa

    paths = [scratch / f"part-{number}.arrow" for number in range(len(cuts) + 1)]
    writers: dict[int, Any] = {}
    try:
        for batch in rows:
            if not batch.num_rows:
                continue
            part = np.searchsorted(cuts, _keys(batch, key), side="right")
            for number in np.unique(part).tolist():
                if number not in writers:
                    writers[number] = pa.ipc.new_file(str(paths[number]), batch.schema)
                writers[number].write_batch(batch.filter(pa.array(part == number)))
    finally:
        for writer in writers.values():
            writer.close()
    return [paths[number] for number in sorted(writers)]


def _read_back(paths: list[Path]) -> Iterator[pa.Table]:
    import pyarrow as pa

    for path in paths:
        with pa.OSFile(str(path)) as source:
            yield pa.ipc.open_file(source).read_all()
        path.unlink()


def groups_of(keys: Array) -> tuple[Array, Array]:
    """Return the order that sorts `keys` (equal ones stay in order) and the place in it where each new key begins."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts: Array = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, np.int64)
    return order, starts

"""External merging by key: sorted, every row once, in bounded memory, for any limit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndbatch.steps import grouping
from ndbatch.steps.grouping import GATHERED, in_batches, merged_by_key


def combine(table: pa.Table) -> pa.RecordBatch:
    """Add up what belongs to a key; `more` is only in some batches."""
    keys, places = np.unique(table["key"].to_numpy(), return_inverse=True)
    made = {"key": keys}
    for name in set(table.column_names) - {"key"}:
        made[name] = np.zeros(len(keys), np.int64)
        np.add.at(made[name], places, table[name].fill_null(0).to_numpy())
    return pa.RecordBatch.from_pydict(made)


def batch(keys: np.ndarray, dtype: str = "uint64", **columns: np.ndarray) -> pa.RecordBatch:
    ones = {"count": np.ones(len(keys), np.int64)}
    return pa.RecordBatch.from_pydict({"key": np.asarray(keys, dtype), **ones, **columns})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([1, 2, 3, 50, 2**53 + 1, 2**53 + 2, 2**64 - 1]), max_size=6), max_size=90),
    st.sampled_from([1, 100, 400, 10**6]),
)
def test_every_key_once_ascending_with_all_its_rows(
    tmp_path_factory: pytest.TempPathFactory, keys: list[list[int]], limit: int
) -> None:
    rows = [batch(np.array(some, np.uint64)) for some in keys]
    found = list(merged_by_key(rows, "key", combine, tmp_path_factory.mktemp("runs"), limit))
    got = [
        (k, n) for part in found for k, n in zip(*(part[name].to_pylist() for name in ("key", "count")), strict=True)
    ]
    flat = [key for some in keys for key in some]
    assert got == [(key, flat.count(key)) for key in sorted(set(flat))]


def test_runs_are_merged_in_rounds_and_columns_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "FAN_IN", 4)
    random = np.random.default_rng(0)
    keys = [random.integers(-500, 500, 40) for _ in range(4 * 4 + 3)]
    rows = [
        batch(some, "int64", **({"more": np.ones(len(some), np.int64)} if number % 3 == 0 else {}))
        for number, some in enumerate(keys)
    ]
    parts = merged_by_key(rows, "key", combine, tmp_path, limit=640)
    found = pa.concat_tables([pa.Table.from_batches([part]) for part in parts], promote_options="default")
    expected, counts = np.unique(np.concatenate(keys), return_counts=True)
    np.testing.assert_array_equal(found["key"].to_numpy(), expected)
    np.testing.assert_array_equal(found["count"].to_numpy(), counts)
    thirds, more = np.unique(np.concatenate(keys[::3]), return_counts=True)
    np.testing.assert_array_equal(found["more"].fill_null(0).to_numpy()[np.searchsorted(expected, thirds)], more)
    # One run of the third level, and three of the first: what was merged is gone.
    assert len(list(tmp_path.iterdir())) == 4


def test_rows_of_one_key_never_pile_up(tmp_path: Path) -> None:
    """A body that is in every block is one row after each combination: nothing is spilled."""
    rows = (batch(np.array([7])) for _ in range(3 * GATHERED))
    found = list(merged_by_key(rows, "key", combine, tmp_path, limit=1 << 16))
    assert [part.to_pylist() for part in found] == [[{"key": 7, "count": 3 * GATHERED}]]
    assert not list(tmp_path.iterdir())


def test_memory_follows_the_limit_and_not_the_rows(tmp_path: Path) -> None:
    parts, each, limit = 64, 20_000, 1 << 20

    def rows() -> Iterator[pa.RecordBatch]:
        for part in range(parts):  # every other batch overlaps the one before
            yield batch(np.arange(each) + (part // 2 * 2) * each)

    before = pa.total_allocated_bytes()
    tracemalloc.start()
    count = largest = arrow = 0
    for part in merged_by_key(rows(), "key", combine, tmp_path, limit):
        count += part.num_rows
        largest = max(largest, part.nbytes)
        arrow = max(arrow, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == parts // 2 * each
    assert len(list(tmp_path.iterdir())) > 1
    assert largest <= 2 * limit
    # All rows are 20 MB.
    assert peak < 10 * limit
    assert arrow < 6 * limit


def test_batches_of_a_table_have_one_size() -> None:
    parts = [batch(np.arange(first, first + n)) for first, n in ((0, 3), (3, 0), (3, 9), (12, 1))]
    found = list(in_batches(parts, 4))
    assert [part.num_rows for part in found] == [4, 4, 4, 1]
    assert np.concatenate([part["key"].to_numpy() for part in found]).tolist() == list(range(13))
    assert list(in_batches([], 4)) == []

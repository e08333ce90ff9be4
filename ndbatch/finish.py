"""After the last block: tables are merged, single-writer files are written, targets are marked complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import Corrupt
from ndbatch.geometry import Box, Grid
from ndbatch.journal import Journal
from ndbatch.plan.model import ObjectsTarget, Plan, TableTarget, Target
from ndbatch.ramon.measured import id_column, objects_of
from ndbatch.ramon.model import Annotation, class_of
from ndbatch.remotes.base import Volume
from ndbatch.remotes.registry import create_volume, open_volume, store_class
from ndbatch.steps.payload import unpack_rows
from ndbatch.tables.writing import table_ending, write_batches
from ndbatch.verify.compare import digest_of
from ndbatch.worker.block import rows_key

if TYPE_CHECKING:
    import pyarrow as pa

OBJECTS = 5000
"""Rows that become objects at a time."""
SLAB_BYTES = 64 * 2**20
"""What is copied at a time from the staging volume into a file that only one process can write."""


def write_tables(plan: Plan, journal: Journal, complete: frozenset[int]) -> dict[str, int]:
    """Write the tables whose stage is complete; return their number of rows. What is there already stays as it is."""
    rows = {}
    for name, target in plan.tables.items():
        if target.stage not in complete:
            continue
        key = f"table:{name}"
        known = journal.get(key)
        if known is None or not target.path.exists():
            known = str(_write_table(plan, journal, target))
            journal.take_back({}, (), {key: known, f"digest:{name}": digest_of(target.path)})
        if target.objects is not None and journal.get(f"objects:{name}") is None:
            journal.set(f"objects:{name}", str(_store_objects(journal, target, target.objects)))
        rows[name] = int(known)
    return rows


def _store_objects(journal: Journal, target: TableTarget, objects: ObjectsTarget) -> int:
    """Store the rows of a table that was written as objects, and return how many they are.

    Begun again after a crash, it replaces what it stored before: ids are the rows' own, or are reserved once and kept in the
    journal before the first of them is used.
    """
    from pyarrow import parquet

    store, kind = objects.open(), class_of(objects.type)
    with parquet.ParquetFile(target.path) as file:
        count, first = file.metadata.num_rows, 0
        if id_column(file.schema_arrow.names) is None and count:
            key = f"ids:{target.name}"
            if journal.get(key) is None:
                journal.set(key, str(store.reserve(count).start))
            first = int(journal.get(key) or 0)

        def rows() -> Iterator[Annotation]:
            done = 0
            for batch in file.iter_batches(OBJECTS):
                yield from objects_of(batch, kind, first + done)
                done += batch.num_rows

        store.put(rows(), replace=True)
    return int(count)


class _Rows:
    """The rows of a table in block order, read from the journal each time they are iterated."""

    def __init__(self, plan: Plan, journal: Journal, target: TableTarget) -> None:
        self._source = (plan, journal, target)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        plan, journal, target = self._source
        grid = plan.blocks(plan.stages[target.stage])
        for _, payload in journal.payloads(target.stage, rows_key(target.step, target.role), grid):
            yield unpack_rows(payload)


def _write_table(plan: Plan, journal: Journal, target: TableTarget) -> int:
    """Merge the rows of all blocks and write the table under a temporary name, then rename it."""
    scratch = plan.directory / "scratch" / f"table-{target.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    operation = plan.steps[target.step].operation
    batches = operation.finish(target.role, _Rows(plan, journal, target), scratch)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    partial = target.path.with_name(f".{target.path.name}.partial")
    count = write_batches(partial, table_ending(target.path.name), batches)
    os.replace(partial, target.path)
    shutil.rmtree(scratch, ignore_errors=True)
    return count


def write_staged(plan: Plan, journal: Journal) -> None:
    """Copy staged volumes into the files that only one process can write: under a temporary name, then renamed."""
    files: dict[str, list[Target]] = {}
    for target in plan.targets.values():
        if target.staged is not None:
            files.setdefault(target.address.path, []).append(target)
    for together in files.values():
        due = [t for t in together if not (journal.get(f"written:{t.name}") and _exists(t))]
        if due and not _cleared(due):
            due = together
        for target in due:
            _write_whole(target)
            journal.set(f"written:{target.name}", "yes")


def _exists(target: Target) -> bool:
    return store_class(target.address.scheme).exists(target.address)


def _cleared(targets: list[Target]) -> bool:
    """Remove what an earlier writing left of `targets`, which are in one file; return False where that cannot be read, and
    is put aside with all that is in it."""
    try:
        for target in targets:
            store_class(target.address.scheme).delete(target.address)
    except Corrupt:
        path = Path(targets[0].address.path)
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        return False
    return True


def _write_whole(target: Target) -> None:
    path = Path(target.address.path)
    new_file = not path.exists()
    aside = replace(target.address, path=str(path.with_name(f".partial-{path.name}"))) if new_file else target.address
    store = store_class(aside.scheme)
    store.delete(aside)
    assert target.staged is not None
    staging, volume = open_volume(target.staged), create_volume(aside, target.spec)
    for block in _slabs(target):
        volume.write(block, staging.read(block))
    volume.close()
    if new_file:
        os.replace(aside.path, target.address.path)


def _slabs(target: Target) -> Iterator[Box]:
    """Yield whole slabs along the first axis, in order, each a whole number of chunks."""
    spec = target.spec
    plane = spec.domain.size // spec.shape[0] * spec.dtype.itemsize
    depth = max(1, SLAB_BYTES // max(1, plane) // spec.chunks[0]) * spec.chunks[0]
    for block in Grid.over(spec.domain, (depth, *spec.shape[1:])):
        yield block.core


def mark_complete(plan: Plan, journal: Journal, volumes: Mapping[str, Volume], provenance: Mapping[str, Any]) -> None:
    """Keep the provenance with every volume that was written, and say that it is whole.

    It is that of the session that first came here: blocks that are done again later leave the metadata as they were.
    """
    known = journal.get("provenance")
    if known is None:
        journal.set("provenance", json.dumps(provenance))
    else:
        provenance = json.loads(known)
    for name, target in plan.targets.items():
        if (
            not target.kept
            or target.address.option("level")
            or not store_class(target.address.scheme).abilities.attributes
        ):
            continue
        volume = open_volume(target.address) if target.staged else volumes[name]
        volume.set_attributes(
            {"run": plan.config.name, "fingerprint": plan.fingerprint, "complete": True, "provenance": dict(provenance)}
        )
        volume.note_run({**provenance, "inputs": [source.url for source in plan.sources.values()]})


def propagate(plan: Plan, volumes: Mapping[str, Volume]) -> None:
    """Have services make the coarser levels that were asked for, where they do so themselves; ends when they are there."""
    for name, target in plan.targets.items():
        if target.kept and target.create and target.spec.levels > 1 and volumes[name].abilities.propagates:
            volumes[name].propagate()


def tidy(plan: Plan) -> None:
    """Remove what was only needed on the way."""
    for folder in ("scratch", "staging"):
        shutil.rmtree(plan.directory / folder, ignore_errors=True)

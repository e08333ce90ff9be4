"""A worker reads the first block of its next batch while it computes the last one of this batch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.executors.local import ThreadsExecutor
from ndbatch.geometry import Block
from ndbatch.plan.make import make_plan
from ndbatch.ranges import Ranges
from ndbatch.worker import block as single
from ndbatch.worker.batch import BatchRunner
from ndbatch.worker.work import Batch, Work


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Return the work of a copy of six blocks of 8^3, into a volume that is there."""
    shape = (8, 16, 24)
    source = nb.create(f"{tmp_path}/image.zarr", shape=shape, dtype="uint8", chunks=(8, 8, 8), voxel_size=(1, 1, 1))
    source.write(source.domain, np.arange(source.domain.size, dtype=np.uint32).reshape(shape).astype(np.uint8))
    document = {
        "name": "copy",
        "inputs": {"image": "image.zarr"},
        "steps": [{"copy": {"input": "image", "output": "out"}}],
        "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 8, "y": 8, "x": 8}}},
        "blocks": {"z": 8, "y": 8, "x": 8},
        "cluster": {"kind": "threads", "workers": 1},
    }
    plan = make_plan(from_mapping(document, tmp_path))
    out = nb.create(f"{tmp_path}/out.zarr", like=source)
    return Work(plan.stages[0], plan.steps, plan.infos, {"image": source, "out": out}, plan.blocks(plan.stages[0]))


def batch(ticket: int, *blocks: int) -> Batch:
    return Batch(ticket, Ranges.of([np.array(blocks, np.int64)]))


def test_the_next_batch_is_read_while_this_one_is_computed(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {index: threading.Event() for index in range(6)}
    load, compute = single.load, single.compute
    computed: list[int] = []

    def loaded(work: Work, block: Block) -> object:
        patches = load(work, block)
        read[block.index].set()
        return patches

    def awaiting(work: Work, block: Block, patches: object, states: object) -> object:
        if block.index == 2:
            assert read[3].wait(180), "block 3, of the next batch, was not read while block 2 was computed"
        computed.append(block.index)
        return compute(work, block, patches, states)  # type: ignore[arg-type]

    monkeypatch.setattr(single, "load", loaded)
    monkeypatch.setattr(single, "compute", awaiting)
    runner = BatchRunner(work)
    following = batch(1, 3, 4)
    first = runner.run(batch(0, 1, 2), lambda: following)
    second = runner.run(following)
    runner.close()
    assert not first.faults
    assert not second.faults
    assert computed == [1, 2, 3, 4]
    assert [*first.receipts["block"], *second.receipts["block"]] == [1, 2, 3, 4]


def test_what_was_read_for_another_batch_is_not_taken(work: Work) -> None:
    """A batch that was announced need not come: another one reads its own blocks."""
    runner = BatchRunner(work)
    assert not runner.run(batch(0, 0), lambda: batch(1, 5)).faults
    assert not runner.run(batch(2, 1, 2)).faults
    assert not runner.run(batch(1, 5)).faults
    runner.close()
    image, out = (work.volumes[name] for name in ("image", "out"))
    for index in range(6):
        box = work.grid[index].core
        expected = image.read(box) if index in (0, 1, 2, 5) else np.zeros(box.shape, np.uint8)
        np.testing.assert_array_equal(out.read(box), expected)


def test_threads_do_every_batch_once(work: Work) -> None:
    with ThreadsExecutor(2) as executor:
        executor.begin(work)
        for ticket in range(6):
            executor.submit(batch(ticket, ticket))
        tickets: list[int] = []
        while len(tickets) < 6:
            replies = executor.wait(180)
            assert replies
            tickets += [reply.ticket for reply in replies]
    assert sorted(tickets) == list(range(6))
    np.testing.assert_array_equal(
        work.volumes["out"].read(work.grid.bounds), work.volumes["image"].read(work.grid.bounds)
    )

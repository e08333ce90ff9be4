"""A run directory as a run leaves it: a real journal, events, tables and volumes, small."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndbatch.events import BlockFailed, BlockRetried, BlocksDone, Counts, RunEnded, RunStarted, StageEnded, StageStarted
from ndbatch.geometry import Box, Grid
from ndbatch.journal import RECEIPT, Entry, Failure, Journal
from ndbatch.remotes.base import Array
from ndbatch.report.atomic import write_text
from ndbatch.report.eventlog import EventLog
from ndbatch.report.provenance import provenance

SHAPE = (24, 64, 80)
BLOCK = (24, 32, 40)
VOXEL = (0.5, 0.25, 0.25)


def receipts(blocks: Sequence[int], seconds: float = 0.1, waited: float = 0.0, stalled: float = 0.0) -> Array:
    """Return receipts whose computing takes `seconds`, a little longer with every block."""
    found = np.zeros(len(blocks), RECEIPT)
    found["block"] = blocks
    found["checksum"] = found["block"] * 7
    found["read"], found["write"] = 0.02, 0.01
    found["compute"] = seconds * (1 + found["block"] * 0.1)
    found["waited"], found["stalled"] = waited, stalled
    found["attempt"] = 1
    return found


def document(directory: Path, blocks: int = 4, **outputs: Any) -> dict[str, Any]:
    """Return a plan as `Plan.document` writes it."""
    grid = {**Grid.over(Box.of_shape(SHAPE), BLOCK).document(), "blocks": blocks}
    return {
        "name": "count-nuclei",
        "fingerprint": "0123456789abcdef",
        "identity": {},
        "axes": "zyx",
        "voxel_size": list(VOXEL),
        "region": {"start": [0, 0, 0], "stop": list(SHAPE)},
        "grid": grid,
        "executor": {"kind": "processes", "workers": 2, "memory_limit": 2**31},
        "inputs": {"image": entry(directory / "image.tif", "uint16", "image")},
        "outputs": outputs,
        "stages": [
            {"index": 0, "name": "nuclei: detect", "blocks": blocks, "grid": grid, "halo": [2, 8, 8], "what": ["nuclei"],
             "bytes_read": 10**6, "bytes_written": 0, "requests": 12, "memory": 10**8},
            {"index": 1, "name": "nuclei + measure", "blocks": blocks, "grid": grid, "halo": [2, 8, 8],
             "what": ["nuclei", "measure"],
             "bytes_read": 10**6, "bytes_written": 10**6, "requests": 12, "memory": 10**8},
        ],
        "warnings": ["the last block is small"],
    }  # fmt: skip


def entry(path: Path, dtype: str, kind: str) -> dict[str, Any]:
    """Return what a plan says of a volume."""
    return {"type": "volume", "url": str(path), "shape": list(SHAPE), "dtype": dtype, "kind": kind, "axes": "zyx",
            "chunks": list(BLOCK), "shards": None, "offset": [0, 0, 0], "voxel_size": list(VOXEL),
            "step": "nuclei"}  # fmt: skip


@pytest.fixture(scope="session")
def make_receipts() -> Callable[..., Array]:
    return receipts


@dataclass
class Specimen:
    """Balls of known place and size in noise: `image` uint16 and `labels` uint32, (z, y, x)."""

    image: Array
    labels: Array
    centres: Array
    radii: Array


@pytest.fixture(scope="session")
def specimen() -> Specimen:
    rng = np.random.default_rng(7)
    centres = np.array([(8, 12, 14), (12, 40, 20), (10, 20, 55), (15, 50, 62), (11, 30, 38)], float)
    radii = np.array([2.0, 2.4, 1.8, 2.2, 1.5])
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * VOXEL
    labels = np.zeros(SHAPE, np.uint32)
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
        labels[((grid - centre * VOXEL) ** 2).sum(-1) <= radius**2] = number
    image = (rng.normal(300, 30, SHAPE) + (labels > 0) * 900).clip(0).astype(np.uint16)
    return Specimen(image, labels, centres, radii)


def write_table(path: Path, centres: Array, volumes: Array) -> None:
    """Write a table of objects as the measure step names its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = len(centres)
    table = pa.table({
        "label": np.arange(1, number + 1, dtype=np.uint64),
        "voxels": np.maximum(1, volumes / np.prod(VOXEL)).astype(np.int64),
        "volume_um3": volumes,
        "z": centres[:, 0], "y": centres[:, 1], "x": centres[:, 2],
        "intensity_mean": 1200 + 100 * np.sin(np.arange(number)),
        "touches_border": np.zeros(number, bool),
    })  # fmt: skip
    pq.write_table(table, path)


@pytest.fixture
def run_directory(tmp_path: Path, specimen: Specimen) -> Callable[..., Path]:
    """Return a function that makes a run directory in a given state."""

    def make(status: str = "done", failed: Sequence[int] = (), labels: bool = True, table: bool = True) -> Path:
        import tifffile

        directory = tmp_path / f"run-{status}"
        directory.mkdir()
        tifffile.imwrite(directory / "image.tif", specimen.image)
        outputs: dict[str, Any] = {}
        if labels:
            tifffile.imwrite(directory / "labels.tif", specimen.labels)
            outputs["labels"] = entry(directory / "labels.tif", "uint32", "labels")
        if table:
            write_table(directory / "cells.parquet", specimen.centres, 4 / 3 * np.pi * specimen.radii**3)
            outputs["cells"] = {"type": "table", "step": "measure", "url": str(directory / "cells.parquet")}
        plan = document(directory, **outputs)
        write_text(directory / "plan.json", json.dumps(plan))
        write_text(directory / "provenance.json", json.dumps(provenance(plan)))
        (directory / "config.yaml").write_text(
            "name: count-nuclei\ninputs:\n  image: {url: image.tif, token: abc123}\n"
        )
        _journal(directory, plan, status, failed)
        _events(directory, plan, status, failed)
        return directory

    return make


def _journal(directory: Path, plan: dict[str, Any], status: str, failed: Sequence[int]) -> None:
    blocks = plan["grid"]["blocks"]
    good = [b for b in range(blocks) if b not in failed]
    lost = [Failure(1, b, "z: [0, 24], y: [0, 32]", 4, "StepError", "<b>bad & worse</b> value", "Traceback\n  <here>")
            for b in failed]  # fmt: skip
    with Journal.write(directory) as journal:
        journal.begin(plan)
        journal.record(Entry(0, receipts(range(blocks))))
        journal.set_facts(0, {"nuclei": {"nuclei": 5, "threshold": 812.5}})
        if status in ("interrupted", "running", "dead"):
            good = good[: len(good) // 2]
        journal.record(Entry(1, receipts(good, waited=0.4), failures=lost))
        if status not in ("running", "dead"):
            journal.end(status)


def _events(directory: Path, plan: dict[str, Any], status: str, failed: Sequence[int]) -> None:
    blocks = plan["grid"]["blocks"]
    voxels = int(np.prod(SHAPE))
    names = tuple(stage["name"] for stage in plan["stages"])
    with EventLog(directory / "events.jsonl") as log:
        log(RunStarted("count-nuclei", str(directory), "processes", 2, names, 2 * blocks))
        for index, name in enumerate(names):
            log(StageStarted(index, name, blocks, 0, voxels))
            log(BlockRetried(index, 1, 1, "timeout"))
            good = blocks - (len(failed) if index else 0)
            log(BlocksDone(index, good, voxels * good // blocks, 400_000, 200_000, 0.1, 0.4, 0.05, 0.1, 0.0, 0))
            if index:
                for block in failed:
                    log(BlockFailed(index, block, "z: [0, 24]", 4, "StepError", "bad"))
            log(StageEnded(index, name, Counts(blocks, good, failed=blocks - good), 0.6, {}))
        log(RunEnded(status, Counts(2 * blocks, 2 * blocks - len(failed), failed=len(failed)), 1.2))

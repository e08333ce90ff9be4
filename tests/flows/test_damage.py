"""Outputs that were damaged after they were written: found to the block, and mended to the byte, in every format."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import NdbatchError
from ndbatch.geometry import Box, Grid
from ndbatch.verify import check

from .conftest import files

SHAPE = (16, 16, 16)
BLOCK = {"z": 8, "y": 8, "x": 8}
GRID = Grid.over(Box.of_shape(SHAPE), (8, 8, 8))
METADATA = {"zarr.json", "info", "provenance", "attributes.json", ".zarray", ".zattrs", ".zgroup"}
SHARDED = {"chunks": {"z": 4, "y": 4, "x": 4}, "shards": BLOCK}
CHUNKED: dict[str, dict[str, Any]] = {
    "zarr v3": {"url": "out.zarr", "chunks": BLOCK},
    "zarr v3, shards": {"url": "out.zarr", **SHARDED},
    "zarr v2": {"url": "out.zarr?ome=0.4", "chunks": BLOCK},
    "N5": {"url": "out.n5", "chunks": BLOCK},
    "precomputed": {"url": "precomputed://out", "chunks": BLOCK},
    "precomputed, shards": {"url": "precomputed://out", **SHARDED},
}
WHOLE: dict[str, dict[str, Any]] = {
    "HDF5": {"url": "out.h5::/a/b"},
    "TIFF": {"url": "out.tif"},
    "npy": {"url": "out.npy"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = np.random.default_rng(3).integers(0, 3000, SHAPE, dtype="uint16")
    data[:8, :8, 8:] = 0
    volume = nb.create(tmp_path / "image.zarr", shape=SHAPE, dtype="uint16", chunks=(8, 8, 8), voxel_size=(1, 1, 1))
    volume.write(volume.domain, data)
    (tmp_path / "mine.py").write_text("def shift(image, by=1):\n    return image + by * (image > 0)\n")
    return tmp_path


def run(folder: Path, outputs: dict[str, Any], *steps: dict[str, Any], mend: bool = False) -> nb.Result:
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": list(steps) or [{"copy": {"input": "image", "output": "out"}}],
        "outputs": outputs,
        "blocks": BLOCK,
        "cluster": {"kind": "inline"},
    }
    return nb.run(from_mapping(document, folder), report=False, retry_damaged=mend)


def results(folder: Path) -> dict[Path, bytes]:
    """Return every file of the outputs."""
    own = {"config.yaml", "events.jsonl", "plan.json", "provenance.json", "proof.json", "run.lock", "run.log"}
    found = files(folder / "runs/job")
    return {p: data for p, data in found.items() if p.name not in own and not p.name.startswith("journal")}


def flip(path: Path, rng: random.Random, where: range | None = None) -> None:
    """Change one random bit of a file."""
    data = bytearray(path.read_bytes())
    place = rng.choice(where or range(len(data)))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def changed(url: str, whole: np.ndarray[Any, Any]) -> set[int]:
    """Return the blocks of a volume whose voxels are not those of `whole`, or cannot be read."""
    volume, result = nb.open(url), set()
    for block in GRID:
        try:
            same = np.array_equal(volume.read(block.core), whole[block.core.slices((0, 0, 0))])
        except NdbatchError:
            same = False
        if not same:
            result.add(block.index)
    volume.close()
    return result


@pytest.mark.parametrize("output", CHUNKED.values(), ids=CHUNKED)
def test_a_flipped_bit_of_a_chunk_is_found_and_its_block_alone_mended(folder: Path, output: dict[str, Any]) -> None:
    outputs = {"out": output}
    url = run(folder, outputs).outputs["out"]
    before, whole = results(folder), nb.open(url)[...]
    chunks = sorted(p for p in before if p.name not in METADATA)
    assert len(chunks) >= 7
    seen = 0
    for seed in range(6):
        rng = random.Random(seed)
        path = rng.choice(chunks)
        flip(path, rng)
        expected = changed(url, whole)
        assert {m.block for m in check(folder / "runs/job").mismatches} == expected
        assert len(expected) <= 1
        result = run(folder, outputs, mend=True)
        assert (result.status, result.counts.done) == ("done", len(expected))
        assert result.nothing_to_do == (not expected)
        assert check(folder / "runs/job").ok
        if not expected:  # the bit meant nothing, such as one in the head of a compressed chunk
            path.write_bytes(before[path])
        assert results(folder) == before
        seen += len(expected)
    assert seen >= 4


@pytest.mark.parametrize("output", WHOLE.values(), ids=WHOLE)
def test_a_flipped_bit_of_a_file_written_whole_is_mended(folder: Path, output: dict[str, Any]) -> None:
    outputs = {"out": output}
    url = run(folder, outputs).outputs["out"]
    (path,) = results(folder)
    before, whole = results(folder), nb.open(url)[...]
    start = before[path].find(whole[8:].tobytes()[:32])
    for seed in range(4):
        rng = random.Random(seed)
        flip(path, rng, range(start, start + 1000) if start > 0 else None)
        expected = changed(url, whole)
        found = check(folder / "runs/job")
        assert {m.block for m in found.mismatches} == expected
        result = run(folder, outputs, mend=True)
        assert (result.status, result.counts.done) == ("done", len(expected))
        assert check(folder / "runs/job").ok
        if not expected:
            path.write_bytes(before[path])
        assert results(folder) == before


@pytest.mark.parametrize("output", WHOLE.values(), ids=WHOLE)
def test_a_file_written_whole_that_cannot_be_opened_or_is_gone_is_made_again(
    folder: Path, output: dict[str, Any]
) -> None:
    outputs = {"out": output}
    run(folder, outputs)
    (path,) = results(folder)
    before = results(folder)
    for harm in (b"", before[path][: len(before[path]) // 3], None):
        path.write_bytes(harm) if harm is not None else path.unlink()
        assert not check(folder / "runs/job").ok
        assert run(folder, outputs, mend=True).counts.done == 8
        path.with_name(f"{path.name}.damaged").unlink(missing_ok=True)
        assert check(folder / "runs/job").ok
        assert results(folder) == before

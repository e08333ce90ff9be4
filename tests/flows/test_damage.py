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
from ndbatch.journal import Journal
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
    data = np.random.default_rng(3).integers(0, 300, SHAPE, dtype="uint16")
    for start in (1, 6, 11):
        data[start : start + 3, start : start + 4, 12 - start : 15 - start] += 2000
    data[:8, :8, 8:] = 0
    volume = nb.create(tmp_path / "image.zarr", shape=SHAPE, dtype="uint16", chunks=(8, 8, 8), voxel_size=(1, 1, 1))
    volume.write(volume.domain, data)
    (tmp_path / "mine.py").write_text("def shift(image):\n    return (image + (image > 0)).astype(image.dtype)\n")
    return tmp_path


def run(
    folder: Path, outputs: dict[str, Any], *steps: dict[str, Any], mend: bool = False, fresh: bool = False, **more: Any
) -> nb.Result:
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": list(steps) or [{"copy": {"input": "image", "output": "out"}}],
        "outputs": outputs,
        "blocks": BLOCK,
        "cluster": {"kind": "inline"},
        **more,
    }
    return nb.run(from_mapping(document, folder), report=False, retry_damaged=mend, fresh=fresh)


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
    for seed in range(4):
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
    assert seen >= 2


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


def test_levels_are_mended_from_a_sound_level_0_and_stay_those_of_it(folder: Path) -> None:
    """Level 1 is made in the same look at a block as level 0, level 2 in a look of its own."""
    outputs = {"out": {"url": "out.zarr", "chunks": {"z": 4, "y": 4, "x": 4}, "pyramid": {"levels": 2}}}
    run(folder, outputs)
    before = results(folder)
    chunks = [sorted(p for p in before if p.parts[-5:-3] == (str(level), "c"))[0] for level in range(3)]
    with Journal.read(folder / "runs/job") as journal:
        assert [stage["stores"] for stage in journal.document["stages"]] == [["out", "out@1"], ["out@2"]]
    for harmed, blocks in ((chunks[:1], 1), (chunks[1:2], 1), (chunks[2:], 1), (chunks, 2)):
        for chunk in harmed:
            chunk.unlink()
        assert len(check(folder / "runs/job").mismatches) == blocks
        assert run(folder, outputs, mend=True).counts.done == blocks
        assert results(folder) == before


SHIFT = {"mine:shift": {"input": "image", "output": "shifted"}}
PARTS = (
    SHIFT,
    {"threshold": {"input": "shifted", "method": "otsu", "output": "mask"}},
    {"components": {"input": "mask", "output": "parts"}},
    {"measure": {"labels": "parts", "intensity": "shifted", "output": "cells"}},
)


def test_what_was_stored_on_the_way_is_made_again_where_it_is_needed(folder: Path) -> None:
    """The array of a user's function is gone when the run is over; ids of components stay the same."""
    outputs = {"parts": {"url": "parts.zarr", "chunks": BLOCK}, "cells": "cells.csv"}
    run(folder, outputs, *PARTS)
    assert run(folder, outputs, *PARTS).nothing_to_do
    before = results(folder)
    assert not (folder / "runs/job/scratch").exists()
    assert len(before[folder / "runs/job/cells.csv"].splitlines()) > 2
    chunks = sorted(p for p in before if p.parts[-5:-3] == ("0", "c"))
    chunks[2].write_bytes(b"harm")
    (mismatch,) = check(folder / "runs/job").mismatches
    result = run(folder, outputs, *PARTS, mend=True)
    with Journal.read(folder / "runs/job") as journal:
        stages = [stage["stores"] for stage in journal.document["stages"]]
        assert journal.mending is None
    assert ["shifted"] in stages
    assert result.counts.done == 2, "the block, and the same block of the array that it is made of"
    assert results(folder) == before
    assert check(folder / "runs/job").ok
    assert not (folder / "runs/job/scratch").exists()
    assert mismatch.block in range(8)


def test_what_was_made_of_damaged_voxels_before_the_run_was_over_is_made_again(folder: Path) -> None:
    """Level 2 is made of level 1 as it is stored; the run stops before it, and level 1 is damaged then."""
    (folder / "late.py").write_text(
        "from pathlib import Path\n\n\ndef late(image, block, mark):\n"
        "    if block.index == 7 and not Path(mark).exists():\n        raise ValueError('not yet')\n    return image\n"
    )
    step = {"late:late": {"input": "parts", "output": "last", "parameters": {"mark": str(folder / "mark")}}}
    outputs = {name: {"url": f"{name}.zarr", "chunks": BLOCK} for name in ("shifted", "mask", "parts", "last")}
    steps = (*PARTS[:3], step)
    assert run(folder, outputs, *steps).status == "failed"
    sound = nb.open(folder / "runs/job/shifted.zarr")[...]
    nb.open(folder / "runs/job/shifted.zarr").write(GRID[0].core, np.full((8, 8, 8), 60000, "uint16"))
    (folder / "mark").touch()
    result = run(folder, outputs, *steps, mend=True)
    assert result.status == "done"
    assert result.counts.done > 2, "what had been made of that block is not trusted"
    assert np.array_equal(nb.open(folder / "runs/job/shifted.zarr")[...], sound)
    assert check(folder / "runs/job").ok


@pytest.mark.parametrize("name", ["cells.parquet", "cells.csv"])
def test_a_damaged_table_is_found_and_written_anew(folder: Path, name: str) -> None:
    outputs = {"parts": {"url": "parts.zarr", "chunks": BLOCK}, "cells": name}
    run(folder, outputs, *PARTS)
    before, path = results(folder), folder / "runs/job" / name
    for harm in (lambda: flip(path, random.Random(1)), path.unlink):
        harm()
        found = check(folder / "runs/job")
        assert ([table.name for table in found.tables], found.mismatches, found.ok) == (["cells"], (), False)
        result = run(folder, outputs, *PARTS, mend=True)
        assert (result.counts.done, result.rows["cells"] > 1, result.nothing_to_do) == (0, True, False)
        assert results(folder) == before
        assert check(folder / "runs/job").ok


@pytest.mark.parametrize(("output", "name"), [(CHUNKED["zarr v3"], "0/zarr.json"), (CHUNKED["precomputed"], "info")])
def test_damaged_metadata_are_told_and_nothing_is_done_again(folder: Path, output: dict[str, Any], name: str) -> None:
    run(folder, {"out": output})
    before = results(folder)
    path = next(p for p in before if p.as_posix().endswith(name))
    for harm in (
        before[path][:40],
        before[path].replace(b"uint16", b"uint32"),
        before[path].replace(b"uint16", b"uint17"),
    ):
        path.write_bytes(harm)
        found = check(folder / "runs/job")
        assert [m.block for m in found.mismatches] == [-1]
        with pytest.raises(NdbatchError, match="bring its metadata back from a copy, or start over with --fresh"):
            run(folder, {"out": output}, mend=True)
    path.write_bytes(before[path])
    assert run(folder, {"out": output}, mend=True).nothing_to_do
    assert results(folder) == before


def test_blocks_that_needed_no_writing_are_written_where_something_else_stands_now(folder: Path) -> None:
    step = {"copy": {"input": "image", "output": "out", "skip": "empty"}}
    outputs = {"out": {"url": "out.zarr", "chunks": BLOCK}}
    url = run(folder, outputs, step).outputs["out"]
    before = results(folder)
    volume = nb.open(url)
    assert not volume.read(GRID[1].core).any()
    volume.write(GRID[1].core, np.ones((8, 8, 8), "uint16"))
    assert run(folder, outputs, step, mend=True).counts.done == 1
    assert results(folder) == before


@pytest.mark.parametrize("service", ["ndstore", "boss"])
def test_a_damaged_block_in_a_service_is_mended_or_told(folder: Path, service: str, tmp_path: Path) -> None:
    from ndbatch.testing.serving import serving

    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as (host, _):
        place = {"ndstore": "{}/main/out", "boss": "{}/lab/exp/out"}[service].format(host.removeprefix("http://"))
        outputs = {
            "out": {
                "url": f"{service}://{place}",
            }
        }
        url = run(folder, outputs, blocks="auto").outputs["out"]
        whole = nb.open(url)[...]
        with Journal.read(folder / "runs/job") as journal:
            blocks = Grid.described(journal.document["stages"][0]["grid"])
        core = blocks[0].core
        nb.open(url).write(core, np.where(whole[core.slices((0, 0, 0))] > 0, 7, 0).astype("uint16"))
        assert [m.block for m in check(folder / "runs/job").mismatches] == [0]
        assert run(folder, outputs, mend=True, blocks="auto").counts.done == 1
        assert np.array_equal(nb.open(url)[...], whole)
        assert check(folder / "runs/job").ok
        nb.open(url).write(core, np.full(core.shape, 9, "uint16"))  # old voxels stay under the zeros that are due
        assert not whole[core.slices((0, 0, 0))].all()
        with pytest.raises(NdbatchError, match=r"done again and are still not as they were written.*--fresh"):
            run(folder, outputs, mend=True, blocks="auto")
        assert not check(folder / "runs/job").ok


def test_a_journal_that_is_gone_is_told_and_made_anew_from_the_outputs(folder: Path) -> None:
    run(folder, {"out": "out.zarr"})
    directory, whole = folder / "runs/job", nb.open(folder / "runs/job/out.zarr")[...]
    (directory / "journal.sqlite").unlink()
    for again in (lambda: run(folder, {"out": "out.zarr"}), lambda: check(directory), lambda: Journal.read(directory)):
        with pytest.raises(NdbatchError, match=r"journal of the run in .* is gone.*check .* --rebuild.*--fresh"):
            again()
    assert check(directory, rebuild=True).proven == 8
    assert run(folder, {"out": "out.zarr"}).nothing_to_do
    (directory / "journal.sqlite").unlink()
    assert run(folder, {"out": "out.zarr"}, fresh=True).counts.done == 8
    assert np.array_equal(nb.open(directory / "out.zarr")[...], whole)


def test_there_must_be_a_run(folder: Path) -> None:
    with pytest.raises(NdbatchError, match="holds no run yet; start it with: ndbatch run"):
        run(folder, {"out": "out.zarr"}, mend=True)
    assert not (folder / "runs").exists()


def test_damaged_objects_in_a_bucket_are_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    serving = server.ThreadedMotoServer(port=0, ip_address="127.0.0.1", verbose=False)
    serving.start()
    try:
        endpoint = "http://{}:{}".format(*serving.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="made")
        outputs = {"out": {"url": f"zarr://s3://made/out.zarr?endpoint={endpoint}", "chunks": BLOCK}}
        run(folder, outputs)
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="made")["Contents"]]
        before = {key: client.get_object(Bucket="made", Key=key)["Body"].read() for key in keys}
        chunks = [key for key in keys if "/c/" in key]
        client.put_object(Bucket="made", Key=chunks[0], Body=before[chunks[0]][:-5])
        client.delete_object(Bucket="made", Key=chunks[3])
        assert len(check(folder / "runs/job").mismatches) == 2
        assert run(folder, outputs, mend=True).counts.done == 2
        assert {key: client.get_object(Bucket="made", Key=key)["Body"].read() for key in keys} == before
    finally:
        serving.stop()


def test_a_retry_that_is_killed_is_gone_on_with(folder: Path) -> None:
    """Receipts are taken back in one step; what comes after it is a run like any other."""
    outputs = {"out": WHOLE["npy"]}
    run(folder, outputs, blocks="auto")
    (path,) = results(folder)
    before = results(folder)
    flip(path, random.Random(0), range(1000, len(before[path])))
    with Journal.write(folder / "runs/job") as journal:
        from ndbatch.verify.checking import inspect
        from ndbatch.verify.mend import take_back

        found = inspect(journal, folder / "runs/job")
        take_back(journal, journal.document, folder / "runs/job", found.mismatches, found.tables)
        assert journal.mending is not None
    assert run(folder, outputs, blocks="auto").counts.done == 1
    assert results(folder) == before

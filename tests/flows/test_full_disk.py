"""A full or read-only disk under an output, the journal, a table, the report: told in a sentence, and nothing is lost.

After space is made the same command goes on, and every byte is that of a run that was never disturbed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import from_mapping
from ndbatch.errors import Denied, NdbatchError, RemoteError
from ndbatch.journal import Journal
from ndbatch.report.status import status_lines
from ndbatch.steps.scratch import scratch_array
from ndbatch.verify import check

from .full_disk import Disk, small_disk

SHAPE = (16, 64, 64)
CHUNKS = {"z": 8, "y": 32, "x": 32}
ROOM = re.compile(r"no room to write.*free some space")


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with image.zarr: noise, with bright voxels that make many small components."""
    folder = tmp_path_factory.mktemp("full")
    random = np.random.default_rng(3)
    data = random.integers(0, 20000, SHAPE, dtype="uint16") + (random.random(SHAPE) > 0.9) * np.uint16(40000)
    volume = nb.create(folder / "image.zarr", shape=SHAPE, dtype="uint16", chunks=(8, 32, 32), voxel_size=(1, 1, 1))
    volume.write(volume.domain, data)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def job(top: Path, work: Path, outputs: Path, out: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the job: a filtered volume as `out` says, components, a table; records in `work`, results in `outputs`."""
    table = changes.pop("table", "parts.parquet")
    return {
        "name": "job",
        "directory": str(work),
        "inputs": {"image": str(top / "image.zarr")},
        "steps": [
            {"filter": {"input": "image", "sigma": 1, "output": "out"}},
            {"threshold": {"input": "image", "value": 30000, "output": "mask"}},
            {"components": {"input": "mask", "output": "parts"}},
            {"measure": {"labels": "parts", "output": "table"}},
        ],
        "outputs": {
            "out": {"dtype": "uint16", **out, "url": out["url"].replace("DISK", str(outputs))},
            "parts": {"url": str(outputs / "parts.zarr"), "chunks": CHUNKS},
            "table": str(outputs / table),
        },
        "blocks": CHUNKS,
        "cluster": {"kind": "inline"},
        **changes,
    }


def start(document: dict[str, Any], *, report: bool = False) -> nb.Result:
    return nb.run(from_mapping(document, Path(document["directory"]).parent), report=report)


def words(document: dict[str, Any]) -> str:
    """Run; return the sentence it ends with, or those of its failed blocks, or nothing where it did all."""
    try:
        result = start(document)
    except NdbatchError as error:
        return error.message
    if result.status == "done":
        return ""
    assert result.exit_code == 1
    with Journal.read(Path(document["directory"])) as journal:
        assert result.counts.failed == len(journal.failures()) > 0
        return " ".join({failure.error for failure in journal.failures()})


def contents(folder: Path) -> dict[str, bytes]:
    """Return what every file of results holds, but for what tells when and where it was made."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith("work/") and path.name not in ("filler", "provenance"):
            found[name] = _content(path)
    return found


def _content(path: Path) -> bytes:
    if path.suffix in (".h5", ".tif"):
        voxels: bytes = nb.open(path)[...].tobytes()
        return voxels
    data = path.read_bytes()
    if path.suffix == ".json" or path.name == "info":
        document = json.loads(data)
        for key in ("provenance", "fingerprint"):  # the fingerprint holds the address
            _drop(document, key)
        return json.dumps(document, sort_keys=True).encode()
    return data


def _drop(document: object, key: str) -> None:
    if isinstance(document, dict):
        document.pop(key, None)
        for value in document.values():
            _drop(value, key)


OUTPUTS: dict[str, dict[str, Any]] = {
    "zarr": {"url": "DISK/out.zarr", "chunks": CHUNKS},
    "sharded": {"url": "DISK/out.zarr", "chunks": {"z": 8, "y": 16, "x": 16}, "shards": CHUNKS},
    "pyramid": {"url": "DISK/out.zarr", "chunks": {"z": 4, "y": 16, "x": 16}, "pyramid": {"levels": 2}},
    "precomputed": {"url": "precomputed://DISK/out", "chunks": CHUNKS},
    "hdf5": {"url": "DISK/out.h5", "chunks": CHUNKS},
    "tiff": {"url": "DISK/out.tif"},
}


@pytest.fixture(scope="module")
def whole(top: Path) -> dict[str, dict[str, bytes]]:
    """What undisturbed runs make, by kind of output."""
    found: dict[str, dict[str, bytes]] = {}
    for kind, out in list(OUTPUTS.items())[1:]:
        place = top / kind
        assert start(job(top, place / "work", place, out)).status == "done"
        found[kind] = contents(place)
        assert len(found[kind]) > 2
    return found


@pytest.mark.parametrize("kind", list(OUTPUTS)[1:])
def test_a_full_disk_under_the_outputs(
    disk: Disk, tmp_path: Path, top: Path, whole: dict[str, dict[str, bytes]], kind: str
) -> None:
    document = job(top, tmp_path / "work", disk.path, OUTPUTS[kind])
    told = []
    for room in (0, 60, 150, 250):
        disk.fill(room)
        told.append(words(document))
        if Journal.exists(tmp_path / "work"):  # what has a receipt is there, whole
            assert check(tmp_path / "work").ok
        disk.free()
    assert ROOM.search(told[0]), told
    assert sum(bool(text) for text in told) > 1
    assert all(ROOM.search(text) for text in told if text), told
    assert words(document) == ""
    assert contents(disk.path) == whole[kind]


def test_a_full_disk_under_the_journal(
    disk: Disk, tmp_path: Path, top: Path, whole: dict[str, dict[str, bytes]]
) -> None:
    """It is full when the journal is made, when a batch is recorded, when passes are reduced, when the table is merged."""
    work, outputs = disk.path / "work", tmp_path / "results"
    document = job(top, work, outputs, OUTPUTS["hdf5"])
    told = []
    for room in (0, 12, 40, 72, 100, 130, 200, 260, 320, 400):
        disk.fill(room)
        told.append(words(document))
        disk.free()
    assert sum(bool(text) for text in told) > 4
    assert all(ROOM.search(text) for text in told if text), told
    assert words(document) == ""
    assert contents(outputs) == whole["hdf5"]
    assert not list(work.glob(".*"))


@pytest.mark.parametrize("table", ["parts.parquet", "parts.csv"])
def test_a_full_disk_under_a_table(disk: Disk, tmp_path: Path, top: Path, table: str) -> None:
    document = job(top, tmp_path / "work", tmp_path / "results", OUTPUTS["zarr"], table=str(disk.path / table))
    disk.fill(0)
    assert ROOM.search(words(document))
    disk.free()
    assert words(document) == ""
    again = job(top, tmp_path / "again", tmp_path / "others", OUTPUTS["zarr"], table=table)
    assert words(again) == ""
    assert (disk.path / table).read_bytes() == (tmp_path / "others" / table).read_bytes()
    assert [path.name for path in disk.path.iterdir()] == [table]


def test_a_full_disk_under_the_report(disk: Disk, tmp_path: Path, top: Path) -> None:
    """The work is done and stays done; the next run writes the report."""
    document = job(top, disk.path / "work", tmp_path / "results", OUTPUTS["zarr"])
    document["steps"], document["outputs"] = document["steps"][:1], {"out": document["outputs"]["out"]}

    def fill(event: events.Event) -> None:
        if isinstance(event, events.RunEnded):
            disk.fill(0)

    with pytest.raises(RemoteError, match=r"job is done, but its report cannot be written: .*no room.*free some space"):
        nb.run(from_mapping(document, tmp_path), observers=[fill])
    disk.free()
    result = start(document, report=True)
    assert result.nothing_to_do
    assert result.report is not None
    assert "</html>" in result.report.read_text()


def test_a_read_only_disk(disk: Disk, tmp_path: Path, top: Path) -> None:
    """Nothing can be written under the run directory, or under the outputs: told before the first block, and reading goes on."""
    inside = job(top, disk.path / "work", tmp_path / "results", OUTPUTS["zarr"])
    outside = job(top, tmp_path / "work", disk.path / "results", OUTPUTS["zarr"])
    (disk.path / "results").mkdir()
    for document in (inside, outside):
        with disk.read_only(), pytest.raises(Denied, match=r"[Rr]ead-only file system.*choose another (place|path)"):
            start(document)
        assert words(document) == ""
        with disk.read_only():
            assert check(Path(document["directory"])).ok
            with Journal.read(Path(document["directory"])) as journal:
                assert status_lines(journal)[0] == "job: done"


def test_a_journal_killed_on_a_disk_that_is_read_only_now(disk: Disk, top: Path, tmp_path: Path) -> None:
    """What is in the log alone cannot be read without writing: told, not read as less than there is."""
    work = disk.path / "work"
    document = job(top, work, tmp_path / "results", OUTPUTS["zarr"])
    assert words(document) == ""
    with Journal.write(work) as journal:
        journal.set("mark", "later")
        copies = {name: (work / name).read_bytes() for name in ("journal.sqlite", "journal.sqlite-wal")}
    for name, data in copies.items():
        (work / name).write_bytes(data)
    with disk.read_only(), pytest.raises(Denied, match=r"journal\.sqlite cannot be opened or written"):
        Journal.read(work)
    with Journal.read(work) as journal:
        assert journal.get("mark") == "later"


def test_arrays_of_passes_take_their_room_at_once(disk: Disk) -> None:
    """A page of a mapped file that finds no room ends the process without a word; so the room is there before, or told."""
    disk.fill(40)
    with pytest.raises(OSError, match=r"No space left on device: .*values"):
        scratch_array(disk.path / "values", "uint64", (20_000,))
    disk.free()
    made = scratch_array(disk.path / "values", "uint64", (20_000,))
    disk.fill(0)
    made[:] = np.arange(20_000)
    assert int(made.sum()) == sum(range(20_000))

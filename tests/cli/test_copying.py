"""ndbatch copy: every option from the command line, resumed, told, and refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.remotes.base import Array

if TYPE_CHECKING:
    from conftest import Command

SIZE = {"z": "1 um", "y": "0.5 um", "x": "0.5 um"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    """The voxels of a.zarr in the current folder; the upper half along z is empty."""
    monkeypatch.chdir(tmp_path)
    voxels = np.random.default_rng(0).integers(1, 255, (16, 24, 20), np.uint8)
    voxels[8:] = 0
    volume = nb.create("a.zarr", shape=voxels.shape, dtype="uint8", voxel_size=SIZE, chunks=(8, 8, 8), offset=(3, 0, 0))
    volume.write(volume.domain, voxels)
    return voxels


def test_format_part_and_axes(data: Array, ndbatch: Command) -> None:
    words = ["--region", "z=4:12,y=3um:10um", "--transpose", "xzy", "--flip", "x", "--pad", "z=1", "--fill", "9"]
    # Positions and lengths are those of the transposed volume: z was x, y was z.
    done = ndbatch("copy", "a.zarr", "b.h5", *words, "--offset", "z=0,y=0", "--workers", 1, "-q")
    assert done.code == 0, done.err
    copied = nb.open("b.h5")
    turned = data.transpose(2, 0, 1)[4:12, :, ::-1]
    expected = np.pad(turned[:, :7], ((1, 1), (0, 0), (0, 0)), constant_values=9)
    assert copied.offset == (0, 0, 0)
    assert np.array_equal(copied[...], expected)


def test_views_are_written_in_python_as_open_takes_them(data: Array) -> None:
    nb.copy("a.zarr", "b.zarr", flip="z,y", crop={"x": (4, 12)}, cluster="inline")
    assert np.array_equal(nb.open("b.zarr")[...], nb.open("a.zarr", flip="z,y", crop={"x": (4, 12)})[...])


def test_type_chunks_and_shards(data: Array, ndbatch: Command) -> None:
    words = ["--dtype", "uint16", "--chunks", "z=4,y=8,x=8", "--shards", "z=8,y=16,x=16", "--kind", "labels"]
    assert ndbatch("copy", "a.zarr", "b.zarr", *words, "--workers", 1, "-q").code == 0
    copied = nb.open("b.zarr")
    assert (copied.dtype, copied.chunks, copied.spec.shards) == (np.dtype("uint16"), (4, 8, 8), (8, 16, 16))
    assert (copied.kind, copied.offset) == ("labels", (3, 0, 0))
    assert copied.voxel_size == nb.open("a.zarr").voxel_size
    assert np.array_equal(copied[...], data)


def test_another_voxel_size(data: Array, ndbatch: Command) -> None:
    words = ["--resample", "nearest", "--voxel-size", "z=1um,y=1um,x=500nm"]
    assert ndbatch("copy", "a.zarr", "b.zarr", *words, "--workers", 1, "-q").code == 0
    assert np.array_equal(nb.open("b.zarr")[...], data[:, 1::2])


def test_it_goes_on_and_its_record_can_be_run(data: Array, ndbatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ndbatch("copy", "a.zarr", "b.zarr", "--workers", 1, "-q")
    assert "done, " in first.out
    again = ndbatch("copy", "a.zarr", "b.zarr", "--workers", 1, "-q")
    assert (again.code, "everything was done before" in again.out) == (0, True)
    (record,) = Path("runs").glob("copy-b-*/config.yaml")
    record = record.resolve()
    monkeypatch.chdir("/")
    assert "everything was done before" in ndbatch("run", record, "-q").out
    assert ndbatch("check", record.parent).code == 0


def test_a_changed_copy_starts_over_where_told(data: Array, ndbatch: Command) -> None:
    assert ndbatch("copy", "a.zarr", "b.zarr", "--workers", 1, "-q").code == 0
    refused = ndbatch("copy", "a.zarr", "b.zarr", "--flip", "z", "--workers", 1, "-q")
    assert refused.code == 2
    assert "was begun with something else" in refused.err
    assert ndbatch("copy", "a.zarr", "b.zarr", "--flip", "z", "--workers", 1, "-q", "--fresh").code == 0
    assert np.array_equal(nb.open("b.zarr")[...], data[::-1])


@pytest.mark.parametrize(("rule", "left"), [("empty", 1), ("identical", 1)])
def test_blocks_that_need_no_writing(data: Array, ndbatch: Command, rule: str, left: int) -> None:
    Path("job.yaml").write_text(
        f"inputs: {{a: a.zarr}}\nsteps: [copy: {{input: a, output: b, skip: {rule}}}]\n"
        f"outputs: {{b: {Path.cwd()}/b.zarr}}\nblocks: {{z: 8, y: 24, x: 20}}\ncluster: {{kind: inline}}\n"
    )
    done = ndbatch("run", "job.yaml", "-q")
    assert done.code == 0, done.err
    assert f"blocks not written: {left}" in done.out
    assert np.array_equal(nb.open("b.zarr")[...], data)
    assert ndbatch("check", "job.yaml").code == 0


def test_updating_what_is_there(data: Array, ndbatch: Command) -> None:
    assert ndbatch("copy", "a.zarr", "b.zarr", "--workers", 1, "-q").code == 0
    volume = nb.open("a.zarr")
    volume.write(volume.domain, data + 1)
    words = ["a.zarr", "b.zarr", "--update", "--workers", 1, "--directory", "runs/second", "--json", "-q"]
    refused = ndbatch("copy", *words, "--skip", "empty")
    assert (refused.code, "would leave the old voxels" in refused.err) == (2, True)
    done = ndbatch("copy", *words, "--skip", "identical")
    assert done.code == 0, done.err
    assert json.loads(done.out)["status"] == "done"
    assert np.array_equal(nb.open("b.zarr")[...], data + 1)


def test_a_volume_is_not_copied_onto_itself(data: Array, ndbatch: Command) -> None:
    refused = ndbatch("copy", "a.zarr", "a.zarr", "--flip", "z", "--update", "--workers", 1, "-q")
    assert refused.code == 2
    assert "is the input source already" in refused.err
    assert np.array_equal(nb.open("a.zarr")[...], data)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--region", "64"], "--region 64: name the axis, such as --region z=..."),
        (["--region", "z=3"], "write two numbers, such as --region z=2:64"),
        (["--region", "z=0:99"], "crop z: [0, 99) is not inside the volume, which is [3, 19)"),
        (["--chunks", "z=many"], "write whole numbers, such as --chunks z=64"),
        (["--flip", "w"], "'w' is not an axis"),
        (["--resample", "linear"], "--resample and --voxel-size go together"),
        (["--offset", "t=3"], "--offset names an axis that a.zarr lacks; its axes are z, y, x"),
        (["--offset", "z=3", "--resample", "linear", "--voxel-size", "z=1"], "do not go together"),
        (["--pad", "z=1um"], "write two numbers, such as --pad"),
        (["--dtype", "complex"], "is not a type of voxels"),
    ],
)
def test_mistakes_are_told(data: Array, ndbatch: Command, words: list[str], sentence: str) -> None:
    refused = ndbatch("copy", "a.zarr", "b.zarr", *words)
    assert refused.code == 2
    assert sentence in refused.err
    assert not Path("b.zarr").exists()

"""ls, info and rm, on this machine and in a bucket."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import ndbatch as nb
from ndbatch.testing.servers import s3_server
from tests.cli.conftest import Command


class Typed(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    size = {"z": 2.0, "y": 1.0, "x": 1.0}
    nb.create("a/cells.zarr", shape=(4, 6, 8), voxel_size=size, dtype="uint16").set_attributes({"mouse": 7})
    nb.create("a/cells.zarr?level=1", shape=(2, 3, 4), dtype="uint16", voxel_size={"z": 4, "y": 2, "x": 2})
    nb.create("precomputed://layer", shape=(4, 6, 8), kind="labels", dtype="uint64")
    return tmp_path


def test_ls(lab: Path, ndbatch: Command) -> None:
    done = ndbatch("ls")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0][:2] == ["name", "format"]
    assert rows[1] == ["a/cells.zarr", "zarr", "z=4", "y=6", "x=8", "uint16", "image", "2", "z=2", "y=1", "x=1"]
    assert rows[2] == ["layer", "precomputed", "z=4", "y=6", "x=8", "uint64", "labels", "1", "-"]
    document = json.loads(ndbatch("ls", ".", "--json").out)
    assert document["volumes"][0]["voxel_size"] == {"z": 2.0, "y": 1.0, "x": 1.0}
    assert [entry["name"] for entry in json.loads(ndbatch("ls", "--depth", "1", "--json").out)["volumes"]] == ["layer"]


def test_ls_of_nothing_and_of_damage(lab: Path, ndbatch: Command) -> None:
    (lab / "empty").mkdir()
    done = ndbatch("ls", "empty")
    assert (done.code, done.out) == (0, "")
    assert "holds no volume" in done.err
    (lab / "bad.tif").write_text("no picture")
    done = ndbatch("ls")
    assert "cannot be opened" in done.out
    assert "is not a TIFF file" in done.err
    done = ndbatch("ls", "nowhere")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "nowhere does not exist" in done.err


def test_info_says_levels_codecs_and_bytes(lab: Path, ndbatch: Command) -> None:
    out = ndbatch("info", "a/cells.zarr").out
    for line in (
        "  codecs      bytes, blosc zstd",
        "  levels      2, this is 0",
        "    1         z: 2, y: 3, x: 4; z: 4, y: 2, x: 2 um",
    ):
        assert line in out.splitlines()
    assert "  mouse: 7" in out
    document = json.loads(ndbatch("info", "a/cells.zarr", "--json").out)
    stored = sum(path.stat().st_size for path in (lab / "a/cells.zarr").rglob("*") if path.is_file())
    assert (document["stored_bytes"], document["pyramid"][1]["shape"]) == (stored, [2, 3, 4])
    assert json.loads(ndbatch("info", "layer", "--json").out)["kind"] == "labels"
    assert "ndbatch ls a lists them" in ndbatch("info", "a").err


def test_rm_asks(lab: Path, ndbatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ndbatch("rm", "layer")
    assert done.code == 2
    assert "add --yes to remove it" in done.err
    monkeypatch.setattr("sys.stdin", Typed("n\n"))
    assert "nothing was removed" in ndbatch("rm", "layer").out
    assert (lab / "layer/info").exists()
    monkeypatch.setattr("sys.stdin", Typed("y\n"))
    assert "removed" in ndbatch("rm", "layer").out
    assert not (lab / "layer").exists()
    done = ndbatch("rm", "layer", "--yes")
    assert done.code == 2
    done = ndbatch("rm", "a", "--yes")
    assert "is no volume of a known format" in done.err
    assert (lab / "a/cells.zarr/zarr.json").exists()


def test_a_bucket(ndbatch: Command) -> None:
    with s3_server("bench") as endpoint:
        nb.create("s3://bench/x.zarr", shape=(4, 6, 8))
        assert "x.zarr  zarr    z=4 y=6 x=8" in ndbatch("ls", f"s3://bench?endpoint={endpoint}").out
        document = json.loads(ndbatch("info", "s3://bench/x.zarr", "--size", "--json").out)
        assert document["stored_bytes"] > 500
        assert json.loads(ndbatch("info", "s3://bench/x.zarr", "--json").out)["stored_bytes"] is None
        assert ndbatch("rm", "s3://bench/x.zarr", "--yes").out == "removed s3://bench/x.zarr\n"
        assert "does not exist" in ndbatch("rm", "s3://bench/x.zarr", "--yes").err
        assert "there is no bucket nobody" in ndbatch("ls", "s3://nobody").err

"""A folder or a bucket of volumes: listed, opened, made, removed, on this machine, in S3 and on the web."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import Denied, NotFound, PlanError, RemoteError
from ndbatch.testing.servers import file_server, google_server, s3_server
from ndbatch.testing.volumes import voxels
from tests.remotes.conftest import script

SHAPE = (4, 6, 8)
SIZE = {"z": 2.0, "y": 1.0, "x": 1.0}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("lab") as url:
        yield url


def fill(root: str) -> None:
    """Make an image with levels and labels, and volumes that no ending tells."""
    nb.create(f"{root}/a/cells.zarr", shape=SHAPE, voxel_size=SIZE, dtype="uint16")
    nb.create(f"{root}/a/cells.zarr?level=1", shape=(2, 3, 4), dtype="uint16", voxel_size={"z": 4, "y": 2, "x": 2})
    nb.create(f"{root}/a/cells.zarr/labels/nuclei", shape=SHAPE, kind="labels", dtype="uint32")
    nb.create(f"precomputed://{root}/layer", shape=SHAPE, kind="labels", dtype="uint64")
    nb.create(f"n5://{root}/deep/plain", shape=SHAPE)
    nb.create(f"zarr://{root}/other", shape=SHAPE, dtype="float32")


FOUND = ["a/cells.zarr", "a/cells.zarr/labels/nuclei", "deep/plain", "layer", "other"]


@pytest.fixture(params=["folder", "bucket"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> nb.Remote:
    root = str(tmp_path)
    if request.param == "bucket":
        request.getfixturevalue("endpoint")
        root = f"s3://lab/{tmp_path.name}"
    fill(root)
    found = nb.open(root)
    assert isinstance(found, nb.Remote)
    return found


def test_what_is_there(remote: nb.Remote) -> None:
    entries = {entry.name: entry for entry in remote.ls()}
    assert list(entries) == FOUND
    assert [entry.format for entry in entries.values()] == ["zarr", "zarr", "n5", "precomputed", "zarr"]
    image = entries["a/cells.zarr"]
    assert (image.shape, image.dtype, image.levels, image.voxel_size) == (SHAPE, "uint16", 2, (2.0, 1.0, 1.0))
    assert image.document()["shape"] == {"z": 4, "y": 6, "x": 8}
    assert entries["a/cells.zarr/labels/nuclei"].kind == "labels"
    for entry in entries.values():
        assert not entry.problem
        assert remote.open(entry.name).shape == nb.open(entry.url).shape == SHAPE
    assert [entry.name for entry in remote.ls(depth=1)] == ["layer", "other"]


def test_volumes_by_name(remote: nb.Remote) -> None:
    data = voxels(SHAPE, "uint16")
    made = remote.create("new/x.zarr", shape=SHAPE, dtype="uint16")
    made.write(made.domain, data)
    assert np.array_equal(remote.open("new/x.zarr")[...], data)
    assert np.array_equal(remote.open("new/x.zarr?flip=z")[...], data[::-1])
    remote.set_metadata("new/x.zarr", {"mouse": 7})
    assert remote.metadata("new/x.zarr") == {"mouse": 7}
    for name in ("new/x.zarr", "layer", "deep/plain"):
        remote.delete(name)
        with pytest.raises(NotFound):
            remote.delete(name)
    assert [entry.name for entry in remote.ls()] == [name for name in FOUND if name not in ("layer", "deep/plain")]


def test_what_is_no_volume(remote: nb.Remote) -> None:
    with pytest.raises(PlanError, match="a is no volume of a known format; ndbatch ls"):
        remote.delete("a")
    with pytest.raises(NotFound, match=r"lay does not exist; did you mean .*/layer\?"):
        remote.open("lay")
    for name in ("../a/cells.zarr", "/etc/x.zarr"):
        with pytest.raises(PlanError, match="is not below"):
            remote.delete(name)
    assert len(remote.ls()) == len(FOUND)


def test_files_that_hold_several_and_files_that_hold_none(tmp_path: Path) -> None:
    for name in ("x", "deep/y"):
        nb.create(f"{tmp_path}/seg.h5::/{name}", shape=SHAPE)
    (tmp_path / "bad.tif").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no volume")
    (tmp_path / ".hidden.zarr").mkdir()
    remote = nb.connect(tmp_path)
    entries = remote.ls()
    assert [entry.name for entry in entries] == ["bad.tif", "seg.h5::/deep/y", "seg.h5::/x"]
    assert "is not a TIFF file" in entries[0].problem
    assert remote.open("seg.h5::/deep/y").shape == SHAPE
    remote.delete("seg.h5::/x")
    assert [entry.name for entry in remote.ls()] == ["bad.tif", "seg.h5"]


def test_a_folder_is_opened_as_what_it_holds(tmp_path: Path) -> None:
    fill(str(tmp_path))
    assert isinstance(nb.open(tmp_path / "layer"), nb.Volume)
    assert nb.open(f"{tmp_path}/other", kind="labels").kind == "labels"
    assert nb.open({"url": f"{tmp_path}/a/cells.zarr", "level": 1}).shape == (2, 3, 4)
    with pytest.raises(PlanError, match="is no volume of a known format"):
        nb.open(tmp_path / "a", level=1)
    with pytest.raises(PlanError, match="cannot tell the format from the ending"):
        nb.open(tmp_path / "nothing")


def test_the_web(tmp_path: Path) -> None:
    fill(str(tmp_path))
    with file_server(tmp_path) as (url, _):
        remote = nb.connect(url)
        assert [entry.name for entry in remote.ls()] == FOUND
        assert nb.open(f"{url}/layer").shape == SHAPE
        with pytest.raises(Denied, match="read only"):
            remote.delete("other")
    with file_server(tmp_path, index=False) as (url, _):
        with pytest.raises(RemoteError, match="gives no index of this folder; name a volume in it"):
            nb.connect(url).ls()
        assert nb.connect(url).open("layer").shape == SHAPE


def test_places_that_are_not_there(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no bucket nobody"):
        nb.connect("s3://nobody").ls()
    with pytest.raises(NotFound, match="nowhere does not exist"):
        nb.connect(tmp_path / "nowhere").ls()
    with pytest.raises(PlanError, match="memory:// is no folder of volumes"):
        nb.connect("memory://x")
    with pytest.raises(PlanError, match="unknown option profle"):
        nb.connect("s3://lab?profle=x")


def test_the_whole_bucket_with_options(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the remote hold for everything in it, and stand in the addresses that it gives."""
    nb.create("s3://lab/whole/x.zarr", shape=SHAPE)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    remote = nb.connect(f"s3://lab?endpoint={endpoint}")
    entry = next(entry for entry in remote.ls() if entry.name == "whole/x.zarr")
    assert entry.url == f"s3://lab/whole/x.zarr?endpoint={endpoint}"
    assert remote.open("whole/x.zarr?flip=z").shape == SHAPE
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_a_bucket_of_google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a fresh process, since tensorstore asks once which server to use."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with google_server("lab") as url:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        said = script(
            """
from ndbatch.remotes.address import parse
from ndbatch.remotes.places.keyvalue import place
data = np.arange(1, 193, dtype="uint16").reshape(4, 6, 8)
for url in ("gs://lab/deep/x.zarr", "n5://gs://lab/deep/y", "precomputed://gs://lab/z"):
    volume = nb.create(url, shape=data.shape, dtype="uint16")
    first = volume.version()
    volume.write(volume.domain, data)
    again = nb.open(url)
    assert np.array_equal(again[...], data) and again.version() != first
remote = nb.connect("gs://lab")
print([entry.name for entry in remote.ls()])
remote.delete("deep/x.zarr")
print([entry.name for entry in remote.ls()], place(parse("zarr://gs://lab/deep/x.zarr")).exists())
for act in (lambda: nb.connect("gs://nobody").ls(), lambda: nb.open("gs://lab/deep/w.zarr")):
    try:
        act()
    except nb.NdbatchError as error:
        print(type(error).__name__, error)
"""
        )
    assert said.splitlines() == [
        "['deep/x.zarr', 'deep/y', 'z']",
        "['deep/y', 'z'] False",
        "NotFound gs://nobody: there is no bucket nobody; check its name and endpoint",
        "NotFound gs://lab/deep/w.zarr does not exist",
    ]

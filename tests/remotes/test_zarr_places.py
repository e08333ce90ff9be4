"""Zarr in a bucket, on a web server and in a zip file: the contract, and what such places cannot do."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorstore
import zarr

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, RemoteError
from ndbatch.geometry import Shape
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.places.keyvalue import place
from ndbatch.testing import VolumeSuite
from ndbatch.testing.servers import file_server, s3_client, s3_server
from ndbatch.testing.volumes import voxels

SHAPE: Shape = (12, 40, 50)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("lab") as url:
        yield url


class TestZarrInABucket(VolumeSuite):
    """OME-Zarr 0.5 in S3; the witness is zarr-python on a copy of the objects, moved by boto3."""

    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "uint16", "float32")

    @pytest.fixture
    def url(self, endpoint: str, tmp_path: Path) -> str:
        self.endpoint, self.folder = endpoint, tmp_path / "copy"
        return f"s3://lab/{uuid.uuid4().hex}/cells.ome.zarr"

    def write_raw(self, url: str, data: Array) -> None:
        zarr.create_array(str(self.folder), data=data, chunks=self.chunks, dimension_names=("z", "y", "x"))
        client, key = s3_client(self.endpoint), parse(url).path.removeprefix("s3://lab/")
        for path in self.folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "lab", f"{key}/{path.relative_to(self.folder)}")

    def read_raw(self, url: str) -> Array:
        return self.read_raw_level(url, 0)

    def read_raw_level(self, url: str, level: int) -> Array:
        client, key = s3_client(self.endpoint), parse(url).path.removeprefix("s3://lab/")
        for found in client.list_objects_v2(Bucket="lab", Prefix=f"{key}/")["Contents"]:
            path = self.folder / found["Key"].removeprefix(f"{key}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file("lab", found["Key"], str(path))
        return np.asarray(zarr.open_group(str(self.folder), mode="r")[str(level)][...])


@pytest.fixture
def image(tmp_path: Path) -> Array:
    """Write `web/cells.zarr`, two levels and a label image, and return its voxels."""
    data = voxels(SHAPE, "uint16", seed=3)
    path = f"{tmp_path}/web/cells.zarr"
    nb.create(path, shape=SHAPE, dtype="uint16", chunks=(8, 16, 16), voxel_size={"z": 2, "y": 1, "x": 1}).write(
        nb.Box.of_shape(SHAPE, (0, 0, 0)), data
    )
    coarse = nb.create(f"{path}?level=1", shape=(6, 20, 25), dtype="uint16", chunks=(6, 16, 16))
    coarse.write(coarse.domain, data[::2, ::2, ::2])
    cells = nb.create(f"{path}/labels/cells", shape=SHAPE, dtype="uint32", kind="labels")
    cells.write(cells.domain, data.astype("uint32"))
    return data


def test_the_web(image: Array, tmp_path: Path) -> None:
    with file_server(tmp_path / "web", index=False) as (url, asked):
        volume = nb.open(f"{url}/cells.zarr")
        assert (volume.shape, volume.levels, volume.voxel_size) == (SHAPE, 2, (2.0, 1.0, 1.0))
        assert np.array_equal(volume[...], image)
        assert np.array_equal(nb.open(f"{url}/cells.zarr?level=1")[...], image[::2, ::2, ::2])
        assert nb.open(f"{url}/cells.zarr/labels/cells").kind == "labels"
        asked.clear()
        volume[0:4, 0:4, 0:4]
        assert [one for one in asked if "/c/" in one] in ([], ["GET /cells.zarr/0/c/0/0/0"])
        with pytest.raises(NotFound, match=f"{url}/cell.zarr does not exist"):
            nb.open(f"{url}/cell.zarr")


def test_the_web_is_read_only(image: Array, tmp_path: Path) -> None:
    with file_server(tmp_path / "web") as (url, _):
        volume = nb.open(f"{url}/cells.zarr")
        for act in (
            lambda: volume.write(volume.domain, image),
            lambda: volume.set_attributes({"a": 1}),
            lambda: nb.create(f"{url}/new.zarr", shape=(4, 4)),
            lambda: nb.create(f"{url}/cells.zarr", shape=(4, 4), overwrite=True),
            lambda: nb.create(f"{url}/cells.zarr?level=2", shape=(3, 10, 13), dtype="uint16"),
        ):
            with pytest.raises(Denied, match="a web server is read only here; write to a folder or a bucket"):
                act()
        with pytest.raises(NotFound, match=r"did you mean .*/cells\.zarr\?"):
            nb.open(f"{url}/cels.zarr")


def test_shards_are_read_by_ranges(tmp_path: Path) -> None:
    data = voxels((16, 64, 64), "uint16", seed=5)
    volume = nb.create(f"{tmp_path}/s.zarr", shape=data.shape, dtype="uint16", chunks=(8, 16, 16), shards=(16, 64, 64))
    volume.write(volume.domain, data)
    with file_server(tmp_path) as (url, asked):
        volume = nb.open(f"{url}/s.zarr")
        asked.clear()
        assert np.array_equal(volume[0:8, 16:32, 16:32], data[0:8, 16:32, 16:32])
        assert len(asked) == 2
        assert all("bytes=" in one for one in asked)


@pytest.mark.parametrize("ending", ["zarr.zip", "ozx"])
def test_a_zip_file(image: Array, tmp_path: Path, ending: str) -> None:
    archive = Path(shutil.make_archive(f"{tmp_path}/cells", "zip", tmp_path / "web/cells.zarr"))
    path = archive.rename(tmp_path / f"cells.{ending}")
    volume = nb.open(str(path))
    assert volume.levels == 2
    assert np.array_equal(volume[...], image)
    assert np.array_equal(nb.open(f"{path}/labels/cells")[...], image)
    with pytest.raises(Denied, match="a zip file is read only here"):
        volume.write(volume.domain, image)
    with pytest.raises(NotFound, match="holds cells"):
        nb.open(f"{path}/labels")
    before = volume.version()
    path.touch()
    assert nb.open(str(path)).version() != before
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Corrupt, match="zip"):
        nb.open(str(path))


def test_a_zip_file_with_a_folder_in_it(image: Array, tmp_path: Path) -> None:
    archive = shutil.make_archive(f"{tmp_path}/cells.zarr", "zip", tmp_path / "web", "cells.zarr")
    with pytest.raises(NotFound, match=r"but holds cells\.zarr; write one of them") as caught:
        nb.open(archive)
    assert np.array_equal(nb.open(f"{archive}/{caught.value.fields['inside'][0]}")[...], image)


def test_a_zip_file_on_the_web(image: Array, tmp_path: Path) -> None:
    shutil.make_archive(f"{tmp_path}/web/packed.zarr", "zip", tmp_path / "web/cells.zarr")
    with file_server(tmp_path / "web") as (url, asked):
        assert np.array_equal(nb.open(f"{url}/packed.zarr.zip")[...], image)
        assert all("bytes=" in one for one in asked if "packed" in one)


def test_a_bucket_as_tensorstore_reads_it(endpoint: str) -> None:
    data = voxels(SHAPE, "uint16")
    volume = nb.create("s3://lab/deep/t.zarr", shape=SHAPE, dtype="uint16", shards=(16, 64, 64), chunks=(8, 16, 16))
    volume.write(volume.domain, data)
    found = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "s3", "bucket": "lab", "path": "deep/t.zarr/0/", "endpoint": endpoint},
        }
    ).result()
    assert np.array_equal(found.read().result(), data)


def test_labels_in_a_bucket(endpoint: str) -> None:
    nb.create("s3://lab/l/image.zarr", shape=(4, 8, 8), dtype="uint16")
    nb.create("s3://lab/l/image.zarr/labels/cells", shape=(4, 8, 8), dtype="uint32", kind="labels")
    listed = json.loads(place(parse("s3://lab/l/image.zarr/labels")).read("zarr.json") or b"{}")
    assert listed["attributes"]["ome"]["labels"] == ["cells"]
    with pytest.raises(Conflict, match=r"s3://lab/l/image\.zarr exists already"):
        nb.create("s3://lab/l/image.zarr", shape=(4, 8, 8))
    with pytest.raises(NotFound, match=r"did you mean s3://lab/l/image\.zarr\?"):
        nb.open("s3://lab/l/imge.zarr")
    with pytest.raises(NotFound, match=r"but holds image\.zarr; write one of them, such as s3://lab/l/image\.zarr"):
        nb.open("zarr://s3://lab/l")
    with pytest.raises(NotFound, match="there is no bucket nobody"):
        nb.open("s3://nobody/image.zarr")
    with pytest.raises(NotFound, match="there is no bucket nobody"):
        nb.create("s3://nobody/image.zarr", shape=(4, 4))


def test_only_zarr_is_removed_from_a_bucket(endpoint: str) -> None:
    s3_client(endpoint).put_object(Bucket="lab", Key="mine/thesis.txt", Body=b"years of work")
    with pytest.raises(RemoteError, match="is not zarr; it is not removed"):
        nb.create("zarr://s3://lab/mine", shape=(4, 4), overwrite=True)
    assert place(parse("zarr://s3://lab/mine")).read("thesis.txt") == b"years of work"


def test_a_damaged_object_in_a_bucket(endpoint: str) -> None:
    volume = nb.create("s3://lab/broken.zarr", shape=(8, 8), dtype="uint16")
    volume.write(volume.domain, voxels((8, 8), "uint16"))
    s3_client(endpoint).put_object(Bucket="lab", Key="broken.zarr/0/c/0/0", Body=b"no blosc")
    with pytest.raises(Corrupt, match=r"s3://lab/broken\.zarr: the box"):
        nb.open("s3://lab/broken.zarr")[...]
    s3_client(endpoint).put_object(Bucket="lab", Key="broken.zarr/zarr.json", Body=b"{")
    with pytest.raises(Corrupt, match=r"s3://lab/broken\.zarr/zarr\.json is damaged"):
        nb.open("s3://lab/broken.zarr")


def test_a_create_that_was_cut_off_in_a_bucket(endpoint: str) -> None:
    nb.create("s3://lab/cut.zarr", shape=(8, 8))
    s3_client(endpoint).delete_object(Bucket="lab", Key="cut.zarr/zarr.json")
    with pytest.raises(NotFound, match="is no array and no image"):
        nb.open("s3://lab/cut.zarr")
    with pytest.raises(Conflict, match="exists already"):
        nb.create("s3://lab/cut.zarr", shape=(8, 8))
    assert nb.create("s3://lab/cut.zarr", shape=(4, 4), overwrite=True).shape == (4, 4)

"""Every store keeps the Volume contract; zarr-python, h5py and tifffile are the witnesses."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from ndbatch.geometry import Shape
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array, Volume
from ndbatch.remotes.memory import MemoryVolume
from ndbatch.testing import VolumeSuite


class TestOmeZarr(VolumeSuite):
    """OME-Zarr 0.5, the default."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/cells.ome.zarr"

    def write_raw(self, url: str, data: Array) -> None:
        axes = [{"name": n, "type": "space"} for n in "zyx"]
        image = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": []}]}
        group = zarr.create_group(parse(url).path, attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        group.create_array("s0", data=data, chunks=self.chunks)

    def read_raw(self, url: str) -> Array:
        return self.read_raw_level(url, 0)

    def read_raw_level(self, url: str, level: int) -> Array:
        return np.asarray(zarr.open_group(parse(url).path, mode="r")[str(level)][...])


class TestShardedZarr(TestOmeZarr):
    """OME-Zarr 0.5 with shards: the shard is the unit of writing."""

    def make(self, url: str, dtype: str = "uint16", **changes: object):  # type: ignore[no-untyped-def]
        return super().make(url, dtype, **{"shards": (16, 32, 32), **changes})

    def write_raw(self, url: str, data: Array) -> None:
        zarr.create_array(
            parse(url).path, data=data, chunks=self.chunks, shards=(16, 32, 32), dimension_names=("z", "y", "x")
        )

    def test_one_file_a_shard(self, volume, url: str) -> None:  # type: ignore[no-untyped-def]
        assert volume.spec.write_unit == (16, 32, 32)
        self.filled(volume)
        files = [p for p in (Path(url) / "0" / "c").rglob("*") if p.is_file()]
        assert len(files) == 2 * 2 * 2


class TestOmeZarr04(TestOmeZarr):
    """OME-Zarr 0.4 on zarr v2."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/old.zarr?ome=0.4"

    def write_raw(self, url: str, data: Array) -> None:
        axes = [{"name": n, "type": "space"} for n in "zyx"]
        image = {"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}
        group = zarr.create_group(parse(url).path, zarr_format=2, attributes={"multiscales": [image]})
        group.create_array("0", data=data, chunks=self.chunks)


class TestPlainZarr(VolumeSuite):
    """A zarr v3 array without a group."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"zarr://{tmp_path}/plain?format=zarr"

    def write_raw(self, url: str, data: Array) -> None:
        zarr.create_array(parse(url).path, data=data, chunks=self.chunks)

    def read_raw(self, url: str) -> Array:
        return np.asarray(zarr.open_array(parse(url).path, mode="r")[...])

    def keeps_levels(self, volume: Volume) -> bool:
        return False


class TestHdf5(VolumeSuite):
    """A dataset in a file that holds another one."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        with h5py.File(tmp_path / "many.h5", "w") as file:
            file["other"] = np.ones((2, 3))
        return f"{tmp_path}/many.h5::/group/seg"

    def write_raw(self, url: str, data: Array) -> None:
        with h5py.File(parse(url).path, "a") as file:
            file.create_dataset(parse(url).inside, data=data.astype(">u2"), chunks=self.chunks, compression="lzf")

    def read_raw(self, url: str) -> Array:
        with h5py.File(parse(url).path) as file:
            assert np.array_equal(file["other"][...], np.ones((2, 3)))
            return np.asarray(file[parse(url).inside][...])


class TestTiff(VolumeSuite):
    """OME-TIFF."""

    dtypes: ClassVar[tuple[str, ...]] = (*VolumeSuite.dtypes, "int64", "float64", "float16", "int8")

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/stack.ome.tif"

    def write_raw(self, url: str, data: Array) -> None:
        tifffile.imwrite(
            url, data, metadata={"axes": "ZYX"}, photometric="minisblack", compression="zlib", byteorder=">"
        )

    def read_raw(self, url: str) -> Array:
        return np.asarray(tifffile.imread(url))


class TestMemory(VolumeSuite):
    """A named array of this process."""

    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"

    def write_raw(self, url: str, data: Array) -> None:
        MemoryVolume.of(parse(url).path, data)

    def test_an_array_is_registered_not_copied(self, url: str) -> None:
        shape: Shape = (2, 3, 4)
        data = np.zeros(shape, "uint8")
        volume = MemoryVolume.of(parse(url).path, data, voxel_size=(1.0, 2.0, 3.0))
        data[1, 2, 3] = 7
        assert volume[1, 2, 3] == 7
        assert volume.voxel_size == (1.0, 2.0, 3.0)

"""TIFF as an output: packed in tiles, BigTIFF, read by tifffile; several series, pyramids and hyperstacks read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

import ndbatch as nb
from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.geometry import Grid
from ndbatch.remotes.base import Array
from ndbatch.remotes.tiff import packing as tiff_packing
from ndbatch.testing import VolumeSuite
from tests.remotes.conftest import script


class TestPackedTiff(VolumeSuite):
    """OME-TIFF in tiles packed by deflate."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/stack.ome.tif?compression=zlib"

    def write_raw(self, url: str, data: Array) -> None:
        tifffile.imwrite(
            url.partition("?")[0],
            data,
            photometric="minisblack",
            compression="lzma",
            tile=(16, 32),
            metadata={"axes": "ZYX"},
        )

    def read_raw(self, url: str) -> Array:
        return np.asarray(tifffile.imread(url.partition("?")[0]))


@pytest.mark.parametrize("compression", ["zlib", "lzma", "lzw", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64", "float32"])
def test_packed_files(tmp_path: Path, compression: str, dtype: str) -> None:
    path, data = f"{tmp_path}/a.ome.tif", (np.arange(5 * 300 * 270) % 251).astype(dtype).reshape(5, 300, 270)
    size = {"z": 2.0, "y": 0.5, "x": 0.25}
    volume = nb.create(
        f"{path}?compression={compression}", shape=data.shape, dtype=dtype, voxel_size=size, offset={"x": 9}
    )
    for block in Grid.over(volume.domain, (2, 300, 270)):
        volume.write(block.core, data[block.core.slices(volume.offset)])
    assert os.listdir(tmp_path) == [".a.ome.tif.unpacked"]
    assert np.array_equal(nb.open(path)[...], data)
    volume.close()
    assert os.listdir(tmp_path) == ["a.ome.tif"]
    again = nb.open(path)
    assert np.array_equal(again[...], data)
    assert (again.offset, again.voxel_size, again.chunks[1:]) == ((0, 0, 9), (2.0, 0.5, 0.25), (256, 256))
    with tifffile.TiffFile(path) as file:
        assert (file.is_ome, file.pages[0].is_tiled) == (dtype != "uint64", True)
        assert file.pages[0].compression != 1
        assert (file.series[0].axes, len(file.pages)) == ("ZYX", 5)
        assert np.array_equal(file.series[0].asarray(), data)
    assert os.path.getsize(path) < data.nbytes / 2
    volume.write(nb.Box((1, 0, 9), (2, 3, 20)), np.zeros((1, 3, 11), dtype))
    volume.close()
    data[1, :3, :11] = 0
    assert np.array_equal(tifffile.imread(path), data)


def test_times_and_channels_are_packed(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 20, 17)).astype("uint16")
    volume = nb.create(f"{tmp_path}/a.tif?compression=zlib", shape=data.shape, dtype="uint16")
    volume.write(volume.domain, data)
    volume.close()
    assert nb.open(f"{tmp_path}/a.tif").axes == "tczyx"
    assert np.array_equal(nb.open(f"{tmp_path}/a.tif")[1, 2, 3], data[1, 2, 3])
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), data)


def test_large_files_are_big_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_packing, "LARGEST_CLASSIC", 1000)
    data = np.arange(4 * 20 * 30, dtype="uint16").reshape(4, 20, 30)
    for name in ("a.tif", "b.tif?compression=zlib"):
        volume = nb.create(f"{tmp_path}/{name}", shape=data.shape, dtype="uint16")
        volume.write(volume.domain, data)
        volume.close()
        with tifffile.TiffFile(tmp_path / name[:5]) as file:
            assert file.is_bigtiff
            assert np.array_equal(file.asarray(), data)


def test_what_is_not_closed_is_packed_when_the_process_ends(tmp_path: Path) -> None:
    code = (
        "v = nb.create(sys.argv[1], shape=(3, 8, 9), dtype='uint8'); v.write(v.domain, np.full((3, 8, 9), 7, 'uint8'))"
    )
    for name in ("a.tif?compression=zlib", "a.nii.gz", "a.npz"):
        script(code, f"{tmp_path}/{name}")
        assert (nb.open(f"{tmp_path}/{name}")[...] == 7).all()
    assert sorted(os.listdir(tmp_path)) == ["a.nii.gz", "a.npz", "a.tif"]


def test_what_is_refused(tmp_path: Path) -> None:
    for name, sentence in (
        ("a.tif?compression=jpeg", "compression=jpeg is not written; use one of none, zlib"),
        ("a.tif::/2", "has one series"),
    ):
        with pytest.raises(PlanError, match=sentence):
            nb.create(f"{tmp_path}/{name}", shape=(2, 8, 8))
    nb.create(f"{tmp_path}/a.tif?compression=zlib", shape=(2, 8, 8))
    with pytest.raises(Conflict, match="exists already"):
        nb.create(f"{tmp_path}/a.tif", shape=(2, 8, 8))


def test_series(tmp_path: Path, image: Array) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(
            image,
            photometric="minisblack",
            metadata={"axes": "ZYX", "Name": "first"},
        )
        file.write(image[:, :9, :7] + 1, photometric="minisblack", metadata={"axes": "ZYX", "Name": "macro"})
    assert np.array_equal(nb.open(f"{tmp_path}/a.ome.tif")[...], image)
    for inside in ("::/1", "::macro", "?series=1"):
        assert np.array_equal(nb.open(f"{tmp_path}/a.ome.tif{inside}")[...], image[:, :9, :7] + 1)
    with pytest.raises(NotFound, match=r"has no series 2; it has 2: /0 first \(12, 40, 50\), /1 macro"):
        nb.open(f"{tmp_path}/a.ome.tif::/2")


def test_hyperstacks_name_time_and_channel(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 2**16, (2, 4, 3, 11, 13)).astype("uint16")
    facts = {"axes": "TZCYX", "spacing": 3.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata=facts, resolution=(2, 2))
    volume = nb.open(f"{tmp_path}/a.tif")
    assert (volume.axes, volume.shape) == ("tczyx", (2, 3, 4, 11, 13))
    assert volume.voxel_size == pytest.approx((1.0, 1.0, 3.0, 0.5, 0.5))
    assert np.array_equal(volume[1, 2], data[1, :, 2])
    assert np.array_equal(nb.open(f"{tmp_path}/a.tif?t=1&c=2")[...], data[1, :, 2])

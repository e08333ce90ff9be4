"""TIFF: its many dialects, what is read of a page, damage, and files that other programs open."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError
from ndbatch.geometry import Grid
from ndbatch.remotes.base import Array
from ndbatch.remotes.tiff import pages as tiff_pages
from tests.remotes.conftest import unprivileged

DATA = Path(__file__).parents[2].parent / "shared/data"
IMAGEJ = {"axes": "ZYX", "spacing": 2.0, "unit": "micron"}
OME = {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 300, "PhysicalSizeZUnit": "nm"}

DIALECTS: dict[str, dict[str, Any]] = {
    "tifffile": {},
    "no metadata": {"metadata": None},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "zlib": {"compression": "zlib"},
    "strips": {"compression": "zlib", "rowsperstrip": 7, "predictor": True, "byteorder": ">"},
    "tiles": {"compression": "zlib", "tile": (16, 32)},
    "raw tiles": {"tile": (32, 16), "byteorder": ">"},
    "lzw": {"compression": "lzw"},
    "ImageJ": {"imagej": True, "metadata": IMAGEJ, "resolution": (5, 4)},
    "ImageJ zlib": {"imagej": True, "metadata": IMAGEJ, "resolution": (5, 4), "compression": "zlib"},
    "OME": {"ome": True, "metadata": OME},
    "OME tiles": {"ome": True, "metadata": OME, "tile": (16, 16), "compression": "zlib", "bigtiff": True},
}
SIZES = {
    "ImageJ": (2.0, 0.25, 0.2),
    "ImageJ zlib": (2.0, 0.25, 0.2),
    "OME": (0.3, 0.2, 0.2),
    "OME tiles": (0.3, 0.2, 0.2),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(tmp_path: Path, image: Array, dialect: str) -> None:
    path = f"{tmp_path}/a.tif"
    tifffile.imwrite(path, image, photometric="minisblack", **DIALECTS[dialect])
    volume = nb.open(path)
    assert (volume.axes, volume.shape, volume.dtype) == ("zyx", image.shape, image.dtype)
    assert volume.dtype.isnative
    size = SIZES.get(dialect)
    assert volume.voxel_size == (None if size is None else pytest.approx(size))
    assert np.array_equal(volume[...], image)
    for key in (np.s_[3], np.s_[2:9, 5:22, 31:33], np.s_[-1:, -1:, -1:], np.s_[5, 16, :], np.s_[::4, ::3, ::2]):
        assert np.array_equal(volume[key], image[key])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_never_read_in_part(
    tmp_path: Path, image: Array, dialect: str, share: float, cut: Callable[[str, float], None]
) -> None:
    path = f"{tmp_path}/cut.tif"
    tifffile.imwrite(path, image, photometric="minisblack", **DIALECTS[dialect])
    cut(path, share)
    if (dialect, share) == ("ImageJ", 0.99):  # only page directories are lost, which an ImageJ stack does not need
        assert np.array_equal(nb.open(path)[...], image)
        return
    with pytest.raises(Corrupt, match=r"cut\.tif is") as caught:
        nb.open(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_after_it_was_opened(tmp_path: Path, image: Array, cut: Callable[[str, float], None]) -> None:
    for name, how in {"raw": {}, "packed": {"compression": "zlib"}}.items():
        path = f"{tmp_path}/{name}.tif"
        tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "ZYX"}, **how)
        volume = nb.open(path)
        cut(path, 0.7)
        with pytest.raises(Corrupt, match="cut short"):
            volume.read(volume.domain)


def test_a_damaged_page_is_named(tmp_path: Path, image: Array) -> None:
    path = f"{tmp_path}/bad.tif"
    tifffile.imwrite(path, image, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[4].dataoffsets[0], file.pages[4].databytecounts[0]
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\x55" * count)
    volume = nb.open(path)
    assert np.array_equal(volume[:4], image[:4])
    with pytest.raises(Corrupt, match=r"bad\.tif: page 4 is damaged"):
        volume.read(volume.domain)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"hello there " * 20, b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_tiff(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.tif").write_bytes(content)
    with pytest.raises(Corrupt, match=r"no\.tif is"):
        nb.open(f"{tmp_path}/no.tif")


def test_missing_and_forbidden(tmp_path: Path, image: Array) -> None:
    tifffile.imwrite(tmp_path / "nuclei.tif", image)
    with pytest.raises(NotFound, match=r"did you mean .*nuclei\.tif"):
        nb.open(f"{tmp_path}/nucleus.tif")
    with pytest.raises(NotFound, match="is a folder"):
        nb.open(f"tiff://{tmp_path}")
    with pytest.raises(NotFound, match="has no series 3; it has 1"):
        nb.open(f"{tmp_path}/nuclei.tif?series=3")
    with pytest.raises(NotFound, match="has no level 1"):
        nb.open(f"{tmp_path}/nuclei.tif", level=1)
    os.chmod(tmp_path, 0o000)
    try:
        with unprivileged():
            for act in (
                lambda: nb.open(f"{tmp_path}/nuclei.tif"),
                lambda: nb.create(f"{tmp_path}/n.tif", shape=(3, 3)),
            ):
                with pytest.raises(Denied, match=r"\.tif"):
                    act()
    finally:
        os.chmod(tmp_path, 0o700)


@pytest.mark.parametrize(
    ("axes", "how", "found"),
    [
        ("QYX", {}, "zyx"),
        ("IYX", {}, "zyx"),
        ("TYX", {"imagej": True}, "tyx"),
        ("ZCYX", {"imagej": True}, "czyx"),
        ("TZCYX", {"imagej": True}, "tczyx"),
        ("CZYX", {"ome": True}, "czyx"),
        ("TCZYX", {"ome": True, "compression": "zlib"}, "tczyx"),
        ("YX", {}, "yx"),
    ],
)
def test_axes(tmp_path: Path, axes: str, how: dict[str, Any], found: str) -> None:
    extents = {"T": 2, "C": 3, "Z": 4, "Q": 4, "I": 4, "Y": 10, "X": 11}
    shape = [extents[a] for a in axes]
    data = np.arange(math.prod(shape), dtype="uint16").reshape(shape)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", metadata={"axes": axes}, **how)
    volume = nb.open(f"{tmp_path}/a.tif")
    names = axes.lower().replace("q", "z").replace("i", "z")
    assert volume.axes == found
    assert np.array_equal(volume[...], data.transpose([names.index(a) for a in found]))


def test_axes_that_must_be_told(tmp_path: Path) -> None:
    data = np.arange(3 * 4 * 10 * 11, dtype="uint16").reshape(3, 4, 10, 11)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", metadata={"axes": "RQYX"})
    with pytest.raises(PlanError, match=r"the axes RQYX are not all known; say which is which, such as axes: czyx"):
        nb.open(f"{tmp_path}/a.tif")
    volume = nb.open(f"{tmp_path}/a.tif?axes=zcyx")
    assert np.array_equal(volume[...], data.transpose(1, 0, 2, 3))
    assert np.array_equal(nb.open({"url": volume.url, "offset": {"z": 5}})[0, 6], data[1, 0])


@pytest.mark.parametrize("how", [{"planarconfig": "contig"}, {"planarconfig": "separate"}])
@pytest.mark.parametrize(
    "more", [{}, {"compression": "zlib", "tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 5}]
)
def test_colours_are_channels(tmp_path: Path, how: dict[str, Any], more: dict[str, Any]) -> None:
    contiguous = how["planarconfig"] == "contig"
    data = np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3) if contiguous else (4, 3, 20, 30), "uint8")
    tifffile.imwrite(tmp_path / "rgb.tif", data, photometric="rgb", **how, **more)
    volume = nb.open(f"{tmp_path}/rgb.tif")
    expected = data.transpose((3, 0, 1, 2) if contiguous else (1, 0, 2, 3))
    assert (volume.axes, volume.shape) == ("czyx", (3, 4, 20, 30))
    assert np.array_equal(volume[...], expected)
    assert np.array_equal(volume[1:, 2, 3:19, 17], expected[1:, 2, 3:19, 17])


def test_levels_of_a_pyramid(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 9999, (3, 64, 96), "uint16")
    with tifffile.TiffWriter(tmp_path / "p.ome.tif", bigtiff=True) as writer:
        options = {"tile": (16, 16), "compression": "zlib", "photometric": "minisblack"}
        writer.write(data, subifds=1, metadata=OME, **options)
        writer.write(data[:, ::2, ::2].copy(), subfiletype=1, metadata=None, **options)
    full, half = nb.open(f"{tmp_path}/p.ome.tif"), nb.open(f"{tmp_path}/p.ome.tif", level=1)
    assert (full.levels, half.levels, half.spec.level) == (2, 2, 1)
    assert half.voxel_size == pytest.approx((0.3, 0.4, 0.4))
    assert np.array_equal(full[...], data)
    assert np.array_equal(half[1:, 3:, 5], data[1:, ::2, ::2][:, 3:, 5])


@pytest.mark.parametrize(("how", "segments"), [({"tile": (16, 16)}, 2 * 1 * 2), ({"rowsperstrip": 8}, 2 * 2), ({}, 2)])
def test_only_the_segments_of_a_box_are_read(
    tmp_path: Path, image: Array, how: dict[str, Any], segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", compression="zlib", **how)
    volume = nb.open(f"{tmp_path}/a.tif")
    sizes: list[int] = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(tiff_pages.os, "pread", counted)
    assert np.array_equal(volume[5:7, 4:10, 20:40], image[5:7, 4:10, 20:40])
    assert len(sizes) == segments


def test_chunks_follow_the_file(tmp_path: Path) -> None:
    data = np.zeros((20, 512, 512), "uint16")
    for how, chunks in (({}, (1, 512, 512)), ({"tile": (128, 64)}, (20, 128, 64))):
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", **how)
        assert nb.open(f"{tmp_path}/a.tif").chunks == chunks
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((2, 4000, 4000), "uint8"), photometric="minisblack", rowsperstrip=100)
    assert nb.open(f"{tmp_path}/s.tif").chunks == (1, 1000, 4000)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint32", "uint64", "float16"])
def test_others_read_what_is_written_in_slabs(tmp_path: Path, dtype: str) -> None:
    """The engine writes whole planes in order; tifffile reads type, axes and voxel size back."""
    path, shape = f"{tmp_path}/out.tif", (13, 24, 31)
    size = {"z": "0.5 um", "y": "200 nm", "x": "0.2 um"}
    volume = nb.create(path, shape=shape, dtype=dtype, voxel_size=size, offset={"z": 7}, kind="labels")
    data = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    for block in Grid.over(volume.domain, (5, 24, 31)):
        volume.write(block.core, data[block.core.slices(volume.offset)])
    volume.close()
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        assert (series.axes, series.shape, series.dtype) == ("ZYX", shape, np.dtype(dtype))
        assert file.is_ome == (dtype not in ("uint64", "float16"))
        assert len(file.pages) == 13
        assert np.array_equal(series.asarray(), data)
        if file.is_ome:
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
            assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.5, 0.2, "µm")
    again = nb.open(path)
    assert (again.offset, again.kind) == ((7, 0, 0), "labels")
    assert again.voxel_size == pytest.approx((0.5, 0.2, 0.2))


SHORT = {"yx": (9, 10), "zyx": (1, 9, 10), "czyx": (1, 2, 9, 10), "tczyx": (2, 1, 3, 1, 5)}


@pytest.mark.parametrize(("axes", "shape"), SHORT.items())
def test_short_axes_are_kept(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    data = np.arange(math.prod(shape), dtype="uint16").reshape(shape)
    for dtype in ("uint16", "uint64"):
        volume = nb.create(
            f"{tmp_path}/{dtype}.tif", shape=shape, axes=axes, dtype=dtype, voxel_size=(1.0,) * len(shape)
        )
        volume.write(volume.domain, data.astype(dtype))
        again = nb.open(volume.url)
        assert (again.axes, again.shape) == (axes, shape)
        assert np.array_equal(again[...], data)


def test_the_same_voxels_are_the_same_bytes(tmp_path: Path, image: Array) -> None:
    """Also under the temporary name that the engine writes with."""
    for folder, name in (("a", "x.tif"), ("b", ".partial-x.tif")):
        volume = nb.create(f"{tmp_path}/{folder}/{name}", shape=image.shape, dtype="uint16")
        volume.write(volume.domain, image)
    assert (tmp_path / "a/x.tif").read_bytes() == (tmp_path / "b/.partial-x.tif").read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.tif"]


def test_what_cannot_be_created(tmp_path: Path, image: Array) -> None:
    for more, sentence in (
        ({"dtype": "bool"}, "cannot hold bool; use dtype: uint8"),
        ({"shards": (4, 4), "chunks": (2, 2)}, "has no shards"),
        ({"shape": (5,)}, "needs the axes y and x"),
    ):
        with pytest.raises(PlanError, match=sentence):
            nb.create(f"{tmp_path}/a.tif", **{"shape": (8, 8), **more})
    tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib", photometric="minisblack")
    with pytest.raises(Conflict, match="exists already"):
        nb.create(f"{tmp_path}/a.tif", shape=(8, 8))
    packed = nb.open(f"{tmp_path}/a.tif")
    with pytest.raises(RemoteError, match="compressed or tiled"):
        packed.write(packed.domain, image)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), image)


def test_no_room(small_disk: Path) -> None:
    with pytest.raises(RemoteError, match=r"no room to write: 0\.3 MB are needed, 0\.2 MB are free"):
        nb.create(f"{small_disk}/big.tif", shape=(64, 64, 64))
    assert list(small_disk.iterdir()) == []
    volume = nb.create(f"{small_disk}/fits.tif", shape=(40, 64, 64))
    (small_disk / "other").write_bytes(b"1" * 80_000)
    with pytest.raises(RemoteError, match=r"fits\.tif: no room to write"):
        volume.write(volume.domain, np.ones(volume.shape, "uint8"))


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not on this machine")
def test_real_files() -> None:
    for path in sorted(DATA.glob("*/*.tif")):
        volume = nb.open(str(path))
        assert volume.axes == "zyx"
        assert np.array_equal(volume[5:9, 20:50, 11:40], tifffile.imread(path)[5:9, 20:50, 11:40])

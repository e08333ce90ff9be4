"""Opening and creating with what a file does not know itself; default chunks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import ndbatch as nb
from ndbatch.errors import PlanError
from ndbatch.remotes.api import default_chunks
from ndbatch.remotes.base import Array


@pytest.fixture
def path(tmp_path: Path, image: Array) -> str:
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    return str(tmp_path / "image.tif")


def test_a_mapping_says_what_the_file_does_not_know(path: str, image: Array) -> None:
    size = {"z": "0.29 um", "y": "260 nm", "x": 0.26}
    by_mapping = nb.open({"url": path, "voxel_size": size, "axes": "zyx", "offset": {"y": 4}, "kind": "probability"})
    by_keyword = nb.open(path, voxel_size=size, axes="zyx", offset=(0, 4, 0), kind="probability")
    assert by_mapping.spec == by_keyword.spec
    assert by_mapping.voxel_size == pytest.approx((0.29, 0.26, 0.26))
    assert (by_mapping.offset, by_mapping.kind) == ((0, 4, 0), "probability")
    assert np.array_equal(by_mapping[:, 4:6], image[:, :2])
    assert nb.open({"url": path, "kind": "labels"}, kind="image").kind == "image"


def test_relative_paths_and_the_current_folder(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(path).parent
    assert nb.open("image.tif", base=folder).url == path
    monkeypatch.chdir(folder)
    assert nb.open("image.tif").url == path
    assert nb.open(Path("image.tif")).url == path
    assert nb.create("new.zarr", shape=(3, 4)).url == f"{folder}/new.zarr"


def test_axes_in_stored_order(tmp_path: Path, image: Array) -> None:
    tifffile.imwrite(tmp_path / "xyz.tif", image.transpose(1, 2, 0).copy(), photometric="minisblack")
    volume = nb.open(f"{tmp_path}/xyz.tif", axes="yxz", voxel_size={"z": "3 um", "y": "2 um", "x": "1 um"})
    assert (volume.axes, volume.shape, volume.voxel_size) == ("zyx", image.shape, (3.0, 2.0, 1.0))
    assert np.array_equal(volume[...], image)
    renamed = nb.open(f"{tmp_path}/xyz.tif", axes="tyx")
    assert (renamed.axes, renamed.shape) == ("tyx", (40, 50, 12))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"voxel_size": {"z": "1 um"}}, "says nothing of the axis y"),
        ({"voxel_size": {"q": "1 um"}}, "names the axis 'q'"),
        ({"voxel_size": {"z": "1 um", "y": "1 um", "x": "1 parsec"}}, "is not a length"),
        ({"voxel_size": (1, 1)}, "is not one number for each of z, y, x"),
        ({"voxel_size": (1, 0, 1)}, "it must be a length above 0"),
        ({"voxel_size": (1, math.nan, 1)}, "it must be a length above 0"),
        ({"offset": {"t": 1}}, "names the axis 't'"),
        ({"offset": (1, 2)}, "is not one number for each"),
        ({"offset": (1.5, 2, 3)}, "must be whole numbers"),
        ({"kind": "picture"}, "is not one of image, labels, probability"),
        ({"axes": "zy"}, "does not name the 3 axes"),
        ({"axes": "zzx"}, "does not name the 3 axes"),
        ({"voxel_sise": (1, 1, 1)}, r"unknown key 'voxel_sise' of a volume; did you mean voxel_size\?"),
    ],
)
def test_mistakes(path: str, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        nb.open({"url": path, **more})


def test_a_mapping_without_a_url() -> None:
    with pytest.raises(PlanError, match="needs the key url"):
        nb.open({"kind": "image"})


def test_like(path: str, tmp_path: Path) -> None:
    source = nb.open(path, voxel_size=(3, 2, 1), offset=(1, 2, 3))
    first = nb.create(f"{tmp_path}/a.zarr", like=source, dtype="uint32", kind="labels", chunks={"z": 4})
    assert (first.shape, first.offset, first.voxel_size) == (source.shape, (1, 2, 3), (3.0, 2.0, 1.0))
    assert (first.dtype, first.kind, first.chunks) == (np.dtype("uint32"), "labels", (4, 40, 50))
    second = nb.create(f"{tmp_path}/b.zarr", like=first)
    assert second.spec == first.spec
    third = nb.create(f"{tmp_path}/c.zarr", like=first, shape=(5, 6), voxel_size={"y": "1 um", "x": "1 um"})
    assert (third.axes, third.offset, third.voxel_size, third.chunks) == ("yx", (0, 0), (1.0, 1.0), (5, 6))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, "give shape=, or like="),
        ({"shape": (4, 0)}, "has an extent below 1"),
        ({"shape": (4, 4), "dtype": "uint7"}, "'uint7' is not a type of voxel"),
        ({"shape": (4, 4), "axes": "zyx"}, "is not one number for each of z, y, x"),
        ({"shape": (4, 4), "axes": "xy"}, "in this order"),
        ({"shape": (1, 1, 1, 1, 1, 1)}, "is not one number for each"),
        ({"shape": (4, 4), "chunks": (2,)}, "chunks .* is not one number"),
        ({"shape": (4, 4), "chunks": {"z": 2}}, "chunks names the axis 'z'"),
        ({"shape": {"y": 4}, "axes": "yx"}, "shape says nothing of the axis x"),
        ({"shape": (4, 4), "kind": "meaning"}, "is not one of image"),
    ],
)
def test_mistakes_of_create(tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        nb.create(f"{tmp_path}/new.zarr", **more)
    assert not (tmp_path / "new.zarr").exists()


def test_a_refused_spec_overwrites_nothing(tmp_path: Path) -> None:
    kept = nb.create(f"{tmp_path}/keep.zarr", shape=(4, 4))
    kept.write(kept.domain, np.ones((4, 4), "uint8"))
    with pytest.raises(PlanError, match="no type of voxel"):
        nb.create(f"{tmp_path}/keep.zarr", shape=(4, 4), dtype="complex64", overwrite=True)
    assert nb.open(kept.url)[...].all()


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    st.sampled_from(["uint8", "uint16", "uint32", "uint64", "float32"]),
)
def test_default_chunks(shape: list[int], dtype: str) -> None:
    axes = "tczyx"[-len(shape) :]
    chunks = default_chunks(shape, dtype, axes)
    nbytes = math.prod(chunks) * np.dtype(dtype).itemsize
    assert all(1 <= c <= n for c, n in zip(chunks, shape, strict=True))
    assert nbytes <= 2 * 2**20
    spatial = [(c, n) for c, n, axis in zip(chunks, shape, axes, strict=True) if axis in "zyx"]
    assert nbytes >= 2**19 or all(c == n for c, n in spatial)
    assert all(c == 1 for c, axis in zip(chunks, axes, strict=True) if axis in "tc")
    assert all(c == n or c & (c - 1) == 0 for c, n in spatial)

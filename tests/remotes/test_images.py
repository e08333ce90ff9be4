"""Stacks of slices: the contract, dialects of PNG, JPEG and TIFF, rows with gaps, what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tifffile
from PIL import Image

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, NotFound, PlanError, RemoteError
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.files import slices
from ndbatch.remotes.files.images import ImagesVolume
from ndbatch.testing import VolumeSuite


class TestPng(VolumeSuite):
    """A folder of PNG images, or TIFF where PNG has no such type."""

    dtypes: ClassVar[tuple[str, ...]] = (*VolumeSuite.dtypes, "bool", "float64", "int64")

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"images://{tmp_path}/slices"

    def write_raw(self, url: str, data: Array) -> None:
        folder = Path(parse(url).path)
        folder.mkdir()
        for number, plane in enumerate(data):
            Image.fromarray(plane).save(folder / f"image{number}.png")

    def read_raw(self, url: str) -> Array:
        files = sorted(Path(parse(url).path).glob("*.png"))
        return np.stack([np.asarray(Image.open(file)) for file in files])


class TestTiffSlices(TestPng):
    """A folder of compressed TIFF images."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"images://{tmp_path}/slices?format=tif&compression=zlib"

    def write_raw(self, url: str, data: Array) -> None:
        folder = Path(parse(url).path)
        folder.mkdir()
        for number, plane in enumerate(data):
            tifffile.imwrite(folder / f"image{number}.tif", plane, tile=(16, 16))

    def read_raw(self, url: str) -> Array:
        return np.asarray(tifffile.imread(str(Path(parse(url).path) / "*.tif")))


def save(folder: Path, data: Array, name: str = "z{}.png", first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(data):
        Image.fromarray(plane).save(folder / name.format(number + first))
    return folder


def test_natural_order_of_folders_and_globs(tmp_path: Path, image: Array) -> None:
    folder = save(tmp_path / "s", image, "a2_z{}.png")
    for url in (f"images://{folder}", f"{folder}/*.png"):
        volume = nb.open(url)
        assert (volume.axes, volume.shape, volume.dtype) == ("zyx", image.shape, image.dtype)
        assert np.array_equal(volume[...], image)
        assert np.array_equal(volume[9:11, 3:5, 7], image[9:11, 3:5, 7])
    assert np.array_equal(nb.open(f"{folder}/a2_z1*.png?gaps=true")[...], image[[1, 10, 11]])
    single = nb.open(f"{folder}/a2_z3.png")
    assert (single.axes, single.url) == ("yx", f"{folder}/a2_z3.png")
    assert np.array_equal(single[...], image[3])
    assert nb.open(f"images://{folder}?axes=tyx").axes == "tyx"
    with pytest.raises(PlanError, match="axes=xyz does not name the axes"):
        nb.open(f"images://{folder}?axes=xyz")


def test_one_that_is_missing_is_named(tmp_path: Path, image: Array) -> None:
    folder = save(tmp_path / "s", image, "z{:03d}.png", first=5)
    (folder / "z009.png").unlink()
    with pytest.raises(RemoteError, match=r"z009\.png is missing in the row of 11 slices"):
        nb.open(f"images://{folder}")
    assert nb.open(f"images://{folder}?gaps=true").shape == (11, 40, 50)
    every_fifth = tmp_path / "t"
    every_fifth.mkdir()
    for number in range(0, 30, 5):
        Image.fromarray(image[0]).save(every_fifth / f"z{number}.png")
    assert nb.open(f"images://{every_fifth}").shape == (6, 40, 50)


def test_slices_that_differ_are_named(tmp_path: Path, image: Array) -> None:
    folder = save(tmp_path / "s", image)
    Image.fromarray(image[3, :, 1:]).save(folder / "z7.png")
    with pytest.raises(RemoteError, match=r"z7\.png is 40 x 49 uint16, the slices before it are 40 x 50 uint16"):
        nb.open(f"images://{folder}")
    Image.fromarray(image[3].astype("uint8")).save(folder / "z7.png")
    with pytest.raises(RemoteError, match=r"z7\.png is 40 x 50 uint8, the slices"):
        nb.open(f"images://{folder}")
    Image.fromarray(image[3]).save(folder / "z7.tif")
    (folder / "z7.png").unlink()
    with pytest.raises(RemoteError, match="several kinds"):
        nb.open(f"images://{folder}")
    (folder / "z7.tif").unlink()
    Image.fromarray(image[7]).save(folder / "z7.png")
    volume = nb.open(f"images://{folder}")
    Image.fromarray(image[3, :, 1:]).save(folder / "z7.png")
    with pytest.raises(RemoteError, match=r"z7\.png is 40 x 49"):
        volume.read(volume.domain)
    (folder / "z7.png").unlink()
    with pytest.raises(NotFound, match=r"z7\.png does not exist"):
        volume.read(volume.domain)
    with pytest.raises(NotFound, match="holds no slices"):
        nb.open(f"{folder}/*.jpg")


def test_colours(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    for name, data in {
        "rgb.png": source.integers(0, 256, (9, 11, 3)).astype("uint8"),
        "rgba.png": source.integers(0, 256, (9, 11, 4)).astype("uint8"),
        "la.png": source.integers(0, 256, (9, 11, 2)).astype("uint8"),
        "rgb.tif": source.integers(0, 256, (9, 11, 3)).astype("uint8"),
    }.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        for number in range(3):
            Image.fromarray(data + number).save(folder / f"{number}{name[-4:]}")
        volume = nb.open(f"images://{folder}")
        assert (volume.axes, volume.shape) == ("czyx", (data.shape[2], 3, 9, 11))
        assert np.array_equal(volume[:, 2, 3:, 4], np.moveaxis(data + 2, -1, 0)[:, 3:, 4])


def test_what_pillow_would_change(tmp_path: Path) -> None:
    import imagecodecs

    deep = np.random.default_rng(0).integers(0, 2**16, (9, 11, 3)).astype("uint16")
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    assert np.array_equal(nb.open(f"{tmp_path}/deep.png")[...], np.moveaxis(deep, -1, 0))
    Image.fromarray(np.zeros((4, 4), "uint8")).convert("P").save(tmp_path / "palette.png")
    with pytest.raises(RemoteError, match="palette colours; save it as grey"):
        nb.open(f"{tmp_path}/palette.png")
    Image.fromarray(np.zeros((4, 4), "uint8")).convert("P").save(tmp_path / "p.png", bits=4)
    raw = bytearray((tmp_path / "palette.png").read_bytes())
    raw[24], raw[25] = 4, 0
    (tmp_path / "four.png").write_bytes(raw)
    with pytest.raises(RemoteError, match="4 bits a voxel"):
        nb.open(f"{tmp_path}/four.png")


def test_jpeg(tmp_path: Path) -> None:
    smooth = (np.add.outer(np.arange(4), np.add.outer(np.arange(40), np.arange(50))) * 2).astype("uint8")
    volume = nb.create(f"images://{tmp_path}/j?format=jpeg&quality=98", shape=smooth.shape, dtype="uint8")
    volume.write(volume.domain, smooth)
    found = nb.open(f"{tmp_path}/j/*.jpeg")[...]
    assert np.abs(found.astype(int) - smooth).max() <= 3
    with pytest.raises(PlanError, match="jpeg changes values"):
        nb.create(f"images://{tmp_path}/k?format=jpeg", shape=(2, 8, 8), dtype="uint8", kind="labels")
    with pytest.raises(PlanError, match="jpeg images cannot hold uint16; use format=tif"):
        nb.create(f"images://{tmp_path}/k?format=jpeg", shape=(2, 8, 8), dtype="uint16")


def test_damage(tmp_path: Path, image: Array) -> None:
    folder = save(tmp_path / "s", image)
    whole = (folder / "z5.png").read_bytes()
    for share in (0.3, 0.9):
        (folder / "z5.png").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(Corrupt, match=r"z5\.png is damaged"):
            nb.open(f"images://{folder}")[5]
    (folder / "z5.png").write_bytes(b"")
    with pytest.raises(Corrupt, match=r"z5\.png is damaged or not a PNG"):
        nb.open(f"images://{folder}")
    (folder / "z5.png").write_bytes(whole)
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    with pytest.raises(Corrupt, match=r"none\.jpg is damaged or not an image"):
        nb.open(f"{tmp_path}/none.jpg")


def test_a_block_reads_its_slices_alone(tmp_path: Path, image: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = nb.open(f"images://{save(tmp_path / 's', image)}")
    decoded: list[str] = []
    decode = slices._decode

    def counted(path: Path) -> Array:
        decoded.append(path.name)
        return decode(path)

    monkeypatch.setattr(slices, "_decode", counted)
    assert np.array_equal(volume[4:7, 1:3, 2:9], image[4:7, 1:3, 2:9])
    assert decoded == ["z4.png", "z5.png", "z6.png"]
    assert np.array_equal(volume[6:8, 20:, 2:9], image[6:8, 20:, 2:9])
    assert decoded == ["z4.png", "z5.png", "z6.png", "z7.png"]


def test_a_block_reads_the_tiles_of_its_slices_alone(tmp_path: Path, image: Array) -> None:
    (tmp_path / "s").mkdir()
    for number, plane in enumerate(image):
        path = tmp_path / f"s/z{number}.tif"
        tifffile.imwrite(path, plane, tile=(16, 16), compression="zlib")
        with tifffile.TiffFile(path) as file:
            last = file.pages[0].dataoffsets[-1]
        with path.open("r+b") as raw:
            raw.seek(last)
            raw.write(b"\xff" * 8)
    volume = nb.open(f"{tmp_path}/s/*.tif")
    assert np.array_equal(volume[2:9, :32, :48], image[2:9, :32, :48])
    with pytest.raises(Corrupt, match=r"z0\.tif: page 0 is damaged"):
        volume.read(volume.domain)


@pytest.mark.parametrize(
    ("axes", "shape", "dtype"),
    [
        ("yx", (9, 11), "uint8"), ("zyx", (1, 9, 11), "uint16"), ("tyx", (3, 9, 11), "float32"),
        ("cyx", (3, 9, 11), "uint8"), ("czyx", (3, 4, 9, 11), "uint8"), ("czyx", (1, 4, 9, 11), "uint16"),
        ("czyx", (2, 4, 9, 11), "uint16"), ("tcyx", (3, 2, 9, 11), "int32"),
    ],
)  # fmt: skip
def test_axes(tmp_path: Path, axes: str, shape: tuple[int, ...], dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    volume = nb.create(f"images://{tmp_path}/s", shape=shape, axes=axes, dtype=dtype, voxel_size=(2.0,) * len(shape))
    volume.write(volume.domain, data)
    again = nb.open(volume.url)
    assert (again.axes, again.shape, again.voxel_size) == (axes, shape, (2.0,) * len(shape))
    assert np.array_equal(again[...], data)


def test_what_is_refused(tmp_path: Path, image: Array) -> None:
    folder = save(tmp_path / "photos", image[:2])
    with pytest.raises(Conflict, match="exists already"):
        nb.create(f"images://{folder}", shape=(2, 8, 8))
    with pytest.raises(PlanError, match=r"was not made by ndbatch .* left as it is"):
        ImagesVolume.delete(parse(f"images://{folder}"))
    assert len(list(folder.iterdir())) == 2
    for url, shape, sentence in (
        (f"{tmp_path}/out/*.png", (2, 8, 8), "write images://FOLDER"),
        (f"images://{tmp_path}/out?format=gif", (2, 8, 8), "use png, tif or jpeg"),
        (f"images://{tmp_path}/out", (2, 3, 3, 8, 8), "one of z and t"),
        ("images://s3://bucket/out", (2, 8, 8), "on this machine only"),
    ):
        with pytest.raises(PlanError, match=sentence):
            nb.create(url, shape=shape)


def test_the_same_voxels_are_the_same_bytes(tmp_path: Path, image: Array) -> None:
    for name, block in (("a", 12), ("b", 5)):
        volume = nb.create(f"images://{tmp_path}/{name}", shape=image.shape, dtype="uint16")
        for z in range(0, 12, block):
            part = nb.Box((z, 0, 0), (min(12, z + block), 40, 50))
            volume.write(part, image[part.slices()])
    files = [sorted((tmp_path / name).iterdir()) for name in "ab"]
    assert [file.name for file in files[0]] == [*["ndbatch.json"], *[f"z{n:04d}.png" for n in range(12)]]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]

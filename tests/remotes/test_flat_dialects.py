"""What NIfTI, NRRD, MRC, npy and npz files of others say, packed streams read from anywhere, and damage."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import Corrupt, MissingExtra, NotFound, PlanError, RemoteError
from ndbatch.remotes.base import Array
from ndbatch.remotes.files import inflating

# -- NIfTI -----------------------------------------------------------------------------------------------------------


def nifti(
    path: str, data: Array, affine: Array | None = None, unit: str = "mm", kind: Any = nibabel.Nifti1Image
) -> str:
    image = kind(data.T, np.diag([0.5, 0.6, 2.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1000.0), ("micron", 1.0), ("meter", 1e6), ("unknown", None)])
def test_units_of_nifti(tmp_path: Path, image: Array, unit: str, factor: float | None) -> None:
    volume = nb.open(nifti(f"{tmp_path}/a.nii", image, unit=unit))
    assert volume.voxel_size == (None if factor is None else pytest.approx((2.0 * factor, 0.6 * factor, 0.5 * factor)))


def test_matrices_of_nifti_are_attributes(tmp_path: Path, image: Array) -> None:
    """Axes stay as they are stored: also of an image that lies turned in the scanner, in a frame of millimetres."""
    affine = np.array([[0, 0, 2.0, -90], [0.5, 0, 0, -126], [0, 0.6, 0, -72], [0, 0, 0, 1]])
    volume = nb.open(nifti(f"{tmp_path}/a.nii.gz", image, affine))
    assert volume.voxel_size == pytest.approx((2000.0, 600.0, 500.0))
    assert volume.offset == (0, 0, 0)
    assert np.array_equal(volume[...], image)
    assert np.allclose(volume.attributes["nifti"]["sform"]["matrix"], affine)
    assert volume.attributes["nifti"]["units"] == "mm"


def test_scaled_values_of_nifti(tmp_path: Path, image: Array) -> None:
    made = nibabel.Nifti1Image(image.astype("int16").T, np.eye(4))
    made.header.set_slope_inter(0.5, -3.0)
    made.to_filename(tmp_path / "a.nii")
    raw = nibabel.load(tmp_path / "a.nii")
    raw.header["scl_slope"], raw.header["scl_inter"] = 0.5, -3.0
    with (tmp_path / "a.nii").open("r+b") as file:
        file.seek(112)
        file.write(np.array([0.5, -3.0], "<f4").tobytes())
    expected = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).T
    volume = nb.open(f"{tmp_path}/a.nii")
    assert volume.dtype == np.float32
    assert np.array_equal(volume[3:5], expected[3:5].astype("float32"))
    with pytest.raises(RemoteError, match="keeps scaled values"):
        volume.write(volume.domain, volume.read(volume.domain))


def test_kinds_of_nifti(tmp_path: Path, image: Array) -> None:
    swapped = nibabel.Nifti1Image(image.T.astype(">u2"), np.eye(4), header=nibabel.Nifti1Header(endianness=">"))
    swapped.to_filename(tmp_path / "big.nii")
    assert np.array_equal(nb.open(f"{tmp_path}/big.nii")[...], image)
    assert nb.open(f"{tmp_path}/big.nii").dtype.isnative
    assert np.array_equal(nb.open(nifti(f"{tmp_path}/two.nii", image, kind=nibabel.Nifti2Image))[...], image)
    series = np.stack([image, image + 1])
    volume = nb.open(nifti(f"{tmp_path}/time.nii.gz", series))
    assert (volume.axes, volume.shape) == ("tzyx", series.shape)
    assert np.array_equal(volume[1, 5:7], series[1, 5:7])
    rgb = np.zeros(image.T.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = image.T % 256
    nibabel.Nifti1Image(rgb, np.eye(4)).to_filename(tmp_path / "rgb.nii")
    colours = nb.open(f"{tmp_path}/rgb.nii")
    assert (colours.axes, colours.shape) == ("czyx", (3, *image.shape))
    assert np.array_equal(colours[1], image % 256)
    assert not colours[0].any()
    nifti(f"{tmp_path}/c.nii", image.astype("complex64"))
    with pytest.raises(RemoteError, match="complex64, which is no type of voxel"):
        nb.open(f"{tmp_path}/c.nii")
    nibabel.Nifti1Pair(image.T, np.eye(4)).to_filename(tmp_path / "pair.img")
    with pytest.raises(RemoteError, match=r"one of two files .* save it as a single \.nii"):
        nb.open(f"nifti://{tmp_path}/pair.hdr")


def test_long_axes_are_nifti_2(tmp_path: Path) -> None:
    volume = nb.create(f"{tmp_path}/long.nii", shape=(2, 3, 40_000), voxel_size=(3.0, 2.0, 1.0))
    volume.write(volume.domain, np.full(volume.shape, 5, "uint8"))
    found = nibabel.load(f"{tmp_path}/long.nii")
    assert (type(found).__name__, found.shape) == ("Nifti2Image", (40_000, 3, 2))
    assert np.allclose(found.header.get_zooms(), (0.001, 0.002, 0.003))
    assert (np.asarray(found.dataobj) == 5).all()


@pytest.mark.parametrize("axes", ["yx", "zyx", "tzyx", "czyx", "tczyx", "cyx", "tyx"])
def test_axes_of_new_files(tmp_path: Path, axes: str) -> None:
    shape = tuple({"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}[axis] for axis in axes)
    data = np.arange(int(np.prod(shape)), dtype="uint16").reshape(shape)
    for name in ("a.nii", "a.nrrd", "a.npy") if len(axes) < 4 or axes == "tczyx" else ("a.nii", "a.nrrd"):
        volume = nb.create(f"{tmp_path}/{name}", shape=shape, dtype="uint16", axes=axes, voxel_size=(2.0,) * len(shape))
        volume.write(volume.domain, data)
        again = nb.open(f"{tmp_path}/{name}", **({"axes": axes} if name == "a.npy" else {}))
        assert (again.axes, again.shape) == (axes, shape)
        assert np.array_equal(again[...], data)


# -- NRRD ------------------------------------------------------------------------------------------------------------


def test_heads_of_nrrd(tmp_path: Path, image: Array) -> None:
    path = f"{tmp_path}/a.nrrd"
    directions = np.array([[0.0, 0.5, 0], [0.6, 0, 0], [0, 0, -2.0]])
    told = {"space": "left-posterior-superior", "space directions": directions, "space origin": np.array([1.0, 2, 3])}
    nrrd.write(path, image.T, {**told, "space units": ["mm", "mm", "mm"], "encoding": "gzip", "endian": "big"})
    volume = nb.open(path)
    assert volume.voxel_size == pytest.approx((2000.0, 600.0, 500.0))
    assert np.array_equal(volume[...], image)
    assert volume.attributes["nrrd"]["space origin"] == [1.0, 2.0, 3.0]
    nrrd.write(path, image.T, {**told, "encoding": "raw"})
    assert nb.open(path).voxel_size is None
    nrrd.write(path, image.T, {"spacings": [0.5, 0.6, 2.0], "units": ["um", "um", "um"], "encoding": "raw"})
    assert nb.open(path).voxel_size == pytest.approx((2.0, 0.6, 0.5))
    vectors = np.stack([image, image + 1, image + 2])
    nrrd.write(
        path, vectors.transpose(0, 3, 2, 1), {"kinds": ["vector", "domain", "domain", "domain"], "encoding": "gzip"}
    )
    assert nb.open(path).axes == "czyx"
    assert np.array_equal(nb.open(path)[2, 3:5], vectors[2, 3:5])


def test_detached_nrrd(tmp_path: Path, image: Array) -> None:
    nrrd.write(f"{tmp_path}/a.nhdr", image.T, {"encoding": "raw"}, detached_header=True)
    assert np.array_equal(nb.open(f"{tmp_path}/a.nhdr")[4:6], image[4:6])
    head = (tmp_path / "a.nhdr").read_text()
    (tmp_path / "b.raw").write_bytes(b"line one\nline two\nabc" + image.astype(">u2").tobytes())
    for skip in ("line skip: 2\nbyte skip: 3\n", "byte skip: -1\n"):
        (tmp_path / "b.nhdr").write_text(head.replace("a.raw", "b.raw").replace("little", "big").rstrip() + f"\n{skip}")
        assert np.array_equal(nb.open(f"{tmp_path}/b.nhdr")[...], image)
    os.remove(tmp_path / "b.raw")
    with pytest.raises(NotFound, match=r"names the data file b\.raw, which is not beside it"):
        nb.open(f"{tmp_path}/b.nhdr")
    with pytest.raises(PlanError, match=r"give it the ending \.nrrd"):
        nb.create(f"{tmp_path}/c.nhdr", shape=(2, 2, 2))
    nrrd.write(f"{tmp_path}/x.nrrd", image.T, {"encoding": "bzip2"})
    with pytest.raises(RemoteError, match="encoding bzip2 is not read; save it as raw or gzip"):
        nb.open(f"{tmp_path}/x.nrrd")


# -- MRC -------------------------------------------------------------------------------------------------------------


def test_heads_of_mrc(tmp_path: Path, image: Array) -> None:
    path = f"{tmp_path}/a.mrc"
    with mrcfile.new(path, image) as file:
        file.set_volume()
        file.voxel_size = (3.0, 4.0, 13.5)
        file.header.nzstart = -5
        file.set_extended_header(np.zeros(100, "V12"))
    volume = nb.open(path)
    assert volume.voxel_size == pytest.approx((13.5e-4, 4e-4, 3e-4))
    assert (volume.offset, volume.dtype) == ((-5, 0, 0), np.uint16)
    assert np.array_equal(volume[-5 + 7], image[7])
    with mrcfile.new(path, image.astype("float32"), overwrite=True):
        pass
    assert nb.open(path).voxel_size is None
    stack = np.stack([image, image + 1]).astype("int16")
    mrcfile.new(path, stack, overwrite=True).close()
    assert nb.open(path).axes == "tzyx"
    assert np.array_equal(nb.open(path)[1, 3:5], stack[1, 3:5])
    with mrcfile.new(path, image.astype("complex64"), overwrite=True):
        pass
    with pytest.raises(RemoteError, match="MRC mode 4"):
        nb.open(path)


def test_bytes_of_mrc_are_signed_unless_imod_says_otherwise(tmp_path: Path) -> None:
    data = np.arange(256, dtype="uint8").reshape(4, 8, 8)
    with mrcfile.new(f"{tmp_path}/a.mrc", data.view("int8")) as file:
        file.set_volume()
    assert nb.open(f"{tmp_path}/a.mrc").dtype == np.int8
    with open(f"{tmp_path}/a.mrc", "r+b") as raw:
        raw.seek(152)
        raw.write(np.array([1146047817, 16], "<i4").tobytes())
    assert np.array_equal(nb.open(f"{tmp_path}/a.mrc")[...], data)
    assert nb.open(f"{tmp_path}/a.mrc").dtype == np.uint8


def test_what_mrc_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="MRC cannot hold uint8; use dtype: uint16"):
        nb.create(f"{tmp_path}/a.mrc", shape=(2, 8, 8), dtype="uint8")
    with pytest.raises(PlanError, match="MRC volume has the axes z, y, x"):
        nb.create(f"{tmp_path}/a.mrc", shape=(2, 2, 8, 8), axes="czyx", dtype="int16")


# -- npy and npz -----------------------------------------------------------------------------------------------------


def test_arrays_of_numpy(tmp_path: Path, image: Array) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(image.transpose(2, 1, 0)))
    np.save(tmp_path / "c.npy", image.transpose(2, 1, 0).copy())
    for name in ("f.npy", "c.npy"):
        volume = nb.open(f"{tmp_path}/{name}", axes="xyz")
        assert np.array_equal(volume[3:5, 7:9, 1], image[3:5, 7:9, 1])
        volume.write(nb.Box((1, 2, 3), (2, 4, 5)), np.zeros((1, 2, 2), "uint16"))
        assert not np.load(tmp_path / name)[3:5, 2:4, 1].any()
    np.save(tmp_path / "big.npy", image.astype(">u2"))
    assert np.array_equal(nb.open(f"{tmp_path}/big.npy")[...], image)
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(RemoteError, match="object, which is no type of voxel"):
        nb.open(f"{tmp_path}/objects.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy(tmp_path: Path, image: Array, save: Callable[..., None]) -> None:
    save(tmp_path / "one.npz", only=image)
    assert nb.open(f"{tmp_path}/one.npz").url == f"{tmp_path}/one.npz::/only"
    save(tmp_path / "a.npz", first=image, second=image[:3] + 1)
    assert np.array_equal(nb.open(f"{tmp_path}/a.npz::second")[1:, 3], image[1:3, 3] + 1)
    with pytest.raises(NotFound, match=r"holds several arrays; it holds /first, /second; write .*a\.npz::/first"):
        nb.open(f"{tmp_path}/a.npz")
    with pytest.raises(NotFound, match="has no array /third; it holds"):
        nb.open(f"{tmp_path}/a.npz::/third")


# -- packed streams and damage ---------------------------------------------------------------------------------------


def test_a_packed_stream_is_read_from_the_nearest_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one pass, a read costs what lies between a restart point and its end, not what lies before."""
    monkeypatch.setattr(inflating, "PAGE", 2**16)
    monkeypatch.setattr(inflating, "PIECE", 2**12)
    monkeypatch.setattr(inflating, "PAGES", 2)
    data = np.random.default_rng(0).integers(0, 256, 3_000_001, "uint8").tobytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(data[:1_234_567]) + gzip.compress(data[1_234_567:]))
    size = os.path.getsize(tmp_path / "a.gz")
    stream = inflating.Inflater(inflating.Stream(tmp_path / "a.gz", "1", 0, size), len(data))
    unpacked = 0
    inflate = inflating.Inflater._unpacked

    def counted(self: Any, file: Any, state: Any, wanted: int) -> Any:
        nonlocal unpacked
        for piece in inflate(self, file, state, wanted):
            unpacked += len(piece)
            yield piece

    monkeypatch.setattr(inflating.Inflater, "_unpacked", counted)
    assert stream.read(2_999_000, 1001) == data[-1001:]
    assert unpacked == len(data)
    for start in (1_234_560, 5, 2_000_000, 65_530, 2_900_000):
        unpacked = 0
        assert stream.read(start, 100) == data[start : start + 100]
        assert unpacked <= 2 * 2**16
    with pytest.raises(Corrupt, match="cut short"):
        stream.read(len(data) - 5, 10)


def test_points_are_few_for_long_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflating, "PAGE", 2**10)
    monkeypatch.setattr(inflating, "POINTS", 10)
    data = bytes(range(256)) * 400
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
    stream = inflating.Inflater(inflating.Stream(tmp_path / "a.gz", "1", 0, 2**20), len(data))
    assert [stream.read(start, 3) for start in range(90_000, 0, -7777)] == [
        data[s : s + 3] for s in range(90_000, 0, -7777)
    ]
    assert len(stream._points) <= 11


def written(path: Path, data: Array) -> None:
    """Write `data` with the format's own library."""
    name = path.name
    if ".nii" in name:
        nibabel.Nifti1Image(data.T, np.eye(4)).to_filename(path)
    elif ".mrc" in name:
        mrcfile.new(path, data, compression="gzip" if name.endswith("gz") else None, overwrite=True).close()
    elif name.endswith(".npz"):
        np.savez_compressed(path, data)
    elif name.endswith(".npy"):
        np.save(path, data)
    else:
        nrrd.write(str(path), data.T, {"encoding": "raw" if name == "a.nrrd" else "gzip"})


NAMES = ("a.nii", "a.nii.gz", "a.nrrd", "packed.nrrd", "a.mrc", "a.mrc.gz", "a.npy", "a.npz")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_short_is_never_read_in_part(
    tmp_path: Path, image: Array, name: str, share: float, cut: Callable[[str, float], None]
) -> None:
    written(tmp_path / name, image)
    assert np.array_equal(nb.open(f"{tmp_path}/{name}")[...], image)
    cut(f"{tmp_path}/{name}", share)
    with pytest.raises(Corrupt, match=name) as caught:
        nb.open(f"{tmp_path}/{name}").read(nb.Box((0, 0, 0), image.shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if "npz" in name or "gz" in name or "packed" in name])
def test_a_damaged_stream_is_never_read(tmp_path: Path, image: Array, name: str) -> None:
    written(tmp_path / name, image)
    size = os.path.getsize(tmp_path / name)
    with (tmp_path / name).open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\x55" * 40)
    with pytest.raises(Corrupt, match=name):
        nb.open(f"{tmp_path}/{name}").read(nb.Box((0, 0, 0), image.shape))


@pytest.mark.parametrize("name", NAMES)
def test_another_file_is_told(tmp_path: Path, name: str) -> None:
    for content in (b"", b"\x00" * 5000, b"{}\n" * 500, np.random.default_rng(0).bytes(3000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Corrupt, match=rf"{name} is (not|empty|cut short|damaged)"):
            nb.open(f"{tmp_path}/{name}")
    (tmp_path / "folder").mkdir(exist_ok=True)
    with pytest.raises(NotFound, match="is a folder"):
        nb.open(f"{name.split('.')[1].replace('nii', 'nifti')}://{tmp_path}/folder")


def test_a_replaced_file_is_seen(tmp_path: Path, image: Array) -> None:
    for name in ("a.nii.gz", "a.npy"):
        written(tmp_path / name, image)
        volume = nb.open(f"{tmp_path}/{name}")
        assert volume[0, 0, 1] == 1
        written(tmp_path / name, image + 5)
        os.utime(tmp_path / name, (1, 1))
        assert volume[0, 0, 1] == 6
        written(tmp_path / name, image[1:])
        os.utime(tmp_path / name, (2, 2))
        with pytest.raises(RemoteError, match="replaced by another array"):
            volume.read(volume.domain)


@pytest.mark.parametrize(("name", "package"), [("a.nii", "nibabel"), ("a.nrrd", "pynrrd"), ("a.mrc", "mrcfile")])
def test_what_is_not_installed(
    tmp_path: Path, image: Array, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / name, image)
    monkeypatch.setitem(sys.modules, package.removeprefix("py"), None)
    with pytest.raises(MissingExtra, match=rf'needs the package {package}: pip install "ndbatch\[formats\]"'):
        nb.open(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mrc", "a.npy", "a.npz"])
def test_the_same_voxels_are_the_same_bytes(tmp_path: Path, image: Array, name: str) -> None:
    data = image.astype("int16")
    for folder, block in (("a", 12), ("b", 5)):
        volume = nb.create(f"{tmp_path}/{folder}/{name}", shape=data.shape, dtype="int16")
        for z in range(0, 12, block):
            part = nb.Box((z, 0, 0), (min(12, z + block), 40, 50))
            volume.write(part, data[part.slices()])
        volume.close()
        assert os.listdir(tmp_path / folder) == [name]
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_room(small_disk: Path) -> None:
    for name in ("a.nii", "a.npy", "a.npz"):
        with pytest.raises(RemoteError, match=r"no room to write: 0\.3 MB are needed"):
            nb.create(f"{small_disk}/{name}", shape=(64, 64, 64))
    assert list(small_disk.iterdir()) == []

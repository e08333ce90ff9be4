"""A file's volumes into a new place: what is found, asked, refused, uploaded, resumed and verified."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import NotFound, PlanError
from ndbatch.ingest.look import look
from ndbatch.ingest.settings import asked, fitting_dtype, fitting_levels, named, proposed
from ndbatch.ingest.upload import ingest
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.base import Kind
from ndbatch.remotes.dvid.volume import DvidVolume
from ndbatch.testing.volumes import voxels

SIZE = {"z": "40 nm", "y": "4 nm", "x": "4 nm"}
DOWNLOAD = "embryo-em-hdf5-0-1000_1045-2000_2037-5_25-ndcutout.h5"
SHAPE = (20, 37, 45)


def cutouts(path: Path, **channels: tuple[str, Any]) -> Path:
    """Write an HDF5 file as ndstore gives it: a group for each channel, its type beside its voxels."""
    with h5py.File(path, "w") as file:
        for name, (kind, data) in channels.items():
            group = file.create_group(name)
            group.create_dataset("CUTOUT", data=data, compression="gzip")
            group.create_dataset("CHANNELTYPE", (1,), dtype=h5py.special_dtype(vlen=str), data=kind)
            group.create_dataset("DATATYPE", (1,), dtype=h5py.special_dtype(vlen=str), data=str(data.dtype))
    return path


def test_a_download_of_ndstore_tells_nearly_everything(tmp_path: Path) -> None:
    """The last axis is x: the size along it is that of the range of x in the name."""
    image, labels = voxels(SHAPE, "uint8"), voxels(SHAPE, "uint32", 1) % 9
    source = cutouts(tmp_path / DOWNLOAD, em=("image", image), seg=("annotation", labels))
    em, seg = look(source)
    assert (em.name, em.kind, seg.name, seg.kind) == ("em", Kind.IMAGE, "seg", Kind.LABELS)
    assert em.volume.shape == SHAPE
    assert em.volume.axes == "zyx"
    assert em.offset == {"x": 1000, "y": 2000, "z": 5}
    assert em.token == "embryo"
    assert em.window == (image.min(), image.max())
    assert em.exact
    assert seg.document()["window"] == [0, 8]


def test_a_name_that_does_not_fit_the_voxels_is_not_believed(tmp_path: Path) -> None:
    source = cutouts(tmp_path / DOWNLOAD, em=("image", voxels((20, 45, 37), "uint8")))
    assert look(source)[0].offset == {}


def test_four_axes_of_a_cutout_begin_with_time(tmp_path: Path) -> None:
    source = cutouts(tmp_path / "calcium.h5", gcamp=("timeseries", voxels((3, 4, 5, 6), "uint16")))
    (found,) = look(source)
    assert (found.volume.axes, found.times) == ("tzyx", 3)
    (done,) = ingest(source, str(tmp_path / "out"), voxel_size=SIZE, cluster="inline", directory=tmp_path / "run")
    assert nb.open(done.url).axes == "tzyx"


def test_everything_goes_into_a_folder_and_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image, labels = voxels(SHAPE, "uint8"), (voxels(SHAPE, "uint32", 1) % 200).astype("uint8")
    source = cutouts(tmp_path / DOWNLOAD, em=("image", image), seg=("annotation", labels))
    said: list[str] = []
    done = ingest(source, "out", voxel_size=SIZE, cluster="inline", tell=said.append)
    assert [one.ok for one in done] == [True, True]
    assert len(said) == 2
    em, seg = (nb.open(one.url) for one in done)
    assert np.array_equal(em[...], image)
    assert np.array_equal(seg[...], labels)
    assert em.offset == seg.offset == (5, 2000, 1000)
    assert em.voxel_size == pytest.approx((0.04, 0.004, 0.004))
    assert (seg.dtype, seg.kind) == (np.dtype("uint32"), Kind.LABELS)  # room for ids that come later
    again = ingest(source, "out", voxel_size=SIZE, cluster="inline")
    assert all(one.ok and one.result.nothing_to_do for one in again)


def test_levels_are_made_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nb.store(_lazy(voxels((8, 64, 64), "uint8")), nb.create("a.zarr", shape=(8, 64, 64)))
    (done,) = ingest("a.zarr", "b.zarr", voxel_size=SIZE, levels=2, cluster="inline")
    assert done.levels == 3
    assert nb.open("b.zarr?level=2").shape == (8, 16, 16)


def test_what_nobody_says_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = cutouts(tmp_path / "plain.h5", em=("image", voxels(SHAPE, "uint8")))
    with pytest.raises(PlanError, match=r"voxel size along z, y, x is not known; say it: --voxel-size"):
        ingest(source, "out", cluster="inline")
    assert not Path("out").exists()
    assert not Path("runs").exists()


def test_two_volumes_do_not_get_one_name(tmp_path: Path) -> None:
    data = voxels((4, 5, 6), "uint8")
    source = cutouts(tmp_path / "two.h5", a=("image", data), b=("image", data))
    with pytest.raises(PlanError, match=r"holds 2 volumes \(.*two.h5::/a/CUTOUT.*name one of them"):
        ingest(source, str(tmp_path), channel="c", voxel_size=SIZE)


def test_a_missing_file_and_channels_of_colour_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        ingest(tmp_path / "none.h5", str(tmp_path), voxel_size=SIZE)
    nb.create(str(tmp_path / "c.zarr"), shape=(2, 4, 5, 6))
    with pytest.raises(PlanError, match=r"has axes czyx; services keep t, z, y, x: take one channel with \?c=0"):
        look(tmp_path / "c.zarr")


def test_the_user_is_asked_for_what_is_not_told(tmp_path: Path) -> None:
    (found,) = look(cutouts(tmp_path / "plain.h5", em=("image", voxels((4, 5, 6), "uint8"))))
    questions: list[tuple[str, str]] = []

    def ask(question: str, proposal: str) -> str:
        questions.append((question, proposal))
        return {"voxel size": "z=1um,y=500nm,x=500nm", "coarser levels": "1"}.get(question, proposal)

    settings = asked(proposed(found, Abilities()), {"offset": {"z": 7, "y": 0, "x": 0}}, ask)
    assert [question for question, _ in questions] == ["channel", "image or labels", "voxel size", "coarser levels"]
    assert settings.voxel_size == {"z": "1um", "y": "500nm", "x": "500nm"}
    assert (settings.levels, settings.offset["z"], settings.channel) == (1, 7, "em")


@pytest.mark.parametrize(
    ("dtype", "kind", "high", "known", "wanted"),
    [
        ("uint8", "image", 255, ("uint8", "uint16"), "uint8"),
        ("bool", "annotation", 1, ("uint8", "uint32"), "uint32"),
        ("uint16", "annotation", 700, ("uint32", "uint64"), "uint32"),
        ("uint64", "annotation", 2**32 - 1, ("uint8", "uint16", "uint32"), "uint32"),
        ("int16", "image", 300, ("uint8", "uint16"), "uint16"),
        ("float64", "image", 1, ("uint8", "float32"), None),
        ("uint64", "annotation", 2**32, ("uint8", "uint16", "uint32"), None),
        ("int16", "image", -1, ("uint8", "uint16"), None),
    ],
)
def test_the_type_of_the_channel(
    tmp_path: Path, dtype: str, kind: str, high: int, known: tuple[str, ...], wanted: str | None
) -> None:
    data = np.zeros((2, 3, 4), dtype)
    data[0, 0, 0] = high
    (found,) = look(cutouts(tmp_path / "typed.h5", one=(kind, data)))
    if wanted is None:
        with pytest.raises(PlanError, match=r"fits none of .*say which with --dtype"):
            fitting_dtype(found, Abilities(dtypes=known))
    else:
        assert fitting_dtype(found, Abilities(dtypes=known)) == wanted


def test_labels_are_of_the_type_in_which_a_service_counts_them(tmp_path: Path) -> None:
    """DVID keeps uint32 too, but as an image; merges and sizes are those of a labelmap."""
    path = tmp_path / "seg.npy"
    np.save(path, np.ones((2, 3, 4), np.uint32))
    found = replace(look(path)[0], kind=Kind.LABELS)
    assert fitting_dtype(found, DvidVolume.abilities) == "uint64"
    assert fitting_dtype(replace(found, kind=Kind.IMAGE), DvidVolume.abilities) == "uint32"


@pytest.mark.parametrize("how", ["told", "answered"])
def test_the_type_follows_from_the_kind_that_is_said(tmp_path: Path, how: str) -> None:
    """A file that does not say that it holds labels is told so, by an option or in an answer."""
    path = tmp_path / "seg.npy"
    np.save(path, np.ones((2, 3, 4), np.uint16))
    facts: dict[str, Any] = (
        {"kind": "labels"} if how == "told" else {"ask": lambda what, said: "labels" if "labels" in what else said}
    )
    (made,) = ingest(
        path, str(tmp_path), voxel_size=SIZE, channel="cells", cluster="inline", directory=tmp_path / "run", **facts
    )
    volume = nb.open(made.url)
    assert (made.ok, volume.dtype, volume.kind) == (True, np.dtype("uint32"), Kind.LABELS)


def test_how_many_levels_a_volume_wants() -> None:
    """Until both sides of a slice are at most 1000 voxels, or one is at most 500."""
    assert fitting_levels({"z": 50, "y": 6572, "x": 7389}) == 3
    assert fitting_levels({"z": 5000, "y": 1000, "x": 1000}) == 0
    assert fitting_levels({"z": 10, "y": 400, "x": 90000}) == 0


@pytest.mark.parametrize("text", ["40nm", "w=1", "z=", "z=1 y=2,q"])
def test_lengths_without_an_axis_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="write a value for each named axis"):
        named(text)


def test_the_command(tmp_path: Path) -> None:
    cutouts(tmp_path / DOWNLOAD, em=("image", voxels(SHAPE, "uint8")))
    command = [
        sys.executable,
        "-m",
        "ndbatch",
        "ingest",
        DOWNLOAD,
        "out",
        "--yes",
        "--voxel-size",
        "z=40nm,y=4nm,x=4nm",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "image em, uint8, z 20, y 37, x 45, values 0 to" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("out/em.zarr: 1 block stored and read back, 1 level")
    refused = subprocess.run(command[:6], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--voxel-size" in refused.stderr
    assert "Traceback" not in refused.stderr


def _lazy(data: Any) -> Any:
    import dask.array as da

    return da.from_array(data)

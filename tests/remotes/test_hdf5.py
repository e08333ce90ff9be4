"""HDF5: what datasets say of themselves, damage, locks, and one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, Denied, MissingExtra, NotFound, PlanError, RemoteError, Transient
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.hdf5.volume import Hdf5Volume
from tests.remotes.conftest import unprivileged

DATA = Path(__file__).parents[2].parent / "shared/data"


def write(path: Path, name: str, data: Array, attributes: dict[str, Any] | None = None, **how: Any) -> str:
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset(name, data=data, **how)
        dataset.attrs.update(attributes or {})
    return f"{path}::{name}"


@pytest.mark.parametrize(
    "how", [{}, {"chunks": (5, 16, 50)}, {"chunks": (3, 7, 11), "compression": "gzip", "fletcher32": True}]
)
def test_storage_layouts(tmp_path: Path, image: Array, how: dict[str, Any]) -> None:
    volume = nb.open(write(tmp_path / "a.h5", "/deep/raw", image, **how))
    assert volume.chunks == how.get("chunks", image.shape)
    assert np.array_equal(volume[2:11:3, 5:, 7], image[2:11:3, 5:, 7])


def test_the_only_dataset_needs_no_name(tmp_path: Path, image: Array) -> None:
    write(tmp_path / "a.h5", "/volumes/raw", image)
    volume = nb.open(f"{tmp_path}/a.h5")
    assert volume.url == f"{tmp_path}/a.h5::/volumes/raw"
    write(tmp_path / "a.h5", "/labels", image)
    with pytest.raises(NotFound, match=r"several datasets; it holds /labels \(12, 40, 50\), /volumes/raw"):
        nb.open(f"{tmp_path}/a.h5")
    with pytest.raises(NotFound, match=r"has no dataset /raw; it holds /labels .*; write .*a\.h5::/labels"):
        nb.open(f"{tmp_path}/a.h5::raw")
    with pytest.raises(NotFound, match="has no dataset /volumes;"):
        nb.open(f"{tmp_path}/a.h5::volumes")


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"element_size_um": [0.3, 0.2, 0.1]}, (0.3, 0.2, 0.1)),
        ({"voxel_size_nm": [300.0, 200.0, 100.0]}, (0.3, 0.2, 0.1)),
        ({"voxel_size_um": [0.3, 0.2, 0.1], "axes": "zyx"}, (0.3, 0.2, 0.1)),
        ({"resolution": [0.3, 0.2, 0.1]}, None),
        ({"element_size_um": [0.0, 0.2, 0.1]}, None),
        ({"element_size_um": "fine"}, None),
        ({}, None),
    ],
)
def test_voxel_sizes(tmp_path: Path, image: Array, attributes: dict[str, Any], size: Any) -> None:
    found = nb.open(write(tmp_path / "a.h5", "/raw", image, attributes)).voxel_size
    assert found == (None if size is None else pytest.approx(size))


def test_axes_in_another_order(tmp_path: Path, image: Array) -> None:
    stored = image.transpose(2, 1, 0)[..., None].copy()
    tags = {"axistags": json.dumps({"axes": [{"key": k} for k in "xyzc"]}), "voxel_size_um": [0.1, 0.2, 0.3]}
    volume = nb.open(write(tmp_path / "a.h5", "/exported_data", stored, tags, chunks=(10, 8, 6, 1)))
    assert (volume.axes, volume.shape, volume.chunks) == ("czyx", (1, 12, 40, 50), (1, 6, 8, 10))
    assert volume.voxel_size == pytest.approx((1.0, 0.3, 0.2, 0.1))
    assert np.array_equal(volume[0, 3:5], image[3:5])
    volume.write(nb.Box((0, 3, 0, 0), (1, 5, 40, 50)), image[None, 3:5] + 7)
    assert np.array_equal(nb.open(volume.url)[0, 3:5], image[3:5] + 7)
    told = nb.open(write(tmp_path / "b.h5", "/raw", image.transpose(1, 2, 0).copy()), axes="yxz")
    assert np.array_equal(told[...], image)


def test_damage(tmp_path: Path, image: Array, cut: Callable[[str, float], None]) -> None:
    path = tmp_path / "d.h5"
    url = write(path, "/raw", image, chunks=(4, 20, 50), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["raw"].id.get_chunk_info(3)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + 10)
        raw.write(b"\xff" * 64)
    volume = nb.open(url)
    with pytest.raises(Corrupt, match=r"d\.h5::/raw: damaged near z: \[0, 12\]"):
        volume.read(volume.domain)
    cut(str(path), 0.6)
    with pytest.raises(Corrupt, match=r"d\.h5 is cut short at \d+ bytes"):
        nb.open(url)
    with pytest.raises(Corrupt, match="cut short"):
        volume.read(volume.domain)
    path.write_bytes(b"")
    with pytest.raises(Corrupt, match="is empty"):
        nb.open(url)
    path.write_text("not at all " * 100)
    with pytest.raises(Corrupt, match="is not an HDF5 file"):
        nb.open(url)
    with pytest.raises(NotFound, match=r"did you mean .*d\.h5\?"):
        nb.open(f"{tmp_path}/dd.h5::/raw")
    with pytest.raises(NotFound, match="is a folder"):
        nb.open(f"hdf5://{tmp_path}")


def test_what_is_no_voxel(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", "/table", np.zeros(5, [("z", "f4"), ("label", "u4")]))
    with pytest.raises(RemoteError, match="no type of voxel"):
        nb.open(f"{tmp_path}/a.h5")
    with pytest.raises(PlanError, match="has no shards"):
        nb.create(f"{tmp_path}/b.h5", shape=(8, 8), chunks=(4, 4), shards=(8, 8))
    write(tmp_path / "c.h5", "/raw", np.zeros((3, 3)))
    with pytest.raises(NotFound, match="level 0 only"):
        nb.open(f"{tmp_path}/c.h5", level=1)


def test_creating_adds_to_a_file(tmp_path: Path, image: Array) -> None:
    url = write(tmp_path / "a.h5", "/raw", image)
    made = nb.create(f"{tmp_path}/a.h5::/seg", like=nb.open(url), dtype="bool", kind="labels")
    assert made.dtype == np.dtype(bool)
    with pytest.raises(Conflict, match="/seg exists already"):
        nb.create(f"{tmp_path}/a.h5::/seg", shape=(2, 2))
    made.write(made.domain, image > 100)
    assert np.array_equal(nb.open(made.url)[...], image > 100)
    assert np.array_equal(nb.open(url)[...], image)
    Hdf5Volume.delete(parse(made.url))
    assert np.array_equal(nb.open(f"{tmp_path}/a.h5")[...], image)
    Hdf5Volume.delete(parse(url))
    assert not (tmp_path / "a.h5").exists()


def test_what_was_never_finished_can_be_removed(
    tmp_path: Path, image: Array, cut: Callable[[str, float], None]
) -> None:
    for name in (".partial-a.h5", "a.h5"):
        write(tmp_path / name, "/seg", image)
        cut(f"{tmp_path}/{name}", 0.5)
    Hdf5Volume.delete(parse(f"{tmp_path}/.partial-a.h5::/seg"))
    assert not (tmp_path / ".partial-a.h5").exists()
    with pytest.raises(Corrupt, match="cut short"):
        Hdf5Volume.delete(parse(f"{tmp_path}/a.h5::/seg"))
    assert (tmp_path / "a.h5").exists()


def test_the_same_voxels_are_the_same_bytes(tmp_path: Path, image: Array) -> None:
    for name in ("a.h5", "b.h5"):
        volume = nb.create(f"{tmp_path}/{name}", shape=image.shape, dtype="uint16", voxel_size=(1, 2, 3), kind="labels")
        volume.write(volume.domain, image)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_readers_and_a_writer_share_a_file(tmp_path: Path, image: Array) -> None:
    """dask reads one dataset in threads and writes another of the same file."""
    source = nb.open(write(tmp_path / "a.h5", "/raw", image, chunks=(4, 20, 25)))
    target = nb.create(f"{tmp_path}/a.h5::/copy", like=source)
    nb.store(source.dask() + 1, target)
    assert np.array_equal(target[...], image + 1)
    errors: list[Exception] = []

    def read() -> None:
        try:
            assert all(np.array_equal(source[...], image) for _ in range(20))
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for thread in readers:
        thread.start()
    for _ in range(20):
        target.write(target.domain, image)
    for thread in readers:
        thread.join()
    assert errors == []


def test_a_replaced_file_is_seen(tmp_path: Path, image: Array) -> None:
    volume = nb.open(write(tmp_path / "a.h5", "/raw", image))
    assert volume[0, 0, 1] == 1
    write(tmp_path / "new.h5", "/raw", image + 5)
    os.replace(tmp_path / "new.h5", tmp_path / "a.h5")
    assert volume[0, 0, 1] == 6


def test_store_with_processes_is_refused(tmp_path: Path, image: Array) -> None:
    import dask.array as da

    volume = nb.create(f"{tmp_path}/a.h5", shape=image.shape, dtype="uint16", chunks=(4, 20, 25))
    pending = nb.store(da.from_array(image, chunks=(4, 20, 25)), volume, compute=False)
    with pytest.raises(RemoteError, match="one process writes a hdf5 file; compute with scheduler='threads'"):
        pending.compute(scheduler="processes", num_workers=1)
    assert not volume[...].any()
    assert pending.compute(scheduler="threads").all()
    assert np.array_equal(volume[...], image)


def _hold(path: str, ready: Any, done: Any) -> None:
    with h5py.File(path, "r+"):
        ready.set()
        done.wait(180)


def test_a_file_that_another_program_writes(tmp_path: Path, image: Array) -> None:
    url = write(tmp_path / "a.h5", "/raw", image)
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(f"{tmp_path}/a.h5", ready, done))
    other.start()
    try:
        assert ready.wait(180)
        with pytest.raises(Transient, match="open for writing in another program"):
            nb.open(url)
    finally:
        done.set()
        other.join()
    assert nb.open(url)[0, 0, 3] == 3


def test_no_permission(tmp_path: Path, image: Array) -> None:
    url = write(tmp_path / "a.h5", "/raw", image)
    volume = nb.open(url)
    os.chmod(tmp_path, 0o000)
    try:
        with unprivileged():
            for act in (
                lambda: nb.open(url),
                lambda: volume.read(volume.domain),
                lambda: nb.create(f"{tmp_path}/new.h5", shape=(3, 3)),
            ):
                with pytest.raises(Denied, match=r"\.h5"):
                    act()
    finally:
        os.chmod(tmp_path, 0o700)


def test_no_room(small_disk: Path) -> None:
    volume = nb.create(f"{small_disk}/full.h5", shape=(64, 64, 64), dtype="uint8", chunks=(16, 64, 64))
    with pytest.raises(RemoteError, match=r"full\.h5: no room to write: 0\.3 MB are needed"):
        volume.write(volume.domain, np.ones(volume.shape, "uint8"))
    first = nb.Box((0, 0, 0), (16, 64, 64))
    volume.write(first, np.ones(first.shape, "uint8"))
    assert nb.open(volume.url)[...].sum() == first.size


def test_without_h5py(tmp_path: Path, image: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    url = write(tmp_path / "a.h5", "/raw", image)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r'pip install "ndbatch\[hdf5\]"'):
        nb.open(url)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not on this machine")
def test_real_files() -> None:
    medulla = nb.open(f"{DATA}/em_fib25_medulla/fib25_250.h5::/bodies")
    assert (medulla.shape, medulla.chunks, medulla.dtype) == ((250, 250, 250), (64, 64, 64), np.dtype("uint32"))
    assert medulla.voxel_size == pytest.approx((0.01, 0.01, 0.01))
    assert nb.open(f"{DATA}/cells_whole_brain/signal.h5").voxel_size == pytest.approx((5, 2, 2))
    with pytest.raises(NotFound, match="several datasets; it holds /bodies"):
        nb.open(f"{DATA}/em_fib25_medulla/fib25_250.h5")

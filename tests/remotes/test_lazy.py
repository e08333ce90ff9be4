"""Volumes and dask: both kinds of dask arrays, schedulers, alignment, tokens."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import MissingExtra, NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, Volume
from ndbatch.remotes.memory import MemoryVolume
from ndbatch.remotes.zarr.volume import ZarrVolume
from tests.remotes.conftest import script


@pytest.fixture
def volume(tmp_path: Path, image: Array) -> Volume:
    made = nb.create(f"{tmp_path}/a.zarr", shape=image.shape, dtype="uint16", chunks=(4, 16, 16), offset=(5, 0, 9))
    made.write(made.domain, image)
    return made


def boxes_written(monkeypatch: pytest.MonkeyPatch) -> list[Box]:
    boxes: list[Box] = []
    write = ZarrVolume._write

    def recorded(self: ZarrVolume, box: Box, data: Array) -> None:
        boxes.append(box)
        write(self, box, data)

    monkeypatch.setattr(ZarrVolume, "_write", recorded)
    return boxes


@pytest.mark.parametrize("expressions", ["True", "False"])
def test_both_kinds_of_dask_arrays(tmp_path: Path, expressions: str) -> None:
    said = script(
        """
import dask
dask.config.set({"array.query-planning": sys.argv[2] == "True"})
import dask.array as da
data = np.arange(12 * 40 * 50, dtype="uint16").reshape(12, 40, 50)
source = nb.create(f"{sys.argv[1]}/a.zarr", shape=data.shape, dtype="uint16", chunks=(4, 16, 16))
assert nb.store(da.from_array(data, chunks=(5, 40, 11)), source) is None
target = nb.create(f"{sys.argv[1]}/b.zarr", like=source)
lazy = source.dask()
assert (lazy.compute() == data).all() and lazy.dtype == data.dtype
assert (lazy[3:, 7, ::2].compute() == data[3:, 7, ::2]).all()
nb.store(lazy[::-1] + lazy, target)
assert (target[...] == data[::-1] + data).all()
assert source.dask().name == lazy.name and lazy.sum().compute() == data.sum()
print("_array_expr" in type(lazy).__module__)
""",
        str(tmp_path),
        expressions,
    )
    assert said.strip() == expressions


def test_chunks(volume: Volume, image: Array) -> None:
    assert volume.dask().chunks == ((4, 4, 4), (16, 16, 8), (16, 16, 16, 2))
    assert volume.dask((12, 40, 25)).chunks == ((12,), (40,), (25, 25))
    assert volume.dask({"z": 6}).chunks[0] == (6, 6)
    assert volume.dask().name != volume.dask((12, 40, 25)).name
    assert np.array_equal(volume.dask({"z": 5, "x": 7}).compute(), image)
    for chunks, sentence in (
        ((4, 4), "is not one whole number"),
        ({"t": 1}, "names the axis 't'"),
        ((0, 1, 1), "whole number"),
    ):
        with pytest.raises(PlanError, match=sentence):
            volume.dask(chunks)


def test_the_graph_holds_addresses(volume: Volume) -> None:
    lazy = volume.dask()
    (graph,) = dask.optimize(lazy)
    assert len(pickle.dumps(graph.dask)) < 40_000
    assert b"ZarrVolume" in pickle.dumps(graph.dask)


def test_processes(volume: Volume, tmp_path: Path, image: Array) -> None:
    target = nb.create(f"{tmp_path}/b.zarr", like=volume)
    with dask.config.set(scheduler="processes", num_workers=2):
        assert volume.dask()[0].sum().compute() == image[0].sum()
        nb.store(volume.dask() + 1, target)
    assert np.array_equal(target[...], image + 1)


def test_memory_volumes_do_not_cross_processes(image: Array) -> None:
    lazy = MemoryVolume.of("private", image).dask()
    assert np.array_equal(lazy.compute(scheduler="threads"), image)
    with pytest.raises(NotFound, match="private to the process that made them"):
        lazy.compute(scheduler="processes", num_workers=1)


def test_no_unit_is_written_twice(
    volume: Volume, tmp_path: Path, image: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shards, chunks in ((None, (5, 7, 50)), ((8, 32, 32), (4, 16, 16)), ((8, 32, 32), (1, 40, 50))):
        url = f"{tmp_path}/{shards and 'sharded'}-{chunks[0]}.zarr"
        target = nb.create(url, like=volume, shards=shards)
        written = boxes_written(monkeypatch)
        nb.store(da.from_array(image, chunks=chunks), target)
        monkeypatch.undo()
        assert sum(box.size for box in written) == image.size
        for box in written:
            assert box.aligned_to(target.spec.write_unit, target.offset).intersect(target.domain) == box
        assert np.array_equal(target[...], image)


def test_aligned_arrays_keep_their_chunks(volume: Volume, image: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    written = boxes_written(monkeypatch)
    nb.store(da.from_array(image, chunks=((4, 8), (32, 8), (16, 16, 18))), volume)
    assert sorted({box.shape for box in written}) == sorted(
        {(z, y, x) for z in (4, 8) for y in (32, 8) for x in (16, 18)}
    )


def test_numpy_arrays_are_stored_too(volume: Volume, image: Array) -> None:
    nb.store(image + 3, volume)
    assert np.array_equal(volume[...], image + 3)


def test_a_read_only_store_is_refused(image: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    from ndbatch.remotes.abilities import Abilities

    target = MemoryVolume.of("read-only", image.copy())
    monkeypatch.setattr(MemoryVolume, "abilities", Abilities(write=False, shared=False))
    with pytest.raises(PlanError, match="cannot be written"):
        nb.store(image, target)


def test_without_dask(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(MissingExtra, match=r'pip install "ndbatch\[dask\]"'):
        volume.dask()

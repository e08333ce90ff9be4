"""The conformance suite of the Volume contract, for ndbatch's own stores and those of other packages.

Inherit `VolumeSuite` in a test module and say where a new volume may be made (the fixture `url`), and, if there is
another library for the format, how it writes and reads an array (`write_raw`, `read_raw`): then nothing that the store
believes is taken on its own word. What a store declares it cannot do is skipped, with the reason.
"""

from __future__ import annotations

import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

import ndbatch
from ndbatch.errors import Conflict, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.abilities import VOXEL_TYPES
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array, Kind, Volume
from ndbatch.remotes.registry import store_class
from ndbatch.testing.levels import LevelTests, with_option

TICK = 0.02
"""Seconds between two changes of a file, so that its modification time tells them apart."""


def voxels(shape: Shape, dtype: Any, seed: int = 0) -> Array:
    """Return random voxels, C-order; about a quarter of them 0, and every byte of the others in use."""
    source = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    raw = source.random(shape) if kind.kind == "f" else source.integers(0, 2 ** min(62, 8 * kind.itemsize), shape)
    return (raw * (source.random(shape) > 0.25)).astype(kind)


class VolumeSuite(LevelTests):
    """Inherit, name the class `Test...`, and override `url`; override the class variables where a format needs it."""

    shape: ClassVar[Shape] = (20, 37, 45)
    chunks: ClassVar[Shape] = (8, 16, 16)
    offset: ClassVar[Shape] = (3, 0, 7)
    dtype: ClassVar[str] = "uint16"
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int16", "uint32", "uint64", "float32")
    voxel_size: ClassVar[tuple[float, ...]] = (0.29, 0.26, 0.26)
    merges: ClassVar[bool] = False
    """Whether zeros that are written keep what is there."""

    # -- what a subclass says ------------------------------------------------------------------------------------------

    @pytest.fixture
    def url(self) -> str:
        """Return the address of a volume that does not exist yet."""
        raise NotImplementedError("override the fixture url")

    def write_raw(self, url: str, data: Array) -> None:
        """Write `data` (C-order, zyx) where `url` leads, with another library, in chunks of `self.chunks`."""
        pytest.skip("no other library writes this format here")

    def read_raw(self, url: str) -> Array:
        """Return all voxels where `url` leads, C-order, zyx, read with another library."""
        pytest.skip("no other library reads this format here")

    # -- what it gets ----------------------------------------------------------------------------------------------------

    @pytest.fixture
    def volume(self, url: str) -> Volume:
        """Return a new volume of labels that does not begin at 0."""
        return self.make(url)

    def make(self, url: str, dtype: str = "", **changes: Any) -> Volume:
        """Create a volume at `url` as the class variables say."""
        facts = {"shape": self.shape, "chunks": self.chunks, "offset": self.offset, "voxel_size": self.voxel_size}
        return ndbatch.create(url, **{**facts, "dtype": dtype or self.dtype, "kind": "labels", **changes})

    def filled(self, volume: Volume, seed: int = 0) -> Array:
        """Write random voxels over the whole volume and return them."""
        data = voxels(volume.shape, volume.dtype, seed)
        volume.write(volume.domain, data)
        volume.close()
        return data

    # -- metadata --------------------------------------------------------------------------------------------------------

    def test_a_new_volume_is_what_was_asked_for(self, volume: Volume, url: str) -> None:
        """Shape, dtype, axes, place, voxel size and kind are kept."""
        again = ndbatch.open(url)
        for one in (volume, again):
            assert (one.shape, one.dtype, one.axes) == (self.shape, np.dtype(self.dtype), "zyx")
            assert one.offset == self.offset
            if one.abilities.facts:
                assert one.kind == Kind.LABELS
                assert one.voxel_size == pytest.approx(self.voxel_size)
            else:
                assert (one.kind, one.voxel_size) == (Kind.IMAGE, None)
            assert (one.spec.level, one.levels) == (0, 1)

    def test_a_new_volume_is_zero(self, volume: Volume) -> None:
        """What was never written reads as 0."""
        assert not volume.read(volume.domain).any()

    def test_what_is_there_is_not_replaced(self, volume: Volume, url: str) -> None:
        """Creating over an existing volume is a Conflict, unless told to overwrite."""
        data = self.filled(volume)
        with pytest.raises(Conflict, match="exists already"):
            self.make(url)
        assert np.array_equal(ndbatch.open(url).read(volume.domain), data)
        assert not self.make(url, overwrite=True).read(volume.domain).any()

    def test_a_missing_volume_is_not_found(self, url: str) -> None:
        """The message names the address."""
        with pytest.raises(NotFound) as caught:
            ndbatch.open(url)
        assert parse(url).path in str(caught.value)

    def test_an_unknown_option_is_refused(self, volume: Volume, url: str) -> None:
        """A misspelt option never passes in silence."""
        with pytest.raises(PlanError, match="levle"):
            ndbatch.open(with_option(url, "levle=1"))

    def test_delete(self, volume: Volume, url: str) -> None:
        """A deleted volume is gone, and deleting it again does nothing."""
        store, address = store_class(volume.scheme), parse(url)
        assert store.exists(address)
        volume.close()
        store.delete(address)
        assert not store.exists(address)
        store.delete(address)
        with pytest.raises(NotFound):
            ndbatch.open(url)

    def test_attributes(self, volume: Volume, url: str) -> None:
        """A document is merged, kept, and leaves voxels and facts alone."""
        if not volume.abilities.attributes:
            with pytest.raises(RemoteError, match="attributes"):
                volume.set_attributes({"run": "one"})
            pytest.skip(f"{volume.scheme} volumes keep no attributes")
        data = self.filled(volume)
        volume.set_attributes({"run": "one", "nested": {"list": [1, 2.5, None, "µ"]}})
        volume.set_attributes({"complete": True})
        again = ndbatch.open(url)
        assert again.attributes == {"run": "one", "nested": {"list": [1, 2.5, None, "µ"]}, "complete": True}
        assert again.spec == volume.spec
        assert np.array_equal(again.read(again.domain), data)

    # -- voxels ----------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("block", [(8, 16, 16), (16, 37, 16), (20, 37, 45)])
    def test_blocks_are_read_back(self, volume: Volume, url: str, block: Shape) -> None:
        """Whole chunks, edge chunks and the whole volume, written block by block, come back by any box."""
        data = voxels(self.shape, self.dtype)
        for part in Grid.over(volume.domain, block):
            volume.write(part.core, data[part.core.slices(volume.offset)])
        volume.close()
        again = ndbatch.open(url)
        assert np.array_equal(again.read(again.domain), data)
        first, last = again.domain.start, again.domain.stop
        corner = Box(tuple(s - 3 for s in last), last)
        across = Box(tuple(a + 5 for a in first), tuple(a + 18 for a in first))
        one = Box.of_shape((1, 1, 1), [a + 1 for a in first])
        for box in (corner, across, one):
            assert np.array_equal(again.read(box), data[box.slices(again.offset)])

    def test_dtypes(self, url: str) -> None:
        """Every dtype comes back as it was, in native byte order, as an array of the reader's own."""
        for dtype in self.dtypes:
            volume = self.make(url, dtype, overwrite=True)
            data = self.filled(volume, seed=np.dtype(dtype).num)
            found = ndbatch.open(url).read(volume.domain)
            assert found.dtype == np.dtype(dtype)
            assert found.dtype.isnative
            assert found.flags.writeable
            assert found.flags.c_contiguous
            assert np.array_equal(found, data), dtype

    def test_what_it_cannot_hold_is_refused(self, volume: Volume, url: str) -> None:
        """Types and positions that the abilities do not name are refused with what to use, before anything is touched."""
        data, able = self.filled(volume), volume.abilities
        for dtype in set(VOXEL_TYPES) - set(able.dtypes):
            with pytest.raises(PlanError, match=f"cannot hold {dtype}"):
                self.make(url, dtype, overwrite=True)
        if not able.offset:
            with pytest.raises(PlanError, match="position"):
                self.make(url, offset=(3, 0, 7), overwrite=True)
        assert np.array_equal(ndbatch.open(url).read(volume.domain), data)

    def test_channels_in_one_chunk(self, url: str) -> None:
        """A chunk that holds several channels is stored whole, though it lies scattered in the array it is cut from."""
        shape, chunks = (3, *self.shape), (3, *self.chunks)
        try:
            volume = self.make(
                url, shape=shape, chunks=chunks, shards=None, axes="czyx", offset=(0, *self.offset), voxel_size=None
            )
        except PlanError as error:
            pytest.skip(f"no channels here: {error}")
        data = self.filled(volume)
        assert np.array_equal(ndbatch.open(url).read(volume.domain), data)

    def test_an_empty_box(self, volume: Volume) -> None:
        """Nothing is read and nothing is written."""
        empty = Box(volume.domain.start, volume.domain.start)
        assert volume.read(empty).shape == (0, 0, 0)
        volume.write(empty, np.empty((0, 0, 0), volume.dtype))

    def test_a_box_outside_is_refused(self, volume: Volume) -> None:
        """Positions are absolute: below the offset there is nothing."""
        before = Box.of_shape((1, 1, 1), [a - 1 for a in volume.offset])
        for box in (volume.domain.shift((0, 0, 1)), before):
            with pytest.raises(RemoteError, match="leaves the volume"):
                volume.read(box)
            with pytest.raises(RemoteError, match="leaves the volume"):
                volume.write(box, np.zeros(box.shape, volume.dtype))

    def test_another_dtype_or_shape_is_refused(self, volume: Volume) -> None:
        """Casts are the caller's decision."""
        box = Box.of_shape(self.chunks, volume.offset)
        for data in (np.zeros(box.shape, "float64"), np.zeros((1, 2, 3), volume.dtype)):
            with pytest.raises(RemoteError, match="to write where"):
                volume.write(box, data)

    def test_slicing(self, volume: Volume) -> None:
        """Positions are absolute and may be named; the result is numpy's."""
        data = self.filled(volume)
        z, y, x = self.offset
        assert np.array_equal(volume[...], data)
        assert np.array_equal(volume[z + 2], data[2])
        assert np.array_equal(volume[{"z": z + 2, "x": slice(x + 1, x + 9, 2)}], data[2, :, 1:9:2])
        assert np.array_equal(volume[..., y + 1, x : x + 4], data[:, 1, :4])
        assert volume[z, y, x] == data[0, 0, 0]
        assert np.array_equal(volume[max(0, z - 3) : z + 1], data[:1])

    def test_what_another_library_wrote(self, url: str) -> None:
        """The format is read as others write it, not only as this store does."""
        data = voxels(self.shape, self.dtype, seed=1)
        self.write_raw(url, data)
        volume = ndbatch.open(url)
        assert (volume.shape, volume.dtype, volume.axes) == (self.shape, np.dtype(self.dtype), "zyx")
        assert np.array_equal(volume.read(volume.domain), data)

    def test_what_another_library_reads(self, volume: Volume, url: str) -> None:
        """What this store writes is read by others."""
        data = self.filled(volume)
        assert np.array_equal(self.read_raw(url), data)

    # -- other processes -------------------------------------------------------------------------------------------------

    def test_it_travels_as_its_address(self, volume: Volume) -> None:
        """A pickled volume is small, opens again, and keeps what was overridden."""
        data = self.filled(volume)
        changed = volume.override(offset=(0, 0, 0), voxel_size=(3.0, 2.0, 1.0))
        packed = pickle.dumps(changed)
        assert len(packed) < 4000
        again = pickle.loads(packed)
        assert again.spec == changed.spec
        assert np.array_equal(again.read(again.domain), data)

    def test_another_process_reads_it(self, volume: Volume) -> None:
        """A spawned process sees the voxels."""
        if not volume.abilities.shared:
            pytest.skip(f"{volume.scheme} volumes are private to their process")
        data = self.filled(volume)
        with _spawned(1) as pool:
            assert np.array_equal(pool.submit(_read, volume).result(), data)

    def test_processes_write_at_once(self, volume: Volume, url: str) -> None:
        """Several processes write different units at the same time; nothing is lost, and who had read before sees it."""
        if not (volume.abilities.concurrent and volume.abilities.shared):
            pytest.skip(f"{volume.scheme} volumes are written by one process")
        assert not volume.read(volume.domain).any()
        data = voxels(self.shape, self.dtype)
        with _spawned(2) as pool:
            jobs = [pool.submit(_write_every_other, volume, data, parity) for parity in (0, 1)]
            assert sum(job.result() for job in jobs) == len(Grid.over(volume.domain, volume.spec.write_unit))
        for one in (volume, ndbatch.open(url)):
            assert np.array_equal(one.read(one.domain), data)

    # -- dask ------------------------------------------------------------------------------------------------------------

    def test_identity(self, volume: Volume, url: str) -> None:
        """Equal volumes have one token, and voxels written anew another."""
        base = pytest.importorskip("dask.base", reason="dask is not installed")
        self.filled(volume)
        token = base.tokenize(ndbatch.open(url))
        assert base.tokenize(ndbatch.open(url)) == token
        assert ndbatch.open(url).dask().name == ndbatch.open(url).dask().name
        assert base.tokenize(ndbatch.open(url, kind="probability")) != token
        time.sleep(TICK)
        self.filled(ndbatch.open(url), seed=1)
        assert base.tokenize(ndbatch.open(url)) != token

    def test_dask_reads_what_it_computes(self, volume: Volume, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Opening and building read no voxel, computing one chunk reads one chunk, and all of it is the whole."""
        pytest.importorskip("dask.array", reason="dask is not installed")
        data = self.filled(volume)
        boxes = _record(monkeypatch, store_class(volume.scheme))
        lazy = ndbatch.open(url).dask({"z": 8, "y": 16, "x": 16})
        assert boxes == []
        assert lazy.chunks == ((8, 8, 4), (16, 16, 5), (16, 16, 13))
        part = lazy[8:16, 16:32, 32:]
        assert boxes == []
        assert np.array_equal(part.compute(scheduler="synchronous"), data[8:16, 16:32, 32:])
        assert boxes == [Box((8, 16, 32), (16, 32, 45)).shift(self.offset)]
        assert np.array_equal(lazy.compute(scheduler="threads"), data)

    def test_store(self, volume: Volume, url: str) -> None:
        """A lazy array whose chunks do not line up is written whole; its zeros keep what is there where the abilities say so."""
        da = pytest.importorskip("dask.array", reason="dask is not installed")
        data = voxels(self.shape, self.dtype)
        lazy = da.from_array(data, chunks=(7, 11, 45))
        pending = ndbatch.store(lazy, volume, compute=False)
        assert not volume.read(volume.domain).any()
        assert pending.compute(scheduler="threads").all()
        assert np.array_equal(ndbatch.open(url).read(volume.domain), data)
        other = data[::-1].copy()
        assert ndbatch.store(da.from_array(other, chunks=(16, 11, 45)), volume) is None
        assert volume.abilities.merges == self.merges
        expected = np.where(other, other, data) if self.merges else other
        assert np.array_equal(ndbatch.open(url).read(volume.domain), expected)

    def test_store_refuses(self, volume: Volume) -> None:
        """Shape and dtype must be the volume's."""
        da = pytest.importorskip("dask.array", reason="dask is not installed")
        with pytest.raises(PlanError, match="cast it first"):
            ndbatch.store(da.zeros(self.shape, dtype="float64"), volume)
        with pytest.raises(PlanError, match="has shape"):
            ndbatch.store(da.zeros((1, 2, 3), dtype=self.dtype), volume)


def _spawned(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _read(volume: Volume) -> Array:
    return volume.read(volume.domain)


def _write_every_other(volume: Volume, data: Array, parity: int) -> int:
    """Write every second unit of the volume, and return how many."""
    count = 0
    for block in Grid.over(volume.domain, volume.spec.write_unit):
        if block.index % 2 == parity:
            volume.write(block.core, data[block.core.slices(volume.offset)])
            count += 1
    volume.close()
    return count


def _record(monkeypatch: pytest.MonkeyPatch, store: type[Volume]) -> list[Box]:
    """Return a list that every box read from now on is added to."""
    boxes: list[Box] = []
    read = store._read

    def recorded(self: Volume, box: Box) -> Array:
        boxes.append(box)
        return read(self, box)

    monkeypatch.setattr(store, "_read", recorded)
    return boxes

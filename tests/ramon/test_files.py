"""Stores in files: parquet, HDF5 and JSON behave alike; HDF5 keeps voxels."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from ndbatch import ramon
from ndbatch.errors import Conflict, Corrupt, NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.ramon import Neuron, Objects, Organelle, Seed, Segment, Synapse

SEGMENTS = [Segment(id=4, neuron=9, confidence=0.5, kvpairs={"colour": "red"}), Segment(id=7, neuron=9, status=2)]


@pytest.fixture(params=["a.ramon.h5", "a.parquet", "a.json"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return ramon.open(tmp_path / request.param)


def test_objects_are_stored_found_replaced_and_removed(store: Objects) -> None:
    assert len(store) == 0
    assert store.put([*SEGMENTS, Neuron(id=9)]) == [4, 7, 9]
    assert store.put([Synapse(segments=(4, 7)), Organelle(segment=4)]) == [10, 11]
    again = ramon.open(store.url)
    assert again.get([7, 4]) == SEGMENTS[::-1]
    assert again.query("segment") == [4, 7]
    assert again.query(where={"neuron": 9, "colour": "red"}) == [4]
    assert again.query(above=0.4) == [4]
    assert again.query(below=0.5, limit=2) == [7, 9]
    assert again.query(2, where={"segments": 4}) == [10]
    assert again.related(9, "segments") == [4, 7]
    assert again.related(4, "organelles") == [11]
    assert again.related(4, "synapses") == [10]
    with pytest.raises(Conflict, match="object 4 is there already"):
        again.put([Segment(id=4)])
    again.put([Segment(id=4)], replace=True)
    assert store.get([4]) == [Segment(id=4)]
    assert store.change(4, neuron=3) == Segment(id=4, neuron=3)
    store.delete([4, 9])
    assert again.query() == [7, 10, 11]
    with pytest.raises(NotFound, match="no object 4"):
        again.get([4])
    assert [thing.id for thing in again] == [7, 10, 11]
    assert store.to_pandas().loc[7, "neuron"] == 9


def test_a_failed_change_changes_nothing(store: Objects) -> None:
    store.put(SEGMENTS)
    with pytest.raises(NotFound):
        store.delete([4, 5])
    with pytest.raises(PlanError, match="two objects"):
        store.put([Neuron(id=20), Neuron(id=20)])
    assert store.query() == [4, 7]


def test_several_writers_lose_nothing(store: Objects) -> None:
    stores = [ramon.open(store.url) for _ in range(4)]

    def write(number: int) -> None:
        for k in range(5):
            stores[number].put([Neuron(id=1 + number * 5 + k)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert store.query() == list(range(1, 21))


def test_ids_are_reserved_once(store: Objects) -> None:
    store.put([Neuron(id=41)])
    assert list(store.reserve(3)) == [42, 43, 44]
    assert store.put([Neuron()]) == [45]
    with pytest.raises(PlanError, match="cannot be reserved"):
        store.reserve(2**32)


def test_voxels_in_hdf5(tmp_path: Path) -> None:
    store = ramon.open(tmp_path / "a.h5")
    store.put([*SEGMENTS, Seed(id=1)])
    block = np.zeros((2, 3, 4), np.uint8)
    block[1, 1:, 2] = 200
    store.paint(4, cutout=block, start=(10, 20, 30))
    store.paint(4, voxels=np.array([[5, 5, 5]]))
    assert store.voxels(4).tolist() == [[5, 5, 5], [11, 21, 32], [11, 22, 32]]
    assert store.bounding_box(4) == Box((5, 5, 5), (12, 23, 33))
    box, data = store.cutout(4, box=Box((11, 20, 30), (12, 23, 33)))
    assert box == Box((11, 20, 30), (12, 23, 33))
    assert np.argwhere(data == 4).tolist() == [[0, 1, 2], [0, 2, 2]]
    assert store.query(box=Box((0, 0, 0), (6, 6, 6))) == [4]
    store.paint(7, voxels=np.array([[5, 5, 5], [6, 6, 6]]), rule="preserve")
    assert store.voxels(7).tolist() == [[6, 6, 6]]
    store.paint(7, voxels=np.array([[5, 5, 5]]))
    assert store.voxels(4).tolist() == [[11, 21, 32], [11, 22, 32]]
    store.paint(7, voxels=np.array([[6, 6, 6], [11, 21, 32]]), rule="reduce")
    store.merge(4, [7])
    again = ramon.open(store.url)
    assert again.voxels(4).tolist() == [[5, 5, 5], [11, 21, 32], [11, 22, 32]]
    assert again.query() == [1, 4]
    assert again.bounding_box(1) is None
    with pytest.raises(NotFound, match="no voxel"):
        again.cutout(1)
    with pytest.raises(PlanError, match="seed 1 has no voxels"):
        again.paint(1, voxels=np.array([[1, 1, 1]]))
    with pytest.raises(PlanError, match="one level"):
        again.paint(4, voxels=np.array([[1, 1, 1]]), level=1)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"none")
    with pytest.raises(Corrupt, match=r"a\.parquet"):
        ramon.open(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text('{"1": 2}')
    with pytest.raises(Corrupt, match="no JSON of RAMON"):
        ramon.open(tmp_path / "a.json")
    with pytest.raises(PlanError, match="ends in"):
        ramon.open(tmp_path / "a.csv")
    with pytest.raises(PlanError, match="ndstore"):
        ramon.open("zarr:///a.zarr")
    store = ramon.open(tmp_path / "b.json")
    store.put(SEGMENTS)
    with pytest.raises(PlanError, match="keeps no voxels"):
        store.paint(4, voxels=np.array([[1, 1, 1]]))

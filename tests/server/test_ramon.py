"""RAMON objects of a live service: its client and the wire, checked against the reference of ndstore."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ndbatch as nb
from ndbatch import ramon
from ndbatch.errors import Conflict, Denied, NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.ramon import ROI, Annotation, Neuron, Node, Objects, Organelle, Seed, Segment, Skeleton, Synapse
from ndbatch.ramon.hdf5 import Paint, from_hdf5, query_box, to_hdf5
from ndbatch.remotes.http.client import client
from ndbatch.server.service import Access
from ndbatch.testing.serving import serving
from tests.server.sample import HTTP

SHAPE, OFFSET = (40, 70, 90), (2, 10, 20)


def make_volume(root: Path) -> None:
    nb.create(
        root / "lab" / "cells" / "labels.zarr", shape=SHAPE, dtype="uint32", axes="zyx", kind="labels", offset=OFFSET,
        chunks=(16, 32, 32), voxel_size=(1.0, 0.5, 0.5),
    )  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    make_volume(tmp_path)
    with serving(tmp_path) as (url, service):
        (project,) = service.catalogue.projects()
        (channel,) = service.catalogue.channels(project.name)
        yield f"{url}|{project.name}/{channel.name}"


@pytest.fixture
def store(base: str) -> Objects:
    url, _, name = base.partition("|")
    return ramon.open(f"ndstore+{url}/{name}")


class Wire:
    """Requests as an old client sends them."""

    def __init__(self, base: str) -> None:
        url, _, self.name = base.partition("|")
        self.client = client(url)

    def get(self, path: str, application: str = "sd", **options: Any) -> Any:
        return self.client.get(f"/nd/{application}/{self.name}/{path}", **options)

    def post(self, path: str, body: bytes, **options: Any) -> Any:
        return self.client.post(f"/nd/sd/{self.name}/{path}", body, **options)

    def file(self, path: str) -> h5py.File:
        return h5py.File(io.BytesIO(self.get(path).body))


@pytest.fixture
def wire(base: str) -> Wire:
    return Wire(base)


ALL = [
    Annotation(id=1, author="ä, b\nc", kvpairs={"k": "v,w", "line\n": "", "unicode 🧠": "\r\n"}),
    Synapse(id=2, weight=0.25, segments=(4, 40), seeds=(3,), postsegments=(4,), centroid=(3, 20, 30)),
    Seed(id=3, position=(3, 2, 1), source=2**32 - 1),
    Segment(id=4, neuron=5, segmentclass=2, confidence=0.5),
    Neuron(id=5, status=2),
    Organelle(id=6, organelleclass=3, segment=4, centroid=(1, 2, 3), seeds=(3, 3)),
    Node(id=7, parent=-1, location=(1.5, 2.25, 3), radius=0.1, skeleton=8),
    Skeleton(id=8, rootnode=7),
    ROI(id=2**32 - 1, parent=9),
]


@pytest.mark.parametrize("many", [True, False], ids=["json", "hdf5"])
def test_every_class_comes_back_as_it_was_sent(store: Objects, many: bool) -> None:
    """As JSON to this service, as HDF5 to one that takes no more than an ndstore took."""
    if not many:
        vars(store)["_takes_many"] = False
    assert store.put(ALL) == [thing.id for thing in ALL]
    assert store.get([thing.id for thing in ALL]) == ALL
    assert list(store) == ALL
    assert store.related(5, "segments") == [4]
    assert store.related(4, "organelles") == [6]
    assert store.related(4, "postsynapses") == [2]
    assert store.related(8, "nodes") == [7]


def test_ids_are_reserved_and_given_once(store: Objects) -> None:
    ranges: list[range] = []

    def reserve() -> None:
        ranges.extend(store.reserve(7) for _ in range(5))

    threads = [threading.Thread(target=reserve) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    taken = [number for one in ranges for number in one]
    assert len(taken) == len(set(taken)) == 140
    (new,) = store.put([Segment()])
    assert new not in taken
    store.put([Segment(id=2**32 - 1)])
    with pytest.raises(NotFound, match="beyond"):
        store.reserve(1)


def test_storing_twice_is_storing_once_where_it_is_said(store: Objects) -> None:
    store.put([Segment(id=4, kvpairs={"a": "1", "b": "2"})])
    with pytest.raises(Conflict, match="exists already"):
        store.put([Segment(id=4)])
    for _ in range(2):
        store.put([Segment(id=4, kvpairs={"b": "3"}), Segment(id=9)], replace=True)
    assert store.query() == [4, 9]
    assert store.get([4]) == [Segment(id=4, kvpairs={"b": "3"})]
    assert store.query(where={"a": "1"}) == []


def test_a_body_is_stored_whole_or_not_at_all(store: Objects) -> None:
    store.put([Segment(id=4)])
    with pytest.raises(Conflict):
        store.put([Neuron(id=1), Segment(id=4), Neuron(id=9)])
    assert store.query() == [4]


def test_queries(store: Objects) -> None:
    store.put(ALL)
    store.put(
        [Segment(id=20, neuron=5, kvpairs={"colour": "a/b"}), Segment(id=21, confidence=0.9, kvpairs={"colour": "x y"})]
    )
    assert store.query() == sorted([thing.id for thing in ALL] + [20, 21])
    assert store.query("segment") == [4, 20, 21]
    assert store.query("segment", where={"neuron": 5}) == [4, 20]
    assert store.query(4, where={"neuron": 5}, above=0.2) == [4]
    assert store.query(above=0.5) == [21]
    assert store.query(4, below=0.5) == [20]
    assert store.query(where={"colour": "x y"}) == [21]
    assert store.query(where={"colour": "a/b"}) == [20]
    assert store.query(where={"status": 2}) == [5]
    assert store.query(where={"segments": 40}) == [2]
    assert store.query(where={"weight": 0.25}) == [2]
    assert store.query(where={"seeds": 3}) == [2, 6]
    assert store.query(where={"author": "ä, b\nc"}) == [1]
    assert store.query(limit=3) == [1, 2, 3]
    assert store.query("roi") == [2**32 - 1]


def test_painting_boxes_and_voxels(store: Objects, wire: Wire) -> None:
    store.put([Segment(id=4, neuron=5), Segment(id=6, neuron=5), Neuron(id=5), Seed(id=3)])
    block = np.zeros((20, 40, 50), np.uint8)
    block[3:5, 10:20, 5:8] = 1
    block[19, 39, 49] = 255
    store.paint(4, cutout=block, start=(2, 10, 20))
    store.paint(6, voxels=np.array([[41, 79, 109], [5, 20, 25]]))
    assert store.bounding_box(4) == Box((5, 20, 25), (22, 50, 70))
    assert store.bounding_box(6) == Box((5, 20, 25), (42, 80, 110))
    assert store.bounding_box(5) == Box((5, 20, 25), (42, 80, 110))
    assert store.bounding_box(3) is None
    with pytest.raises(NotFound, match="object 77"):
        store.bounding_box(77)
    assert [5, 20, 25] not in store.voxels(4).tolist()
    assert len(store.voxels(4)) == 2 * 10 * 3
    assert store.voxels(6).tolist() == [[5, 20, 25], [41, 79, 109]]
    assert len(store.voxels(5)) == 62
    box, data = store.cutout(4)
    assert box == Box((5, 20, 25), (22, 50, 70))
    assert (data == 4).sum() == 60
    box, data = store.cutout(5, box=Box((5, 20, 20), (6, 22, 30)))
    assert (box.start, sorted(set(data.ravel().tolist()))) == ((5, 20, 20), [0, 5])
    assert store.query(box=Box((40, 70, 100), (42, 80, 110))) == [5, 6]
    assert store.query("neuron", box=Box((40, 70, 100), (42, 80, 110))) == [5]
    assert store.query(box=Box((30, 70, 100), (41, 80, 110))) == []
    with wire.file("4/boundingbox/0/") as file:
        assert file["4/XYZOFFSET"][()].tolist() == [25, 20, 5]
        assert file["4/XYZDIMENSION"][()].tolist() == [45, 30, 17]
        assert file["4/RESOLUTION"][()].tolist() == [0]
    told = wire.get("4/boundingbox/0/", "ramon").json()
    assert (told["bbcorner"], told["bbdim"], told["ann_type"]) == ([25, 20, 5], [45, 30, 17], 4)
    with wire.file("6/cuboids/0/") as file:
        cubes = [file[f"6/CUBOIDS/{k}"] for k in file["6/CUBOIDS"]]
        found = {tuple((np.argwhere(c["CUBOID"][()]) + c["XYZOFFSET"][()][::-1])[0].tolist()) for c in cubes}
    assert found == {(5, 20, 25), (41, 79, 109)}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"voxels": np.array([[5, 20.5, 25]])}, "whole numbers"),
        ({"voxels": np.array([[-1, 20, 25]])}, "lie from 0"),
        ({"voxels": np.array([5, 20, 25])}, "rows of three places"),
        ({"cutout": np.ones((2, 2)), "start": (5, 20, 25)}, "axes z, y, x"),
        ({"cutout": np.ones((2, 2, 2)), "start": (5, 20)}, "rows of three places"),
        ({"cutout": np.ones((2, 2, 2)), "start": (-5, 20, 25)}, "lie from 0"),
    ],
)
def test_places_that_are_none_are_not_painted(store: Objects, tmp_path: Path, facts: dict[str, Any], said: str) -> None:
    """Neither cut to whole numbers nor counted from the other end, in an ndstore or in a file."""
    for objects in (store, ramon.open(tmp_path / "a.ramon.h5")):
        objects.put([Segment(id=4)])
        with pytest.raises(PlanError, match=said):
            objects.paint(4, **facts)
        assert objects.bounding_box(4) is None


def test_a_bound_of_confidence_is_a_number(store: Objects, wire: Wire) -> None:
    with pytest.raises(NotFound, match="takes a number, not 'abc'"):
        wire.get("query/confidence/lt/abc/")


def test_rules_of_painting(store: Objects) -> None:
    store.put([Segment(id=4), Segment(id=6)])
    row = np.array([[10, 40, x] for x in range(40, 50)])
    store.paint(4, voxels=row[:6])
    store.paint(6, voxels=row[4:], rule="preserve")
    assert store.voxels(6)[:, 2].tolist() == [46, 47, 48, 49]
    store.paint(6, voxels=row[4:])
    assert store.voxels(4)[:, 2].tolist() == [40, 41, 42, 43]
    store.paint(4, voxels=row, rule="reduce")
    assert store.voxels(4).tolist() == []
    assert store.voxels(6)[:, 2].tolist() == [44, 45, 46, 47, 48, 49]
    with pytest.raises(NotFound, match="Illegal range"):
        store.paint(4, voxels=np.array([[1, 40, 40]]))
    store.put([Neuron(id=5)])
    with pytest.raises(PlanError, match="neuron 5 has no voxels"):
        store.paint(5, voxels=row)


def test_many_painters_lose_nothing(store: Objects) -> None:
    store.put([Segment(id=number) for number in range(1, 9)])

    def paint(number: int) -> None:
        store.paint(number, voxels=np.array([[10, 30, 24 + number + 8 * k] for k in range(8)]))

    threads = [threading.Thread(target=paint, args=(number,)) for number in range(1, 9)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [len(store.voxels(number)) for number in range(1, 9)] == [8] * 8


def test_delete_erases_and_merge_relabels_at_every_level(tmp_path: Path) -> None:
    make_volume(tmp_path)
    path = tmp_path / "lab" / "cells" / "labels.zarr"
    nb.open(path).write(Box((4, 12, 22), (8, 20, 30)), np.full((4, 8, 8), 4, np.uint32))
    nb.open(path).write(Box((8, 12, 22), (12, 20, 30)), np.full((4, 8, 8), 6, np.uint32))
    nb.downsample(path, levels=1)
    with serving(tmp_path) as (url, service):
        (project,) = service.catalogue.projects()
        store = ramon.open(f"ndstore+{url}/{project.name}/{service.catalogue.channels(project.name)[0].name}")
        store.put([Segment(id=4), Segment(id=6), Segment(id=9), Synapse(id=10)])
        assert (nb.open(path, level=1)[...] == 4).any()
        store.merge(9, [6])
        assert sorted(np.unique(nb.open(path)[...]).tolist()) == [0, 4, 9]
        assert sorted(np.unique(nb.open(path, level=1)[...]).tolist()) == [0, 4, 9]
        assert store.query() == [4, 9, 10]
        assert store.bounding_box(9) == Box((8, 12, 22), (12, 20, 30))
        store.delete([4, 10])
        assert store.query() == [9]
        assert sorted(np.unique(nb.open(path)[...]).tolist()) == [0, 9]
        assert sorted(np.unique(nb.open(path, level=1)[...]).tolist()) == [0, 9]
        with pytest.raises(NotFound, match="object 4 does not exist"):
            store.delete([4, 9])
        assert store.query() == [9]


def test_writing_needs_a_token(tmp_path: Path) -> None:
    make_volume(tmp_path)
    with serving(tmp_path, Access(tokens=("k" * 40,))) as (url, service):
        (project,) = service.catalogue.projects()
        store = ramon.open(f"ndstore+{url}/{project.name}/{service.catalogue.channels(project.name)[0].name}")
        for forbidden in (lambda: store.put([Segment(id=1)]), lambda: store.reserve(1), lambda: store.delete([1])):
            with pytest.raises(Denied):
                forbidden()
        assert store.query() == []


# -- the wire ---------------------------------------------------------------------------------------------------------------


def test_json_is_in_both_dialects(store: Objects, wire: Wire) -> None:
    store.put(ALL)
    found = wire.get("2,4,5/json/").json()
    assert list(found) == ["2", "4", "5"]
    assert (found["2"]["ann_type"], found["2"]["type"]) == (2, "synapse")
    assert (found["2"]["syn_segments"], found["2"]["syn_centroid"]) == ([4, 40], "[30, 20, 3]")
    assert found["5"]["metadata"]["segments"] == [4]
    assert found["4"]["metadata"] | {"organelles": [6], "synapses": [2], "neuron": 5} == found["4"]["metadata"]
    assert wire.get("1/", "ramon").json()["unicode 🧠"] == "\r\n"
    assert wire.get("query/ann_type/4/", "ramon").json() == [4]
    assert wire.get("topkeys/3/type/4/", "ramon").json()[0].startswith("ann_")


def test_hdf5_both_ways(wire: Wire) -> None:
    body = to_hdf5([Segment(id=11), Segment(id=9, kvpairs={"a": "1"})], {9: Paint(0, voxels=np.array([[4, 20, 30]]))})
    assert wire.post("", body).text == "11,9"
    with wire.file("9,11/") as file:
        assert sorted(file) == ["11", "9"]
        assert file["9/METADATA/KVPAIRS"].asstr()[0] == "a,1\r\n"
        assert "VOXELS" not in file["9"]
    with wire.file("9/voxels/0/") as file:
        assert file["9/VOXELS"][()].tolist() == [[30, 20, 4]]
    with wire.file("11/voxels/0/") as file:
        assert "VOXELS" not in file["11"]
        assert file["11/RESOLUTION"][()].tolist() == [0]
    with wire.file("9/cutout/0/30,33/20,22/4,5/") as file:
        assert file["9/CUTOUT"][()].tolist() == [[[9, 0, 0], [0, 0, 0]]]
        assert file["9/XYZOFFSET"][()].tolist() == [30, 20, 4]
    with wire.file("query/type/4/") as file:
        assert file["ANNOIDS"][()].tolist() == [9, 11]
        assert file["ANNOIDS"].dtype == np.uint32
    with wire.file("query/type/5/") as file:
        assert "ANNOIDS" not in file
    with wire.file("query/type/4/ann_id/9/limit/1/") as file:
        assert file["ANNOIDS"][()].tolist() == [9]
    reply = wire.post("query/type/4/", query_box(Box((4, 20, 30), (5, 21, 31)), 0))
    with h5py.File(io.BytesIO(reply.body)) as file:
        assert file["ANNOIDS"][()].tolist() == [9]


def test_ids_that_are_asked_for_follow_the_order_of_the_file(wire: Wire) -> None:
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        for name, number in (("0", 4), ("a", 2), ("b", 5)):
            file[f"{name}/ANNOTATION_TYPE"] = np.array([number], np.uint32)
    ids = [int(one) for one in wire.post("overwrite/", target.getvalue()).text.split(",")]
    assert len(set(ids)) == 3
    assert [thing.number for thing, _ in from_hdf5(wire.get(f"{ids[0]}/").body)] == [4]
    assert [thing.number for thing, _ in from_hdf5(wire.get(f"{ids[2]}/").body)] == [5]


def test_json_in_and_fields(wire: Wire) -> None:
    body = json.dumps({"x": {"ann_type": 2, "syn_weight": "0.5", "colour": "red"}}).encode()
    one = wire.post("json/", body).text
    assert wire.get(f"getField/{one}/weight/").text == "0.5"
    assert wire.get(f"getField/{one}/colour/").text == "red"
    assert wire.get(f"setField/{one}/segments/4,5/").text == ""
    assert wire.get(f"getField/{one}/segments/").text == "4,5"
    wire.get(f"setField/{one}/centroid/30,20,4/")
    assert wire.get(f"{one}/json/").json()[one]["syn_centroid"] == "[30, 20, 4]"
    wire.get(f"setField/{one}/note/a/b/")
    assert wire.get(f"getField/{one}/note/").text == "a/b"
    update = json.dumps({"": {"ann_id": int(one), "ann_type": 5}}).encode()
    assert wire.post("json/update/", update).text == one
    assert wire.get(f"{one}/", "ramon").json() == {
        "ann_id": int(one), "ann_type": 5, "ann_status": 0, "ann_confidence": 0.0, "ann_author": "",
    }  # fmt: skip
    assert wire.get("reserve/3/").json()[1] == 3
    assert wire.post("reserve/3/", b"").json()[0] > int(one) + 3


@pytest.mark.parametrize(
    "path",
    [
        "4/", "x/", "4/voxels/", "4/cutout/0/1,2/", "4/cutout/0/0,1/0,1/0,1/", "4/boundingbox/7/", "query/type/x/", "query/type/",
        "reserve/x/", "reserve/0x1/", "getField/4/x/", "setField/3/segments/1/", "setField/3/ann_type/1/", "getField/3/none/",
        "99999999999/", "merge/3/x/", "merge/3,4/global/0/", "3/x/0/", "query/limit/-1/",
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_404_with_a_sentence(store: Objects, wire: Wire, path: str) -> None:
    store.put([Neuron(id=3)])
    reply = wire.get(path, expect=(404,))
    assert 10 < len(reply.text) < 300


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", b"none"), ("update/dataonly/", to_hdf5([Segment(id=8)])), ("exception/", to_hdf5([Segment(id=8)])), ("json/", b"{}"),
        ("json/", b"[1]"), ("json/", b'{"a": {"ann_type": 12}}'), ("query/", b"none"), ("query/", to_hdf5([])),
        ("overwrite/", to_hdf5([Segment(id=8)], {8: Paint(3, voxels=np.array([[4, 20, 30]]))})),
        ("overwrite/", to_hdf5([Segment(id=8)], {8: Paint(0, voxels=np.array([[4, 20, 3000]]))})),
        ("dataonly/", to_hdf5([Segment()], {0: Paint(0, voxels=np.array([[4, 20, 30]]))})),
        ("other/", to_hdf5([Segment(id=8)])),
    ],
)  # fmt: skip
def test_bodies_that_are_wrong_change_nothing(store: Objects, wire: Wire, path: str, body: bytes) -> None:
    reply = wire.post(path, body, expect=(404,))
    assert 10 < len(reply.text) < 400
    assert store.query() == []


WORDS = st.sampled_from(
    ["4", "4,5", "0", "x", "json", "nodata", "voxels", "cutout", "cuboids", "boundingbox", "query", "limit", "type", "confidence",
     "lt", "reserve", "getField", "setField", "merge", "global", "topkeys", "update", "reduce", "1,2", "20,40", "-1", "%00",
     "9" * 30]
)  # fmt: skip
BODIES = st.binary(max_size=40) | st.sampled_from(
    [to_hdf5([Segment()]), b"{}", b'{"a": {"type": 4}}', query_box(Box((4, 20, 30), (5, 21, 31)), 0)]
)


@given(
    st.sampled_from(["sd", "ramon"]), st.sampled_from(["GET", "POST", "DELETE"]), st.lists(WORDS, max_size=6), BODIES
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_and_no_body_makes_it_fail(
    base: str, application: str, method: str, words: list[str], body: bytes
) -> None:
    url, _, name = base.partition("|")
    path = f"{url}/nd/{application}/{name}/{'/'.join(words)}/"
    reply = HTTP.request(method, path, body=body if method == "POST" else None)
    assert reply.status in (200, 404), reply.data
    assert b"Traceback" not in reply.data


def test_a_channel_made_anew_has_no_objects(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        address = f"ndstore+{url}/lab/labels"
        facts: dict[str, Any] = {"shape": (16, 64, 64), "dtype": "uint32", "axes": "zyx", "kind": "labels"}
        nb.create(address, **facts)
        store = ramon.open(address)
        store.put([Segment(id=4)])
        nb.connect(f"ndstore+{url}").delete("lab/labels")
        nb.create(address, **facts)
        assert store.query() == []

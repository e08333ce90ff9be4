"""The DVID of the service, asked as its reference says: by raw HTTP, and by ndbatch's own client."""

from __future__ import annotations

import gzip
import json
import os
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service needs the extra serve")

import ndbatch
from ndbatch.errors import Conflict, Denied, NotFound, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid import annotation, bodies, indices, roi, tarsupervoxels
from ndbatch.remotes.dvid.keyvalue import KeyValues, NeuronRecords
from ndbatch.remotes.dvid.label_blocks import compress, decompress
from ndbatch.remotes.dvid.remote import DvidRemote
from ndbatch.remotes.dvid.streams import pack, unpack
from ndbatch.remotes.dvid.voxels import ingest_supervoxels
from ndbatch.server.service import Access
from ndbatch.steps.base import Patch
from ndbatch.steps.pooling import pool
from ndbatch.testing.serving import serving

B = 32


class Server:
    """A service, asked by raw requests."""

    def __init__(self, base: str, root: Path) -> None:
        self.base, self.root = base, root

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> bytes:
        """Send a request; lists and objects travel as JSON. The status must be as expected."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/api{path}", body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                found, text = answer.status, bytes(answer.read())
        except urllib.error.HTTPError as error:
            found, text = error.code, error.read()
        assert found == status, (method, path, found, text[:300])
        return text

    def json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self.call(method, path, body))

    def repo(self, alias: str = "mine") -> str:
        return str(self.json("POST", "/repos", {"alias": alias, "description": "d"})["root"])

    def add(self, uuid: str, name: str, typename: str, **settings: str) -> None:
        self.call("POST", f"/repo/{uuid}/instance", {"dataname": name, "typename": typename, **settings})

    def url(self, path: str) -> str:
        return f"dvid://{self.base.removeprefix('http://')}/{path}"

    def remote(self, path: str = "") -> DvidRemote:
        found = ndbatch.connect(self.url(path).rstrip("/"))
        assert isinstance(found, DvidRemote)
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as (base, _):
        yield Server(base, tmp_path)


def labelled(seed: int = 0, shape: tuple[int, ...] = (2 * B, 2 * B, 2 * B)) -> Array:
    """Return patches of a few labels, about half of them 0."""
    small = np.random.default_rng(seed).integers(0, 9, tuple(n // 8 for n in shape)).clip(4) - 4
    return np.kron(small, np.ones((8, 8, 8), np.int64)).astype(np.uint64)


def raw(uuid: str, name: str = "seg", size: int = 2 * B, at: str = "0_0_0") -> str:
    return f"/node/{uuid}/{name}/raw/0_1_2/{size}_{size}_{size}/{at}"


# -- repositories and versions ------------------------------------------------------------------------------------------


def test_repositories_and_names_of_versions(server: Server) -> None:
    root = server.repo("lab")
    assert len(root) == 32
    assert server.json("GET", "/repos/info")[root]["Alias"] == "lab"
    server.call("HEAD", f"/repo/{root}")
    server.call("HEAD", f"/repo/{root[:9]}")
    assert server.json("GET", "/node/:master/status") == {"Locked": False}
    server.call("GET", "/repo/ffffffff/info", status=400)
    server.call("POST", "/repos", {"alias": "x", "root": "short"}, status=400)
    server.repo("other")
    server.call("GET", "/node/:master/status", status=400)  # of which repository?
    assert server.json("GET", f"/node/{root}:master/status") == {"Locked": False}
    server.call("POST", f"/repo/{root}/info", {"alias": "renamed"})
    assert server.json("GET", f"/repo/{root}/info")["Alias"] == "renamed"


def test_the_graph_of_versions(server: Server) -> None:
    root = server.repo()
    server.call("POST", f"/node/{root}/newversion", status=400)  # nothing follows an open version
    server.call("POST", f"/node/{root}/commit", status=400)  # the body must be JSON
    assert server.json("POST", f"/node/{root}/commit", {"note": "one", "log": ["a"]}) == {"committed": root}
    server.call("POST", f"/node/{root}/commit", {}, status=400)
    child = server.json("POST", f"/node/{root}/newversion", {"note": "two"})["child"]
    server.call("POST", f"/node/{root}/newversion", {}, status=400)  # the branch goes on already
    side = server.json("POST", f"/node/{root}/branch", {"branch": "try", "uuid": "a" * 32})["child"]
    assert side == "a" * 32
    for name in ("try", "master"):
        server.call("POST", f"/node/{root}/branch", {"branch": name}, status=400)
    assert server.json("GET", f"/repo/{root}/branch-versions/master") == [child, root]
    assert server.json("GET", f"/repo/{root}/branch-versions/try") == [side, root]
    nodes = server.json("GET", f"/repo/{root}/info")["DAG"]["Nodes"]
    numbers = {uuid: node["VersionID"] for uuid, node in nodes.items()}
    assert nodes[child]["Parents"] == [numbers[root]]
    assert sorted(nodes[root]["Children"]) == sorted((numbers[child], numbers[side]))
    assert (nodes[side]["Branch"], nodes[child]["Branch"], nodes[root]["Note"]) == ("try", "", "one")
    versions = server.remote(root).versions()
    assert [(v.uuid, v.branch, v.locked) for v in versions] == [
        (root, "master", True), (child, "master", False), (side, "try", False),
    ]  # fmt: skip
    assert versions[1].parents == (root,)


def test_instances_have_settings_of_strings(server: Server) -> None:
    root = server.repo()
    for wrong in (
        {"dataname": "a", "typename": "uint8blk", "versioned": True},
        {"dataname": "a", "typename": "labelmap", "MaxDownresLevel": 2},
        {"dataname": "a", "typename": "nothing"},
        {"dataname": "../a", "typename": "uint8blk"},
        {"dataname": "a", "typename": "labelmap", "BlockSize": "20,20,20"},
        {"typename": "uint8blk"},
    ):
        server.call("POST", f"/repo/{root}/instance", wrong, status=400)
    server.add(root, "gray", "uint8blk", VoxelSize="4,4,40")
    assert b"already exists" in server.call(
        "POST", f"/repo/{root}/instance", {"dataname": "gray", "typename": "uint8blk"}, status=400
    )
    info = server.json("GET", f"/node/{root}/gray/info")
    assert info["Extended"]["BlockSize"] == [32, 32, 32]
    assert info["Extended"]["VoxelSize"] == [4, 4, 40]
    assert info["Extents"] == {"MinPoint": None, "MaxPoint": None}
    server.call("GET", f"/node/{root}/nothing/info", status=400)
    with pytest.raises(NotFound, match="extents"):
        ndbatch.open(server.url(f"{root}/gray"))
    with pytest.raises(NotFound, match="its instances: gray"):
        ndbatch.open(server.url(f"{root}/grey"))


# -- images -------------------------------------------------------------------------------------------------------------


def test_images_by_boxes_and_blocks(server: Server) -> None:
    root = server.repo()
    server.add(root, "gray", "uint16blk", VoxelSize="8,8,8")
    data = np.random.default_rng(0).integers(0, 2**16, (32, 32, 64), np.uint16)
    node = f"/node/{root}/gray"
    server.call("POST", f"{node}/raw/0_1_2/64_32_32/-32_0_64", data.tobytes())
    assert server.json("GET", f"{node}/info")["Extents"] == {"MinPoint": [-32, 0, 64], "MaxPoint": [31, 31, 95]}
    body = server.call("GET", f"{node}/raw/0_1_2/10_5_3/-5_2_70")
    assert np.array_equal(np.frombuffer(body, "<u2").reshape(3, 5, 10), data[6:9, 2:7, 27:37])
    outside = np.frombuffer(server.call("GET", f"{node}/raw/0_1_2/4_4_4/-34_0_64"), "<u2").reshape(4, 4, 4)
    assert not outside[:, :, :2].any()
    assert np.array_equal(outside[:, :, 2:], data[:4, :4, :2])
    rows = np.frombuffer(server.call("GET", f"{node}/blocks/-1_0_2/3"), "<u2").reshape(3, 32, 32, 32)
    assert np.array_equal(rows[1], data[:, :, 32:])
    assert not rows[2].any()
    found = dict(unpack(server.call("GET", f"{node}/subvolblocks/96_32_32/-32_0_64?compression=uncompressed"), "it"))
    assert set(found) == {(2, 0, -1), (2, 0, 0)}  # the absent one is left out
    assert found[2, 0, -1] == np.ascontiguousarray(data[:, :, :32]).tobytes()
    server.call("POST", f"{node}/raw/0_1_2/32_32_32/1_0_0", bytes(2 * 32**3), status=400)
    server.call("POST", f"{node}/raw/0_1_2/32_32_32/0_0_0", bytes(100), status=400)
    server.call("GET", f"{node}/raw/0_1_2/100000_100000_1000/0_0_0", status=400)
    server.call("POST", f"{node}/blocks/5_0_2/1", np.full(32**3, 7, "<u2").tobytes())
    assert server.json("GET", f"{node}/info")["Extents"]["MaxPoint"] == [31, 31, 95]  # blocks leave them alone
    # written beyond what the volume held, before its first voxel and behind its last
    server.call("POST", f"{node}/raw/0_1_2/32_32_32/-96_0_32", np.full(32**3, 9, "<u2").tobytes())
    whole = np.frombuffer(server.call("GET", f"{node}/raw/0_1_2/320_32_64/-96_0_32"), "<u2").reshape(64, 32, 320)
    assert (whole[:32, :, :32] == 9).all()
    assert np.array_equal(whole[32:, :, 64:128], data)
    assert (whole[32:, :, 256:288] == 7).all()
    assert np.count_nonzero(whole) == 2 * 32**3 + np.count_nonzero(data)


def test_slices_are_pictures(server: Server) -> None:
    from io import BytesIO

    from PIL import Image

    root = server.repo()
    server.add(root, "gray", "uint8blk")
    data = np.arange(32**3).reshape(32, 32, 32).astype(np.uint8)
    server.call("POST", raw(root, "gray", 32), data.tobytes())
    for dims, wanted in (("xy", data[3, 5:25, 2:12]), ("xz", data[3:23, 5, 2:12]), ("yz", data[3:23, 5:15, 2])):
        body = server.call("GET", f"/node/{root}/gray/raw/{dims}/10_20/2_5_3")
        assert np.array_equal(np.asarray(Image.open(BytesIO(body))), wanted), dims
    jpeg = Image.open(BytesIO(server.call("GET", f"{raw(root, 'gray', 32)}/jpeg")))
    assert jpeg.size == (32, 32 * 32)


# -- labels -------------------------------------------------------------------------------------------------------------


def test_labels_in_blocks_of_every_packing(server: Server) -> None:
    root = server.repo()
    server.add(root, "seg", "labelmap", BlockSize="32,32,32", MaxDownresLevel="2")
    data = labelled()
    data[:B, :B, :B] = 0
    server.call("POST", f"{raw(root)}?mutate=true&compression=gzip", gzip.compress(data.tobytes()))
    assert np.array_equal(np.frombuffer(server.call("GET", raw(root)), "<u8").reshape(data.shape), data)
    path = f"/node/{root}/seg/blocks/64_64_64/0_0_0"
    for how, plain in (
        ("blocks", lambda b: decompress(b, (B, B, B))),
        ("gzip", lambda b: np.frombuffer(gzip.decompress(b), "<u8").reshape(B, B, B)),
        ("uncompressed", lambda b: np.frombuffer(b, "<u8").reshape(B, B, B)),
    ):
        found = dict(unpack(server.call("GET", f"{path}?compression={how}"), "it"))
        assert (0, 0, 0) not in found  # nothing is there
        assert len(found) == 7
        assert np.array_equal(plain(found[1, 0, 1]), data[B:, :B, B:])
    one = dict(unpack(server.call("GET", f"/node/{root}/seg/specificblocks?blocks=1,1,0,0,0,0"), "it"))
    assert list(one) == [(0, 1, 1)]
    assert np.array_equal(decompress(one[0, 1, 1], (B, B, B)), data[:B, B:, B:])


def test_labels_in_lz4_and_as_neuroglancer_wants_them(server: Server) -> None:
    lz4, cseg = pytest.importorskip("numcodecs.lz4"), pytest.importorskip("compressed_segmentation")
    root = server.repo()
    server.add(root, "seg", "labelmap", BlockSize="32,32,32")
    data = labelled()
    body = bytes(lz4.compress(data.tobytes()))[4:]
    server.call("POST", f"{raw(root)}?mutate=true&compression=lz4", body)
    back = server.call("GET", f"{raw(root)}?compression=lz4")
    assert bytes(lz4.decompress(struct.pack("<i", data.nbytes) + back)) == data.tobytes()
    server.call("POST", f"{raw(root)}?compression=lz4", body[:-5], status=400)
    google = server.call("GET", f"/node/{root}/seg/raw/0_1_2/64_32_16/0_32_48?compression=google")
    assert struct.unpack_from("<I", google) == (1,)
    back = cseg.decompress(google, (64, 32, 16), np.uint64, block_size=(8, 8, 8), order="F")
    assert np.array_equal(np.squeeze(back).T, data[48:, 32:, :])


def test_coarser_levels_follow_what_is_written(server: Server) -> None:
    root = server.repo()
    server.add(root, "seg", "labelmap", BlockSize="32,32,32", MaxDownresLevel="1")
    data = labelled()
    server.call("POST", f"{raw(root)}?mutate=true", data.tobytes())
    coarse = np.frombuffer(server.call("GET", f"{raw(root, size=32)}?scale=1"), "<u8").reshape(32, 32, 32)
    assert np.array_equal(coarse, data[::2, ::2, ::2])  # patches of 8 voxels, so that every 2 of them agree
    volume = ndbatch.open(server.url(f"{root}/seg"), level=1)
    assert (volume.levels, volume.shape) == (2, (32, 32, 32))
    assert np.array_equal(volume[...], coarse)
    with pytest.raises(Denied, match="made by the server"):
        volume.write(volume.domain, volume[...])
    with pytest.raises(NotFound, match="level 2"):
        ndbatch.open(server.url(f"{root}/seg"), level=2)
    server.call("GET", f"{raw(root, size=32)}?scale=2", status=400)


def counts(data: Array) -> dict[int, int]:
    labels, n = np.unique(data[data > 0], return_counts=True)
    return {int(a): int(b) for a, b in zip(labels, n, strict=True)}


def test_sizes_after_writing_twice(server: Server) -> None:
    """With mutate=true sizes are right however often; without, what is written again is counted again."""
    root = server.repo()
    server.add(root, "seg", "labelmap", BlockSize="32,32,32")
    first, second, node = labelled(0), labelled(1), f"/node/{root}/seg"
    for data in (first, first, second, second):
        server.call("POST", f"{raw(root)}?mutate=true", data.tobytes())
    wanted = counts(second)
    labels = list(range(1, 9))
    assert server.json("GET", f"{node}/sizes", labels) == [wanted.get(label, 0) for label in labels]
    assert server.json("GET", f"{node}/size/1") == {"voxels": wanted[1]}
    block = pack([((0, 0, 0), compress(second[:B, :B, :B]))])
    server.call("POST", f"{node}/blocks?noindexing=true", block)
    server.call("POST", f"{node}/ingest-supervoxels?scale=0", block)
    assert server.json("GET", f"{node}/size/1") == {"voxels": wanted[1]}
    server.call("POST", f"{node}/blocks", block)
    twice = counts(second[:B, :B, :B])
    assert server.json("GET", f"{node}/size/1") == {"voxels": wanted[1] + twice[1]}
    server.call("GET", f"{node}/size/777", status=404)
    assert server.json("GET", f"{node}/maxlabel") == {"maxlabel": max(wanted)}
    server.call("POST", f"{node}/blocks", block[:-3], status=400)
    server.call("POST", f"{node}/blocks", pack([((0, 0, 0), b"nothing")]), status=400)


def test_bodies(server: Server) -> None:
    root = server.repo()
    server.add(root, "seg", "labelmap", BlockSize="32,32,32")
    data = labelled(3)
    server.call("POST", f"{raw(root)}?mutate=true", data.tobytes())
    place = server.remote(root).data("seg")
    wanted = counts(data)
    points = np.argwhere(data == 2)[:50]
    assert (bodies.labels_at(place, points) == 2).all()
    bodies.merge(place, 1, [2, 3])
    assert (bodies.labels_at(place, points) == 1).all()
    assert (bodies.labels_at(place, points, supervoxels=True) == 2).all()
    assert bodies.sizes(place, [1, 2, 3, 99]).tolist() == [wanted[1] + wanted[2] + wanted[3], 0, 0, 0]
    assert bodies.sizes(place, [2], supervoxels=True).tolist() == [wanted[2]]
    assert (bodies.supervoxels_of(place, 1), bodies.mappings(place)) == ([1, 2, 3], {2: 1, 3: 1})
    assert bodies.bodies_of(place, [1, 3, 4, 99]).tolist() == [1, 1, 4, 0]
    merged = ndbatch.open(server.url(f"{root}/seg"))[...]
    assert np.array_equal(merged, np.where((data == 2) | (data == 3), 1, data))
    assert np.array_equal(ndbatch.open(server.url(f"{root}/seg?supervoxels=true"))[...], data)
    mask = np.zeros(data.shape, bool)
    for z, y, x, n in bodies.sparsevol(place, 1).tolist():
        assert not mask[z, y, x : x + n].any()
        mask[z, y, x : x + n] = True
    assert np.array_equal(mask, merged == 1)
    inside = bodies.sparsevol(place, 1, bounds=Box((5, 6, 7), (20, 21, 40)))
    assert inside[:, 3].sum() == np.count_nonzero(merged[5:20, 6:21, 7:40] == 1)
    coarse = bodies.sparsevol_coarse(place, 1)
    assert coarse[:, 3].sum() == len(np.unique(np.argwhere(merged == 1) // B, axis=0))
    fresh = bodies.cleave(place, 1, [2])
    assert fresh > 4
    assert bodies.sizes(place, [fresh, 1]).tolist() == [wanted[2], wanted[1] + wanted[3]]
    first, second = bodies.reserve(place, 5), bodies.reserve(place, 2)
    assert len(first) == 5
    assert fresh < first[0] <= first[-1] < second[0]
    with pytest.raises(NotFound):
        bodies.sparsevol(place, 999)
    with pytest.raises(RemoteError, match="nothing was merged"):
        bodies.merge(place, 1, [999])


# -- versions of data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typename", ["uint64blk", "labelmap"])
def test_a_child_sees_its_parent_and_changes_only_itself(server: Server, typename: str) -> None:
    root = server.repo()
    server.add(root, "seg", typename, BlockSize="32,32,32")
    data = labelled()
    server.call("POST", f"{raw(root)}?mutate=true", data.tobytes())
    server.call("POST", f"/node/{root}/commit", {})
    assert b"locked node" in server.call("POST", raw(root), data.tobytes(), status=400)
    child = server.json("POST", f"/node/{root}/newversion")["child"]
    assert server.call("GET", raw(child)) == data.tobytes()
    changed = data.copy()
    changed[:B, :B, :B] = 77
    server.call("POST", f"{raw(child, size=B)}?mutate=true", np.full(B**3, 77, "<u8").tobytes())
    assert server.call("GET", raw(child)) == changed.tobytes()
    assert server.call("GET", raw(root)) == data.tobytes()
    links = [os.stat(path).st_nlink for path in server.root.rglob("seg*/0/c/*/*/*") if path.is_file()]
    assert sorted(links).count(1) == 1  # the chunk that the child changed has a file of its own, the others are one
    if typename == "labelmap":
        assert server.json("GET", f"/node/{child}/seg/size/77") == {"voxels": B**3}
        server.call("GET", f"/node/{root}/seg/size/77", status=404)
        assert server.json("GET", f"/node/{root}/seg/size/1") == {"voxels": counts(data)[1]}


def test_nothing_is_written_to_a_locked_version(server: Server) -> None:
    root = server.repo()
    volume = ndbatch.create(server.url(f"{root}/cells"), shape=(40, 40, 40), dtype="uint64", kind="labels")
    volume.write(volume.domain, labelled()[:40, :40, :40])
    remote = server.remote(root)
    with pytest.raises(RemoteError, match="commit it first"):
        remote.newversion()
    remote.commit("done")
    with pytest.raises(Denied, match="locked already"):
        remote.commit("again")
    late = ndbatch.open(server.url(f"{root}/cells"))
    with pytest.raises(Denied, match="locked"):
        late.write(late.domain, late[...])
    with pytest.raises(Denied, match="locked"):
        ndbatch.create(server.url(f"{root}/more"), shape=(40, 40, 40), dtype="uint8")
    assert late.version() == root  # what is locked never changes
    child = remote.newversion("next")
    assert np.array_equal(ndbatch.open(server.url(f"{child[:8]}/cells"))[...], late[...])
    assert ndbatch.open(server.url(":master/cells")).version().startswith(child)


def test_a_volume_of_the_folder(tmp_path: Path) -> None:
    """What lies in the folder is there by a version whose name does not change, with its levels and its sizes."""
    data = labelled()
    stored = ndbatch.create(
        tmp_path / "lab" / "cells.zarr", shape=data.shape, dtype="uint32", kind="labels", offset=(5, 0, 9)
    )
    stored.write(stored.domain, data.astype("uint32"))
    names = []
    for _ in range(2):
        with serving(tmp_path) as (base, _):
            server = Server(base, tmp_path)
            (root,) = server.json("GET", "/repos/info")
            names.append(root)
            found = ndbatch.open(server.url(f"{root}/cells"))
            assert (found.offset, found.shape, found.dtype) == ((5, 0, 9), data.shape, np.uint64)
            assert np.array_equal(found[...], data)
            assert server.json("GET", f"/node/{root}/cells/sizes", [1, 2]) == [counts(data)[1], counts(data)[2]]
            assert [entry.name for entry in server.remote().ls()] == [f"{root}/cells"]
    assert names[0] == names[1]


# -- documents --------------------------------------------------------------------------------------------------------------


def test_keys_and_values_by_version(server: Server) -> None:
    root = server.repo()
    remote = server.remote(root)
    remote.new_instance("notes", "keyvalue")
    with pytest.raises(Conflict):
        remote.new_instance("notes", "keyvalue")
    kept = KeyValues(remote.data("notes"))
    kept.set("a b", b"\x00one")
    kept.set("doc", b'{"n": 1}')
    assert kept.keys() == ["a b", "doc"]
    assert kept.keys("b", "z") == ["doc"]
    assert kept.documents(["doc", "none"]) == {"doc": {"n": 1}, "none": {}}
    with pytest.raises(NotFound, match="none"):
        kept.get("none")
    remote.commit("done")
    with pytest.raises(Denied, match="locked"):
        kept.set("a b", b"two")
    later = KeyValues(server.remote(remote.newversion()).data("notes"))
    assert later.get("a b") == b"\x00one"
    later.set("a b", b"two")
    later.delete("doc")
    assert (later.keys(), later.get("a b")) == (["a b"], b"two")
    assert (kept.keys(), kept.get("a b")) == (["a b", "doc"], b"\x00one")


def to(relation: str, x: int) -> dict[str, Any]:
    return {"Rel": relation, "To": [x, 4, 5]}


def test_synapses(server: Server) -> None:
    root = server.repo()
    remote = server.remote(root)
    remote.new_instance("seg", "labelmap", BlockSize="32,32,32")
    remote.new_instance("synapses", "annotation")
    data = np.zeros((B, B, B), np.uint64)
    data[:, :, 16:] = 5
    server.call("POST", f"{raw(root, size=B)}?mutate=true", data.tobytes())
    place = remote.data("synapses")
    pre = {
        "Pos": [3, 4, 5],
        "Kind": "PreSyn",
        "Tags": ["t"],
        "Prop": {"conf": "0.9"},
        "Rels": [{"Rel": "PreSynTo", "To": [20, 4, 5]}],
    }
    post = {
        "Pos": [20, 4, 5],
        "Kind": "PostSyn",
        "Tags": [],
        "Prop": {},
        "Rels": [{"Rel": "PostSynTo", "To": [3, 4, 5]}],
    }
    far = {"Pos": [-200, 400, 5], "Kind": "Note", "Tags": [], "Prop": {}, "Rels": []}
    annotation.add(place, [pre, post, far])
    annotation.add(place, [far])  # one element at a point
    assert annotation.elements(place) == [pre, post, far]
    assert annotation.elements(place, Box((0, 0, 0), (6, 6, 6))) == [pre]
    server.call("POST", f"/node/{root}/synapses/sync", {"sync": "seg"})
    assert annotation.of_body(place, 5) == [post]
    rows = annotation.table([pre, post, far])
    assert rows.column("x").to_pylist() == [3, 20, -200]
    assert annotation.elements_of(rows) == [pre, post, far]
    annotation.remove(place, (5, 4, 3))
    assert annotation.elements(place) == [{**post, "Rels": []}, far]
    server.call("POST", f"/node/{root}/synapses/elements", [{"Kind": "Note"}], status=400)


def test_a_region_is_a_mask(server: Server) -> None:
    root = server.repo()
    remote = server.remote(root)
    remote.new_instance("brain", "roi")
    roi.set_spans(remote.data("brain"), [(1, 2, 0, 1), (2, 2, 1, 1)])
    volume = ndbatch.open(server.url(f"{root}/brain"))
    assert (str(volume.kind), volume.dtype, volume.offset, volume.shape) == (
        "labels",
        np.uint8,
        (32, 64, 0),
        (64, 32, 64),
    )
    wanted = np.ones((64, 32, 64), np.uint8)
    wanted[32:, :, :32] = 0
    assert np.array_equal(volume[...], wanted)
    assert np.array_equal(roi.mask(remote.data("brain"), volume.domain), wanted)
    points = [[0, 64, 32], [0, 64, 64], [40, 70, 70], [0, 0, 0]]
    assert server.json("POST", f"/node/{root}/brain/ptquery", points) == [True, False, True, False]
    with pytest.raises(Denied, match="only read"):
        volume.write(volume.domain, wanted)


def test_indices_after_bulk_ingestion(server: Server) -> None:
    """Voxels are ingested, and their index and mapping posted afterwards; other programs' bytes are read too."""
    root = server.repo()
    server.add(root, "seg", "labelmap", BlockSize="32,32,32")
    place = server.remote(root).data("seg")
    data, big = labelled(2), 2**63 + 9
    data[data == 4] = big
    ingest_supervoxels(place, Box.of_shape(data.shape), data, (B, B, B))
    wanted = counts(data)
    by_label: dict[int, dict[tuple[int, ...], dict[int, int]]] = {}
    for at in np.ndindex(2, 2, 2):
        z, y, x = (n * B for n in at)
        for label, n in counts(data[z : z + B, y : y + B, x : x + B]).items():
            by_label.setdefault(label, {})[at] = {label: n}
    indices.set_indices(place, by_label)
    assert bodies.sizes(place, wanted).tolist() == list(wanted.values())
    assert indices.index_of(place, big) == by_label[big]
    assert bodies.largest(place) == big
    indices.set_mappings(place, {1: [2, 3]})
    assert bodies.sizes(place, [1]).tolist() == [wanted[1] + wanted[2] + wanted[3]]
    server.call("POST", f"/node/{root}/seg/indices", b"\x0a\xff", status=400)
    assert indices.block_key((-1, 2, 3)) == (1 | 1 << 20) << 42 | 2 << 21 | 3
    assert indices.block_place(indices.block_key((-5, 0, -7))) == (-5, 0, -7)
    # label 150 (two bytes), block 1: supervoxel 7, 300 voxels; written out by hand from the schema
    by_hand = bytes.fromhex("0a0b080112070a05080710ac02109601")
    assert indices.encode_index(150, {(0, 0, 1): {7: 300}}) == by_hand
    assert indices.decode_index(by_hand) == (150, {(0, 0, 1): {7: 300}})


def test_records_of_neurons(server: Server) -> None:
    root = server.repo()
    remote = server.remote(root)
    remote.new_instance("neurons", "neuronjson")
    records = NeuronRecords(remote.data("neurons"))
    records.set(12, {"type": "KC", "status": "traced"})
    records.set(12, {"status": None, "side": "L"})
    records.set(5, {"type": "MBON01"})
    assert records.get(12) == {"bodyid": 12, "type": "KC", "side": "L"}
    assert [one["bodyid"] for one in records.all()] == [5, 12]
    assert [one["bodyid"] for one in records.query({"type": "re/MB.*"})] == [5]
    assert [one["bodyid"] for one in records.query([{"side": "exists/1"}, {"type": "MBON01"}])] == [5, 12]
    server.call("POST", f"/node/{root}/neurons/key/5", {"type": "x"}, status=400)  # who is it?
    server.call("GET", f"/node/{root}/neurons/key/99", status=404)


def test_meshes_of_supervoxels(server: Server) -> None:
    root = server.repo()
    remote = server.remote(root)
    remote.new_instance("seg", "labelmap", BlockSize="32,32,32")
    remote.new_instance("meshes", "tarsupervoxels", Extension="drc")
    data = np.zeros((B, B, B), np.uint64)
    data[0, 0, :3] = (7, 8, 9)
    server.call("POST", f"{raw(root, size=B)}?mutate=true", data.tobytes())
    bodies.merge(remote.data("seg"), 7, [8])
    server.call("POST", f"/node/{root}/meshes/sync", {"sync": "seg"})
    server.call("POST", f"/node/{root}/meshes/supervoxel/7", b"mesh of 7")
    place = remote.data("meshes")
    assert tarsupervoxels.of_body(place, 7) == {7: b"mesh of 7", 8: None}
    assert tarsupervoxels.missing(place, 7) == [8]
    assert tarsupervoxels.supervoxel(place, 7) == b"mesh of 7"
    with pytest.raises(NotFound):
        tarsupervoxels.supervoxel(place, 9)
    assert server.json("GET", f"/node/{root}/meshes/exists", [7, 9]) == [True, False]


# -- who may write --------------------------------------------------------------------------------------------------------


def test_writing_needs_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "tell-nobody-0123456789"
    with serving(tmp_path, Access("token", (secret,))) as (base, _):
        server = Server(base, tmp_path)
        server.call("POST", "/repos", {"alias": "a"}, status=403)
        monkeypatch.delenv("DVID_ADMIN_TOKEN", raising=False)
        with pytest.raises(Denied):
            server.remote().new_repository("a")
        monkeypatch.setenv("DVID_ADMIN_TOKEN", secret)
        root = server.remote().new_repository("a")
        volume = ndbatch.create(server.url(f"{root}/cells"), shape=(40, 40, 40), dtype="uint8")
        volume.write(volume.domain, np.ones(volume.shape, np.uint8))
        server.call("POST", f"/node/{root}/cells/raw/0_1_2/64_64_64/0_0_0", bytes(64**3), status=403)
        server.call("POST", f"/node/{root}/commit", {}, status=403)
        assert ndbatch.open(server.url(f"{root}/cells"))[...].all()
        with pytest.raises(RemoteError) as caught:
            server.remote(root).new_instance("x", "nothing")
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "/node/{u}/gray/raw/0_1_2/0_1_1/0_0_0",
        "/node/{u}/gray/raw/0_1_2/a_b_c/0_0_0",
        "/node/{u}/gray/raw/0_1_2",
        "/node/{u}/gray/raw",
        "/node/{u}/gray/blocks/0_0_0/0",
        "/node/{u}/gray/specificblocks?blocks=1,2",
        "/node/{u}/gray/nonsense",
        "/node/{u}/gray",
        "/node/{u}/../../etc/passwd/info",
        "/repo/{u}/nonsense",
        "/nonsense",
        "/node/%00/x/info",
        "/node/{u}/seg/sparsevol/1?minx=q",
        "/node/{u}/seg/label/1_2",
        "/node/{u}/seg/blocks/32_32_32/0_0_0?compression=zip",
        "/node/{u}/seg/raw/0_1_2/8_8_8/0_0_0?scale=x",
    ],
)
def test_nonsense_is_answered_in_words(server: Server, path: str) -> None:
    root = server.repo()
    server.add(root, "gray", "uint8blk")
    server.add(root, "seg", "labelmap", BlockSize="32,32,32")
    server.call("POST", f"{raw(root, size=B)}?mutate=true", np.ones(B**3, "<u8").tobytes())
    text = server.call("GET", path.replace("{u}", root), status=400)
    assert text
    assert b"Traceback" not in text


def test_labels_of_one_level_have_another_that_is_made_as_it_is_read(tmp_path: Path) -> None:
    """Viewers take no labelmap without coarser levels; what is read follows each write, and is never written."""
    z, y, x = np.ogrid[:70, :50, :90]
    data = ((z // 7) * 10_000 + (y // 9) * 100 + x // 11 + 1).astype(np.uint64)
    found = ndbatch.create(tmp_path / "lab/seg.zarr", shape=data.shape, dtype="uint64", kind="labels", chunks=(B, B, B))
    found.write(found.domain, data)
    with serving(tmp_path) as (url, _):
        (entry,) = ndbatch.connect(url.replace("http", "dvid")).ls()
        volume = ndbatch.open(entry.url)
        assert volume.levels == 2
        coarser = ndbatch.open(entry.url, level=1)
        for _ in range(2):
            expected = pool(Patch(data, found.domain), coarser.domain, (2, 2, 2), "mode")
            np.testing.assert_array_equal(coarser.read(coarser.domain), expected)
            data = data + np.uint64(5)
            volume.write(volume.domain, data)
        server = Server(url, tmp_path)
        (root,) = server.json("GET", "/repos/info")
        assert server.json("GET", f"/node/{root}/seg/info")["Extended"]["MaxDownresLevel"] == 1
        whole = f"/node/{root}/seg/blocks/64_64_64/0_0_0?compression=blocks"
        server.call(
            "POST", f"/node/{root}/seg/blocks?scale=1&noindexing=true", server.call("GET", f"{whole}&scale=1"), 400
        )
        server.call("GET", f"{whole}&scale=2", status=400)

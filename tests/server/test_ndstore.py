"""ndstore on the wire: paths, codes and exact bodies, as the documents of the protocol have them, asked without our client."""

from __future__ import annotations

import io
import json
import pickle
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import urllib3
from PIL import Image

import ndbatch as nb
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import voxels

HTTP = urllib3.PoolManager(retries=False, maxsize=16, timeout=180)
EM = voxels((12, 30, 40), "uint8", seed=1)
SEG = voxels((12, 30, 40), "uint32", seed=2) % 50
BOX = "0/20,60/10,40/4,16/"
"""All of it: x, y, z."""


class Wire:
    """Requests to `http://host`, and what they are answered."""

    def __init__(self, base: str) -> None:
        self.base = base

    def get(self, path: str, status: int = 200) -> Any:
        return self.ask("GET", path, status=status)

    def post(self, path: str, body: Any = b"", status: int = 200) -> Any:
        return self.ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), status)

    def ask(self, method: str, path: str, body: bytes = b"", status: int = 200, headers: Any = None) -> Any:
        reply = HTTP.request(method, self.base + path, body=body or None, headers=headers)
        assert reply.status == status, (path, reply.status, reply.data[:300])
        return reply

    def npz(self, path: str) -> Any:
        return np.load(io.BytesIO(zlib.decompress(self.get(path).data)))


def npz(data: Any) -> bytes:
    plain = io.BytesIO()
    np.save(plain, data)
    return zlib.compress(plain.getvalue())


def hdf5(name: str, data: Any) -> bytes:
    plain = io.BytesIO()
    with h5py.File(plain, "w") as file:
        file[f"{name}/CUTOUT"] = data
    return plain.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, Service]]:
    """Serve a folder with the image `em` and the labels `seg`, which begin at x 20, y 10, z 4, slices ten times as thick."""
    root = tmp_path_factory.mktemp("served")
    for name, data, kind in (("em", EM, "image"), ("seg", SEG, "labels")):
        facts = {"shape": data.shape, "dtype": data.dtype, "offset": (4, 10, 20), "voxel_size": (0.04, 0.004, 0.004)}
        volume = nb.create(root / "cortex" / "lab" / f"{name}.zarr", kind=kind, **facts)
        volume.write(volume.domain, data)
    with serving(root) as (url, service):
        yield Wire(url), service


@pytest.fixture(scope="module")
def wire(served: tuple[Wire, Service]) -> Wire:
    return served[0]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Wire]:
    """Serve an empty folder."""
    with serving(tmp_path) as (url, _):
        yield Wire(url)


DATASET = {
    "dataset_name": "ds", "ximagesize": 300, "yimagesize": 200, "zimagesize": 64, "xoffset": 10, "yoffset": 20, "zoffset": 1,
    "xvoxelres": 4.0, "yvoxelres": 4.0, "zvoxelres": 40.0, "scalinglevels": 1, "scalingoption": 0, "public": 1,
}  # fmt: skip


def make(wire: Wire, *channels: dict[str, Any], **dataset: Any) -> None:
    """Make the dataset `ds`, the project `p` and channels, as resources."""
    wire.post("/nd/resource/dataset/ds/", {**DATASET, **dataset}, 201)
    wire.post("/nd/resource/dataset/ds/project/p/", {"project_name": "p", "public": 1}, 201)
    for channel in channels:
        name = channel["channel_name"]
        wire.post(f"/nd/resource/dataset/ds/project/p/channel/{name}/", channel, 201)


# -- what there is -----------------------------------------------------------------------------------------------------------


def test_info_is_the_document_of_the_protocol(fresh: Wire) -> None:
    """The worked example of the documents, key by key."""
    make(fresh, {"channel_name": "image", "channel_type": "image", "channel_datatype": "uint8"})
    reply = fresh.get("/nd/sd/p/info/")
    found = json.loads(reply.data)
    assert reply.data.startswith(b'{\n    "channels"')
    dataset = found["dataset"]
    assert {key: dataset.pop(key) for key in ("voxelunit", "uint64_labels")} == {
        "voxelunit": "um",
        "uint64_labels": True,
    }
    assert dataset == {
        "name": "ds",
        "description": "ds",
        "scaling": "zslices",
        "scalinglevels": 1,
        "resolutions": [0, 1],
        "imagesize": {"0": [300, 200, 64], "1": [150, 100, 64]},
        "offset": {"0": [10, 20, 1], "1": [5, 10, 1]},
        "voxelres": {"0": [4.0, 4.0, 40.0], "1": [8.0, 8.0, 40.0]},
        "cube_dimension": {"0": [128, 128, 16], "1": [128, 128, 16]},
        "supercube_dimension": {"0": [512, 512, 64], "1": [512, 512, 64]},
        "neariso_scaledown": {"0": 1, "1": 1},
        "neariso_imagesize": {"0": [300, 200, 64], "1": [150, 100, 64]},
        "neariso_voxelres": {"0": [4.0, 4.0, 40.0], "1": [8.0, 8.0, 40.0]},
        "neariso_offset": {"0": [10, 20, 1.0], "1": [5, 10, 1.0]},
    }
    assert found["channels"] == {
        "image": {
            "channel_type": "image",
            "datatype": "uint8",
            "resolution": 0,
            "propagate": 0,
            "readonly": 0,
            "exceptions": 0,
            "windowrange": [0, 0],
            "timerange": [0, 1],
            "description": "",
        }
    }
    assert found["project"]["s3backend"] == 0
    assert found["metadata"] == {}


def test_project_info_as_hdf5(fresh: Wire) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    make(fresh, {"channel_name": "seg", "channel_type": "annotation", "channel_datatype": "uint32", "endtime": 1})
    with h5py.File(io.BytesIO(fresh.get("/nd/ca/p/projinfo/").data)) as file:
        assert file["PROJECT/NAME"][0] == b"p"
        assert list(file["DATASET/IMAGE_SIZE/1"][()]) == [150, 100, 64]
        assert list(file["DATASET/RESOLUTIONS"][()]) == [0, 1]
        channel = file["CHANNELS/seg"]
        assert (channel["TYPE"][0], channel["DATATYPE"][0]) == (b"annotation", b"uint32")
        assert (channel["RESOLUTION"].dtype, channel["READONLY"].dtype) == (np.uint8, bool)
        assert list(channel["TIMERANGE"][()]) == [0, 1]


@pytest.mark.parametrize(
    "path",
    [
        *("/nd/sd/", "/nd/ca/", "/ocp/ca/", "/ocp/ocp/ca/", "/sd/", "/ca/"),
        *("/nd//sd/", "/nd/nd/sd/", "/nd/sd//", "/ocp//nd//ca//"),
    ],
)
def test_prefixes_and_slashes(wire: Wire, path: str) -> None:
    assert json.loads(wire.get(f"{path}public_tokens/").data) == ["lab"]
    assert wire.npz(f"{path}lab/em/npz/{BOX}").shape == (1, 12, 30, 40)


@pytest.mark.parametrize(
    "path",
    ["sd/lab/em/tiff/" + BOX, "sd/lab/seg/xyanno/3/" + BOX, "catmaid/lab/em/xy/5/0_0_0.png", "stats/lab/em/hist/"],
)
def test_a_service_that_is_not_offered_is_named(wire: Wire, path: str) -> None:
    """400, as for every service that an ndstore does not know; no word of objects or channels, which are not what is wrong."""
    assert b"is not offered here; voxels are given as hdf5, npz" in wire.get(f"/nd/{path}", 400).data


def test_public_lists(wire: Wire) -> None:
    for path, names in (
        ("/nd/sd/public_datasets/", ["cortex"]),
        ("/nd/resource/public/token/", ["lab"]),
        ("/nd//nd/resource/public/dataset/", ["cortex"]),
        ("/nd//resource/publicdataset/", ["cortex"]),
        ("/nd/resource/dataset/", ["cortex"]),
        ("/nd/resource/dataset/cortex/project/", ["lab"]),
    ):
        assert json.loads(wire.get(path).data) == names


# -- reading -----------------------------------------------------------------------------------------------------------------


def test_bodies(wire: Wire) -> None:
    """Every form, decoded here by what the documents say of it; channels lead, but in hdf5."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    blosc = pytest.importorskip("blosc", reason="blosc is not installed")
    replies = {form: wire.get(f"/nd/sd/lab/em/{form}/{BOX}") for form in ("npz", "blosc", "hdf5", "raw", "zip")}
    assert all(reply.headers["content-type"].split(";")[0] == f"product/{form}" for form, reply in replies.items())
    assert np.array_equal(np.load(io.BytesIO(zlib.decompress(replies["npz"].data))), EM[None])
    assert np.array_equal(blosc.unpack_array(replies["blosc"].data), EM[None])
    assert replies["raw"].data == EM.tobytes() == zlib.decompress(replies["zip"].data)
    with h5py.File(io.BytesIO(replies["hdf5"].data)) as file:
        assert list(file) == ["em"]
        assert np.array_equal(file["em/CUTOUT"][()], EM)
        assert (file["em/CHANNELTYPE"][0], file["em/DATATYPE"][0]) == (b"image", b"uint8")
        assert file["em/CUTOUT"].compression == "gzip"
    for form in ("blosc", "hdf5", "raw"):
        assert replies[form].headers["content-disposition"].startswith("attachment; filename=")
    picture = np.asarray(Image.open(io.BytesIO(wire.get(f"/nd/sd/lab/em/jpeg/{BOX}").data)))
    assert picture.shape == (12 * 30, 40)
    assert np.abs(picture.astype(float) - EM.reshape(-1, 40)).mean() < 30


def test_ranges_are_absolute_and_never_clipped(wire: Wire) -> None:
    assert np.array_equal(wire.npz("/nd/sd/lab/em/npz/0/21,25/12,19/5,6/")[0], EM[1:2, 2:9, 1:5])
    for ranges in (
        *(
            "0/19,25/12,19/5,6/",
            "0/21,61/12,19/5,6/",
            "0/21,25/12,19/5,17/",
            "0/25,21/12,19/5,6/",
            "0/21,21/12,19/5,6/",
        ),
        *(
            "1/21,25/12,19/5,6/",
            "-1/21,25/12,19/5,6/",
            "0/21,25/12,19/",
            "0/a,b/12,19/5,6/",
            "9" * 40 + "/1,2/1,2/1,2/",
        ),
    ):
        assert wire.get(f"/nd/sd/lab/em/npz/{ranges}", 404).data
    said = wire.get("/nd/sd/lab/em/npz/0/0,9/12,19/5,6/", 404)
    assert said.headers["content-type"].startswith("text/plain")
    assert b"Illegal range" in said.data
    for path in ("/nd/sd/none/info/", "/nd/sd/lab/none/npz/" + BOX, "/nd/sd/", "/nd/", "/nd/nothing/"):
        wire.get(path, 404)


def test_several_channels(wire: Wire, fresh: Wire) -> None:
    image = {"channel_type": "image", "channel_datatype": "uint16"}
    names = ({"channel_name": "a", **image}, {"channel_name": "b", **image, "default": True})
    make(fresh, *names, {"channel_name": "c", "channel_type": "annotation", "channel_datatype": "uint32"})
    box = "0/10,15/20,24/1,4/"
    a, b = voxels((3, 4, 5), "uint16", seed=3), voxels((3, 4, 5), "uint16", seed=4)
    assert fresh.post(f"/nd/sd/p/a,b/npz/{box}", npz(np.stack([a, b]))).data == b"Success"
    assert np.array_equal(fresh.npz(f"/nd/sd/p/b,a/npz/{box}"), np.stack([b, a]))
    assert np.array_equal(fresh.npz(f"/nd/sd/p/a,0,b/npz/{box}"), np.stack([a, 0 * a, b]))
    assert np.array_equal(fresh.npz(f"/nd/sd/p/npz/{box}")[0], b)  # the channel that is marked so
    assert np.array_equal(fresh.npz(f"/nd/sd/p/default/npz/{box}")[0], b)
    assert b"one type" in fresh.get(f"/nd/sd/p/a,c/npz/{box}", 404).data
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(io.BytesIO(fresh.get(f"/nd/sd/p/a,c/hdf5/{box}").data)) as file:
        assert {name: str(file[name]["CUTOUT"].dtype) for name in file} == {"a": "uint16", "c": "uint32"}
    assert b"missing channels" in fresh.post(f"/nd/sd/p/a,b/npz/{box}", npz(a[None]), 404).data
    wire.get(f"/nd/sd/lab/0,em/npz/{BOX}", 404)


def test_labels_at_voxels_and_filters(wire: Wire) -> None:
    assert wire.get("/nd/sd/lab/seg/id/0/23/12/5/").data == str(SEG[1, 2, 3]).encode()
    wanted = ", ".join(str(one) for one in np.unique(SEG[1:3, 2:9, 1:5]) if one)
    assert wire.get("/nd/sd/lab/seg/ids/0/21,25/12,19/5,7/").data.decode() == wanted
    kept = wire.npz(f"/nd/sd/lab/seg/npz/{BOX}filter/7,9/")[0]
    assert np.array_equal(kept, np.where(np.isin(SEG, (7, 9)), SEG, 0))
    assert b"annotation" in wire.get(f"/nd/sd/lab/em/npz/{BOX}filter/7/", 404).data
    low = wire.npz(f"/nd/sd/lab/em/npz/{BOX}window/50,100/")[0]
    assert low.dtype == np.uint8
    assert np.abs(low - (np.clip(EM.astype(float), 50, 100) - 50) * 255 / 50).max() <= 1


def test_times_count_with_their_slash(fresh: Wire) -> None:
    """Old clients send a time without one, and rely on an answer without an axis of time."""
    facts = {"channel_type": "timeseries", "channel_datatype": "uint16", "starttime": 2, "endtime": 5}
    make(fresh, {"channel_name": "calcium", **facts})
    data, box = voxels((3, 4, 5, 6), "uint16"), "0/10,16/20,25/1,5/"
    path = f"/nd/sd/p/calcium/npz/{box}"
    fresh.post(f"{path}2,5/", npz(data[None]))
    assert np.array_equal(fresh.npz(f"{path}2,5/")[0], data)
    assert fresh.npz(f"{path}3,4/").shape == (1, 1, 4, 5, 6)
    assert np.array_equal(fresh.npz(path)[0], data[0])  # without times: the first, and no axis
    assert np.array_equal(fresh.npz(f"{path}3,4")[0], data[0])
    assert np.array_equal(fresh.npz(f"{path}0,1neariso/")[0], data[0])
    for times in ("1,3/", "4,6/", "3,3/"):
        fresh.get(path + times, 404)
    assert json.loads(fresh.get("/nd/sd/p/info/").data)["channels"]["calcium"]["timerange"] == [2, 5]


def test_slices_are_pictures(wire: Wire) -> None:
    def picture(path: str) -> Any:
        reply = wire.get(f"/nd/sd/lab/{path}")
        assert reply.headers["content-type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(reply.data)))

    assert np.array_equal(picture("em/xy/0/20,60/10,40/6/"), EM[2])
    assert np.array_equal(
        picture("em/xz/0/20,60/13/4,16/"), np.repeat(EM[:, 3], 10, axis=0)
    )  # slices are ten times as thick
    assert np.array_equal(picture("em/yz/0/25/10,40/4,16/"), np.repeat(EM[:, :, 5], 10, axis=0))
    labels = picture("seg/xy/0/20,60/10,40/6/")
    assert labels.shape == (30, 40, 4)
    assert np.array_equal(labels[..., 3] > 0, SEG[2] > 0)
    one = picture("seg/xy/0/20,60/10,40/6/filter/7/")
    assert np.array_equal(one[..., 3] > 0, SEG[2] == 7)
    assert len({tuple(colour) for colour in labels[SEG[2] == 7]}) == 1
    wire.get("/nd/sd/lab/em/xy/0/20,60/10,40/4,6/", 404)


def test_packed_colours_and_windows(fresh: Wire) -> None:
    """uint32 images are A, B, G, R from the highest byte; others are drawn by the window of their channel."""
    make(
        fresh,
        {"channel_name": "rgba", "channel_type": "image", "channel_datatype": "uint32"},
        {
            "channel_name": "wide",
            "channel_type": "image",
            "channel_datatype": "uint16",
            "startwindow": 100,
            "endwindow": 1100,
        },
    )
    fresh.post("/nd/sd/p/rgba/npz/0/10,11/20,21/1,2/", npz(np.full((1, 1, 1, 1), 0xFF112233, "uint32")))
    fresh.post("/nd/sd/p/wide/npz/0/10,12/20,21/1,2/", npz(np.array([600, 5000], "uint16").reshape(1, 1, 1, 2)))

    def picture(path: str) -> Any:
        return np.asarray(Image.open(io.BytesIO(fresh.get(f"/nd/sd/p/{path}").data))).tolist()

    assert picture("rgba/xy/0/10,11/20,21/1/") == [[[0x33, 0x22, 0x11, 0xFF]]]
    assert picture("wide/xy/0/10,12/20,21/1/") == [[127, 255]]
    assert picture("wide/xy/0/10,12/20,21/1/window/0,10000/") == [[15, 127]]


# -- writing -----------------------------------------------------------------------------------------------------------------


def test_what_is_not_zero_wins(fresh: Wire) -> None:
    make(fresh, {"channel_name": "a", "channel_type": "image", "channel_datatype": "uint8"})
    path = "/nd/sd/p/a/npz/0/10,14/20,23/1,3/"
    first, second = voxels((1, 2, 3, 4), "uint8", seed=5), voxels((1, 2, 3, 4), "uint8", seed=6)
    for data in (first, second, np.zeros_like(first)):
        assert fresh.post(path, npz(data)).data == b"Success"
    assert np.array_equal(fresh.npz(path), np.where(second, second, first))


def test_what_does_not_fit_is_refused(fresh: Wire) -> None:
    """404 with a sentence, each time before anything is stored."""
    make(
        fresh,
        {"channel_name": "a", "channel_type": "image", "channel_datatype": "uint8"},
        {"channel_name": "locked", "channel_type": "image", "channel_datatype": "uint8", "readonly": 1},
    )
    path, good = "/nd/sd/p/a/npz/0/10,14/20,23/1,3/", np.ones((1, 2, 3, 4), "uint8")
    for body in (
        *(npz(good.astype("uint16")), npz(good.astype(">u2")), npz(good[0]), npz(good[:, :1]), npz(good[None])),
        *(b"", b"plain", good.tobytes(), npz(good)[:-4], zlib.compress(bytes(10**8)), pickle.dumps(good)),
    ):
        assert fresh.post(path, body, 404).data
    assert b"readonly" in fresh.post(path.replace("/a/", "/locked/"), npz(good), 404).data
    for wrong in (
        npz(good.astype("float32")),
        npz(np.ones((1, 20, 30, 40), "float64")),
        hdf5("a", good[0].astype("uint16")),
    ):
        form = "hdf5" if wrong.startswith(b"\x89HDF") else "npz"
        assert (
            b"the channel and the address say uint8 (2, 3, 4)" in fresh.post(path.replace("npz", form), wrong, 404).data
        )
    for form in ("raw", "zip", "jpeg"):
        fresh.post(path.replace("npz", form), npz(good), 400)
    fresh.ask("DELETE", path, status=400)
    fresh.ask("PUT", path, npz(good), 400)
    fresh.post(path.replace("0/10", "1/10"), npz(good), 404)
    assert not fresh.npz(path).any()


def test_no_pickle_is_loaded(fresh: Wire, tmp_path: Path) -> None:
    blosc = pytest.importorskip("blosc", reason="blosc is not installed")

    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    make(fresh, {"channel_name": "a", "channel_type": "image", "channel_datatype": "uint8"})
    path = "/nd/sd/p/a/blosc/0/10,14/20,23/1,3/"
    assert b"is not taken" in fresh.post(path, blosc.compress(pickle.dumps(Harm()), 1), 404).data
    assert fresh.post(path, blosc.pack_array(np.ones((1, 2, 3, 4), "uint8"))).data == b"Success"
    assert fresh.npz(path.replace("blosc", "npz")).all()
    assert not (tmp_path / "harmed").exists()


def test_writers_of_one_cuboid_lose_nothing(fresh: Wire) -> None:
    """Single voxels of one cuboid, written at the same time by many."""
    make(fresh, {"channel_name": "a", "channel_type": "image", "channel_datatype": "uint8"})

    def put(x: int) -> None:
        fresh.post(f"/nd/sd/p/a/npz/0/{10 + x},{11 + x}/20,21/1,2/", npz(np.full((1, 1, 1, 1), 1 + x, "uint8")))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(64)))
    assert np.array_equal(fresh.npz("/nd/sd/p/a/npz/0/10,74/20,21/1,2/").ravel(), np.arange(1, 65))


def test_who_may_write(tmp_path: Path) -> None:
    """An unknown key is nobody in particular, and reads; writing needs one that is known. 403 is the only code for it."""
    with serving(tmp_path, Access("token", ("key",))) as (url, _):
        wire, known = Wire(url), {"Authorization": "Token key"}
        path = "/nd/resource/dataset/ds/"
        for headers in ({}, {"Authorization": "Token placeholder"}, {"Authorization": "Basic a2V5"}):
            wire.ask("POST", path, json.dumps(DATASET).encode(), 403, headers)
            assert json.loads(wire.ask("GET", "/nd/sd/public_tokens/", headers=headers).data) == []
        wire.ask("POST", path, json.dumps(DATASET).encode(), 201, known)
        wire.ask("POST", f"{path}project/p/", json.dumps({"project_name": "p"}).encode(), 201, known)
        made = json.dumps(
            {"channels": {"a": {"channel_name": "a", "channel_type": "image", "datatype": "uint8"}}}
        ).encode()
        wire.ask("POST", "/nd/sd/p/createChannel/", made, 403)
        wire.ask("POST", "/nd/sd/p/createChannel/", made, 200, known)
        wire.ask("GET", "/nd/sd/p/a/setPropagate/1/", status=403)
        wire.ask("POST", "/nd/sd/p/a/npz/0/10,11/20,21/1,2/", npz(np.ones((1, 1, 1, 1), "uint8")), 403)
        # a metadata document shows its key within, since old clients send no header with it
        assert "message" in json.loads(wire.post("/metadata/ocp/set/p", {"secret": "no"}, 403).data)
        assert json.loads(wire.post("/metadata/ocp/set/p", {"secret": "key", "author": "me"}).data) == {"_id": 1}
        assert json.loads(wire.get("/metadata/ocp/get/p/").data) == {"author": "me"}


# -- resources and levels ----------------------------------------------------------------------------------------------------


def test_resources_come_and_go(fresh: Wire) -> None:
    channel = {"channel_name": "a", "channel_type": "image", "channel_datatype": "float32", "channel_description": "em"}
    make(fresh, channel)
    root = "/nd/resource/dataset/ds"
    assert DATASET.items() <= json.loads(fresh.get(root).data).items()
    assert json.loads(fresh.get(f"{root}/project/p/").data)["project_name"] == "p"
    shown = json.loads(fresh.get(f"{root}/project/p/channel/a/").data)
    assert {**channel, "endtime": 1, "readonly": 0}.items() <= shown.items()
    assert fresh.post(f"{root}/project/p/token/other/", {"token_name": "other", "public": 1}, 201).data == b""
    assert sorted(json.loads(fresh.get("/nd/sd/other/info/").data)["channels"]) == ["a"]
    assert json.loads(fresh.get("/nd/sd/public_tokens/").data) == ["other", "p"]
    for path, facts in (
        (f"{root}/", DATASET),
        ("/nd/resource/dataset/d2/", {**DATASET, "dataset_name": "d2", "colour": 1}),
        ("/nd/resource/dataset/d2/", {**DATASET, "dataset_name": "../up"}),
        (
            "/nd/resource/dataset/d2/",
            {key: DATASET[key] for key in DATASET if key != "zimagesize"} | {"dataset_name": "d2"},
        ),
        ("/nd/resource/dataset/d2/", {**DATASET, "dataset_name": "d2", "ximagesize": 0}),
        (f"{root}/project/p/channel/a/", channel),
        (f"{root}/project/p/channel/b/", {**channel, "channel_name": "b", "channel_datatype": "float64"}),
        (f"{root}/project/p/channel/b/", {**channel, "channel_name": "a b"}),
        ("/nd/resource/dataset/other/project/p/channel/b/", {**channel, "channel_name": "b"}),
        (f"{root}/project/q/channel/b/", {**channel, "channel_name": "b"}),
        (f"{root}/project/q/", [1]),
    ):
        assert fresh.post(path, facts, 400).data == b""
    assert fresh.ask("DELETE", f"{root}/", status=400).data == b""  # a project lies in it
    assert fresh.ask("DELETE", f"{root}/project/p/channel/a/", status=204).data == b""
    fresh.get(f"{root}/project/p/channel/a/", 404)
    fresh.ask("DELETE", f"{root}/project/p/", status=204)
    fresh.ask("DELETE", f"{root}/", status=204)
    fresh.get(f"{root}/", 404)


def test_channels_in_the_older_way(fresh: Wire) -> None:
    make(fresh)
    image = {"channel_type": "image", "datatype": "uint8", "readonly": 0}
    made = {"channels": {"a": {"channel_name": "a", **image}, "b": {"channel_name": "b", **image, "readonly": 1}}}
    assert fresh.post("/nd/sd/p/createChannel/", made).data == b"Success. The channels were created."
    again = {"channels": {"c": {"channel_name": "c", **image}, "a": {"channel_name": "a", **image}}}
    fresh.post("/nd/sd/p/createChannel/", again, 400)
    fresh.post("/nd/sd/p/createChannel/", {"channels": {"d": {**image, "datatype": "complex64"}, "e": image}}, 400)
    for body in ({}, {"channels": []}, {"channels": {"x": 1}}, {"channels": {"x": {**image, "timerange": 3}}}):
        fresh.post("/nd/sd/p/createChannel/", body, 400)
    assert sorted(json.loads(fresh.get("/nd/sd/p/info/").data)["channels"]) == ["a", "b"]  # all of them or none
    assert fresh.post("/nd/sd/p/deleteChannel/", {"channels": ["a", "b"]}).data == b"Success. Channels deleted."
    assert list(json.loads(fresh.get("/nd/sd/p/info/").data)["channels"]) == ["b"]  # what is read-only is passed over
    fresh.post("/nd/sd/p/deleteChannel/", {"channels": ["none"]}, 404)


def test_what_was_found_is_not_removed(wire: Wire) -> None:
    wire.ask("DELETE", "/nd/resource/dataset/cortex/project/lab/channel/em/", status=403)
    wire.post("/nd/sd/lab/deleteChannel/", {"channels": ["em"]}, 403)
    wire.ask("DELETE", "/nd/resource/dataset/cortex/project/lab/", status=403)
    assert np.array_equal(wire.npz(f"/nd/sd/lab/em/npz/{BOX}")[0], EM)


def propagated(wire: Wire, channel: str) -> Any:
    """Wait until levels are made, and return what is told then."""
    deadline = time.monotonic() + 180
    while (status := wire.get(f"/nd/sd/p/{channel}/getPropagate/").data) == b"1" and time.monotonic() < deadline:
        time.sleep(0.02)
    return status


def test_propagation(fresh: Wire) -> None:
    """0, 1 while levels are made, 2; a write makes them stale; what the rules forbid is refused."""
    names = [{"channel_name": n, "channel_type": "annotation", "channel_datatype": "uint32"} for n in ("a", "b")]
    make(fresh, *names, scalinglevels=2)
    labels = np.repeat(np.repeat(voxels((8, 25, 30), "uint32") % 1000, 4, axis=1), 4, axis=2)
    box = "0/12,132/20,120/1,9/"
    fresh.post(f"/nd/sd/p/a/npz/{box}", npz(labels[None]))
    sampled = fresh.npz("/nd/sd/p/a/npz/1/6,66/10,60/1,9/")[0]  # before they are made: every second voxel
    assert np.array_equal(sampled, labels[:, ::2, ::2])
    assert fresh.get("/nd/sd/p/a,b/getPropagate/").data == b"0,0"
    fresh.get("/nd/sd/p/a/setPropagate/2/", 404)
    assert fresh.get("/nd/sd/p/a/setPropagate/1/").data == b""
    assert propagated(fresh, "a") == b"2"
    assert fresh.get("/nd/sd/p/a,b/getPropagate/").data == b"2,0"
    fresh.get("/nd/sd/p/a/setPropagate/1/", 404)
    for level, step in ((1, 2), (2, 4)):
        ranges = f"{level}/{12 // step},{132 // step}/{20 // step},{120 // step}/1,9/"
        assert np.array_equal(fresh.npz(f"/nd/sd/p/a/npz/{ranges}")[0], labels[:, ::step, ::step])
    fresh.post(f"/nd/sd/p/a/npz/{box}", npz(labels[None]))
    assert fresh.get("/nd/sd/p/a/getPropagate/").data == b"0"
    fresh.get("/nd/sd/p/a/setPropagate/0/")
    fresh.get("/nd/sd/p/a/setPropagate/1/")
    assert propagated(fresh, "a") == b"2"
    fresh.get("/nd/sd/p/a/setPropagate/0/")
    assert fresh.get("/nd/sd/p/a/getPropagate/").data == b"0"


def test_a_write_while_levels_are_made(fresh: Wire) -> None:
    """It may have come too late for them, so they are stale once they are there."""
    make(fresh, {"channel_name": "a", "channel_type": "image", "channel_datatype": "uint8"})
    one = npz(np.ones((1, 1, 1, 1), "uint8"))
    fresh.post("/nd/sd/p/a/npz/0/10,11/20,21/1,2/", one)
    fresh.get("/nd/sd/p/a/setPropagate/1/")
    fresh.post("/nd/sd/p/a/npz/0/12,13/20,21/1,2/", one)
    assert propagated(fresh, "a") == b"0"


def test_metadata_is_in_info(fresh: Wire) -> None:
    make(fresh)
    assert json.loads(fresh.get("/metadata/ocp/get/p/").data) == {}
    fresh.post("/nd/metadata/ocp/set/p", {"author": "me", "rois": [1]})
    fresh.post("/metadata/ocp/set/p/", {"rois": [2]})
    assert json.loads(fresh.get("/nd/sd/p/info/").data)["metadata"] == {"author": "me", "rois": [2]}
    fresh.post("/metadata/ocp/set/nothing", {}, 404)
    fresh.post("/metadata/ocp/set/p", [1], 404)


PARTS = (
    *(
        "lab",
        "em",
        "seg",
        "npz",
        "hdf5",
        "blosc",
        "xy",
        "id",
        "ids",
        "0",
        "7",
        "20,60",
        "10,40",
        "4,16",
        "99,1",
        "neariso",
    ),
    *("filter", "window", "1,2", "..", "%2e%2e", "%2F", "%00", "é", "info", "projinfo", "getPropagate", "setPropagate"),
    *(
        "createChannel",
        "query",
        "json",
        "nodata",
        "reserve",
        "resource",
        "dataset",
        "project",
        "metadata",
        "ocp",
        "get",
        "-1",
    ),
)


def test_paths_at_random(wire: Wire, served: tuple[Wire, Service]) -> None:
    """No path makes the service fail, or shows a file."""
    source = np.random.default_rng(11)
    for _ in range(400):
        rest = "/".join(source.choice(PARTS, source.integers(1, 9)))
        method = str(source.choice(["GET", "POST", "PUT", "DELETE"]))
        start = str(
            source.choice(["/nd/sd/", "/nd/sd/lab/", "/nd/sd/lab/em/", "/nd/sd/lab/seg/", "/nd/", "/metadata/"])
        )
        body = source.bytes(int(source.integers(0, 60))) if method in ("POST", "PUT") else None
        reply = HTTP.request(
            method, wire.base + start + urllib3.util.parse_url(f"http://h/{rest}").path.lstrip("/"), body=body
        )
        assert reply.status in (200, 201, 204, 400, 403, 404, 405), (
            method,
            start,
            rest,
            reply.status,
            reply.data[:200],
        )
        assert b"Traceback" not in reply.data
    assert np.array_equal(wire.npz(f"/nd/sd/lab/em/npz/{BOX}")[0], EM)

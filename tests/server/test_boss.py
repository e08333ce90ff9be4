"""BOSS on the wire: paths, status codes, error bodies, formats; checked against the protocol, not against ndbatch's client."""

from __future__ import annotations

import io
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ndbatch as nb
from ndbatch.geometry import Box
from ndbatch.server.pyramids import Making, making, note_write
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving

TOKEN = "sesame-1234"
FRAME = {
    "x_start": 0, "x_stop": 70, "y_start": 0, "y_stop": 50, "z_start": 0, "z_stop": 20,
    "x_voxel_size": 4.0, "y_voxel_size": 4.0, "z_voxel_size": 40, "voxel_unit": "nanometers",
}  # fmt: skip


class Wire:
    """Requests as any client might send them."""

    def __init__(self, url: str, service: Service) -> None:
        self.url, self.service, self.pool = url, service, urllib3.PoolManager(retries=False)

    def __call__(self, method: str, path: str, body: Any = None, token: str = TOKEN, **headers: str) -> Any:
        """Send a request; a body that is no bytes is sent as JSON. Headers are written with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, named = json.dumps(body).encode(), {"Content-Type": "application/json", **named}
        named["Authorization"] = f"Token {token}"
        return self.pool.request(method, f"{self.url}{path}", body=body, headers=named)

    def status(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, int | None]:
        """Return status and the code of an error, which must be written as BOSS does."""
        reply = self(method, path, body, **headers)
        if reply.status < 400:
            return reply.status, None
        said = reply.json()
        assert set(said) == {"status", "code", "message"}
        assert said["status"] == reply.status
        return reply.status, said["code"]

    def npygz(self, path: str) -> Any:
        """Return the voxels of a cutout that was asked for as npygz."""
        reply = self("GET", f"/v1/cutout/{path}", Accept="application/npygz")
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/npygz")
        return np.load(io.BytesIO(zlib.decompress(reply.data)), allow_pickle=False)


@contextmanager
def served(folder: Path) -> Iterator[Wire]:
    """Yield a service with the experiment lab/embryo of three levels and its channels em (uint8) and seg (uint64)."""
    with serving(folder, Access(tokens=(TOKEN,))) as (url, service):
        wire = Wire(url, service)
        assert wire.status("POST", "/v1/collection/lab", {"name": "ignored", "description": "d"}) == (201, None)
        assert wire.status("POST", "/v1/coord/frame", FRAME) == (201, None)
        facts = {"coord_frame": "frame", "num_hierarchy_levels": 3, "description": "e"}
        assert wire.status("POST", "/v1/collection/lab/experiment/embryo", facts) == (201, None)
        for name, dtype, kind in (("em", "uint8", "image"), ("seg", "uint64", "annotation")):
            made = wire("POST", channel(name), {"type": kind, "datatype": dtype})
            assert made.status == 201
        yield wire
        wire.pool.clear()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with served(tmp_path) as wire:
        yield wire


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Yield a service that no test changes."""
    with served(tmp_path_factory.mktemp("boss")) as wire:
        yield wire


def channel(name: str) -> str:
    return f"/v1/collection/lab/experiment/embryo/channel/{name}"


def packed(data: Any) -> bytes:
    plain = io.BytesIO()
    np.save(plain, data)
    return zlib.compress(plain.getvalue())


def test_documents(same: Wire) -> None:
    """Every field is there under its name; the name in the path wins over the one in the body."""
    assert same("GET", "/v1/collection/lab").json() == {
        "name": "lab",
        "description": "d",
        "public": False,
        "creator": "ndbatch",
        "experiments": ["embryo"],
    }
    assert same("GET", "/v1/coord/frame").json() == {"name": "frame", "description": "", **FRAME}
    assert same("GET", "/v1/collection/lab/experiment/embryo").json() == {
        "name": "embryo",
        "description": "e",
        "public": False,
        "coord_frame": "frame",
        "num_hierarchy_levels": 3,
        "hierarchy_method": "anisotropic",
        "num_time_samples": 1,
        "time_step": None,
        "time_step_unit": "seconds",
        "collection": "lab",
        "creator": "ndbatch",
        "channels": ["em", "seg"],
    }
    assert same("GET", channel("seg")).json() == {
        "name": "seg",
        "description": "",
        "experiment": "embryo",
        "public": False,
        "type": "annotation",
        "datatype": "uint64",
        "base_resolution": 0,
        "default_time_sample": 0,
        "sources": [],
        "related": [],
        "downsample_status": "NOT_DOWNSAMPLED",
        "storage_type": "spdb",
        "bucket": None,
        "cv_path": None,
        "creator": "ndbatch",
    }


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/collection//", {"collections": ["lab"]}),
        ("/v1/collection", {"collections": ["lab"]}),
        ("/v1/collection/lab/experiment/", {"experiments": ["embryo"]}),
        ("/v1//collection/lab/experiment/embryo/channel//", {"channels": ["em", "seg"]}),
        ("/v1/coord/?owner=true", {"coords": ["frame"]}),
        ("/v1/meta/lab/embryo/em/", {"keys": []}),
        ("/ping/", {"ip": "127.0.0.1"}),
    ],
)
def test_lists_and_slashes(same: Wire, path: str, answer: Any) -> None:
    reply = same("GET", path)
    assert (reply.status, reply.json()) == (200, answer)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1/collection/none", None, (404, 4000)),
        ("GET", "/v1/collection/lab/experiment/none", None, (404, 4000)),
        ("GET", "/v1/coord/none", None, (404, 4000)),
        ("GET", "/v0.8/collection/", None, (400, 9003)),
        ("GET", "/v1/nothing/", None, (404, 2004)),
        ("POST", "/v1/collection/lab", {}, (400, 1003)),
        ("POST", "/v1/collection/a.b", {}, (400, 1003)),
        ("POST", "/v1/coord/frame", FRAME, (400, 1003)),
        ("POST", "/v1/coord/other", {**FRAME, "x_stop": 0}, (400, 1003)),
        ("POST", "/v1/coord/other", {**FRAME, "voxel_unit": "miles"}, (400, 1003)),
        ("POST", "/v1/coord/other", {**FRAME, "x_voxel_size": "4"}, (400, 1003)),
        ("POST", "/v1/coord/other", b"not json", (400, 1003)),
        ("POST", "/v1/coord/other", b"[1]", (400, 1003)),
        ("POST", "/v1/collection/lab/experiment/e", {"coord_frame": "none"}, (404, 4000)),
        ("POST", "/v1/collection/lab/experiment/e", {}, (400, 1003)),
        ("POST", "/v1/collection/lab/experiment/e", {"coord_frame": "frame", "num_hierarchy_levels": 11}, (400, 1003)),
        ("POST", channel("c"), {"type": "image", "datatype": "uint32"}, (400, 1003)),
        ("POST", channel("c"), {"type": "picture", "datatype": "uint8"}, (400, 1003)),
        ("POST", channel("c"), {"type": "image", "datatype": "uint8", "default_time_sample": 1}, (400, 1003)),
        ("POST", channel("c"), {"type": "image", "datatype": "uint8", "base_resolution": 1}, (400, 1003)),
        ("PUT", channel("em"), {"base_resolution": 1}, (400, 1003)),
        ("PUT", "/v1/coord/frame", {"x_stop": 100}, (400, 1003)),
        ("PUT", "/v1/collection/lab/experiment/embryo", {"coord_frame": "other"}, (400, 1003)),
        ("PUT", channel("em"), {"datatype": "uint16"}, (400, 1003)),
        ("PUT", channel("em"), {"sources": ["none"]}, (400, 1003)),
        ("PUT", channel("em"), {"sources": ["seg"], "related": ["seg"]}, (400, 1003)),
        ("DELETE", "/v1/collection/lab", None, (400, 4003)),
        ("DELETE", "/v1/collection/lab/experiment/embryo", None, (400, 4003)),
        ("DELETE", "/v1/coord/frame", None, (400, 4003)),
        ("GET", "/v1/meta/lab/?key=none", None, (400, 1003)),
        ("PUT", "/v1/meta/lab/?key=none&value=1", None, (400, 1003)),
        ("DELETE", "/v1/meta/lab/?key=none", None, (400, 1003)),
        ("GET", "/v1/cutout/lab/embryo/em/0/0:4/0:4/", None, (400, 1000)),
        ("GET", "/v1/cutout/lab/embryo/none/0/0:4/0:4/0:4/", None, (404, 4000)),
        ("GET", "/v1/cutout/lab/embryo/em/3/0:4/0:4/0:4/", None, (400, 1002)),
        ("GET", "/v1/cutout/lab/embryo/em/x/0:4/0:4/0:4/", None, (400, 1002)),
        ("GET", "/v1/cutout/lab/embryo/em/0/4:4/0:4/0:4/", None, (400, 1001)),
        ("GET", "/v1/cutout/lab/embryo/em/0/0:71/0:4/0:4/", None, (400, 1001)),
        ("GET", "/v1/cutout/lab/embryo/em/0/0:4/0:4/0:4/0:3/", None, (400, 1000)),
        ("GET", "/v1/cutout/lab/embryo/em/0/-1:4/0:4/0:4/", None, (400, 1001)),
        ("GET", "/v1/cutout/lab/embryo/em/0/0:4/0:4/0:4/?filter=1", None, (400, 2003)),
        ("GET", "/v1/cutout/lab/embryo/seg/0/0:4/0:4/0:4/?filter=-1", None, (400, 1001)),
        ("GET", "/v1/cutout/lab/embryo/em/0/0:4/0:4/0:4/?access-mode=later", None, (400, 1001)),
        ("GET", "/v1/cutout/lab/embryo/em/0/0:4/0:4/0:4/?access-mode=raw&no-cache=true", None, (400, 1001)),
        ("GET", "/v1/cutout/lab/embryo/seg/1/0:4/0:4/0:4/", None, (400, 1002)),
        ("GET", "/v1/ids/lab/embryo/em/0/0:4/0:4/0:4/", None, (400, 2003)),
        ("GET", "/v1/boundingbox/lab/embryo/em/0/1/", None, (400, 2003)),
        ("GET", "/v1/boundingbox/lab/embryo/seg/0/1/", None, (404, 4004)),
        ("GET", "/v1/boundingbox/lab/embryo/seg/0/1/?type=huge", None, (400, 1005)),
        ("GET", "/v1/reserve/lab/embryo/em/5", None, (400, 2003)),
        ("GET", "/v1/reserve/lab/embryo/seg/0", None, (400, 1003)),
        ("DELETE", "/v1/downsample/lab/embryo/em/", None, (409, 2006)),
        ("GET", "/v1/tile/lab/embryo/em/xy/32/0/2/0/0/", None, (400, 1001)),
        ("GET", "/v1/image/lab/embryo/em/xz/0/0:4/0:4/0:4/", None, (400, 1001)),
    ],
)
def test_errors(same: Wire, method: str, path: str, body: Any, expected: tuple[int, int]) -> None:
    """The code tells clients what is wrong."""
    assert same.status(method, path, body) == expected


def test_the_order_of_deleting(wire: Wire) -> None:
    """What is used by another cannot go first; what is gone is gone from every list."""
    assert wire.status("PUT", channel("seg"), {"sources": ["em"]}) == (200, None)
    assert wire.status("DELETE", channel("em")) == (400, 4003)
    assert wire.status("PUT", channel("seg"), {"description": "new"}) == (200, None)
    assert wire("GET", channel("seg")).json()["sources"] == []  # a change that does not name them empties them
    for path in (
        channel("em"),
        channel("seg"),
        "/v1/collection/lab/experiment/embryo",
        "/v1/collection/lab",
        "/v1/coord/frame",
    ):
        assert wire.status("DELETE", path) == (204, None)
        assert wire.status("GET", path) == (404, 4000)
    assert not list(wire.service.root.rglob("*.zarr"))


def test_cutouts(wire: Wire) -> None:
    """npygz both ways; zeros keep what is there, to_black erases; without times z, y, x, with them t, z, y, x."""
    data = np.random.default_rng(0).integers(1, 2**62, (3, 4, 5), "uint64")
    path = "lab/embryo/seg/0/60:65/40:44/10:13"
    send = {"Content_Type": "application/npygz"}
    assert wire.status("POST", f"/v1/cutout/{path}", packed(data), **send) == (201, None)
    assert np.array_equal(wire.npygz(path), data)
    assert np.array_equal(wire.npygz(f"{path}/0:1/"), data[None])
    sparse = np.where(data % 3, 5, 0).astype("uint64")
    assert wire.status("POST", f"/v1/cutout/{path}/", packed(sparse), **send) == (201, None)
    expected = np.where(sparse, sparse, data)
    assert np.array_equal(wire.npygz(path), expected)
    only = wire.npygz(f"{path}/?filter=5,6")
    assert np.array_equal(only, np.where(expected == 5, 5, 0))
    assert wire.status("PUT", "/v1/cutout/to_black/lab/embryo/seg/0/60:62/40:44/10:13/") == (200, None)
    expected[:, :, :2] = 0
    assert np.array_equal(wire.npygz(path), expected)
    whole = wire.npygz("lab/embryo/seg/0/0:70/0:50/0:20/")
    assert np.array_equal(whole[10:13, 40:44, 60:65], expected)
    assert np.count_nonzero(whole) == np.count_nonzero(expected)


def test_bodies_that_do_not_fit(wire: Wire) -> None:
    """Another type, shape or format, damage, bombs and pickles are refused; nothing is written."""
    path, good = "/v1/cutout/lab/embryo/em/0/0:5/0:4/0:3/", np.ones((3, 4, 5), "uint8")
    npygz, blosc = {"Content_Type": "application/npygz"}, {"Content_Type": "application/blosc"}
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    for body, headers, expected in (
        (packed(good.astype("uint16")), npygz, (400, 2001)),
        (packed(good[:2]), npygz, (400, 2002)),
        (b"garbage", npygz, (400, 2001)),
        (zlib.compress(b"\0" * 50_000_000), npygz, (400, 2001)),
        (zlib.compress(pickled.getvalue()), npygz, (400, 2001)),
        (b"garbage", blosc, (400, 2001)),
        (b"\x02\x01\x13\x01" + (2**31 - 1).to_bytes(4, "little") * 3, blosc, (400, 2002)),
        (
            b"\x02\x01\x13\x01" + (60).to_bytes(4, "little") * 2 + (24).to_bytes(4, "little") + b"\xff" * 8,
            blosc,
            (400, 2001),
        ),
    ):
        assert wire.status("POST", path, body, **headers) == expected
    for kind in ("application/blosc-python", "image/tiff", "text/plain"):
        reply = wire("POST", path, b"x", Content_Type=kind)
        assert (reply.status, set(reply.json())) == (415, {"detail"})
    reply = wire("GET", path, Accept="application/blosc-python")
    assert (reply.status, set(reply.json())) == (406, {"detail"})
    assert not wire.npygz("lab/embryo/em/0/0:5/0:4/0:3/").any()
    assert wire.status("POST", "/v1/cutout/lab/embryo/em/2/0:5/0:4/0:3/", packed(good), **npygz) == (400, 9001)


def test_too_large(wire: Wire) -> None:
    """520 MiB a request; the body is never asked for."""
    for name in ("x", "y", "z"):
        FRAME_LARGE = {**FRAME, "x_stop": 2**20, "y_stop": 2**20, "z_stop": 2**20}
        assert wire.status("POST", f"/v1/coord/large-{name}", FRAME_LARGE) == (201, None)
    experiment = "/v1/collection/lab/experiment/large"
    assert wire.status("POST", experiment, {"coord_frame": "large-x"}) == (201, None)
    assert wire.status("POST", f"{experiment}/channel/em", {"type": "image", "datatype": "uint16"}) == (201, None)
    assert wire.status("GET", "/v1/cutout/lab/large/em/0/0:1024/0:1024/0:261/") == (413, 2000)
    assert wire("GET", "/v1/cutout/lab/large/em/0/0:512/0:512/0:1/").status == 200


def test_who_may_write(wire: Wire) -> None:
    """Without the token everything is read and nothing changed, and no id is used up."""
    for method, path in (
        ("POST", "/v1/collection/mine"),
        ("PUT", channel("em")),
        ("DELETE", channel("em")),
        ("POST", "/v1/cutout/lab/embryo/em/0/0:4/0:4/0:4/"),
        ("PUT", "/v1/cutout/to_black/lab/embryo/em/0/0:4/0:4/0:4/"),
        ("POST", "/v1/meta/lab/?key=a&value=b"),
        ("POST", "/v1/downsample/lab/embryo/em/"),
        ("GET", "/v1/reserve/lab/embryo/seg/5"),
        ("POST", "/v1/groups/mine"),
    ):
        reply = wire(method, path, {} if method != "GET" else None, token="wrong")
        assert (reply.status, reply.json()["code"]) == (403, 3004)
    assert wire("GET", "/v1/cutout/lab/embryo/em/0/0:4/0:4/0:4/", token="wrong").status == 200


def test_pictures(wire: Wire) -> None:
    """Planes and tiles as PNG and JPEG; slices stacked along y as JPEG; ids in colours, 0 transparent."""
    data = np.random.default_rng(1).integers(1, 255, (20, 50, 70), "uint8")
    headers = {"Content_Type": "application/npygz"}
    assert wire.status("POST", "/v1/cutout/lab/embryo/em/0/0:70/0:50/0:20/", packed(data), **headers) == (201, None)

    def picture(path: str, **named: str) -> Any:
        reply = wire("GET", path, **named)
        assert reply.status == 200, reply.data
        return reply.headers["Content-Type"], np.asarray(Image.open(io.BytesIO(reply.data)))

    for path, expected in (
        ("image/lab/embryo/em/xy/0/10:30/5:25/7", data[7, 5:25, 10:30]),
        ("image/lab/embryo/em/xz/0/10:30/5/7:17/", data[7:17, 5, 10:30]),
        ("image/lab/embryo/em/yz/0/10/5:25/7:17/0", data[7:17, 5:25, 10]),
        ("tile/lab/embryo/em/xy/16/0/2/1/7/", data[7, 16:32, 32:48]),
        ("tile/lab/embryo/em/xz/8/0/2/9/1/", data[8:16, 9, 16:24]),
    ):
        kind, found = picture(f"/v1/{path}")
        assert kind == "image/png"
        assert np.array_equal(found, expected), path
    kind, found = picture("/v1/image/lab/embryo/em/xy/0/0:70/0:50/7", Accept="image/jpeg")
    assert (kind, found.shape) == ("image/jpeg", (50, 70))
    kind, found = picture("/v1/cutout/lab/embryo/em/0/0:70/0:50/3:5/", Accept="image/jpeg")
    assert (kind, found.shape) == ("image/jpeg", (100, 70))
    assert np.abs(found.astype(float) - data[3:5].reshape(100, 70)).mean() < 30
    labels = np.zeros((1, 2, 3), "uint64")
    labels[0, 0] = [1, 2, 2**63]
    assert wire.status("POST", "/v1/cutout/lab/embryo/seg/0/0:3/0:2/0:1/", packed(labels), **headers) == (201, None)
    _, found = picture("/v1/image/lab/embryo/seg/xy/0/0:3/0:2/0")
    assert found.shape == (2, 3, 4)
    assert not found[1].any()
    assert len({tuple(colour) for colour in found[0].tolist()}) == 3


def test_downsampling(wire: Wire) -> None:
    """Levels are made in the background and halve x and y, counted from absolute 0."""
    path = "/v1/downsample/lab/embryo/seg/"
    assert wire("GET", path).json() == {
        "status": "NOT_DOWNSAMPLED",
        "num_hierarchy_levels": 3,
        "voxel_size": {"0": [4.0, 4.0, 40], "1": [8.0, 8.0, 40], "2": [16.0, 16.0, 40]},
        "extent": {"0": [70, 50, 20], "1": [35, 25, 20], "2": [18, 13, 20]},
        "cuboid_size": {str(level): [512, 512, 16] for level in range(3)},
    }
    data = np.zeros((20, 50, 70), "uint64")
    data[:, 8:16, 32:64] = 9
    headers = {"Content_Type": "application/npygz"}
    assert wire.status("POST", "/v1/cutout/lab/embryo/seg/0/0:70/0:50/0:20/", packed(data), **headers) == (201, None)
    assert not wire.npygz("lab/embryo/em/2/0:18/0:13/0:20/").any()
    assert wire.status("POST", path) == (201, None)
    until = time.monotonic() + 180
    while (status := wire("GET", path).json()["status"]) != "DOWNSAMPLED":
        assert status in ("QUEUED", "IN_PROGRESS")
        assert time.monotonic() < until
        time.sleep(0.02)
    assert wire.status("POST", path) == (409, 2006)
    assert np.array_equal(wire.npygz("lab/embryo/seg/1/0:35/0:25/0:20/"), data[:, ::2, ::2])
    assert np.array_equal(wire.npygz("lab/embryo/seg/2/0:18/0:13/0:20/"), data[:, ::4, ::4])
    assert not wire.npygz("lab/embryo/seg/2/18:40/0:13/0:20/").any()
    tight = wire("GET", "/v1/boundingbox/lab/embryo/seg/2/9/?type=tight").json()
    assert tight == {"x_range": [8, 16], "y_range": [2, 4], "z_range": [0, 20], "t_range": [0, 1]}
    assert wire.status("PUT", "/v1/cutout/to_black/lab/embryo/seg/0/0:70/0:50/0:20/") == (200, None)
    assert wire("GET", path).json()["status"] == "NOT_DOWNSAMPLED"


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    """Volumes of a folder are served as they are: wider types where BOSS has none, levels as far as they fit, never deleted."""
    source = np.random.default_rng(2).integers(0, 2**32, (8, 16, 24), "uint32")
    for name, dtype in (("ids", "uint32"), ("mask", "bool"), ("real", "float32")):
        place = tmp_path / "lab" / "embryo" / f"{name}.zarr"
        made = nb.create(place, shape=source.shape, dtype=dtype, kind="labels", offset=(2, 4, 6))
        made.write(made.domain, source.astype(dtype))
    levels = tmp_path / "lab" / "pyramid" / "em.zarr"
    fine = nb.create(levels, shape=(8, 16, 24), dtype="uint8", voxel_size=(1, 1, 1))
    fine.write(fine.domain, np.full((8, 16, 24), 3, "uint8"))
    for level, shape in ((1, (8, 8, 12)), (2, (4, 4, 6))):
        nb.create(f"{levels}?level={level}", shape=shape, dtype="uint8", voxel_size=(1, 2, 2))
    with serving(tmp_path, Access(tokens=(TOKEN,))) as (url, service):
        wire = Wire(url, service)
        assert wire("GET", "/v1/collection/lab/experiment/embryo/channel/").json() == {"channels": ["ids", "mask"]}
        assert wire.status("GET", channel("real")) == (404, 4000)
        assert wire("GET", channel("ids")).json()["datatype"] == "uint64"
        frame = wire("GET", "/v1/coord/CF_lab_embryo").json()
        assert [frame[f"{axis}_start"] for axis in "xyz"] == [6, 4, 2]
        found = wire.npygz("lab/embryo/ids/0/6:30/4:20/2:10/")
        assert (found.dtype, np.array_equal(found, source)) == (np.dtype("uint64"), True)
        assert wire.npygz("lab/embryo/mask/0/6:30/4:20/2:10/").dtype == np.uint8
        wide = np.full((1, 1, 1), 2**40, "uint64")
        headers = {"Content_Type": "application/npygz"}
        assert wire.status("POST", "/v1/cutout/lab/embryo/ids/0/6:7/4:5/2:3", packed(wide), **headers) == (400, 9001)
        assert wire.status("DELETE", channel("ids")) == (403, 3004)
        assert (tmp_path / "lab" / "embryo" / "ids.zarr").exists()
        pyramid = wire("GET", "/v1/downsample/lab/pyramid/em/").json()
        assert (pyramid["num_hierarchy_levels"], pyramid["status"]) == (2, "DOWNSAMPLED")
        wire.pool.clear()


def test_writers_of_one_cuboid(wire: Wire) -> None:
    """Boxes that share chunks are written at once, and none of them is lost."""
    from concurrent.futures import ThreadPoolExecutor

    boxes = [Box((z, y, 0), (z + 5, y + 5, 70)) for z in range(0, 20, 5) for y in range(0, 50, 5)]

    def write(number: int) -> int:
        box = boxes[number]
        data = np.full(box.shape, number + 1, "uint64")
        spans = "/".join(f"{a}:{b}" for a, b in zip(box.start[::-1], box.stop[::-1], strict=True))
        path = f"/v1/cutout/lab/embryo/seg/0/{spans}/"
        return int(wire("POST", path, packed(data), Content_Type="application/npygz").status)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, range(len(boxes)))) == {201}
    found = wire.npygz("lab/embryo/seg/0/0:70/0:50/0:20/")
    for number, box in enumerate(boxes):
        assert (found[box.slices()] == number + 1).all()


WORDS = [
    *(
        "collection",
        "coord",
        "meta",
        "cutout",
        "to_black",
        "ids",
        "boundingbox",
        "reserve",
        "downsample",
        "image",
        "tile",
    ),
    *("groups", "permissions", "lab", "embryo", "seg", "em", "experiment", "channel", "xy", "0", "9", "members", "0:4"),
    *("4:0", "-1:2", "0:99999999999", "..", "%2e%2e%2f", "%00", "a%20b", "é"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
    parts=st.lists(
        st.sampled_from(WORDS),
        max_size=9,
    ),
    query=st.sampled_from(["", "?key=a", "?key=a&value=b", "?filter=x", "?filter=", "?type=tight", "?iso=true"]),
    body=st.sampled_from([b"", b"{}", b"[]", b"null", b'{"group": 1}', b"\xff\xfe", b'{"permissions": "read"}']),
)
def test_no_request_brings_it_down(wire: Wire, method: str, parts: list[str], query: str, body: bytes) -> None:
    """Whatever is asked is answered, never with a failure of the service."""
    reply = wire(method, f"/v1/{'/'.join(parts)}{query}", body)
    assert reply.status < 500, reply.data


def test_levels_follow_what_any_protocol_writes(wire: Wire) -> None:
    """What is written while levels are made, or after, by whomever, makes them stale; cancelled ones are never whole."""
    channel = wire.service.catalogue.channel("embryo", "em")
    path = "/v1/downsample/lab/embryo/em/"

    def status() -> str:
        return str(wire("GET", path).json()["status"])

    def settled() -> str:
        until = time.monotonic() + 180
        while (found := status()) == "IN_PROGRESS":
            assert time.monotonic() < until
            time.sleep(0.02)
        return found

    assert wire.status("POST", path) == (201, None)
    note_write(wire.service, wire.service.catalogue.channel("embryo", "em"))
    assert settled() == "NOT_DOWNSAMPLED"
    assert wire.status("POST", path) == (201, None)
    assert settled() == "DOWNSAMPLED"
    note_write(wire.service, wire.service.catalogue.channel("embryo", "em"))
    assert wire.status("POST", path) == (201, None)
    cancelled = wire.status("DELETE", path)[0]
    assert settled() == ("NOT_DOWNSAMPLED" if cancelled == 204 else "DOWNSAMPLED")
    wire.service.catalogue.keep("pyramids", "embryo/em", b'{"state": "running", "process": 4194303}')
    assert making(wire.service, channel) is Making.FAILED
    assert status() == "FAILED"

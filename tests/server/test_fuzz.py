"""Requests that no client would send: never a 500, never a file from outside the folder, never a pickle loaded, no bombs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ndbatch as nb
from ndbatch.remotes.connecting import connect
from ndbatch.server.running import in_background
from ndbatch.server.scan import fill
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving
from tests.server.grammar import PATHS, QUERIES, WORDS
from tests.server.sample import noise, objects, store

INSTANCES = {
    "notes": "keyvalue", "synapses": "annotation", "region": "roi", "neurons": "neuronjson", "meshes": "tarsupervoxels",
}  # fmt: skip
SECRET = "the-words-of-another-folder"
ANY = settings(deadline=None, max_examples=int(os.environ.get("FUZZ", "250")), suppress_health_check=list(HealthCheck))


class Trap:
    """What a pickle that is loaded would do: make a file."""

    path = ""

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


class Target:
    """A running service, what it has beside its folder, and the words that requests are made of."""

    def __init__(self, url: str, folder: Path) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.address, self.folder = (host, int(port)), folder
        self.root = next(iter(json.loads(self.ask("GET", "/api/repos/info", {}, b"")[1])))
        for name, kind in INSTANCES.items():
            made = json.dumps({"typename": kind, "dataname": name, "Extension": "drc"}).encode()
            assert self.ask("POST", f"/api/repo/{self.root}/instance", {}, made)[0] == 200
        Trap.path = str(folder / "sprung")
        self.bodies = bodies()

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Send a request as it is written and return status and body; a new connection each time."""
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        text = f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        with socket.create_connection(self.address, timeout=180) as connection:
            with suppress(OSError):  # refused before the body was sent; the answer is there
                connection.sendall(text.encode("latin-1", "replace") + body)
            answer = b""
            with suppress(ConnectionError):
                while part := connection.recv(2**16):
                    answer += part
        begin, _, rest = answer.partition(b"\r\n\r\n")
        return int(begin.split(b" ")[1]) if begin else 0, rest

    def check(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        """Send a request, and assert what must hold for every one."""
        status, said = self.ask(method, path, headers, body)
        shown = f"{method} {path!r} {headers} {body[:60]!r}: {status} {said[:300]!r}"
        assert status not in (0, 500), shown
        assert b"Traceback" not in said, shown
        assert SECRET.encode() not in said, shown
        assert not Path(Trap.path).exists(), shown
        assert {p.name for p in self.folder.iterdir()} == {"served", "secret.txt", "private.zarr"}, shown


def plain(array: Any) -> bytes:
    """Return a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def bodies() -> list[bytes]:
    """Return bodies that try something: pickles in every wrapping, bombs, files that are none, JSON of wrong shapes."""
    from numcodecs import blosc

    trap = pickle.dumps(Trap(), 2)
    array = np.array([Trap()], object)
    files = [io.BytesIO(), io.BytesIO(), io.BytesIO()]
    np.save(files[0], array, allow_pickle=True)
    np.savez(files[1], array)
    zeros, ones = bytes(2**26), np.ones((16, 16, 16), "uint8")
    bomb = zlib.compress(zeros, 9)
    with tarfile.open(fileobj=files[2], mode="w:gz") as tar:
        member = tarfile.TarInfo("../../escaped")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    npy = files[0].getvalue()
    wrong_json: tuple[Any, ...] = (
        {},
        [],
        [[]],
        3,
        "x",
        None,
        {"a": {"a": []}},
        {"extent": -1},
        [[1, 2, 3, 4, 5]],
        {"name": "../x"},
    )
    return [
        trap, npy, zlib.compress(npy), files[1].getvalue(),
        blosc.compress(trap, b"lz4", 5, 1), blosc.compress(npy, b"lz4", 5, 1),
        bomb, zlib.compress(bomb), gzip.compress(zeros), blosc.compress(zeros, b"lz4", 9, 1), files[2].getvalue(),
        zlib.compress(plain(ones)), blosc.compress(pickle.dumps(ones[None], 2), b"lz4", 5, 1),
        bytes(range(256)) * 1024, bytes(64**3), b"\x89HDF\r\n\x1a\n" + bytes(500), b"\x02\x01\x33\x04" + b"\xff" * 12,
        b"", b"\x00", bytes(64), b"{" * 50_000,
        *(json.dumps(one).encode() for one in wrong_json),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Serve an image and labels; a secret, and a private volume, lie beside the folder that is served."""
    folder = tmp_path_factory.mktemp("fuzz")
    root = folder / "served"
    store(root / "lab/em.zarr", noise("uint8"))
    store(root / "lab/labels.zarr", objects(), kind="labels")
    (folder / "secret.txt").write_text(SECRET)
    nb.create(f"{folder}/private.zarr", shape=(8, 8, 8)).set_attributes({"words": SECRET})
    (root / "lab/linked.zarr").symlink_to(folder / "private.zarr")
    (root / "out").symlink_to(folder)
    with serving(root) as (url, _):
        yield Target(url, folder)


NAMES = st.one_of(
    st.sampled_from(
        [
            "..", "../..", "%2e%2e", "%2e%2e%2f%2e%2e%2fsecret.txt", "..%2fsecret.txt", "..%5c", "%00", "a%00b",
            "/etc/passwd",
            "%2fetc%2fpasswd", "..%252f..%252fsecret.txt", ".ndbatch-serve", "catalogue.db", "-1",
            "99999999999999999999", "1e9",
            "0-0_0-0_0-0", "0-16_0-16_0-16", "0-99999999_0-1_0-1", "0:16", "0:0", "16:0", "0:9999999", "nan", "%C3%28",
            "é", "'", "0,0",
            "out", "private", "linked", "secret.txt", "0_0_0", "100000_100000_100000", ":master", "~", "*", "%", "%zz",
            "@9", "a@jpeg",
        ]
    ),
    st.binary(max_size=12).map(lambda some: "".join(f"%{byte:02x}" for byte in some)),
    st.integers(-5, 300).map(str),
    st.tuples(st.integers(-5, 200), st.integers(-5, 200)).map(lambda two: f"{two[0]}:{two[1]}"),
)  # fmt: skip

HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {"Content-Encoding": "gzip"}, {"Range": "bytes=5-2"}, {"Range": "bytes=-99999999999999999999"},
    {"Content-Type": "application/json"}, {"Content-Type": "application/blosc"}, {"Accept": "application/npygz"},
    {"Accept": "image/png"}, {"Accept-Encoding": "gzip"}, {"Content-Digest": "sha-256=:xx:"}, {"If-None-Match": "*"},
    {"Want-Content-Digest": "x"}, {"Content-Type": "multipart/form-data; boundary=x"},
)  # fmt: skip
PLACE = "|".join(sorted(WORDS, key=len, reverse=True))
METHODS = ("GET", "GET", "GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")


@st.composite
def requests(draw: Any) -> tuple[str, str, dict[str, str], int]:
    """Return method, path with ROOT for the repository, headers, and the number of a body; at times a word is none."""
    path = draw(st.sampled_from(PATHS))
    pieces = [
        re.sub(PLACE, lambda found: draw(st.sampled_from(WORDS[found[0]])), piece)
        if draw(st.integers(0, 11))
        else draw(NAMES)
        for piece in path.split("/")
    ]
    return (
        draw(st.sampled_from(METHODS)),
        "/" + "/".join(pieces) + draw(st.sampled_from(QUERIES)),
        draw(st.sampled_from(HEADERS)),
        draw(st.integers(0, 1000)),
    )


@ANY
@given(asked=requests())
def test_no_request_breaks_the_service(target: Target, asked: Any) -> None:
    method, path, headers, body = asked
    data = target.bodies[body % len(target.bodies)] if method not in ("GET", "HEAD") else b""
    target.check(method, path.replace("ROOT", target.root), headers, data)


@pytest.mark.parametrize(
    "prefix", ["", "/zarr/lab/em", "/precomputed/lab/em", "/nd/ca/em", "/api/node", "/v1/cutout", "/zarr/lab"]
)
@pytest.mark.parametrize(
    "way", ["/../../../secret.txt", "/%2e%2e/%2e%2e/secret.txt", "/..%2f..%2fsecret.txt", "//etc/passwd", "/out/secret.txt",
            "/linked/.zattrs", "/linked/zarr.json", "/out/private/zarr.json"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_given(target: Target, prefix: str, way: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        target.check(method, prefix + way, {}, b"")
        assert b"root:" not in target.ask(method, prefix + way, {}, b"")[1]


def test_links_that_lead_out_are_not_served(tmp_path: Path) -> None:
    store(tmp_path / "served/lab/em.zarr", noise("uint8"))
    store(tmp_path / "else.zarr", noise("uint8"))
    (tmp_path / "served/lab/linked.zarr").symlink_to(tmp_path / "else.zarr")
    (tmp_path / "served/lab/again.zarr").symlink_to(tmp_path / "served/lab/em.zarr")
    service = Service(tmp_path / "served", Access("nobody"))
    (refused,) = fill(service)
    assert refused.name == "lab/linked.zarr"
    assert "name it in the configuration" in refused.problem
    assert {c.name for c in service.catalogue.channels("lab")} == {"em", "again"}
    assert len(connect(str(tmp_path / "served")).ls()) == 3


def test_bombs_take_no_memory(target: Target) -> None:
    """64 MiB of zeros in every packing, at every place that takes voxels; what unpacks to more than was asked for is refused."""
    process = psutil.Process()
    repository = target.root
    places = [
        ("PUT", "/zarr/lab/em/0/0/0/0"), ("PUT", "/precomputed/lab/em/1000_1000_2000/10-74_0-64_5-37"),
        ("POST", "/nd/ca/lab/em/npz/0/0,16/0,16/0,16/"), ("POST", "/nd/ca/lab/em/blosc/0/0,16/0,16/0,16/"),
        ("POST", "/nd/ca/lab/em/hdf5/0/0,16/0,16/0,16/"), ("POST", "/v1/cutout/lab/lab/em/0/0:16/0:16/0:16"),
        ("POST", f"/api/node/{repository}/em/raw/0_1_2/32_32_32/0_0_0"), ("POST", f"/api/node/{repository}/labels/blocks"),
    ]  # fmt: skip
    headers = [
        {},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "application/blosc"},
        {"Content-Type": "application/npygz"},
    ]
    before = process.memory_info().rss
    for method, path in places:
        for kind in headers:
            for body in target.bodies[6:10]:
                target.check(method, path, kind, body)
    assert process.memory_info().rss - before < 300 * 2**20


def test_bodies_above_the_limit_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "lab/em.zarr", noise("uint8"))
    service = Service(tmp_path, Access("anyone"), body_limit=1000)
    fill(service)
    with in_background(service) as url:
        small = Target(url, tmp_path)
        for path in ("/zarr/lab/em/0/0/0/0", "/precomputed/lab/em/1000_1000_2000/10-74_0-64_5-37"):
            assert small.ask("PUT", path, {}, bytes(2000))[0] == 413
            assert small.ask("PUT", path, {}, bytes(900))[0] == 400

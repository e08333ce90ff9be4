"""Single files (HDF5, TIFF, NIfTI ...) on a web server and in buckets: the voxels as here, only the parts that are needed."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

import ndbatch as nb
from ndbatch.errors import Corrupt, Denied, NotFound, PlanError, RemoteError
from ndbatch.remotes.places import facts, far
from ndbatch.testing.servers import file_server, google_server, s3_client, s3_server
from ndbatch.testing.volumes import voxels

SHAPE = (6, 40, 50)
FILES = (
    "a.h5::/em", "a.h5::/whole", "tiled.tif", "raw.ome.tif", "a.nii", "a.nii.gz", "a.nrrd", "detached.nhdr", "a.mrc", "a.mrc.gz",
    "a.npy", "a.npz", "packed.npz", "one.png", "one.jpg", "images://stack", "stack/*.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one file of every kind."""
    folder = tmp_path_factory.mktemp("far")
    data = voxels(SHAPE, "uint16", seed=1)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("em", data=data, chunks=(4, 16, 16), compression="gzip")
        file.create_dataset("whole", data=data)
    tifffile.imwrite(folder / "tiled.tif", data, tile=(16, 16), compression="zlib", photometric="minisblack")
    for name in ("raw.ome.tif", "a.nii", "a.nii.gz", "a.nrrd", "a.mrc", "a.mrc.gz", "a.npy"):
        made = nb.create(folder / name, shape=SHAPE, dtype="uint16", voxel_size=None if name == "a.npy" else (2, 1, 1))
        made.write(made.domain, data)
        made.close()
    head, _, rest = (folder / "a.nrrd").read_bytes().partition(b"\n\n")
    (folder / "detached.nhdr").write_bytes(head + b"\ndata file: voxels.raw\n\n")
    (folder / "voxels.raw").write_bytes(rest)
    np.savez(folder / "a.npz", image=data)
    np.savez_compressed(folder / "packed.npz", image=data)
    Image.fromarray(data[0]).save(folder / "one.png")
    Image.fromarray((data[0] >> 8).astype("uint8")).save(folder / "one.jpg")
    (folder / "stack").mkdir()
    for number, plane in enumerate(data):
        Image.fromarray(plane).save(folder / "stack" / f"z{number + 8}.png")
    return folder


def elsewhere(name: str, top: str) -> str:
    """Return the address of a file of the folder at another place."""
    scheme, separator, path = name.rpartition("://")
    return f"{scheme}{separator}{top}/{path}"


def same_as_here(folder: Path, name: str, top: str) -> None:
    """Check that a file elsewhere has the facts and the voxels of the one here, whole and in part."""
    here, there = nb.open(elsewhere(name, str(folder))), nb.open(elsewhere(name, top))
    assert there.spec == here.spec
    assert np.array_equal(there[...], here[...])
    part = tuple(slice(n // 3, n // 2 + 1) for n in here.shape)
    assert np.array_equal(there[part], here[part])


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    with file_server(folder) as (url, _):
        yield url


@pytest.mark.parametrize("name", FILES)
def test_every_format_on_the_web(folder: Path, web: str, name: str) -> None:
    same_as_here(folder, name, web)


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    with s3_server("lab") as endpoint:
        client = s3_client(endpoint)
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "lab", f"data/{path.relative_to(folder)}")
        yield endpoint


@pytest.mark.parametrize("name", FILES)
def test_every_format_in_s3(folder: Path, bucket: str, name: str) -> None:
    same_as_here(folder, name, "s3://lab/data")


def test_a_bucket_is_listed_with_its_files(bucket: str) -> None:
    found = {entry.name: entry for entry in nb.connect("s3://lab/data").ls()}
    assert {"a.h5::/em", "a.h5::/whole", "tiled.tif", "a.nii.gz", "packed.npz"} <= set(found)
    assert not [entry.problem for entry in found.values() if entry.problem]


def test_a_replaced_object_is_never_mixed_with_the_old_one(folder: Path, bucket: str) -> None:
    client, data = s3_client(bucket), voxels((64, 64, 64), "uint8", seed=2)
    new = 255 - data
    for voxels_ in (data, new):
        np.save(folder / "kept.npy", voxels_)
        client.upload_file(str(folder / "kept.npy"), "lab", "kept.npy")
        if voxels_ is data:
            volume = nb.open("s3://lab/kept.npy")
            version = volume.version()
            assert np.array_equal(volume[:8], data[:8])
    assert volume.version() != version
    with pytest.raises(RemoteError, match=r"kept\.npy was replaced while it was read; open it again"):
        volume[40:]
    assert np.array_equal(nb.open("s3://lab/kept.npy")[...], new)


def test_what_a_bucket_says_of_what_is_not_there(bucket: str) -> None:
    with pytest.raises(NotFound, match=r"s3://lab/data/b\.npy does not exist; did you mean s3://lab/data/a\.np"):
        nb.open("s3://lab/data/b.npy")
    with pytest.raises(NotFound, match="there is no bucket lob"):
        nb.open("s3://lob/a.npy")
    assert not nb.remotes.registry.store_class("npy").exists(nb.remotes.address.parse("s3://lab/data/b.npy"))


def test_files_elsewhere_are_not_written(bucket: str, folder: Path) -> None:
    volume = nb.open("s3://lab/data/a.h5::/em")
    for act in (
        lambda: volume.write(volume.domain, volume[...]),
        lambda: volume.set_attributes({"a": 1}),
        lambda: nb.create("s3://lab/new.h5", shape=(4, 4)),
        lambda: nb.create("s3://lab/new.tif", shape=(4, 4)),
        lambda: nb.create("s3://lab/new.nii.gz", shape=(4, 4)),
        lambda: nb.create("s3://lab/data/a.npz", shape=(4, 4), overwrite=True),
    ):
        with pytest.raises(PlanError, match="is written on this machine only; write it here and copy it there"):
            act()
    assert np.array_equal(nb.open("s3://lab/data/a.npz")[...], nb.open(folder / "a.npz")[...])


def test_in_googles_storage(folder: Path) -> None:
    code = (
        "for name in sys.argv[2:]:\n"
        "    here, there = nb.open(f'{sys.argv[1]}/{name}'), nb.open(f'gs://lab/{name}')\n"
        "    assert there.spec == here.spec and np.array_equal(here[...], there[...])\n"
        "try:\n    nb.open('gs://lab/b.npy')\nexcept ndbatch.errors.NotFound as error:\n    print(error)\n"
    )
    names = ["a.h5::/em", "tiled.tif", "a.nii.gz", "a.npy"]
    with google_server("lab") as url:
        for name in names:
            file = name.partition("::")[0]
            request = urllib.request.Request(
                f"{url}/upload/storage/v1/b/lab/o?uploadType=media&name={file}",
                (folder / file).read_bytes(),
                method="POST",
            )
            urllib.request.urlopen(request).close()
        said = run_python(code, str(folder), *names, TENSORSTORE_GCS_HTTP_URL=url)
    assert re.search(r"gs://lab/b\.npy does not exist; did you mean gs://lab/a\.np", said)


def run_python(code: str, *arguments: str, **environment: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    start = "import sys, warnings\nwarnings.simplefilter('error')\nimport numpy as np\nimport ndbatch\nimport ndbatch as nb\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code, *arguments],
        capture_output=True, text=True, timeout=180, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 8 MB as chunks of HDF5, as tiles of TIFF and as npy."""
    folder = tmp_path_factory.mktemp("large")
    data = np.random.default_rng(3).integers(0, 256, (32, 512, 512), "uint8")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("em", data=data, chunks=(16, 64, 64), shuffle=True)
    tifffile.imwrite(folder / "a.tif", data, tile=(64, 64), photometric="minisblack")
    np.save(folder / "a.npy", data)
    return folder


def fetched(asked: list[str]) -> int:
    """Return how many bytes of files were asked for by range."""
    spans = [match for one in asked if (match := re.search(r"bytes=(\d+)-(\d+)", one))]
    return sum(int(span[2]) - int(span[1]) + 1 for span in spans)


@pytest.mark.parametrize(
    ("name", "opening", "reading", "requests"),
    [("a.h5", 2**20, 2**18, 4), ("a.tif", 4 * 2**20, 2 * 2**20, 20), ("a.npy", 2**17, 2**20, 16)],
)
def test_a_block_costs_its_own_parts(large: Path, name: str, opening: int, reading: int, requests: int) -> None:
    """16 x 64 x 64 of 8 MB: a chunk of 64 kB, 16 tiles of 4 kB, or rows on 16 stripes of 32 kB; blocks are of 64 KiB."""
    data = np.load(large / "a.npy", mmap_mode="r")
    with file_server(large, index=False) as (url, asked):
        volume = nb.open(f"{url}/{name}")
        assert fetched(asked) <= opening
        asked.clear()
        assert np.array_equal(volume[16:32, 64:128, 128:192], data[16:32, 64:128, 128:192])
        assert fetched(asked) <= reading
        assert len(asked) <= requests
        assert all(" bytes=" in one for one in asked)
        asked.clear()
        volume[16:32, 64:128, 128:192]
        assert asked == []


def test_chunks_are_fetched_at_the_same_time(large: Path) -> None:
    """A box of 64 chunks, 4 MB, is a few requests of up to 4 MiB: not one for every chunk."""
    data = np.load(large / "a.npy")
    with file_server(large) as (url, asked):
        volume = nb.open(f"{url}/a.h5")
        asked.clear()
        assert np.array_equal(volume[0:16, :, :], data[0:16, :, :])
        assert len(asked) <= 8


def test_a_box_larger_than_the_cache(monkeypatch: pytest.MonkeyPatch, large: Path) -> None:
    monkeypatch.setattr(far, "KEPT_BYTES", 2**20)
    monkeypatch.setattr("ndbatch.remotes.hdf5.chunks.WINDOW", 2**19)
    data = np.load(large / "a.npy")
    with file_server(large) as (url, asked):
        for name in ("a.h5", "a.tif", "a.npy"):
            volume = nb.open(f"{url}/{name}")
            asked.clear()
            assert np.array_equal(volume[...], data)
            assert fetched(asked) < 1.5 * (large / name).stat().st_size


def test_volumes_travel_as_addresses(folder: Path, web: str) -> None:
    for name in ("a.h5::/em", "tiled.tif", "a.nii.gz"):
        volume = nb.open(f"{web}/{name}")
        volume[0]
        sent = pickle.dumps(volume)
        assert len(sent) < 1000
        assert np.array_equal(pickle.loads(sent)[...], volume[...])


def test_a_run_reads_by_workers_of_their_own(folder: Path, web: str, tmp_path: Path) -> None:
    copied = nb.copy(f"{web}/a.h5::/em", tmp_path / "copy.zarr", cluster={"kind": "processes", "workers": 1})
    assert copied.counts.done == copied.counts.planned > 0
    assert np.array_equal(nb.open(tmp_path / "copy.zarr")[...], nb.open(folder / "a.h5::/em")[...])


def test_damage_is_told_as_here(folder: Path, web: str) -> None:
    (folder / "not.h5").write_bytes(b"<html>no such file</html>")
    (folder / "short.h5").write_bytes((folder / "a.h5").read_bytes()[:3000])
    (folder / "short.npy").write_bytes((folder / "a.npy").read_bytes()[:3000])
    (folder / "short.tif").write_bytes((folder / "tiled.tif").read_bytes()[:9000])
    (folder / "empty.nii").write_bytes(b"")
    for name, said in (
        ("not.h5", "is not an HDF5 file"),
        ("short.h5", "cut short at 3000 bytes"),
        ("short.npy", "cut short: 3000 bytes"),
        ("short.tif", "damaged|cut short|not a TIFF"),
        ("empty.nii", r"empty \(0 bytes\)"),
    ):
        with pytest.raises(Corrupt, match=said):
            nb.open(f"{web}/{name}")
    with pytest.raises(NotFound, match="does not exist; did you mean"):
        nb.open(f"{web}/tilde.tif")


Answer = Callable[[Any, bytes], None]


@contextmanager
def strange_server(data: bytes, answer: Answer) -> Iterator[str]:
    """Serve `data` at every path but those that `answer` handles itself."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            answer(self, data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(handler: Any, data: bytes) -> None:
    """Send all, as servers do that know no ranges."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def ranged(handler: Any, data: bytes) -> None:
    """Send a part, with a tag."""
    first, last = map(int, re.findall(r"\d+", handler.headers["Range"]))
    part = data[first : last + 1]
    handler.send_response(206)
    handler.send_header("ETag", '"one"')
    handler.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(part)))
    handler.end_headers()
    handler.wfile.write(part)


@pytest.mark.parametrize("written", ["my file+é", "my%20file+%C3%A9"])
def test_names_are_written_as_they_are_or_as_a_browser_does(tmp_path: Path, written: str) -> None:
    data = voxels((4, 5), "uint8", seed=4)
    np.save(tmp_path / "my file+é.npy", data)
    nb.copy(tmp_path / "my file+é.npy", tmp_path / "my file+é.zarr", cluster="inline", directory=tmp_path / "run")
    (tmp_path / "my file+é").mkdir()
    Image.fromarray(data).save(tmp_path / "my file+é" / "z 1.png")
    with file_server(tmp_path) as (url, _):
        assert np.array_equal(nb.open(f"{url}/{written}.npy")[...], data)
        assert np.array_equal(nb.open(f"{url}/{written}.zarr")[...], data)
        assert np.array_equal(nb.open(f"images://{url}/{written}")[0], data)
        assert [entry.name for entry in nb.connect(f"{url}/{written}").ls()] == ["z 1.png"]


def test_a_server_without_ranges(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    data = (folder / "a.nii").read_bytes()
    asked = 0

    def counted(handler: Any, data: bytes) -> None:
        nonlocal asked
        asked += 1
        whole(handler, data)

    with strange_server(data, counted) as url:
        volume = nb.open(f"{url}/a.nii")
        assert np.array_equal(volume[...], nb.open(folder / "a.nii")[...])
        assert np.array_equal(volume[2:4], nb.open(folder / "a.nii")[2:4])
        assert asked == 2
        monkeypatch.setattr(facts, "WHOLE", 2**10)
        with pytest.raises(RemoteError, match="the server sends whole files only"):
            nb.open(f"{url}/a.nii")


def test_a_server_that_sends_on(folder: Path) -> None:
    def answer(handler: Any, data: bytes) -> None:
        if handler.path.startswith("/store/"):
            assert handler.path == "/store/object?signature=s3cret"
            ranged(handler, data)
            return
        handler.send_response(302)
        handler.send_header("Location", "/store/object?signature=s3cret")
        handler.end_headers()

    with strange_server((folder / "tiled.tif").read_bytes(), answer) as url:
        volume = nb.open(f"{url}/record/tiled.tif")
        assert np.array_equal(volume[...], nb.open(folder / "tiled.tif")[...])
        assert "s3cret" not in repr(volume) + volume.version()


def test_a_secret_of_where_it_is_sent_on_to_is_never_shown(folder: Path) -> None:
    def answer(handler: Any, data: bytes) -> None:
        if handler.path.startswith("/store/") and handler.headers["Range"] == "bytes=0-0":
            ranged(handler, data)
            return
        handler.send_response(403 if handler.path.startswith("/store/") else 302)
        handler.send_header("Location", "/store/object?signature=s3cret")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with strange_server((folder / "a.npy").read_bytes(), answer) as url:
        with pytest.raises(Denied) as raised:
            nb.open(f"{url}/a.npy")
        assert "s3cret" not in f"{raised.value} {raised.value.fields}"

"""Precomputed layers in a bucket and on a web server, both real and on loopback."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import Conflict, Denied, NotFound
from ndbatch.remotes.address import parse
from ndbatch.remotes.precomputed.volume import PrecomputedVolume
from ndbatch.testing.volumes import voxels

SIZE, CHUNK = (20, 37, 45), (8, 16, 16)
DATA = voxels(SIZE, "uint16", seed=4)
FACTS: dict[str, Any] = {"shape": SIZE, "dtype": "uint16", "chunks": CHUNK, "offset": (3, 0, 7)}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve S3 on loopback, with one bucket."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    serving = server.ThreadedMotoServer(port=0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    url = f"http://{host if host != '0.0.0.0' else '127.0.0.1'}:{port}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "hidden"}
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="layers")
    yield url
    serving.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the address of a layer that is not there yet."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    return f"precomputed://s3://layers/{request.node.name.partition('[')[0]}/em?endpoint={endpoint}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Encoding(_Quiet):
    """A server that sends files packed, as object stores do with what cloud-volume uploaded."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = gzip.compress(path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(params=[_Quiet, _Encoding], ids=["plain", "encoding"])
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Serve the files of `tmp_path`."""
    handler = functools.partial(request.param, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"precomputed://http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("shards", [None, (16, 32, 32)])
def test_a_bucket(bucket: str, shards: Any) -> None:
    """Created, written, read, grown by a level, annotated, deleted."""
    volume = nb.create(bucket, shards=shards, overwrite=True, **FACTS)
    before = volume.version()
    volume.write(volume.domain, DATA)
    again = nb.open(bucket)
    assert (again.spec, again.version() != before) == (volume.spec, True)
    assert np.array_equal(again.read(again.domain), DATA)
    with pytest.raises(Conflict):
        nb.create(bucket, **FACTS)
    nb.create(f"{bucket}&level=1", **{**FACTS, "shape": (10, 19, 23), "offset": (1, 0, 3)})
    again.set_attributes({"note": 1})
    again.note_run({"name": "one", "fingerprint": "f"})
    assert (nb.open(bucket).levels, nb.open(bucket, level=1).attributes) == (2, {"note": 1})
    assert "hidden" not in repr(volume)
    PrecomputedVolume.delete(parse(bucket))
    assert not PrecomputedVolume.exists(parse(bucket))
    with pytest.raises(NotFound, match="s3://layers/test_a_bucket/em is no precomputed layer"):
        nb.open(bucket)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_packed_chunks_in_a_bucket(bucket: str, endpoint: str, ending: str) -> None:
    """Objects with Content-Encoding, and a local layer that was copied up with the endings of its names."""
    import boto3

    volume = nb.create(bucket, overwrite=True, **FACTS)
    volume.write(volume.domain, DATA)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    for entry in client.list_objects_v2(Bucket="layers", Prefix=f"{parse(bucket).path[12:]}/1_1_1/")["Contents"]:
        body = gzip.compress(client.get_object(Bucket="layers", Key=entry["Key"])["Body"].read())
        client.delete_object(Bucket="layers", Key=entry["Key"])
        told = {} if ending else {"ContentEncoding": "gzip"}
        client.put_object(Bucket="layers", Key=entry["Key"] + ending, Body=body, **told)
    again = nb.open(bucket)
    assert np.array_equal(again.read(again.domain), DATA)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_web_server(web: str, tmp_path: Path, ending: str) -> None:
    """A folder of files behind HTTP, which lists nothing: read, never written."""
    local = nb.create(f"precomputed://{tmp_path}/layer", **FACTS)
    local.write(local.domain, DATA)
    for chunk in list((tmp_path / "layer" / "1_1_1").iterdir()) if ending else ():
        chunk.with_name(chunk.name + ending).write_bytes(gzip.compress(chunk.read_bytes()))
        chunk.unlink()
    volume = nb.open(f"{web}/layer")
    assert volume.spec == local.spec
    assert np.array_equal(volume.read(volume.domain), DATA)
    with pytest.raises(Denied, match="not written; write to a folder or a bucket"):
        volume.write(volume.domain, DATA)
    with pytest.raises(Denied):
        volume.set_attributes({"note": 1})
    with pytest.raises(NotFound, match="layer2 is no precomputed layer"):
        nb.open(f"{web}/layer2")
    assert json.loads((tmp_path / "layer" / "info").read_text())["@type"] == "neuroglancer_multiscale_volume"

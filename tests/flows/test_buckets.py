"""Runs from bucket to bucket: killed and resumed, the same objects; and writers that meet in one object lose nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import PlanError
from ndbatch.journal import Journal
from ndbatch.testing.chaos import chaos_proxy
from ndbatch.testing.servers import google_server, s3_client, s3_server
from ndbatch.testing.volumes import voxels
from tests.remotes.conftest import PREAMBLE, script

SHAPE, CHUNK, SHARD = (16, 48, 64), (8, 8, 16), (8, 24, 32)
DATA = voxels(SHAPE, "uint16", seed=11)
WORK = '''
"""Functions that blocks go through, and that may be killed on the way."""

import os
import time
from pathlib import Path


def smaller(image, seconds=0):
    time.sleep(seconds)
    return image // 3


def dies_once(image, block, folder):
    """Kills its process the first time that block 3 is computed."""
    mark = Path(folder, "dead")
    if block.index == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return image // 3
'''


def axes(shape: tuple[int, ...]) -> dict[str, int]:
    return dict(zip("zyx", shape, strict=True))


def job(run: Path, target: str, cluster: str, function: str = "smaller", **parameters: Any) -> dict[str, Any]:
    """Return the configuration of a run of 8 blocks, a shard each, from a bucket to a bucket."""
    (run / "bucket_work.py").write_text(WORK)
    return {
        "name": "buckets",
        "inputs": {"image": "s3://lab/in/em.zarr"},
        "steps": [{f"bucket_work:{function}": {"input": "image", "output": "out", "parameters": parameters}}],
        "outputs": {"out": {"url": target, "chunks": axes(CHUNK), "shards": axes(SHARD)}},
        "blocks": axes(SHARD),
        "cluster": {"kind": cluster, "workers": 2, "memory": "2 GB"},
        "retry": {"wait": 0.05},
        "directory": str(run / "run"),
    }


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """S3 with `s3://lab/in/em.zarr`, 48 chunks."""
    with s3_server("lab", "results") as url:
        volume = nb.create("s3://lab/in/em.zarr", shape=SHAPE, dtype="uint16", chunks=(8, 16, 16))
        volume.write(volume.domain, DATA)
        yield url


def objects(endpoint: str, bucket: str, prefix: str) -> dict[str, bytes]:
    """Return every object below a prefix, the metadata without who made it and when."""
    client = s3_client(endpoint)
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    found = {
        o["Key"].removeprefix(prefix): client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in listed
    }
    document = json.loads(found["zarr.json"])
    for key in ("provenance", "fingerprint"):
        document["attributes"]["ndbatch"].pop(key, None)
    document["attributes"]["ome"]["multiscales"][0].pop("name")
    return found | {"zarr.json": json.dumps(document).encode()}


@pytest.fixture(scope="module")
def undisturbed(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The objects of the run in one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    document = job(folder, "s3://results/whole/out.zarr", "inline")
    assert nb.run(from_mapping(document, folder), report=False).status == "done"
    written = nb.open("s3://results/whole/out.zarr")
    assert np.array_equal(written.read(written.domain), DATA // 3)
    found = objects(endpoint, "results", "whole/out.zarr/")
    assert len([name for name in found if "/c/" in name]) == 8
    return found


def test_a_run_from_bucket_to_bucket_is_killed_and_goes_on(
    endpoint: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    document = job(tmp_path, "s3://results/killed/out.zarr", "processes", seconds=0.3)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "ndbatch", "run", "job.yaml", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        while receipts(tmp_path / "run") < 2:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 2 <= receipts(tmp_path / "run") < 8
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert objects(endpoint, "results", "killed/out.zarr/") == undisturbed
    assert "loopback-only" not in "".join(p.read_text(errors="ignore") for p in (tmp_path / "run").rglob("*.*"))


def receipts(directory: Path) -> int:
    """Return how many blocks the journal knows as done."""
    if not Journal.exists(directory):
        return 0
    try:
        with Journal.read(directory) as journal:
            return len(journal.done(0)) if journal.document else 0
    except nb.NdbatchError:
        return 0


def test_a_worker_of_a_dask_cluster_dies_and_the_objects_are_the_same(
    endpoint: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    document = job(tmp_path, "s3://results/dask/out.zarr", "dask", "dies_once", folder=str(tmp_path))
    assert nb.run(from_mapping(document, tmp_path), report=False).status == "done"
    assert (tmp_path / "dead").exists()
    assert objects(endpoint, "results", "dask/out.zarr/") == undisturbed


def test_blocks_that_would_share_a_shard_are_refused(endpoint: str, tmp_path: Path) -> None:
    document = job(tmp_path, "s3://results/shared/out.zarr", "processes") | {"blocks": axes(CHUNK)}
    with pytest.raises(PlanError, match="so two blocks would write into one output chunk; use y: 24, x: 32"):
        nb.make_plan(from_mapping(document, tmp_path))


WRITER = """
number = int(sys.argv[1])
own = nb.Box((0, 16 * number, 0), (8, 16 * number + 16, 16))
chunk, shard, whole = (nb.open(f"s3://results/{name}.zarr") for name in ("chunk", "shard", "whole"))
print("ready", flush=True)
sys.stdin.readline()
for value in range(1, 11):
    for volume in (chunk, shard):
        volume.write(own, np.full(own.shape, 100 * number + value, volume.dtype))
    whole.write(whole.domain, np.full(whole.shape, number, whole.dtype))
"""


def test_writers_that_meet_in_one_object_lose_nothing(endpoint: str) -> None:
    """Two processes write parts of one chunk, chunks of one shard, and the same whole chunk.

    A part is written by reading the object, changing the part and writing the whole, on condition that nobody else did
    meanwhile; a whole object is one request. A reader finds one or the other, never a mixture.
    """
    for name, chunks, shards in (("chunk", (8, 32, 16), None), ("shard", (8, 8, 16), (8, 32, 16))):
        nb.create(f"s3://results/{name}.zarr", shape=(8, 32, 16), dtype="uint16", chunks=chunks, shards=shards)
    nb.create("s3://results/whole.zarr", shape=(8, 64, 64), dtype="uint16", chunks=(8, 64, 64))
    writers = [Writer(number) for number in range(2)]
    try:
        for writer in writers:
            writer.expect("ready")
        for writer in writers:
            writer.go()
        while any(writer.process.poll() is None for writer in writers):
            found = nb.open("s3://results/whole.zarr")[...]
            assert (found == found[0, 0, 0]).all()
    finally:
        errors = [writer.stop() for writer in writers]
    assert errors == ["", ""]
    for name in ("chunk", "shard"):
        found = nb.open(f"s3://results/{name}.zarr")[...]
        assert [set(found[:, :16].flat), set(found[:, 16:].flat)] == [{10}, {110}]


class Writer:
    """A process that runs `WRITER`."""

    def __init__(self, number: int) -> None:
        pipe, command = subprocess.PIPE, [sys.executable, "-c", PREAMBLE + WRITER, str(number)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> str:
        """Return what it complained of, or its exit code."""
        try:
            _, errors = self.process.communicate(timeout=300)
        finally:
            self.process.kill()
        return errors or ("" if self.process.returncode == 0 else str(self.process.returncode))


def test_a_run_in_a_bucket_of_google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On processes, by a driver of its own: tensorstore asks once which server to use."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with google_server("lab") as url, chaos_proxy(url) as proxy:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", proxy.url)
        document = job(tmp_path, "gs://lab/out.zarr", "processes", "dies_once", folder=str(tmp_path))
        document["inputs"] = {"image": "gs://lab/em.zarr"}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
        said = script(
            f"""
from ndbatch.testing.volumes import voxels
data = voxels({SHAPE}, "uint16", seed=11)
volume = nb.create("gs://lab/em.zarr", shape=data.shape, dtype="uint16", chunks=(8, 16, 16))
volume.write(volume.domain, data)
result = nb.run(sys.argv[1], report=False)
print(result.status, result.counts.done, np.array_equal(nb.open("gs://lab/out.zarr")[...], data // 3))
volume.write(nb.Box((0, 0, 0), (2, 2, 2)), data[:2, :2, :2])  # a part of a chunk
""",
            str(tmp_path / "job.yaml"),
        )
        conditional = [one for one in proxy.asked if one.startswith("POST") and "ifGenerationMatch=" in one]
    assert said == "done 8 True\n"
    assert any("em.zarr%2F0%2Fc%2F0%2F0%2F0" in one.replace("/", "%2F") for one in conditional)
    assert (tmp_path / "dead").exists()

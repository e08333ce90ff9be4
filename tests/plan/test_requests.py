"""What a plan says that buckets are asked, beside what a real S3 server was asked; and the warning where requests dominate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ndbatch as nb
from ndbatch.cli.planview import show
from ndbatch.config.load import from_mapping
from ndbatch.testing.chaos import Chaos, chaos_proxy
from ndbatch.testing.servers import s3_server
from ndbatch.testing.volumes import voxels

SHAPE, CHUNK, SHARD = (32, 64, 64), (8, 16, 16), (16, 32, 32)


@pytest.fixture(scope="module")
def asked() -> Iterator[Chaos]:
    """S3 behind a proxy that counts, with the same voxels as plain.zarr, sharded.zarr and a precomputed layer."""
    with s3_server("lab") as url, chaos_proxy(url) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for place, shards in (("plain.zarr", None), ("sharded.zarr", SHARD), ("precomputed://s3://lab/layer", None)):
            address = place if "://" in place else f"s3://lab/{place}"
            volume = nb.create(address, shape=SHAPE, dtype="uint16", chunks=CHUNK, shards=shards, voxel_size=(1, 1, 1))
            volume.write(volume.domain, voxels(SHAPE, "uint16", seed=1))
        yield proxy


def axes(shape: tuple[int, ...]) -> dict[str, int]:
    return dict(zip("zyx", shape, strict=True))


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that makes the configuration of a copy."""

    def make(source: str, target: str, block: tuple[int, ...] = SHARD, **output: Any) -> Any:
        document = {
            "name": "copy",
            "inputs": {"image": source},
            "steps": [{"copy": {"input": "image", "output": "out"}}],
            "outputs": {"out": {"url": target, "chunks": axes(CHUNK), **output}},
            "blocks": axes(block),
            "cluster": {"kind": "inline"},
            "directory": f"{tmp_path}/run",
        }
        return from_mapping(document, tmp_path)

    return make


def voxel_requests(asked: Chaos) -> Counter[str]:
    """Return what the server was asked since the proxy was last looked at, metadata left out."""
    found: Counter[str] = Counter()
    for request, number in asked.asked.items():
        method, path = request.split()[:2]
        listing = "list-type" in path
        if listing or (method in ("GET", "PUT") and not path.endswith(("zarr.json", "info", "provenance"))):
            found["LIST" if listing else method] += number
    asked.asked.clear()
    return found


@pytest.mark.parametrize(
    ("source", "block", "target", "shards", "expected"),
    [
        ("s3://lab/plain.zarr", SHARD, "s3://lab/a.zarr", None, {"GET": 64, "PUT": 64, "LIST": 23}),
        ("s3://lab/plain.zarr", SHARD, "s3://lab/b.zarr", SHARD, {"GET": 64, "PUT": 8, "LIST": 23}),
        ("s3://lab/sharded.zarr", SHARD, "c.zarr", None, {"GET": 8, "PUT": 0, "LIST": 9}),
        ("s3://lab/sharded.zarr", CHUNK, "d.zarr", None, {"GET": 72, "PUT": 0, "LIST": 9}),
        ("precomputed://s3://lab/layer", SHARD, "precomputed://s3://lab/e", None, {"GET": 64, "PUT": 64, "LIST": 2}),
    ],
)
def test_requests_are_those_that_the_plan_tells(
    asked: Chaos,
    job: Callable[..., Any],
    source: str,
    block: tuple[int, ...],
    target: str,
    shards: tuple[int, ...] | None,
    expected: dict[str, int],
) -> None:
    config = job(source, target, block, **({"shards": axes(shards)} if shards else {}))
    told = nb.make_plan(config).document()["bucket_requests"]
    assert {kind: told[kind] for kind in expected} == expected
    voxel_requests(asked)
    assert nb.run(config, report=False).status == "done"
    found = voxel_requests(asked)
    assert found["PUT"] == expected["PUT"]
    assert 0.6 * expected["GET"] <= found["GET"] <= 1.1 * expected["GET"]  # some chunks of a shard come together
    assert expected["LIST"] - 1 <= found["LIST"] <= expected["LIST"] + 4  # whether an output or a folder is there


def test_the_cost_is_that_of_the_prices_told(asked: Chaos, job: Callable[..., Any]) -> None:
    told = nb.make_plan(job("s3://lab/plain.zarr", "s3://lab/f.zarr")).document()["bucket_requests"]
    prices = told["dollars_per_1000"]
    assert told["dollars"] == pytest.approx(sum(told[k] * prices[k] / 1000 for k in ("GET", "PUT", "LIST")), abs=1e-6)


def test_nothing_is_said_of_buckets_where_there_are_none(tmp_path: Path, job: Callable[..., Any]) -> None:
    nb.create(f"{tmp_path}/in.zarr", shape=SHAPE, dtype="uint16", chunks=CHUNK)
    assert "bucket_requests" not in nb.make_plan(job(f"{tmp_path}/in.zarr", "out.zarr")).document()


def test_many_small_objects_are_told_with_what_to_set(asked: Chaos, tmp_path: Path, job: Callable[..., Any]) -> None:
    """The shards that the warning proposes are fit to run, and silence it; few objects, however small, are not worth it."""
    nb.create(f"{tmp_path}/in.zarr", shape=(128, 512, 512), dtype="uint16", chunks=(64, 128, 128))
    (said,) = nb.make_plan(job(f"{tmp_path}/in.zarr", "s3://lab/many.zarr", (128, 256, 256))).document()["warnings"]
    assert said == (
        "outputs.out: 16,384 objects of 4.1 kB (not compressed) to write: requests take longer than the voxels in them; "
        "set outputs.out.shards: {z: 128, y: 256, x: 128} where the format has shards, else chunks"
    )
    proposed = job(f"{tmp_path}/in.zarr", "s3://lab/many.zarr", (128, 256, 256), shards={"z": 128, "y": 256, "x": 128})
    assert nb.make_plan(proposed).document()["warnings"] == []
    assert nb.make_plan(job("s3://lab/plain.zarr", "s3://lab/few.zarr")).document()["warnings"] == []
    nb.create("s3://lab/tiny.zarr", shape=(128, 512, 512), dtype="uint8", chunks=(16, 16, 16))
    (said,) = nb.make_plan(job("s3://lab/tiny.zarr", "out.zarr")).document()["warnings"]
    assert said.startswith("inputs.image: 8,192 objects of 4.1 kB (not compressed) to read")
    assert "copy it first, with larger chunks" in said


def test_the_plan_says_it_on_the_terminal(
    asked: Chaos, job: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show(nb.make_plan(job("s3://lab/plain.zarr", "s3://lab/g.zarr")).document())
    said = capsys.readouterr().out
    assert (
        "buckets  about 64 GET, 64 PUT, 23 LIST: $0.00046 where a thousand GET cost $0.0004, PUT and LIST $0.005"
        in said
    )

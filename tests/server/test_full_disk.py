"""The disk of a service runs full while somebody uploads: an answer that says so, and nothing that was answered is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service needs the extra serve")

import ndbatch
from ndbatch.errors import NoRoom
from ndbatch.geometry import Box
from ndbatch.journal import Journal
from ndbatch.remotes.base import Array
from ndbatch.testing.serving import serving
from tests.flows.full_disk import Disk, small_disk
from tests.server.sample import HTTP

SHAPE = (32, 128, 128)
HALF = Box((0, 0, 0), (32, 64, 128))
OTHER = Box((0, 64, 0), (32, 128, 128))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", 16) as made:
        yield made


@pytest.fixture
def host(disk: Disk) -> Iterator[str]:
    with serving(disk.path / "served") as (base, _):
        yield base.removeprefix("http://")


def noise() -> Array:
    """Labels that take half a megabyte compressed, none of them 0."""
    return np.random.default_rng(5).integers(1, 200, SHAPE, np.uint64)


@pytest.mark.parametrize("name", ["ndstore://{}/brain/cells", "boss://{}/lab/brain/cells", "dvid://{}/brain/cells"])
def test_an_upload_to_a_full_disk(disk: Disk, host: str, tmp_path: Path, name: str) -> None:
    data, url = noise(), name.format(host)
    if name.startswith("dvid"):
        remote = ndbatch.connect(f"dvid://{host}")
        url = f"dvid://{host}/{remote.new_repository('brain')}/cells"  # type: ignore[attr-defined]
    volume = ndbatch.create(url, shape=SHAPE, dtype="uint64", kind="labels", voxel_size=(1, 1, 1), chunks=(32, 64, 64))
    volume.write(HALF, data[HALF.slices((0, 0, 0))])
    disk.fill(8)
    with pytest.raises(NoRoom, match=r"answered 507: .*no room.*") as refused:
        volume.write(OTHER, data[OTHER.slices((0, 0, 0))])
    assert refused.value.fields["status"] == 507
    if not name.startswith("dvid"):  # a label index needs room to be read
        assert np.array_equal(volume.read(HALF), data[HALF.slices((0, 0, 0))])
    disk.free()
    assert np.array_equal(volume.read(HALF), data[HALF.slices((0, 0, 0))])
    volume.write(OTHER, data[OTHER.slices((0, 0, 0))])
    assert np.array_equal(volume[...], data)


def test_a_run_into_a_service_whose_disk_runs_full(disk: Disk, host: str, tmp_path: Path) -> None:
    data = noise()
    source = ndbatch.create(tmp_path / "a.zarr", shape=SHAPE, dtype="uint64", kind="labels", voxel_size=(1, 1, 1))
    source.write(source.domain, data)
    disk.fill(300)

    def copied() -> ndbatch.Result:
        return ndbatch.copy(
            tmp_path / "a.zarr", f"ndstore://{host}/brain/cells", cluster="inline", directory=tmp_path / "run"
        )

    first = copied()
    assert (first.status, first.exit_code) == ("failed", 1)
    with Journal.read(tmp_path / "run") as journal:
        assert {failure.kind for failure in journal.failures()} == {"NoRoom"}
        assert re.search(r"answered 507: .*no room.*free some space", journal.failures()[0].error)
    disk.free()
    assert copied().status == "done"
    assert np.array_equal(ndbatch.open(f"ndstore://{host}/brain/cells")[...], data)


def test_small_documents_and_catalogues(disk: Disk, host: str) -> None:
    remote = ndbatch.connect(f"dvid://{host}")
    root = remote.new_repository("brain")  # type: ignore[attr-defined]
    base = f"http://{host}/api/node/{root}"
    assert (
        HTTP.request(
            "POST", f"http://{host}/api/repo/{root}/instance", json={"typename": "keyvalue", "dataname": "notes"}
        ).status
        == 200
    )
    assert HTTP.request("POST", f"{base}/notes/key/first", body=b"kept").status == 200
    disk.fill(0)
    answers = [HTTP.request("POST", f"{base}/notes/key/k{number}", body=b"x" * 50_000) for number in range(3)]
    assert {answer.status for answer in answers} == {507}
    assert b"free some space" in answers[0].data
    assert HTTP.request("GET", f"{base}/notes/key/first").data == b"kept"
    disk.free()
    assert HTTP.request("POST", f"{base}/notes/key/k0", body=b"y").status == 200
    assert HTTP.request("GET", f"{base}/notes/key/k0").data == b"y"

"""One service through several of its protocols at once: what is done by one must not spoil what another shows."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="the service needs the extra serve")

import ndbatch
from ndbatch import ramon
from ndbatch.cli.app import app
from ndbatch.errors import Denied, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.ingest.upload import ingest
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.boss.volume import BossVolume
from ndbatch.remotes.dvid.remote import DvidRemote
from ndbatch.testing.serving import serving
from tests.server.sample import HTTP

SHAPE = (20, 64, 66)
SIZE = {"z": "0.5 um", "y": "0.25 um", "x": "0.25 um"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "served") as (base, _):
        yield base.removeprefix("http://")


@pytest.fixture
def cells(tmp_path: Path) -> tuple[str, Array]:
    """A volume of labels in a file, some above 2^53, and its voxels."""
    data = np.random.default_rng(3).integers(0, 3, (5, 16, 17), np.uint64).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    data = data[: SHAPE[0], : SHAPE[1], : SHAPE[2]] * np.uint64(2**53 + 1)
    path = tmp_path / "cells.zarr"
    volume = ndbatch.create(path, shape=data.shape, dtype="uint64", kind="labels", voxel_size=SIZE)
    volume.write(volume.domain, data)
    return str(path), data


def test_an_instance_with_levels_leaves_those_of_other_channels(host: str, cells: tuple[str, Array]) -> None:
    """Levels of a labelmap are coarser along z too; those of an experiment whose z is kept stay as they are."""
    path, data = cells
    url = f"boss://{host}/lab/brain/first"
    ndbatch.copy(path, url, levels=1, cluster="inline")
    finer = ndbatch.open(url)
    assert finer.levels == 2
    before = ndbatch.open(url, level=1)[...]
    (root,) = {entry.name.partition("/")[0] for entry in ndbatch.connect(f"dvid://{host}").ls()}
    ndbatch.copy(path, f"dvid://{host}/{root}/second?downres=1", cluster="inline")
    assert ndbatch.open(f"dvid://{host}/{root}/second").levels == 2
    assert ndbatch.open(url).levels == 2
    assert np.array_equal(ndbatch.open(url, level=1)[...], before)
    second = ndbatch.open(f"boss://{host}/lab/brain/second")
    assert np.array_equal(second[...], data)


def test_info_of_a_volume_in_a_service_tells_no_bytes_that_nobody_knows(host: str, cells: tuple[str, Array]) -> None:
    ndbatch.copy(cells[0], f"ndstore://{host}/brain/cells", cluster="inline")
    result = CliRunner().invoke(app, ["info", f"ndstore://{host}/brain/cells"])
    assert result.exit_code == 0
    assert "uint64, labels" in result.stdout
    assert "stored" not in result.stdout


# -- one volume, changed by several protocols ----------------------------------------------------------------------------------


def root_of(host: str) -> str:
    """Return the only version of the only repository."""
    (root,) = {entry.name.partition("/")[0] for entry in ndbatch.connect(f"dvid://{host}").ls()}
    return root


def test_what_dvid_committed_is_changed_by_no_protocol(host: str, cells: tuple[str, Array]) -> None:
    path, data = cells
    ndbatch.copy(path, f"boss://{host}/lab/brain/cells", cluster="inline")
    ramon.open(f"ndstore://{host}/brain/cells").put([ramon.Segment(id=5)])
    remote = ndbatch.connect(f"dvid://{host}/{root_of(host)}")
    assert isinstance(remote, DvidRemote)
    remote.commit("done")
    box = Box((0, 0, 0), (2, 2, 2))
    for url in (f"boss://{host}/lab/brain/cells", f"boss://{host}/lab/brain/cells?write=replace"):
        with pytest.raises(Denied, match="was committed by DVID"):
            ndbatch.open(url).write(box, np.full(box.shape, 9, np.uint64))
    with pytest.raises(NotFound, match="was committed by DVID"):
        ndbatch.open(f"ndstore://{host}/brain/cells").write(box, np.full(box.shape, 9, np.uint64))
    for path in ("precomputed/brain/cells/250_250_500/0-64_0-64_0-16", "zarr/brain/cells/0/0/0/0"):
        answer = HTTP.request("PUT", f"http://{host}/{path}", body=b"x")
        assert answer.status == 403, answer.data
        assert b"was committed by DVID" in answer.data
    for name in (f"boss://{host}/lab/brain/cells", f"ndstore://{host}/brain/cells"):
        with pytest.raises(RemoteError, match="was committed by DVID"):
            type(ndbatch.open(name)).delete(parse(name))
    with pytest.raises(RemoteError, match="was committed by DVID"):
        ramon.open(f"ndstore://{host}/brain/cells").paint(5, voxels=np.array([[0, 0, 0]]))
    assert np.array_equal(ndbatch.open(f"boss://{host}/lab/brain/cells")[...], data)
    child = remote.newversion("next")
    later = ndbatch.open(f"dvid://{host}/{child}/cells")
    later.write(box, np.full(box.shape, 9, np.uint64))
    assert (later.read(box) == 9).all()
    assert np.array_equal(ndbatch.open(f"boss://{host}/lab/brain/cells")[...], data)


def test_a_write_by_any_protocol_makes_levels_old(host: str, cells: tuple[str, Array]) -> None:
    """Chunks of precomputed and zarr, and blocks of DVID, as well as cutouts."""
    data = (cells[1] % np.uint64(251)).astype(np.uint8)
    url = f"boss://{host}/lab/brain/em"
    volume = ndbatch.create(url, shape=data.shape, dtype="uint8", voxel_size=SIZE)
    box = volume.domain
    spec = replace(volume.spec, levels=2)
    volume = BossVolume.create(parse(f"{url}s"), spec)
    volume.write(box, data)
    chunk = np.full((16, 64, 66), 7, np.uint8).tobytes()
    dvid = ndbatch.open(f"dvid://{host}/{root_of(host)}/ems")
    writers = (
        lambda: HTTP.request("PUT", f"http://{host}/precomputed/brain/ems/250_250_500/0-66_0-64_0-16", body=chunk),
        lambda: HTTP.request("PUT", f"http://{host}/zarr/brain/ems/0/0/0/0", body=chunk),
        lambda: dvid.write(Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), np.uint8)),
    )
    for write in writers:
        volume.propagate()
        assert (volume.status(), ndbatch.open(f"{url}s").levels) == ("DOWNSAMPLED", 2)
        answer = write()
        assert answer is None or answer.status == 200, answer.data
        assert volume.status() == "NOT_DOWNSAMPLED"


def test_labels_that_another_protocol_writes_are_counted_by_dvid(host: str, cells: tuple[str, Array]) -> None:
    """Also after the first count; what DVID merged stays merged."""
    path, data = cells
    ndbatch.copy(path, f"ndstore://{host}/brain/cells", cluster="inline")
    segmentation = f"http://{host}/api/node/{root_of(host)}/cells"
    ids = [2**53 + 1, 2 * (2**53 + 1), 77]

    def sizes() -> list[int]:
        return [int(n) for n in HTTP.request("GET", f"{segmentation}/sizes", body=json.dumps(ids).encode()).json()]

    def counted() -> list[int]:
        voxels = ndbatch.open(f"ndstore://{host}/brain/cells")[...]
        return [int(np.count_nonzero(voxels == one)) for one in ids]

    assert sizes() == counted() == [*[int(np.count_nonzero(data == one)) for one in ids[:2]], 0]
    box = Box((0, 0, 0), (3, 4, 5))
    ndbatch.open(f"ndstore://{host}/brain/cells").write(box, np.full(box.shape, 77, np.uint64))
    assert sizes() == counted()
    assert HTTP.request("POST", f"{segmentation}/merge", body=json.dumps(ids[:2]).encode()).status == 200
    first, second, third = counted()
    ndbatch.open(f"boss://{host}/brain/brain/cells").write(box.shift((4, 0, 0)), np.full(box.shape, 77, np.uint64))
    first, second, third = counted()
    assert sizes() == [first + second, 0, third]


def test_levels_of_a_labelmap_are_those_that_its_server_makes(
    host: str, cells: tuple[str, Array], tmp_path: Path
) -> None:
    """`levels=` is enough, into a new instance and into one that is there."""
    path, data = cells
    target = {"channel": "cells", "levels": 2, "cluster": "inline", "directory": tmp_path / "ingest"}
    (made,) = ingest(path, f"dvid://{host}/brain", **target)  # the repository is made
    assert (made.ok, made.levels) == (True, 3)
    assert ingest(path, f"dvid://{host}/brain", **target)[0].url == made.url  # and found again
    url = made.url
    finest = ndbatch.open(url)
    assert (finest.levels, finest.kind) == (3, "labels")
    whole = data[:, :, :64].reshape(5, 4, 16, 4, 16, 4)
    assert np.array_equal(ndbatch.open(url, level=2)[:, :, :16], whole[:, 0, :, 0, :, 0])
    other = ndbatch.create(Path(path).with_name("other.zarr"), like=ndbatch.open(path))
    other.write(other.domain, data * np.uint64(3))
    assert (
        ndbatch.copy(other, url, update=True, cluster="inline", directory=Path(path).with_name("again")).status
        == "done"
    )
    assert np.array_equal(finest[...], data * np.uint64(3))
    assert np.array_equal(ndbatch.open(url, level=2)[:, :, :16], whole[:, 0, :, 0, :, 0] * np.uint64(3))


def test_levels_of_another_shape_stay_out_of_the_way(host: str, cells: tuple[str, Array], tmp_path: Path) -> None:
    """A labelmap halves z too: in an experiment that keeps z nobody writes to its levels as if they were the experiment's."""
    path, data = cells
    ndbatch.copy(path, f"boss://{host}/lab/brain/first", levels=1, cluster="inline", directory=tmp_path / "first")
    url = f"dvid://{host}/{root_of(host)}/seg"
    ndbatch.copy(path, url, levels=1, cluster="inline", directory=tmp_path / "seg")
    before = ndbatch.open(url, level=1)[...]
    for other in (f"ndstore://{host}/brain/seg", f"boss://{host}/lab/brain/seg"):
        volume = ndbatch.open(other)
        assert (volume.levels, np.array_equal(volume[...], data)) == (1, True)
        with pytest.raises(RemoteError, match="levels of another shape"):
            volume.propagate()
    body = zlib.compress(npy(np.full((1, 4, 4, 4), 9, np.uint64)))
    assert HTTP.request("POST", f"http://{host}/nd/sd/brain/seg/npz/1/0,4/0,4/0,4/", body=body).status == 404
    cutout = f"http://{host}/v1/cutout/lab/brain/seg/1/0:4/0:4/0:4/"
    body = zlib.compress(npy(np.full((4, 4, 4), 9, np.uint64)))
    assert HTTP.request("POST", cutout, body=body, headers={"Content-Type": "application/npygz"}).status == 400
    assert np.array_equal(ndbatch.open(url, level=1)[...], before)


def test_levels_that_are_instances_are_no_channels_of_other_protocols(host: str, tmp_path: Path) -> None:
    """They are of other voxels than the rest, and would be shown at the wrong place; the frame of the others stays as it is."""
    data = np.random.default_rng(5).integers(1, 255, (16, 64, 64), np.uint8)
    source = ndbatch.create(tmp_path / "em.zarr", shape=data.shape, dtype="uint8", offset=(8, 64, 64), voxel_size=SIZE)
    source.write(source.domain, data)
    target = {"channel": "em", "levels": 2, "cluster": "inline", "directory": tmp_path / "run"}
    (made,) = ingest(tmp_path / "em.zarr", f"dvid://{host}/brain", **target)
    assert made.levels == 3
    assert [entry.name for entry in ndbatch.connect(f"ndstore://{host}").ls()] == ["brain/em"]
    assert [entry.name for entry in ndbatch.connect(f"boss://{host}").ls()] == ["brain/brain/em"]
    for url in (f"ndstore://{host}/brain/em", f"boss://{host}/brain/brain/em"):
        volume = ndbatch.open(url)
        assert (volume.shape, volume.offset) == (data.shape, (8, 64, 64))
        assert np.array_equal(volume[...], data)


def npy(data: Array) -> bytes:
    """Return the bytes of a file .npy."""
    plain = io.BytesIO()
    np.save(plain, data)
    return plain.getvalue()


def test_a_volume_that_dvid_did_not_make_keeps_its_extents(host: str) -> None:
    """DVID writes whole blocks; those of a volume that cannot grow end where it ends."""
    facts = {"shape": (20, 64, 66), "offset": (5, 0, 10), "voxel_size": SIZE}
    ndbatch.create(f"ndstore://{host}/brain/em", dtype="uint8", **facts)
    ndbatch.create(f"ndstore://{host}/brain/seg", dtype="uint64", kind="labels", **facts)
    for name in ("em", "seg"):
        url = f"dvid://{host}/{root_of(host)}/{name}"
        volume = ndbatch.open(url)
        box = Box((5, 0, 10), (6, 1, 11))
        volume.write(box, np.ones((1, 1, 1), volume.dtype))
        assert (ndbatch.open(url).shape, ndbatch.open(url).offset) == ((20, 64, 66), (5, 0, 10))
        assert int(ndbatch.open(f"ndstore://{host}/brain/{name}")[...].sum()) == 1


def test_voxels_below_0_leave_the_frame_of_other_protocols(host: str) -> None:
    """DVID has such places, ndstore and BOSS have not; those of 32 bits are refused before anything is made."""
    repo = ndbatch.connect(f"dvid://{host}")
    assert isinstance(repo, DvidRemote)
    root = repo.new_repository("brain")
    facts = {"shape": (4, 4, 4), "dtype": "uint8", "voxel_size": SIZE}
    for name, offset in (("em", (1, 2, 3)), ("below", (-70, -3, -1))):
        volume = ndbatch.create(f"dvid://{host}/{root}/{name}", offset=offset, **facts)
        volume.write(volume.domain, np.ones(volume.shape, np.uint8))
    below = ndbatch.open(f"dvid://{host}/{root}/below")
    assert (below.offset, int(below[...].sum())) == ((-70, -3, -1), 64)
    for url in (f"ndstore://{host}", f"boss://{host}/brain"):
        assert [entry.name for entry in ndbatch.connect(url).ls()] == ["brain/em"]
    assert int(ndbatch.open(f"ndstore://{host}/brain/em")[...].sum()) == 64
    with pytest.raises(PlanError, match="places of DVID have 32 bits"):
        ndbatch.create(f"dvid://{host}/{root}/far", offset=(0, 2**33, 0), **facts)
    assert "far" not in ndbatch.connect(f"dvid://{host}/{root}").instances()  # type: ignore[attr-defined]

"""BOSS as a remote, over a live service: the contract of volumes, and what BOSS has beside voxels."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError, Transient
from ndbatch.geometry import Box
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import ArraySpec, Volume
from ndbatch.remotes.boss import place as places
from ndbatch.remotes.boss import wire
from ndbatch.remotes.boss.remote import BossRemote
from ndbatch.remotes.boss.service import meaning
from ndbatch.remotes.boss.volume import BossVolume
from ndbatch.remotes.http.client import Reply
from ndbatch.server.service import Access, Service
from ndbatch.testing.servers import s3_client, s3_server
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import VolumeSuite, voxels


@pytest.fixture(autouse=True)
def _no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own configuration of intern reaches these tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("INTERN_TOKEN", "INTERN_HOST", "INTERN_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[str, Service]]:
    """Yield `boss://127.0.0.1:port` and the service."""
    root = tmp_path / "served"
    root.mkdir()
    with serving(root) as (url, service):
        yield url.replace("http://", "boss://"), service


class TestBoss(VolumeSuite):
    """The contract, in types of BOSS; other libraries are in tests/server/test_intern.py."""

    dtypes = ("uint8", "uint16", "uint64")
    merges = True

    @pytest.fixture
    def url(self, live: tuple[str, Service]) -> str:
        return f"{live[0]}/lab/embryo/nuclei"

    def test_zeros_erase_with_write_replace(self, volume: Volume, url: str) -> None:
        data = self.filled(volume)
        erasing = nb.open(f"{url}?write=replace")
        assert not erasing.abilities.merges
        assert not pickle.loads(pickle.dumps(erasing)).abilities.merges
        nb.store(data[::-1], erasing)
        assert np.array_equal(nb.open(url)[...], data[::-1])
        erasing.write(erasing.domain, np.zeros_like(data))
        assert not nb.open(url)[...].any()


SHAPE = (20, 40, 50)


def make(url: str, **facts: Any) -> BossVolume:
    """Make a channel of labels with three levels in its experiment."""
    given = {"shape": SHAPE, "dtype": "uint64", "kind": "labels", "voxel_size": (0.04, 0.004, 0.004), **facts}
    volume = nb.create(url, **given)
    assert isinstance(volume, BossVolume)
    return volume


@pytest.fixture
def labels(live: tuple[str, Service]) -> BossVolume:
    """Return a channel of labels with two objects, one of them above 2**53."""
    volume = make(f"{live[0]}/lab/embryo/cells")
    data = np.zeros(SHAPE, "uint64")
    data[2:5, 3:9, 4:20] = 7
    data[10:12, 30:40, 40:50] = 2**63 + 1
    volume.write(volume.domain, data)
    return volume


def test_objects(labels: BossVolume) -> None:
    """Ids in a box, where an object lies, some objects alone; ids are exact to the last bit."""
    assert labels.ids(labels.domain).tolist() == [7, 2**63 + 1]
    assert labels.ids(Box((0, 0, 0), (6, 40, 50))).tolist() == [7]
    assert labels.bounding_box(2**63 + 1) == Box((10, 30, 40), (12, 40, 50))
    assert labels.bounding_box(7, tight=False) == Box((0, 0, 0), (16, 512, 512))
    with pytest.raises(NotFound, match="no voxel of the object 8"):
        labels.bounding_box(8)
    whole = labels.read(labels.domain)
    only = labels.read_objects(labels.domain, [2**63 + 1, 5])
    assert np.array_equal(only, np.where(whole == 2**63 + 1, whole, 0))
    many = labels.read_objects(labels.domain, range(1, 500))
    assert np.array_equal(many, np.where(whole == 7, whole, 0))
    first, second = labels.reserve(10), labels.reserve(5)
    assert (len(first), len(second)) == (10, 5)
    assert not set(first) & set(second)


def test_images_have_no_objects(live: tuple[str, Service]) -> None:
    image = make(f"{live[0]}/lab/embryo/em", kind="image", dtype="uint8")
    with pytest.raises(RemoteError, match="annotation"):
        image.ids(image.domain)


def test_metadata(labels: BossVolume) -> None:
    """Any string is a key and a value; long ones are kept in parts, which nobody sees."""
    kept = labels.metadata
    values = {"a&b": "c#d", "per+cent %": "1 + 1 = 2", "µ": "\n", "number": "17", "long": "äöü?" * 3000}
    for key, value in values.items():
        kept[key] = value
    assert kept.keys() == sorted(values)
    assert {key: kept[key] for key in values} == values
    kept["long"] = "short"
    kept["long"] = "x" * 5000
    kept["long"] = "y" * 4000
    assert kept["long"] == "y" * 4000
    stored = labels._service.client.get("/v1/meta/lab/embryo/cells/").json()["keys"]
    assert len(stored) == len(values) + 3
    del kept["long"]
    assert len(labels._service.client.get("/v1/meta/lab/embryo/cells/").json()["keys"]) == len(values) - 1
    for missing in ("long", "never"):
        with pytest.raises(KeyError):
            kept[missing]
        with pytest.raises(KeyError):
            del kept[missing]
    labels.set_attributes({"number": "17", "true": True})
    assert labels.attributes["number"] == "17"
    assert labels.attributes["true"] is True


def test_a_part_that_is_missing_is_not_passed_over(labels: BossVolume) -> None:
    labels.metadata["long"] = "x" * 5000
    keys = labels._service.client.get("/v1/meta/lab/embryo/cells/").json()["keys"]
    part = next(key for key in keys if key.startswith("ndbatch-part:"))
    labels._service.client.delete("/v1/meta/lab/embryo/cells/", query={"key": part}, expect=(204,))
    with pytest.raises(Corrupt, match="missing"):
        labels.metadata["long"]


def test_levels(live: tuple[str, Service]) -> None:
    """Levels are there once the service made them, and gone as soon as a write made them stale."""
    url = f"{live[0]}/lab/deep/em"
    address = parse(url)
    spec = ArraySpec((16, 65, 130), np.dtype("uint8"), "zyx", (16, 512, 512), voxel_size=(0.04, 0.004, 0.004), levels=3)
    volume = BossVolume.create(address, spec)
    data = np.random.default_rng(0).integers(1, 255, spec.shape, "uint8")
    volume.write(volume.domain, data)
    assert (volume.status(), nb.open(url).levels) == ("NOT_DOWNSAMPLED", 1)
    with pytest.raises(NotFound, match="propagate"):
        nb.open(url, level=1)
    volume.propagate()
    assert (volume.status(), nb.open(url).levels) == ("DOWNSAMPLED", 3)
    second = nb.open(url, level=2)
    assert (second.shape, second.voxel_size) == ((16, 17, 33), pytest.approx((0.04, 0.016, 0.016)))
    expected = data[:, :64, :128].reshape(16, 16, 4, 32, 4).mean(axis=(2, 4))
    assert np.abs(second[:, :16, :32].astype(float) - expected).max() <= 1.5
    with pytest.raises(NotFound, match="levels 0 to 2"):
        nb.open(url, level=3)
    volume.write(Box((0, 0, 0), (1, 2, 2)), np.full((1, 2, 2), 9, "uint8"))
    assert (volume.status(), nb.open(url).levels) == ("NOT_DOWNSAMPLED", 1)
    volume.write(volume.domain, np.full(spec.shape, 200, "uint8"))
    volume.propagate()
    assert (nb.open(url, level=2)[...] == 200).all()
    with pytest.raises(Conflict):
        volume.cancel_propagation()
    with pytest.raises(Conflict, match="has 3 levels, of which those of em are made, and 4 are asked for"):
        BossVolume.create(parse(f"{live[0]}/lab/deep/more"), replace(spec, levels=4))
    assert nb.open(url).levels == 3


def test_levels_of_one_level(labels: BossVolume) -> None:
    with pytest.raises(PlanError, match="has one level"):
        labels.propagate()


def test_times(live: tuple[str, Service]) -> None:
    """Time samples are an axis; erasing erases each of them."""
    url = f"{live[0]}/lab/movie/cells"
    volume = make(url, shape=(3, 5, 6, 7), axes="tzyx", dtype="uint16", voxel_size=(1, 2, 1, 1))
    data = voxels(volume.shape, "uint16")
    volume.write(volume.domain, data)
    again = nb.open(url)
    assert (again.axes, again.shape, again.chunks) == ("tzyx", (3, 5, 6, 7), (1, 16, 512, 512))
    assert np.array_equal(again[...], data)
    assert np.array_equal(nb.open(f"{url}?t=1")[...], data[1])
    erasing = nb.open(f"{url}?write=replace")
    erasing.write(Box((0, 0, 0, 0), (2, 5, 6, 7)), np.zeros((2, 5, 6, 7), "uint16"))
    assert not again[:2].any()
    assert np.array_equal(again[2], data[2])


def test_boxes_larger_than_a_request_should_be(live: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """A large box is asked for in parts along the cuboids, and is the same."""
    monkeypatch.setattr(BossVolume, "piece_bytes", 16 * 512 * 512)
    volume = make(f"{live[0]}/lab/wide/em", shape=(20, 520, 600), dtype="uint8", kind="image", offset=(3, 500, 500))
    data = voxels(volume.shape, "uint8")
    volume.write(volume.domain, data)
    parts = volume._parts(volume.domain)
    assert [part.start for part in parts[:3]] == [(3, 500, 500), (3, 500, 512), (3, 500, 1024)]
    assert sum(part.size for part in parts) == volume.domain.size
    assert np.array_equal(volume[...], data)


def test_the_experiment_must_fit(live: tuple[str, Service]) -> None:
    """All channels of an experiment share extent, voxel size and times; names of the tree are told in the refusal."""
    make(f"{live[0]}/lab/embryo/cells")
    make(f"{live[0]}/lab/embryo/em", kind="image", dtype="uint8")
    for facts, words in (
        ({"shape": (20, 40, 51)}, "x_stop 50 instead of 51"),
        ({"voxel_size": (0.04, 0.008, 0.004)}, "y_voxel_size 0.004 um instead of 0.008 um"),
        ({"offset": (1, 0, 0)}, "z_start 0 instead of 1"),
        ({"shape": (2, *SHAPE), "axes": "tzyx", "voxel_size": (1, 0.04, 0.004, 0.004)}, "has 1 time samples"),
    ):
        with pytest.raises(Conflict, match=words):
            make(f"{live[0]}/lab/embryo/other", **facts)
    for facts, words in (
        ({"offset": (-1, 0, 0)}, "below 0"),
        ({"shape": (2, *SHAPE), "axes": "czyx", "voxel_size": None}, "axes zyx or tzyx"),
    ):
        with pytest.raises(PlanError, match=words):
            make(f"{live[0]}/lab/new/other", **facts)
    with pytest.raises(PlanError, match="is no name for BOSS"):
        make(f"{live[0]}/lab/embryo/my.channel")


def test_the_tree(live: tuple[str, Service]) -> None:
    """Volumes are listed from any depth, by names that open, create and delete take."""
    base, _ = live
    for name in ("lab/embryo/cells", "lab/embryo/em", "lab/adult/em", "other/embryo/em"):
        make(f"{base}/{name}", kind="image", dtype="uint8")
    remote = nb.connect(base)
    assert isinstance(remote, BossRemote)
    assert [one.name for one in remote.ls()] == ["lab/adult/em", "lab/embryo/cells", "lab/embryo/em", "other/embryo/em"]
    assert remote.ls(2) == []
    inside = nb.connect(f"{base}/lab/embryo")
    assert [(one.name, one.shape, one.dtype) for one in inside.ls()] == [
        ("cells", SHAPE, "uint8"),
        ("em", SHAPE, "uint8"),
    ]
    assert [one.name for one in nb.connect(f"{base}/lab").ls()] == ["adult/em", "embryo/cells", "embryo/em"]
    assert inside.open("em").url == f"{base}/lab/embryo/em"
    assert inside.destination("new").url == f"{base}/lab/embryo/new"
    assert nb.connect(f"{base}/lab/embryo/em").destination("new").url == f"{base}/lab/embryo/em"
    inside.set_metadata("em", {"a": 1})
    assert inside.metadata("em") == {"a": 1}
    inside.delete("em")
    with pytest.raises(NotFound):
        inside.delete("em")
    with pytest.raises(PlanError, match="write collection/experiment/channel"):
        remote.locate("lab/embryo")
    with pytest.raises(NotFound):
        nb.connect(f"{base}/nowhere").ls()
    remote.keys(("lab",))["owner"] = "me"
    assert remote.keys(("lab",)).keys() == ["owner"]
    with pytest.raises(PlanError, match=r"\?level=2"):
        nb.open(f"{base}/lab/embryo/cells/2")
    with pytest.raises(PlanError, match="names no volume"):
        nb.open(f"{base}/lab/embryo")


def test_experiments_of_one_name(live: tuple[str, Service]) -> None:
    """Two collections may hold experiments of one name; their voxels have nothing to do with one another."""
    one, other = (make(f"{live[0]}/{name}/embryo/em", dtype="uint8", kind="image") for name in ("first", "second"))
    one.write(one.domain, np.full(SHAPE, 1, "uint8"))
    other.write(other.domain, np.full(SHAPE, 2, "uint8"))
    assert (one[...] == 1).all()
    assert (other[...] == 2).all()
    assert [project.name for project in live[1].catalogue.projects()] == ["embryo", "second-embryo"]


def test_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing needs the token, which no message shows; the address, intern's file and the environment tell it."""
    with serving(tmp_path, Access(tokens=("sesame-1234",))) as (url, _):
        target = url.replace("http://", "boss://") + "/lab/embryo/cells"
        with pytest.raises(Denied, match="token") as caught:
            make(target)
        assert "Token public" not in str(caught.value)
        monkeypatch.setenv("INTERN_TOKEN", "wrong-5678")
        with pytest.raises(Denied) as caught:
            make(target)
        assert "wrong-5678" not in str(caught.value)
        monkeypatch.setenv("INTERN_TOKEN", "sesame-1234")
        assert make(target).shape == SHAPE
        monkeypatch.delenv("INTERN_TOKEN")
        configuration = tmp_path / ".intern" / "intern.cfg"
        configuration.parent.mkdir()
        configuration.write_text(f"[Default]\nprotocol = http\nhost = {url[7:]}\ntoken = sesame-1234\n")
        assert make(target, overwrite=True).shape == SHAPE
        make("bossdb://lab/embryo/more")
        assert nb.open("bossdb://lab/embryo/more").shape == SHAPE
        configuration.write_text("no section = sesame-1234\n")
        with pytest.raises(PlanError, match="cannot be read") as wrong:
            nb.open(target)
        assert "sesame" not in str(wrong.value)


def test_a_token_goes_to_its_own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for one host is sent to no other; without one the public token is shown."""
    monkeypatch.setenv("INTERN_TOKEN", "mine")
    monkeypatch.setenv("INTERN_HOST", "boss.example.org")
    here, there = parse("boss://boss.example.org/a/b/c"), parse("boss://elsewhere.example.org/a/b/c")
    assert places.token_for(here, places.resource_of(here).base) == "mine"
    assert places.token_for(there, places.resource_of(there).base) == "public"
    usual = parse("bossdb://a/b/c")
    assert places.resource_of(usual) == places.Resource("https://boss.example.org", ("a", "b", "c"))
    monkeypatch.delenv("INTERN_HOST")
    assert places.resource_of(usual).base == "https://api.bossdb.io"
    said = parse("bossdb://https://boss.example.org/a/b/c")
    assert places.resource_of(said) == places.Resource("https://boss.example.org", ("a", "b", "c"))
    assert places.resource_of(parse("boss://localhost:8080/a/b/c")).base == "http://localhost:8080"
    assert places.resource_of(parse("boss+http://far.example.org/a/b/c")).base == "http://far.example.org"


def test_options_are_checked(labels: BossVolume) -> None:
    for option, words in (("access=later", "no-cache, cache, raw"), ("write=never", "merge, replace")):
        with pytest.raises(PlanError, match=words):
            nb.open(f"{labels.url}?{option}")
    assert nb.open(f"{labels.url}?access=raw")[2, 3, 4] == 7


def answered(status: int, body: Any) -> Reply:
    text = body if isinstance(body, str) else json.dumps(body)
    return Reply(status, {}, text.encode(), "http://host/v1/x")


def test_what_errors_mean() -> None:
    """A quota of the day is for good, a busy proxy is not; resources that are there are in the way."""
    quota = meaning(answered(429, {"status": 429, "code": 3004, "message": "available tomorrow"}))
    assert isinstance(quota, RemoteError)
    assert not isinstance(quota, Transient)
    assert "tomorrow" in str(quota)
    assert meaning(answered(429, "slow down")) is None
    assert isinstance(meaning(answered(403, {"status": 403, "code": 3001, "message": "no"})), Denied)
    assert isinstance(meaning(answered(401, {"detail": "Invalid token."})), Denied)
    assert isinstance(meaning(answered(404, {"status": 404, "code": 6002, "message": "there"})), Conflict)
    assert isinstance(meaning(answered(404, {"status": 404, "code": 4005, "message": "marked"})), NotFound)
    assert isinstance(meaning(answered(503, {"status": 503, "code": 0, "message": "later"})), Transient)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_frames(dtype: str) -> None:
    """Frames of any compressor and typesize are read; damaged ones, and those of another size, are told."""
    data = np.arange(3 * 40 * 50).reshape(3, 40, 50).astype(dtype)
    body = wire.encode(data)
    assert np.array_equal(wire.decode(body, data.shape, data.dtype, "here"), data)
    for damaged in (b"", body[:10], body[:-1], body + b"x", b"\x80\x04" + body):
        with pytest.raises(Corrupt, match="here"):
            wire.decode(damaged, data.shape, data.dtype, "here")
    with pytest.raises(Corrupt, match="which takes"):
        wire.decode(body, (3, 40, 49), data.dtype, "here")


def test_channels_in_a_bucket(live: tuple[str, Service], tmp_path: Path) -> None:
    """A channel that the service keeps in a bucket is read there, at every level, and never written."""
    with s3_server("images") as endpoint:
        layer = f"precomputed://s3://images/lab/embryo/em?endpoint={endpoint}"
        stored = nb.create(layer, shape=SHAPE, dtype="uint8", voxel_size=(0.04, 0.004, 0.004))
        data = voxels(SHAPE, "uint8")
        stored.write(stored.domain, data)
        everyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::images/*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [everyone]})
        s3_client(endpoint).put_bucket_policy(Bucket="images", Policy=policy)
        channel = make(f"{live[0]}/lab/embryo/em", kind="image", dtype="uint8")
        names = ("lab", "embryo", "em")
        channel._service.update(names, {"storage_type": "cloudvol", "bucket": "images", "cv_path": "/lab/embryo/em"})
        volume = nb.open(f"{channel.url}?endpoint={endpoint}")
        assert np.array_equal(volume[...], data)
        assert not volume.abilities.write
        with pytest.raises(RemoteError, match="cannot be written"):
            volume.write(volume.domain, data)
        assert np.array_equal(pickle.loads(pickle.dumps(volume))[...], data)

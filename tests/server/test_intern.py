"""The published client of bossDB, intern, unmodified, over the service: what it makes, writes, reads and asks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving

TOKEN = "sesame-1234"
FRAME = {
    "x_start": 0, "x_stop": 600, "y_start": 0, "y_stop": 530, "z_start": 0, "z_stop": 40,
    "x_voxel_size": 4.0, "y_voxel_size": 4.0, "z_voxel_size": 40.0, "voxel_unit": "nanometers",
}  # fmt: skip


@pytest.fixture(scope="module")
def intern() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its sources have escapes that Python 3.12 will refuse
        return pytest.importorskip("intern", reason="intern is not installed")


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Service]]:
    """Serve an empty folder to those who show the token, and have the environment name it as intern wants."""
    with serving(tmp_path, Access(tokens=(TOKEN,))) as (url, service):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("INTERN_PROTOCOL", "http")
        monkeypatch.setenv("INTERN_HOST", url.removeprefix("http://"))
        monkeypatch.setenv("INTERN_TOKEN", TOKEN)
        yield url, service


@pytest.fixture
def remote(intern: Any, live: tuple[str, Service]) -> Any:
    from intern.remote.boss import BossRemote

    return BossRemote({"protocol": "http", "host": live[0].removeprefix("http://"), "token": TOKEN})


@pytest.fixture
def make(remote: Any) -> Any:
    """Return a function that makes a channel of the experiment lab/embryo with intern."""
    from intern.resource.boss.resource import (
        ChannelResource,
        CollectionResource,
        CoordinateFrameResource,
        ExperimentResource,
    )

    remote.create_project(CollectionResource("lab", "the collection of the lab"))
    remote.create_project(CoordinateFrameResource("frame", "a frame", **FRAME))
    remote.create_project(ExperimentResource("embryo", "lab", "frame", "an embryo", num_hierarchy_levels=3))

    def channel(name: str, dtype: str = "uint8", kind: str = "image", **facts: Any) -> Any:
        return remote.create_project(
            ChannelResource(name, "lab", "embryo", kind, "made by intern", datatype=dtype, **facts)
        )

    return channel


def test_projects(remote: Any, make: Any) -> None:
    """The tree is made, listed, changed and removed; what it refuses, it refuses with the codes intern looks at."""
    from intern.resource.boss.resource import (
        ChannelResource,
        CollectionResource,
        CoordinateFrameResource,
        ExperimentResource,
    )
    from requests import HTTPError

    made = make("em")
    assert (made.datatype, made.type, made.description, made.downsample_status) == (
        *("uint8", "image", "made by intern"),
        "NOT_DOWNSAMPLED",
    )
    assert remote.list_collections() == ["lab"]
    assert remote.list_experiments("lab") == ["embryo"]
    assert remote.list_channels("lab", "embryo") == ["em"]
    assert remote.list_coordinate_frames() == ["frame"]
    frame = remote.get_project(CoordinateFrameResource("frame"))
    assert {name: getattr(frame, name) for name in FRAME} == FRAME
    experiment = remote.get_project(ExperimentResource("embryo", "lab"))
    assert (experiment.coord_frame, experiment.num_hierarchy_levels, experiment.time_step_unit) == (
        "frame",
        3,
        "seconds",
    )
    assert remote.get_experiment("lab", "embryo").name == "embryo"
    make("seg", "uint64", "annotation", sources=["em"])
    seg = remote.get_channel("seg", "lab", "embryo")
    assert seg.sources == ["em"]
    seg.description = "changed"
    assert remote.update_project("seg", seg).description == "changed"
    assert remote.get_channel("seg", "lab", "embryo").sources == ["em"]
    renamed = CollectionResource("laboratory", "renamed")
    with pytest.raises(HTTPError, match="400"):  # it is a source
        remote.delete_project(ChannelResource("em", "lab", "embryo"))
    for wrong in (made, CoordinateFrameResource("frame", "again", **FRAME)):
        with pytest.raises(HTTPError, match="400"):
            remote.create_project(wrong)
    assert remote.update_project("lab", renamed).name == "laboratory"
    assert remote.list_channels("laboratory", "embryo") == ["em", "seg"]
    for resource in (
        ChannelResource("seg", "laboratory", "embryo"),
        ChannelResource("em", "laboratory", "embryo"),
        ExperimentResource("embryo", "laboratory"),
        CollectionResource("laboratory"),
        CoordinateFrameResource("frame"),
    ):
        remote.delete_project(resource)
    assert (remote.list_collections(), remote.list_coordinate_frames()) == ([], [])
    with pytest.raises(HTTPError, match="404"):
        remote.get_project(CollectionResource("laboratory"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_cutouts(remote: Any, make: Any, live: tuple[str, Service], dtype: str) -> None:
    """What intern writes ndbatch reads, and the other way round, at odd places; zeros keep what is there."""
    channel = make("seg", dtype, "annotation" if dtype == "uint64" else "image")
    url = f"{live[0].replace('http', 'boss')}/lab/embryo/seg"
    limit = 2 ** min(63, 8 * np.dtype(dtype).itemsize)
    data = np.random.default_rng(0).integers(1, limit, (9, 33, 70), dtype)
    remote.create_cutout(channel, 0, [500, 570], [500, 533 - 3], [11, 20], data[:, :30])
    ours = nb.open(url)
    assert (ours.shape, ours.dtype, ours.voxel_size) == (
        (40, 530, 600),
        np.dtype(dtype),
        pytest.approx((0.04, 0.004, 0.004)),
    )
    assert np.array_equal(ours[11:20, 500:530, 500:570], data[:, :30])
    ours.write(nb.Box((0, 0, 0), (9, 33, 70)), data)
    found = remote.get_cutout(channel, 0, [0, 70], [0, 33], [0, 9])
    assert (found.dtype, found.shape) == (np.dtype(dtype), (9, 33, 70))
    assert np.array_equal(found, data)
    sparse = np.where(data % 2, data, 0)
    sparse[0, 0, 0] = 1
    remote.create_cutout(channel, 0, [0, 70], [0, 33], [0, 9], sparse)
    expected = np.where(sparse, sparse, data)
    from intern.service.boss.v1.volume import CacheMode

    for mode in CacheMode:
        assert np.array_equal(remote.get_cutout(channel, 0, [0, 70], [0, 33], [0, 9], access_mode=mode), expected)
    remote.create_cutout_to_black(channel, 0, [10, 20], [5, 9], [0, 3])
    expected[0:3, 5:9, 10:20] = 0
    assert np.array_equal(ours[0:9, 0:33, 0:70], expected)


def test_parallel(remote: Any, make: Any) -> None:
    """intern's processes read what one request reads."""
    channel = make("em")
    data = np.random.default_rng(1).integers(0, 255, (40, 530, 600), "uint8")
    remote.create_cutout(channel, 0, [0, 600], [0, 530], [0, 40], data)
    found = remote.get_cutout(channel, 0, [0, 600], [0, 530], [0, 40], parallel=2, chunk_size=(512, 512, 16))
    assert np.array_equal(found, data)


def test_times(remote: Any, make: Any) -> None:
    """Without times the default sample, with them an axis."""
    from intern.resource.boss.resource import ChannelResource, ExperimentResource

    remote.create_project(ExperimentResource("movie", "lab", "frame", "times", num_time_samples=3))
    channel = remote.create_project(ChannelResource("em", "lab", "movie", "image", datatype="uint16"))
    data = np.random.default_rng(2).integers(1, 999, (2, 4, 5, 6), "uint16")
    remote.create_cutout(channel, 0, [0, 6], [0, 5], [0, 4], data, [1, 3])
    assert np.array_equal(remote.get_cutout(channel, 0, [0, 6], [0, 5], [0, 4], [1, 3]), data)
    assert remote.get_cutout(channel, 0, [0, 6], [0, 5], [0, 4], [2, 3]).shape == (1, 4, 5, 6)
    assert not remote.get_cutout(channel, 0, [0, 6], [0, 5], [0, 4]).any()


def test_objects(remote: Any, make: Any) -> None:
    """Ids in a box, boxes of ids, reserved ids, cutouts of some ids."""
    from requests import HTTPError

    channel = make("seg", "uint64", "annotation")
    data = np.zeros((5, 20, 30), "uint64")
    data[1:3, 4:9, 5:25] = 7
    data[4, 10:20, 20:30] = 2**53 + 1
    remote.create_cutout(channel, 0, [100, 130], [100, 120], [10, 15], data)
    ids = remote.get_ids_in_region(channel, 0, [100, 130], [100, 120], [10, 15])
    assert [int(one) for one in ids] == [7, 2**53 + 1]
    assert remote.get_bounding_box(channel, 0, 7, "tight") == {
        "x_range": [105, 125],
        "y_range": [104, 109],
        "z_range": [11, 13],
        "t_range": [0, 1],
    }
    assert remote.get_bounding_box(channel, 0, 7)["z_range"] == [0, 16]
    with pytest.raises(HTTPError, match="404"):
        remote.get_bounding_box(channel, 0, 8)
    assert (remote.reserve_ids(channel, 10), remote.reserve_ids(channel, 5)) == (1, 11)
    only = remote.get_cutout(channel, 0, [100, 130], [100, 120], [10, 15], id_list=[7])
    assert np.array_equal(only, np.where(data == 7, data, 0))


def test_metadata(remote: Any, make: Any, live: tuple[str, Service]) -> None:
    """Keys are made, read, changed, removed; ndbatch sees the same."""
    from intern.service.boss.httperrorlist import HTTPErrorList

    channel = make("em")
    remote.create_metadata(channel, {"species": "mouse", "age": "12"})
    assert sorted(remote.list_metadata(channel)) == ["age", "species"]
    assert remote.get_metadata(channel, ["species"]) == {"species": "mouse"}
    remote.update_metadata(channel, {"species": "fly"})
    ours = nb.open(f"{live[0].replace('http', 'boss')}/lab/embryo/em")
    assert ours.attributes == {"species": "fly", "age": 12}
    ours.set_attributes({"note": "a & b"})
    assert remote.get_metadata(channel, ["note"]) == {"note": "a & b"}
    remote.delete_metadata(channel, ["age"])
    assert sorted(remote.list_metadata(channel)) == ["note", "species"]
    with pytest.raises(HTTPErrorList, match="400"):
        remote.get_metadata(channel, ["age"])
    with pytest.raises(HTTPErrorList, match="400"):
        remote.create_metadata(channel, {"species": "again"})


def test_groups(remote: Any, make: Any) -> None:
    """Groups and permissions are kept."""
    channel = make("em")
    remote.create_group("readers")
    assert "readers" in remote.list_groups()
    remote.add_group_member("readers", "somebody")
    assert remote.get_is_group_member("readers", "somebody")
    remote.add_permissions("readers", channel, ["read"])
    remote.add_permissions("readers", channel, ["read_volumetric_data"])
    assert remote.get_permissions("readers", channel) == ["read", "read_volumetric_data"]
    assert remote.get_group("readers")["resources"] == [{"collection": "lab", "experiment": "embryo", "channel": "em"}]
    remote.update_permissions("readers", channel, ["read"])
    remote.delete_permissions("readers", channel)
    remote.delete_group_member("readers", "somebody")
    remote.delete_group("readers")
    assert "readers" not in remote.list_groups()


@pytest.mark.filterwarnings("ignore:CloudVolume is not installed:ImportWarning")
def test_array(intern: Any, live: tuple[str, Service]) -> None:
    """`intern.array` makes the whole tree, writes and reads by slices; the environment names the service."""
    made = intern.array(
        "bossdb://new/experiment/labels",
        create_new=True,
        dtype="uint64",
        extents=(20, 60, 80),
        voxel_size=(40, 4, 4),
        description="made by array",
    )
    assert (made.shape, made.dtype, made.voxel_unit) == ((20, 60, 80), "uint64", "nanometers")
    data = np.random.default_rng(3).integers(1, 2**62, (20, 60, 80), "uint64")
    made[0:20, 0:60, 0:80] = data
    again = intern.array("bossdb://new/experiment/labels")
    assert np.array_equal(again[3:9, 5:50, 7:70], data[3:9, 5:50, 7:70])
    assert np.array_equal(again[5], data[5][None] if again[5].ndim == 3 else data[5])
    assert again.downsample_status == "NOT_DOWNSAMPLED"
    assert again.available_resolutions == list(range(6))
    assert sorted(again.voxel_size) == [4, 4, 40]
    turned = intern.array("bossdb://new/experiment/labels", axis_order="XYZ")
    assert np.array_equal(turned[7:70, 5:50, 3:9], data[3:9, 5:50, 7:70].T)
    volume = nb.open("bossdb://new/experiment/labels")
    assert (volume.kind, volume.voxel_size) == ("labels", pytest.approx((0.04, 0.004, 0.004)))
    assert np.array_equal(volume[...], data)


def test_writing_needs_the_token(intern: Any, live: tuple[str, Service]) -> None:
    """Others may read."""
    from intern.remote.boss import BossRemote
    from intern.resource.boss.resource import CollectionResource
    from requests import HTTPError

    stranger = BossRemote({"protocol": "http", "host": live[0].removeprefix("http://"), "token": "public"})
    assert stranger.list_collections() == []
    with pytest.raises(HTTPError, match="403"):
        stranger.create_project(CollectionResource("mine"))

"""ndstore as a remote, over a live service: the contract of volumes, and what ndstore has beside voxels."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.secret import Secret
from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.address import parse
from ndbatch.remotes.ndstore import wire
from ndbatch.remotes.ndstore.frame import DTYPES, Info, cuboid, level_box
from ndbatch.remotes.ndstore.remote import NdstoreRemote
from ndbatch.remotes.ndstore.service import connected
from ndbatch.remotes.ndstore.volume import FORMATS, NdstoreVolume
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import VolumeSuite, voxels

SIZE = (0.04, 0.004, 0.004)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[str, Service]]:
    """Yield `ndstore://127.0.0.1:port` and the service."""
    root = tmp_path / "served"
    root.mkdir()
    with serving(root) as (url, service):
        yield url.replace("http://", "ndstore://"), service


class TestNdstore(VolumeSuite):
    """The contract; the other program is ndio, in tests/server/test_ndio.py."""

    dtypes = ("uint8", "uint32", "uint64")
    merges = True

    @pytest.fixture
    def url(self, live: tuple[str, Service]) -> str:
        return f"{live[0]}/embryo/nuclei"


def test_every_type_in_every_form(live: tuple[str, Service]) -> None:
    for dtype in DTYPES:
        data = voxels((5, 6, 7), dtype)
        volume = nb.create(f"{live[0]}/{dtype}/image", shape=data.shape, dtype=dtype, voxel_size=SIZE)
        volume.write(volume.domain, data)
        for form in FORMATS:
            again = nb.open(f"{live[0]}/{dtype}/image?format={form}")
            assert again.encoding == form
            assert np.array_equal(again[...], data), (dtype, form)


def test_levels_are_made_by_the_service(live: tuple[str, Service], tmp_path: Path) -> None:
    """A run asks for levels; the service makes them from what was uploaded."""
    data = voxels((20, 300, 260), "uint8")
    source = nb.create(str(tmp_path / "image.zarr"), shape=data.shape, voxel_size=SIZE, offset=(4, 12, 20))
    source.write(source.domain, data)
    result = nb.copy(source, f"{live[0]}/pyramid/image", levels=2, directory=tmp_path / "run", cluster="threads")
    assert result.status == "done"
    volume = nb.open(f"{live[0]}/pyramid/image")
    assert isinstance(volume, NdstoreVolume)
    assert (volume.levels, volume.status()) == (3, 2)
    coarse = nb.open(f"{live[0]}/pyramid/image?level=2")
    assert (coarse.shape, coarse.offset) == ((20, 75, 65), (4, 3, 5))
    assert coarse.voxel_size == pytest.approx((0.04, 0.016, 0.016))
    assert np.array_equal(volume[...], data)
    mean = data.reshape(20, 75, 4, 65, 4).mean(axis=(2, 4))
    assert np.abs(coarse[...] - mean).max() <= 1  # rounded twice
    volume.write(Box((4, 12, 20), (5, 13, 21)), np.full((1, 1, 1), 9, "uint8"))
    assert volume.status() == 0  # what was made no longer follows
    assert nb.open(f"{live[0]}/pyramid/image").levels == 1
    with pytest.raises(NotFound, match="does not follow from its voxels"):
        nb.open(f"{live[0]}/pyramid/image", level=1)
    with pytest.raises(Conflict, match="has 2 coarser levels, not 3"):
        nb.copy(source, f"{live[0]}/pyramid/deeper", levels=3, directory=tmp_path / "deeper", cluster="inline")


def test_time_is_an_axis(live: tuple[str, Service]) -> None:
    data = voxels((3, 5, 6, 7), "uint16")
    volume = nb.create(
        f"{live[0]}/calcium/gcamp",
        shape=data.shape,
        dtype="uint16",
        axes="tzyx",
        offset=(2, 0, 1, 0),
        voxel_size=(1, *SIZE),
    )
    volume.write(volume.domain, data)
    again = nb.open(f"{live[0]}/calcium/gcamp")
    assert (again.axes, again.shape, again.offset) == ("tzyx", (3, 5, 6, 7), (2, 0, 1, 0))
    assert np.array_equal(again[...], data)
    assert np.array_equal(nb.open(f"{live[0]}/calcium/gcamp?t=3")[...], data[1])


def test_nearly_isotropic_slices(live: tuple[str, Service]) -> None:
    """Thin slices are averaged, of labels every so-many-th is taken, counted from the first one of the volume."""
    data = voxels((11, 20, 30), "uint8")
    for kind in ("image", "labels"):
        volume = nb.create(
            f"{live[0]}/thin/{kind}", shape=data.shape, kind=kind, voxel_size=(0.1, 0.4, 0.4), offset=(6, 0, 3)
        )
        volume.write(volume.domain, data)
        assert isinstance(volume, NdstoreVolume)
        thick = data[:8].reshape(2, 4, 20, 30)
        wanted = thick[:, 0] if kind == "labels" else thick.mean(axis=1).astype("uint8")
        assert np.array_equal(volume.near_isotropic(), wanted)
        assert np.array_equal(volume.near_isotropic(1, 1), wanted[1:])
        with pytest.raises(PlanError, match="has 2 near-isotropic slices, not 1 to 3"):
            volume.near_isotropic(1, 2)


def test_the_unit_of_voxel_sizes(live: tuple[str, Service]) -> None:
    """Sizes are told in the unit of the address, and our service remembers which; an ndstore knows of none."""
    volume = nb.create(f"{live[0]}/nanometres/em?unit=nm", shape=(4, 5, 6), voxel_size=SIZE)
    assert volume.voxel_size == pytest.approx(SIZE)
    assert nb.open(f"{live[0]}/nanometres/em").voxel_size == pytest.approx(SIZE)


def test_large_boxes_go_in_parts(live: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NdstoreVolume, "piece_bytes", 2**18)
    data = voxels((40, 300, 260), "uint8")
    volume = nb.create(f"{live[0]}/parts/image", shape=data.shape, offset=(3, 0, 7), voxel_size=SIZE)
    volume.write(volume.domain, data)
    assert len(volume._parts(volume.domain)) > 8  # type: ignore[attr-defined]
    assert np.array_equal(volume[...], data)
    assert np.array_equal(nb.open(f"{live[0]}/parts/image")[10:21, 3:290, 8:250], data[7:18, 3:290, 1:243])


def test_metadata_pictures_and_listing(live: tuple[str, Service]) -> None:
    host = live[0]
    for name, kind in (("em", "image"), ("seg", "labels")):
        volume = nb.create(f"{host}/cortex/{name}", shape=(8, 20, 30), kind=kind, voxel_size=SIZE, dtype="uint32")
        volume.write(volume.domain, voxels(volume.shape, "uint32") % 90)
    em, seg = nb.open(f"{host}/cortex/em"), nb.open(f"{host}/cortex/seg")
    em.set_attributes({"microscope": "SEM"})
    em.set_attributes({"stain": 3})
    assert em.attributes == {"microscope": "SEM", "stain": 3}
    assert seg.attributes == {}
    assert isinstance(seg, NdstoreVolume)
    assert seg.picture("xy", 3, seg.domain).shape == (20, 30, 4)
    assert seg.picture("xz", 3, seg.domain).shape == (
        80,
        30,
        4,
    )  # ten times as high: slices are 40 nm apart, voxels 4 nm wide
    remote = nb.connect(host)
    assert isinstance(remote, NdstoreRemote)
    assert [entry.name for entry in remote.ls()] == ["cortex/em", "cortex/seg"]
    assert [entry.name for entry in nb.connect(f"{host}/cortex").ls()] == ["em", "seg"]
    nb.connect(f"{host}/cortex").delete("em")
    assert [entry.name for entry in remote.ls()] == ["cortex/seg"]
    with pytest.raises(NotFound, match="has no channel em; known: seg"):
        nb.open(f"{host}/cortex/em")
    with pytest.raises(PlanError, match="names no channel; write token/channel"):
        remote.locate("cortex")


def test_what_is_kept_of_a_channel_goes_with_it(live: tuple[str, Service]) -> None:
    """A new channel of its name begins with nothing, and the document of the token does not grow with those that were."""
    url = f"{live[0]}/cortex/em"
    facts = {"shape": (8, 20, 30), "kind": "image", "voxel_size": SIZE, "dtype": "uint8"}
    nb.create(url, **facts).set_attributes({"complete": True})
    remote = nb.connect(f"{live[0]}/cortex")
    remote.delete("em")
    assert "em" not in json.dumps(connected(parse(url)).metadata("cortex"))
    assert nb.create(url, **facts).attributes == {}


def test_channels_that_are_described_at_once_keep_what_each_was_told(live: tuple[str, Service]) -> None:
    """Each writer tells of its own channel; none sends back what it read of another's a moment ago."""
    names = [f"c{n}" for n in range(8)]
    facts = {"shape": (8, 20, 30), "kind": "image", "voxel_size": SIZE, "dtype": "uint8"}
    volumes = [nb.create(f"{live[0]}/cortex/{name}", **facts) for name in names]
    with ThreadPoolExecutor(8) as pool:
        for step in range(5):
            list(pool.map(lambda volume, step=step: volume.set_attributes({f"step{step}": volume.url}), volumes))
    for volume in volumes:
        assert volume.attributes == {f"step{step}": volume.url for step in range(5)}


@pytest.mark.parametrize("channels", [{"planned": {"stain": "DAPI"}}, ["em", "seg"]])
def test_words_about_channels_that_are_not_there_stay(live: tuple[str, Service], channels: Any) -> None:
    url = f"{live[0]}/cortex/em"
    em = nb.create(url, shape=(8, 20, 30), kind="image", voxel_size=SIZE, dtype="uint8")
    service = connected(parse(url))
    service.set_metadata("cortex", {"channels": channels, "author": "me"})
    assert service.metadata("cortex") == {"channels": channels, "author": "me"}
    em.set_attributes({"stain": 3})
    assert em.attributes == {"stain": 3}
    nb.connect(f"{live[0]}/cortex").delete("em")
    assert service.metadata("cortex") == {"channels": channels, "author": "me"}


def test_channels_of_a_token_have_one_extent(live: tuple[str, Service]) -> None:
    nb.create(f"{live[0]}/one/a", shape=(8, 20, 30), voxel_size=SIZE)
    with pytest.raises(Conflict, match=r"all channels of a token fill its dataset"):
        nb.create(f"{live[0]}/one/b", shape=(8, 20, 31), voxel_size=SIZE)
    with pytest.raises(Conflict, match=r"use another token"):
        nb.create(f"{live[0]}/one/b", shape=(8, 20, 30), voxel_size=(1, 1, 1))
    with pytest.raises(Conflict, match=r"the dataset one is there with zvoxelres 0.04 where 1"):
        nb.create(f"{live[0]}/two/b?dataset=one", shape=(8, 20, 30), voxel_size=(1, 1, 1))


@pytest.mark.parametrize(
    ("path", "facts", "said"),
    [
        ("a/b", {"dtype": "float64"}, "cannot hold float64; use dtype"),
        ("a/b-c", {}, "is no name for an ndstore"),
        ("a/b", {"shape": (2, 4, 5, 6), "axes": "czyx"}, "take one channel with"),
        ("a/b", {"dtype": "int16", "kind": "labels"}, "labels of an ndstore are unsigned"),
        ("a/b?scaling=cubic", {}, "is not one of zslices, isotropic"),
        ("a/b?format=tar", {}, "is not one of npz"),
        ("a/b?unit=inch", {}, "is not one of nm"),
        ("a", {}, "names no volume; write ndstore://host/token/channel"),
        ("a/b/0", {}, r"a level is written \?level=1"),
        ("a/b?shape=2", {}, "unknown option"),
    ],
)
def test_what_is_refused(live: tuple[str, Service], path: str, facts: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        nb.create(f"{live[0]}/{path}", **{"shape": (4, 5, 6), "dtype": "uint8", **facts})
    assert nb.connect(live[0]).ls() == []


def test_who_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes by reference or from the environment, and is in no message."""
    monkeypatch.setenv("KEY", "s3cret-key")
    with serving(tmp_path, Access("token", ("s3cret-key",))) as (url, _):
        host = url.replace("http://", "ndstore://")
        monkeypatch.setenv("NDSTORE_TOKEN", "wrong-key")
        with pytest.raises(Denied, match="give the key of a user who may do this") as refused:
            nb.create(f"{host}/a/b", shape=(4, 5, 6))
        assert "wrong-key" not in str(refused.value)
        volume = nb.create(f"{host}/a/b", shape=(4, 5, 6), token=Secret(env="KEY"))
        volume.write(volume.domain, voxels((4, 5, 6), "uint8"))
        assert b"s3cret" not in pickle.dumps(volume)
        monkeypatch.setenv("NDSTORE_TOKEN", "s3cret-key")
        assert nb.open(f"{host}/a/b").shape == (4, 5, 6)
        nb.connect(host).delete("a/b")


# -- an ndstore that is not ours ---------------------------------------------------------------------------------------------


def _info(channel: dict[str, Any] | None = None, **changes: Any) -> Info:
    dataset = {
        "description": "ds",
        "scaling": "zslices",
        "resolutions": [0, 1],
        "imagesize": {"0": [300, 200, 64], "1": [150, 100, 64]},
        "offset": {"0": [10, 20, 1], "1": [5, 10, 1]},
        "voxelres": {"0": [4.0, 4.0, 40.0], "1": [8.0, 8.0, 40.0]},
        "cube_dimension": {"0": [128, 128, 16], "1": [128, 128, 16]},
        **changes,
    }
    channel = channel or {"channel_type": "annotation", "datatype": "uint64"}
    return Info({"dataset": dataset, "channels": {"seg": channel}}, "ndstore://h/t")


def test_an_old_info_document() -> None:
    """Without a name, a unit, times and cuboids of the supercube: everything that is needed is there."""
    info = _info()
    spec = info.spec("seg", 1, "nm")
    assert (spec.shape, spec.offset, spec.chunks, spec.axes) == ((64, 100, 150), (1, 10, 5), (16, 128, 128), "zyx")
    assert spec.voxel_size == pytest.approx((0.04, 0.008, 0.008))
    assert info.spec("seg", 0, "").voxel_size == (40.0, 4.0, 4.0)  # an ndstore tells no unit
    assert info.name == "ds"
    with pytest.raises(NotFound, match="levels 0 to 1, not 2"):
        info.spec("seg", 2, "")
    with pytest.raises(Corrupt, match="imagesize of level 0"):
        _info(imagesize={}).spec("seg", 0, "")
    with pytest.raises(Corrupt, match="is this an ndstore"):
        Info([], "ndstore://h/t").spec("seg", 0, "")  # type: ignore[arg-type]


def test_levels_that_were_never_made_are_none() -> None:
    """An ndstore answers zeros for them, so a channel has its own level alone until it was propagated."""
    info = _info(channel={"channel_type": "image", "datatype": "uint8", "propagate": 0})
    assert info.spec("seg", 0, "").levels == 1
    with pytest.raises(NotFound, match=r"level 1 of seg does not follow from its voxels.*propagate\(\)"):
        info.spec("seg", 1, "")
    assert _info(channel={**info.channels["seg"], "propagate": 2}).spec("seg", 1, "").levels == 2


def test_a_channel_whose_voxels_lie_at_a_coarser_level() -> None:
    """Level 0 is the finest that holds voxels, whatever the service calls it."""
    info = _info(channel={"channel_type": "annotation", "datatype": "uint32", "resolution": 1, "propagate": 0})
    spec = info.spec("seg", 0, "nm")
    assert (spec.shape, spec.offset, spec.level, spec.levels) == ((64, 100, 150), (1, 10, 5), 0, 1)
    assert spec.voxel_size == pytest.approx((0.04, 0.008, 0.008))
    with pytest.raises(NotFound, match="levels 0 to 0, not 1"):
        info.spec("seg", 1, "")
    with pytest.raises(Corrupt, match="resolution 7; there are 2"):
        _info(channel={**info.channels["seg"], "resolution": 7}).spec("seg", 0, "")


def test_labels_of_64_bits_are_not_cut(live: tuple[str, Service]) -> None:
    """An ndstore keeps 32 bits of them; what it would cut is refused."""
    volume = nb.create(f"{live[0]}/wide/seg", shape=(4, 5, 6), dtype="uint64", kind="labels", voxel_size=SIZE)
    data = np.zeros((4, 5, 6), "uint64")
    data[1, 2, 3] = 2**32
    volume.write(volume.domain, data)
    assert volume[1, 2, 3] == 2**32
    assert isinstance(volume, NdstoreVolume)
    volume._info = _info()
    with pytest.raises(RemoteError, match="the id 4294967296 does not fit into 32 bits"):
        volume.write(volume.domain, data)


def test_geometry_of_levels() -> None:
    """Sizes and offsets round as ndstore rounds them, at the worked example of its documents."""
    assert level_box((64, 200, 300), (1, 20, 10), "zslices", 1) == Box.of_shape((64, 100, 150), (1, 10, 5))
    assert level_box((5, 5, 5), (3, 3, 3), "isotropic", 1) == Box.of_shape((3, 3, 3), (1, 1, 1))
    assert cuboid("zslices", (40, 4, 4), 0) == cuboid("zslices", (40, 4, 4), 4) == (16, 128, 128)
    assert cuboid("zslices", (40, 4, 4), 5) == cuboid("isotropic", (40, 4, 4), 0) == (64, 64, 64)


def packed(plain: bytes) -> bytes:
    """Return bytes in a Blosc frame."""
    from numcodecs import blosc

    frame: bytes = blosc.compress(plain, b"lz4", 5, blosc.SHUFFLE)
    return frame


class Harm:
    """What a hostile service could send: a pickle that runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def test_hostile_bodies_are_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for body in (
        packed(pickle.dumps(Harm())),
        packed(pickle.dumps([1, 2])),
        b"",
        b"\x02" * 40,
    ):
        with pytest.raises(Corrupt):
            wire.unpack_blosc(body, 1000, "there")
    bomb = zlib.compress(bytes(10**7))
    for body in (bomb, b"plain", zlib.compress(b"no npy"), wire.pack_npz(np.zeros((9, 9)))[:-5]):
        with pytest.raises(Corrupt):
            wire.unpack_npz(body, 1000, "there")
    objects = np.array([Harm()], object)
    import io

    plain = io.BytesIO()
    np.save(plain, objects, allow_pickle=True)
    with pytest.raises(Corrupt):
        wire.unpack_npz(zlib.compress(plain.getvalue()), 10**6, "there")
    with pytest.raises(Corrupt):
        wire.unpack_hdf5(b"no file", 1000, "there")
    assert not (tmp_path / "harmed").exists()
    for protocol in (2, 3, 4, 5):
        data = voxels((3, 4, 5), "uint16")
        assert np.array_equal(wire.unpack_blosc(packed(pickle.dumps(data, protocol)), data.nbytes, "here"), data)

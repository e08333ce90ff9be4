"""N5: the contract, and the conventions of Paintera, n5-viewer, BigDataViewer and COSEM; z5py and tensorstore as witnesses."""

from __future__ import annotations

import functools
import itertools
import json
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorstore
import z5py

import ndbatch as nb
from ndbatch.errors import Corrupt, Denied, NotFound, PlanError, RemoteError
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.memory import MemoryVolume
from ndbatch.remotes.n5 import nodes as n5_nodes
from ndbatch.remotes.n5.volume import DTYPES as N5_DTYPES
from ndbatch.remotes.n5.volume import N5Volume
from ndbatch.testing import VolumeSuite
from ndbatch.testing.volumes import TICK, voxels


def dataset(path: Path | str, key: str, data: Array, chunks: tuple[int, ...], **attributes: Any) -> None:
    """Write a dataset with z5py, which names axes C-order and stores them turned."""
    file = z5py.File(str(path), "a", use_zarr_format=False)
    made = file.create_dataset(key, data=data, chunks=chunks, compression="gzip")
    for name, value in attributes.items():
        made.attrs[name] = value


class TestN5(VolumeSuite):
    """A multiscale group at the root of a container."""

    dtypes: ClassVar[tuple[str, ...]] = (*VolumeSuite.dtypes, "int8", "uint16", "int32", "int64", "float64")

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/cells.n5"

    def write_raw(self, url: str, data: Array) -> None:
        dataset(parse(url).path, "s0", data, self.chunks)

    def read_raw(self, url: str) -> Array:
        return self.read_raw_level(url, 0)

    def read_raw_level(self, url: str, level: int) -> Array:
        return np.asarray(z5py.File(parse(url).path, "r")[f"s{level}"][:])


class TestN5Inside(TestN5):
    """A group in a container that holds another one; other processes do with it what they do in `TestN5`."""

    test_another_process_reads_it = None
    test_processes_write_at_once = None

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        dataset(tmp_path / "many.n5", "other", np.ones((2, 3), "uint8"), (2, 3))
        return f"{tmp_path}/many.n5::/volumes/raw?compression=zstd"

    def write_raw(self, url: str, data: Array) -> None:
        dataset(parse(url).path, "volumes/raw", data, self.chunks)

    def read_raw_level(self, url: str, level: int) -> Array:
        pytest.skip("z5py has no zstd for N5")


class TestN5Dataset(TestN5):
    """A single dataset, by a path inside a container; other processes do with it what they do in `TestN5`."""

    test_another_process_reads_it = None
    test_processes_write_at_once = None

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/one.n5/seg?format=dataset&compression=blosc"

    def write_raw(self, url: str, data: Array) -> None:
        path = Path(parse(url).path)
        dataset(path.parent, path.name, data, self.chunks)

    def read_raw(self, url: str) -> Array:
        path = Path(parse(url).path)
        return np.asarray(z5py.File(str(path.parent), "r")[path.name][:])

    def keeps_levels(self, volume: Any) -> bool:
        return False


def group(path: Path, name: str = "", **attributes: Any) -> None:
    """Merge attributes into those of a folder, as any program would."""
    file = path / name / "attributes.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **attributes}))


def pyramid(path: Path, prefix: str, data: Array, *steps: tuple[int, int, int], **attributes: Any) -> None:
    """Write s0, s1 ... with factors z, y, x to `prefix`, and attributes to all but the first."""
    for level, step in enumerate(((1, 1, 1), *steps)):
        part = data[tuple(slice(None, None, s) for s in step)]
        more = {"downsamplingFactors": list(step[::-1]), **attributes} if level else {}
        dataset(path, f"{prefix}s{level}", part, (4, 8, 8), **more)


DATA = voxels((8, 24, 36), "uint16")


def levels(url: str, *steps: tuple[int, int, int], size: tuple[float, ...] | None, offset: tuple[int, ...]) -> None:
    """Check each level's voxels, voxel size and place; the offset is that of level 0."""
    for level, step in enumerate(((1, 1, 1), *steps)):
        volume = nb.open(url, level=level)
        assert np.array_equal(volume[...], DATA[tuple(slice(None, None, s) for s in step)])
        assert (volume.levels, volume.spec.level, volume.axes) == (len(steps) + 1, level, "zyx")
        scaled = None if size is None else pytest.approx(tuple(s * f for s, f in zip(size, step, strict=True)))
        assert volume.voxel_size == scaled
        assert volume.offset == tuple(o // f for o, f in zip(offset, step, strict=True))


STEPS = ((1, 2, 2), (2, 4, 4))


def test_paintera(tmp_path: Path) -> None:
    """Attributes of a source, its levels below `data`; resolution and offset are x, y, z; maxId says labels."""
    path = tmp_path / "p.n5"
    pyramid(path, "cells/data/", DATA, *STEPS)
    group(path, "cells", painteraData={"type": "label"}, maxId=77)
    where = {"resolution": [0.2, 0.2, 0.5], "offset": [2.4, 0.8, 1.0], "unit": "micrometer"}
    group(path, "cells/data", multiScale=True, maxId=77, **where)
    for url in (f"{path}/cells", f"{path}/cells/data", f"{path}::/cells"):
        levels(url, *STEPS, size=(0.5, 0.2, 0.2), offset=(2, 4, 12))
        assert nb.open(url).kind == "labels"
    nb.open(f"{path}/cells").set_attributes({"maxId": 99, "run": "one"})
    found = json.loads((path / "cells/data/attributes.json").read_text())
    assert (found["maxId"], found["ndbatch"], found["resolution"]) == (99, {"run": "one"}, where["resolution"])
    assert nb.open(f"{path}/cells").attributes == {"maxId": 99, "run": "one"}
    made = nb.create(
        f"{path}/cells?level=3", shape=(2, 3, 5), offset=(0, 0, 1), dtype="uint16", voxel_size=(2.0, 1.6, 1.6)
    )
    assert (made.levels, made.offset, made.voxel_size) == (4, (0, 0, 1), pytest.approx((2.0, 1.6, 1.6)))
    kept = json.loads((path / "cells/data/attributes.json").read_text())
    assert {**kept, "ndbatch": None} == {**found, "ndbatch": None}
    assert json.loads((path / "cells/data/s3/attributes.json").read_text())["downsamplingFactors"] == [8, 8, 4]


def test_label_multisets_are_no_voxels(tmp_path: Path) -> None:
    dataset(tmp_path / "p.n5", "cells/s0", DATA.astype("uint8"), (4, 8, 8), isLabelMultiset=True)
    with pytest.raises(RemoteError, match="label multisets"):
        nb.open(f"{tmp_path}/p.n5/cells")


def test_a_codec_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    dataset(tmp_path / "l.n5", "s0", DATA, (4, 8, 8))
    group(tmp_path / "l.n5", "s0", compression={"type": "lz4", "blockSize": 65536})
    with pytest.raises(RemoteError, match="compressed with lz4, which cannot be read here"):
        nb.open(f"{tmp_path}/l.n5")


@pytest.mark.parametrize("where", ["group", "root", "datasets"])
def test_n5_viewer(tmp_path: Path, where: str) -> None:
    """Scales and resolution of the channel's group, of the root, or of every dataset."""
    path, pixel = tmp_path / "v.n5", {"unit": "um", "dimensions": [0.097, 0.097, 0.18]}
    pyramid(path, "c0/", DATA, *STEPS, **({"pixelResolution": pixel} if where == "datasets" else {}))
    if where == "datasets":
        group(path, "c0/s0", pixelResolution=pixel)
    else:
        group(path, "c0" if where == "group" else "", scales=[[1, 1, 1], [2, 2, 1], [4, 4, 2]], pixelResolution=pixel)
        for level in (1, 2):  # the group's word counts
            group(path, f"c0/s{level}", downsamplingFactors=[9, 9, 9])
    levels(f"{path}/c0", *STEPS, size=(0.18, 0.097, 0.097), offset=(0, 0, 0))
    assert nb.open(f"{path}/c0/s1").spec == nb.open(f"{path}/c0", level=1).spec
    with pytest.raises(NotFound, match=r"holds c0; write one of them, such as .*v\.n5/c0"):
        nb.open(path)


def test_bigdataviewer(tmp_path: Path) -> None:
    """Factors stand above the time point that has the resolution, which has no unit."""
    path = tmp_path / "dataset.n5"
    pyramid(path, "setup00/timepoint00000/", DATA, *STEPS)
    group(path, "setup00", downsamplingFactors=[[1, 1, 1], [2, 2, 1], [4, 4, 2]], dataType="uint16")
    group(path, "setup00/timepoint00000", multiScale=True, resolution=[0.2, 0.2, 0.5])
    levels(f"{path}/setup00/timepoint00000", *STEPS, size=None, offset=(0, 0, 0))


@pytest.mark.parametrize("named", [True, False])
def test_cosem(tmp_path: Path, named: bool) -> None:
    """Transforms are C-order, in nanometres, of centres: half a voxel further on at each level."""
    path = tmp_path / "jrc.n5"
    pyramid(path, "em/", DATA, *STEPS)
    transforms: list[dict[str, Any]] = []
    for step in ((1, 1, 1), *STEPS):
        size = [f * s for f, s in zip(step, (500, 200, 200), strict=True)]
        moved = [o * s + (f - 1) / 2 * s for o, f, s in zip((2, 4, 8), step, (500, 200, 200), strict=True)]
        axes = {"axes": list("zyx")} if named else {}
        transforms.append({**axes, "scale": size, "translate": moved, "units": ["nm"] * 3})
    entries = [{"path": f"s{level}", "transform": one} for level, one in enumerate(transforms)]
    group(path, "em", multiscales=[{"name": "em", "datasets": entries}])
    levels(f"{path}/em", *STEPS, size=(0.5, 0.2, 0.2), offset=(2, 4, 8))
    made = nb.create(
        f"{path}/em?level=3", shape=(2, 3, 5), offset=(0, 0, 1), dtype="uint16", voxel_size=(2.0, 1.6, 1.6)
    )
    assert (made.offset, made.voxel_size) == ((0, 0, 1), pytest.approx((2.0, 1.6, 1.6)))
    last = json.loads((path / "em/attributes.json").read_text())["multiscales"][0]["datasets"][-1]
    assert last["path"] == "s3"
    assert last["transform"]["axes"] == ["z", "y", "x"]
    assert last["transform"]["translate"] == pytest.approx([750, 700, 2300])
    assert last["transform"]["units"] == ["nm"] * 3


def test_a_level_with_a_resolution_of_its_own(tmp_path: Path) -> None:
    """Without factors it is the level's; so COSEM's older files have it."""
    for level, step in enumerate(((1, 1, 1), (1, 2, 2))):
        part = DATA[tuple(slice(None, None, s) for s in step)]
        pixel = {"unit": "nm", "dimensions": [4 * step[2], 4 * step[1], 5]}
        dataset(tmp_path / "r.n5", f"s{level}", part, (4, 8, 8), pixelResolution=pixel)
    levels(f"{tmp_path}/r.n5", (1, 2, 2), size=(0.005, 0.004, 0.004), offset=(0, 0, 0))


def test_axes_by_name_and_by_option(tmp_path: Path) -> None:
    path = tmp_path / "a.n5"
    dataset(path, "image", DATA[None].repeat(2, 0), (1, 4, 8, 8), axes=list("xyzc"), units=["nm", "nm", "nm", ""],
            resolution=[4, 4, 5, 1], coordinateArrays={"c": ["DAPI", "GFP"]})  # fmt: skip
    image = nb.open(f"{path}/image")
    assert (image.axes, image.shape, image.channels) == ("czyx", (2, 8, 24, 36), ("DAPI", "GFP"))
    assert image.voxel_size == pytest.approx((1, 0.005, 0.004, 0.004))
    assert np.array_equal(nb.open(f"{path}/image?c=GFP")[...], DATA)
    dataset(path, "turned", DATA, (4, 8, 8), axes=list("zyx"))
    turned = nb.open(f"{path}/turned")
    assert np.array_equal(turned[...], DATA.T)
    assert np.array_equal(nb.open(f"{path}/turned", axes="xyz")[...], DATA)
    turned.write(turned.domain, DATA.T + 1)
    assert np.array_equal(z5py.File(str(path), "r")["turned"][:], DATA + 1)


@pytest.mark.parametrize("axes", ["x", "yx", "zyx", "czyx", "tczyx"])
@pytest.mark.parametrize("form", ["group", "dataset"])
def test_every_number_of_axes(tmp_path: Path, axes: str, form: str) -> None:
    shape = (2, 3, 5, 7, 11)[-len(axes) :]
    data = voxels(shape, "int32")
    url = f"{tmp_path}/n.n5?format={form}"
    offset = {axis: place for place, axis in enumerate(axes) if axis in "zyx"}
    volume = nb.create(url, shape=shape, axes=axes, dtype="int32", offset=offset, chunks=(2,) * len(axes))
    volume.write(volume.domain, data)
    again = nb.open(url)
    assert (again.axes, again.offset, again.voxel_size) == (axes, volume.offset, None)
    assert again.offset == tuple(offset.get(axis, 0) for axis in axes)
    assert np.array_equal(again[...], data)
    stored = tmp_path / ("n.n5/s0" if form == "group" else "n.n5")
    witness = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{stored}/"}}
    assert np.array_equal(tensorstore.open(witness).result().read().result(), data.T)
    assert json.loads((stored / "attributes.json").read_text())["axes"] == list(axes[::-1])


@pytest.mark.parametrize("compression", ["gzip", "zstd", "blosc", "bzip2", "xz", "raw"])
def test_compressions(tmp_path: Path, compression: str) -> None:
    volume = nb.create(f"{tmp_path}/c.n5?compression={compression}", like=nb.open("memory://n5"), chunks=(4, 8, 8))
    volume.write(volume.domain, DATA)
    assert np.array_equal(nb.open(f"{tmp_path}/c.n5")[...], DATA)
    assert json.loads((tmp_path / "c.n5/s0/attributes.json").read_text())["compression"]["type"] == compression
    nb.create(f"{tmp_path}/c.n5?level=1", shape=(4, 12, 18), dtype="uint16")
    assert json.loads((tmp_path / "c.n5/s1/attributes.json").read_text())["compression"]["type"] == compression


@pytest.fixture(autouse=True)
def source() -> Iterator[None]:
    MemoryVolume.of("n5", DATA, voxel_size=(0.5, 0.2, 0.2))
    yield
    MemoryVolume.delete(parse("memory://n5"))


def test_what_is_written_for_others(tmp_path: Path) -> None:
    """Each convention in its own words, all of the same places."""
    nb.create(f"{tmp_path}/w.n5/em", like=nb.open("memory://n5"), offset=(2, 4, 7))
    nb.create(f"{tmp_path}/w.n5/em?level=1", shape=(8, 12, 19), offset=(2, 2, 3), dtype="uint16",
              voxel_size=(0.5, 0.4, 0.4))  # fmt: skip
    assert "n5" in json.loads((tmp_path / "w.n5/attributes.json").read_text())
    found = json.loads((tmp_path / "w.n5/em/attributes.json").read_text())
    assert found["multiScale"] is True
    assert (found["axes"], found["units"]) == (["x", "y", "z"], ["um"] * 3)
    assert found["resolution"] == [0.2, 0.2, 0.5]
    assert found["offset"] == pytest.approx([1.4, 0.8, 1.0])
    assert found["scales"] == [[1, 1, 1], [2, 2, 1]]
    first, second = (entry["transform"] for entry in found["multiscales"][0]["datasets"])
    assert first["translate"] == pytest.approx([1.0, 0.8, 1.4])
    assert second["translate"] == pytest.approx([1.0, 0.9, 1.3])  # voxel 3 covers 6 and 7, whose centre is 6.5
    assert second["scale"] == pytest.approx([0.5, 0.4, 0.4])
    own = json.loads((tmp_path / "w.n5/em/s1/attributes.json").read_text())
    assert own["downsamplingFactors"] == [2, 2, 1]
    assert own["transform"] == second


@pytest.mark.parametrize(
    ("url", "more", "sentence"),
    [
        ("n.n5", {"dtype": "bool"}, "N5 cannot hold bool"),
        ("n.n5", {"dtype": "float16"}, "N5 cannot hold float16"),
        ("n.n5", {"shards": (4, 8)}, "N5 has no shards"),
        ("n.n5?compression=lz4", {}, "use gzip, zstd"),
        ("n.n5?format=ome", {}, "use group or dataset"),
        ("n.n5?axes=yx", {}, "axes is for reading"),
        ("n.n5?level=1&format=dataset", {}, "a single dataset has no levels"),
        ("n.n5?level=1", {}, "no level 0 to append to"),
    ],
)
def test_what_cannot_be_created(tmp_path: Path, url: str, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        nb.create(f"{tmp_path}/{url}", **{"shape": (8, 8), "chunks": (2, 2), **more})
    assert not (tmp_path / "n.n5").exists()


def test_an_append_that_is_killed_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The array is there, the group does not name it: the volume has its old levels, and the new one the second time."""
    url, whole, written = f"{tmp_path}/k.n5", n5_nodes.write, []
    nb.create(url, like=nb.open("memory://n5"))

    def killed(node: Any, document: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(node)
        whole(node, document)

    monkeypatch.setattr(n5_nodes, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        nb.create(f"{url}?level=1", shape=(4, 12, 18), dtype="uint16")
    monkeypatch.setattr(n5_nodes, "write", whole)
    assert nb.open(url).levels == 1
    assert nb.create(f"{url}?level=1", shape=(4, 6, 9), dtype="uint16").shape == (4, 6, 9)
    dataset(tmp_path / "k.n5", "s2", DATA, (4, 8, 8))
    with pytest.raises(RemoteError, match="is there already, and is no level; remove it"):
        nb.create(f"{url}?level=2", shape=(2, 6, 9), dtype="uint16")


def test_damage_is_named(tmp_path: Path) -> None:
    url = f"{tmp_path}/d.n5"
    volume = nb.create(url, like=nb.open("memory://n5"), chunks=(4, 8, 8))
    volume.write(volume.domain, DATA)
    chunk = tmp_path / "d.n5/s0/2/1/0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(Corrupt, match="2/1/0"):
        nb.open(url).read(volume.domain)
    chunk.unlink()
    assert not nb.open(url)[:4, 8:16, 16:24].any()
    strict = nb.open(f"{url}?missing=error")
    with pytest.raises(NotFound, match="2/1/0"):
        strict.read(strict.domain)
    for text in ("{", "[]", '{"multiscales": [{"datasets": [{}]}]}'):
        (tmp_path / "d.n5/attributes.json").write_text(text)
        with pytest.raises(Corrupt, match=r"d\.n5.* damaged"):
            nb.open(url)
    (tmp_path / "d.n5/attributes.json").unlink()
    group(tmp_path / "d.n5", "s0", transform={"scale": [0, 1, 1]})
    with pytest.raises(Corrupt, match="attributes are damaged"):
        nb.open(url)


def test_only_n5_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.n5").mkdir()
    (tmp_path / "mine.n5/thesis.txt").write_text("years of work")
    with pytest.raises(RemoteError, match="is not N5; it is not removed"):
        N5Volume.delete(parse(f"{tmp_path}/mine.n5"))
    assert (tmp_path / "mine.n5/thesis.txt").exists()
    dataset(tmp_path / "both.n5", "a", DATA, (4, 8, 8))
    dataset(tmp_path / "both.n5", "b", DATA, (4, 8, 8))
    N5Volume.delete(parse(f"{tmp_path}/both.n5/a"))
    assert np.array_equal(nb.open(f"{tmp_path}/both.n5/b")[...], DATA)
    with pytest.raises(NotFound, match="did you mean"):
        nb.open(f"{tmp_path}/bothh.n5")


def test_a_version_is_of_voxels(tmp_path: Path) -> None:
    url = f"{tmp_path}/v.n5"
    volume = nb.create(url, like=nb.open("memory://n5"), chunks=(4, 8, 8))
    versions = [volume.version()]
    for values in (DATA, DATA + 1):
        time.sleep(TICK)
        volume.write(volume.domain, values)
        versions.append(volume.version())
        volume.set_attributes({"seen": len(versions)})
        assert nb.open(url).version() == versions[-1]
    assert len(set(versions)) == 3


def test_on_a_web_server(tmp_path: Path) -> None:
    """Read where nothing can be listed; nothing is written there."""
    made = nb.create(f"{tmp_path}/w.n5/em", like=nb.open("memory://n5"), offset=(2, 4, 7), kind="labels")
    made.write(made.domain, DATA)
    nb.create(f"{tmp_path}/w.n5/em?level=1", shape=(8, 12, 18), dtype="uint16", voxel_size=(0.5, 0.4, 0.4))
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/w.n5"
            volume = nb.open(f"{url}/em")
            assert {**vars(volume.spec), "levels": 0} == {**vars(made.spec), "levels": 0}
            assert np.array_equal(volume[...], DATA)
            assert nb.open(f"{url}/em?level=1").shape == (8, 12, 18)
            with pytest.raises(NotFound, match="em2"):
                nb.open(f"{url}/em2")
            for act in (
                lambda: volume.write(volume.domain, DATA),
                lambda: nb.create(f"{url}/new", shape=(4, 4)),
                lambda: volume.set_attributes({"run": "one"}),
            ):
                with pytest.raises(Denied, match="read only"):
                    act()
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def list_directory(self, path: object) -> None:  # type: ignore[override]
        self.send_error(403)


@pytest.mark.parametrize("dtype", N5_DTYPES)
def test_round_trips(tmp_path: Path, dtype: str) -> None:
    """Odd sizes at odd places, of voxel sizes that binary fractions do not hold, extremes of the type included."""
    sizes = [(1, 1, 1), (7, 1, 13), (5, 17, 31)]
    offsets = [(0, 0, 0), (1_000_003, -7, 12), (-1, 99_999_999, 3)]
    limits: Any = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    for number, (shape, offset) in enumerate(itertools.product(sizes, offsets)):
        data = voxels(shape, dtype, seed=number)
        data.flat[0], data.flat[-1] = limits.min, limits.max
        url, size = f"{tmp_path}/{number}.n5", (0.29, 1 / 3, 1e-4)
        facts = {"offset": offset, "voxel_size": size, "kind": "labels", "chunks": (4, 4, 4)}
        volume = nb.create(url, shape=shape, dtype=dtype, **facts)
        volume.write(volume.domain, data)
        again = nb.open(url)
        assert (again.shape, again.dtype, again.offset, again.kind) == (shape, np.dtype(dtype), offset, "labels")
        assert again.voxel_size == pytest.approx(size)
        assert np.array_equal(again[...], data)

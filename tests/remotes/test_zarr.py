"""Zarr: the dialects of others, damage, laziness on disk, and what a killed or second writer may leave."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, PlanError, RemoteError
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.places.keyvalue import KeyValue
from ndbatch.remotes.zarr import nodes as zarr_nodes
from ndbatch.remotes.zarr.volume import ZarrVolume
from tests.remotes.conftest import script, unprivileged


def axes(names: str, unit: str | None = "nanometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": n, "type": kinds.get(n, "space"), **({"unit": unit} if unit and n not in "tc" else {})} for n in names
    ]


def scale(*numbers: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(numbers)}


def translation(*numbers: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(numbers)}


def pyramid(path: Path, image: Array, zarr_format: int, **more: Any) -> None:
    """Write two levels of 300 x 200 x 200 nm, the second halved in y and x and so shifted by half a voxel."""
    levels = [
        {"path": "full", "coordinateTransformations": [scale(300, 200, 200), translation(900, 0, 400)]},
        {"path": "half", "coordinateTransformations": [scale(300, 400, 400), translation(900, 100, 500)]},
    ]
    entry: dict[str, Any] = {"axes": axes("zyx"), "datasets": levels, **more}
    if zarr_format == 2:
        attributes: dict[str, Any] = {"multiscales": [{"version": "0.4", **entry}]}
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [entry]}}
    group = zarr.create_group(str(path), zarr_format=zarr_format, attributes=attributes)  # type: ignore[arg-type]
    group.create_array("full", data=image, chunks=(4, 16, 16))
    group.create_array("half", data=image[:, ::2, ::2].copy(), chunks=(4, 16, 16))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_levels_units_and_translations(tmp_path: Path, image: Array, zarr_format: int) -> None:
    pyramid(tmp_path / "p.zarr", image, zarr_format)
    full, half = nb.open(f"{tmp_path}/p.zarr"), nb.open(f"{tmp_path}/p.zarr", level=1)
    assert full.voxel_size == pytest.approx((0.3, 0.2, 0.2))
    assert half.voxel_size == pytest.approx((0.3, 0.4, 0.4))
    assert (full.offset, half.offset) == ((3, 0, 2), (3, 0, 1))
    assert (full.levels, full.spec.level, half.levels, half.spec.level) == (2, 0, 2, 1)
    assert np.array_equal(half[...], image[:, ::2, ::2])
    assert half.url.endswith("p.zarr?level=1")


def test_a_level_has_an_address_of_its_own(tmp_path: Path, image: Array) -> None:
    pyramid(tmp_path / "p.zarr", image, 3)
    by_path, by_level = nb.open(f"{tmp_path}/p.zarr/half"), nb.open(f"{tmp_path}/p.zarr?level=1")
    assert by_path.spec == by_level.spec
    assert np.array_equal(by_path[...], by_level[...])
    with pytest.raises(NotFound, match="no level 0"):
        nb.open(f"{tmp_path}/p.zarr/half", level=0)


def test_transformations_of_the_whole_image_come_last(tmp_path: Path, image: Array) -> None:
    pyramid(tmp_path / "p.zarr", image, 3, coordinateTransformations=[scale(2, 2, 2), translation(600, 400, 0)])
    volume = nb.open(f"{tmp_path}/p.zarr")
    assert volume.voxel_size == pytest.approx((0.6, 0.4, 0.4))
    assert volume.offset == (4, 1, 2)


def test_without_units_there_is_no_voxel_size(tmp_path: Path, image: Array) -> None:
    entry = {"axes": axes("zyx", None), "datasets": [{"path": "0", "coordinateTransformations": [scale(3, 2, 2)]}]}
    group = zarr.create_group(f"{tmp_path}/n.zarr", attributes={"ome": {"multiscales": [entry]}})
    group.create_array("0", data=image)
    assert nb.open(f"{tmp_path}/n.zarr").voxel_size is None
    given = nb.open({"url": f"{tmp_path}/n.zarr", "voxel_size": {"z": "300 nm", "y": "0.2 um", "x": 0.2}})
    assert given.voxel_size == pytest.approx((0.3, 0.2, 0.2))


def test_axes_stored_in_another_order_are_turned(tmp_path: Path, image: Array) -> None:
    entry = {"axes": axes("xyz"), "datasets": [{"path": "0", "coordinateTransformations": [scale(100, 200, 300)]}]}
    group = zarr.create_group(f"{tmp_path}/x.zarr", attributes={"ome": {"multiscales": [entry]}})
    group.create_array("0", data=image.T.copy(), chunks=(32, 16, 8))
    volume = nb.open(f"{tmp_path}/x.zarr")
    assert (volume.axes, volume.shape, volume.chunks) == ("zyx", (12, 40, 50), (8, 16, 32))
    assert volume.voxel_size == pytest.approx((0.3, 0.2, 0.1))
    assert np.array_equal(volume[2:5, :, 7], image[2:5, :, 7])
    volume.write(volume.domain, image + 1)
    assert np.array_equal(nb.open(f"{tmp_path}/x.zarr")[...], image + 1)
    assert np.array_equal(np.asarray(group["0"][...]), (image + 1).T)


def test_axes_can_be_told(tmp_path: Path, image: Array) -> None:
    zarr.create_array(f"{tmp_path}/t.zarr", data=image.transpose(1, 2, 0).copy())
    volume = nb.open(f"{tmp_path}/t.zarr", axes="yxz")
    assert np.array_equal(volume[...], image)
    again = nb.open(volume.url, axes=volume.axes)
    assert again.spec == volume.spec
    with pytest.raises(PlanError, match="axes=yx does not name the 3 axes"):
        nb.open(f"{tmp_path}/t.zarr", axes="yx")


def test_channels_and_times(tmp_path: Path) -> None:
    data = np.arange(2 * 3 * 4 * 5 * 6, dtype="uint16").reshape(2, 3, 4, 5, 6)
    entry = {"axes": axes("tczyx"), "datasets": [{"path": "0", "coordinateTransformations": [scale(5, 1, 3, 2, 2)]}]}
    group = zarr.create_group(f"{tmp_path}/m.zarr", attributes={"ome": {"multiscales": [entry]}})
    group.create_array("0", data=data)
    volume = nb.open(f"{tmp_path}/m.zarr")
    assert (volume.axes, volume.voxel_size) == ("tczyx", pytest.approx((1.0, 1.0, 0.003, 0.002, 0.002)))
    assert np.array_equal(volume[{"t": 1, "c": 2}], data[1, 2])


@pytest.mark.parametrize("how", [{"order": "F"}, {"chunk_key_encoding": {"name": "v2", "separator": "/"}}, {}])
def test_zarr_v2_as_others_write_it(tmp_path: Path, image: Array, how: dict[str, Any]) -> None:
    array = zarr.create_array(
        f"{tmp_path}/v2.zarr",
        shape=image.shape,
        dtype=">u2",
        chunks=(5, 16, 50),
        zarr_format=2,
        **how,
    )
    array[...] = image
    volume = nb.open(f"{tmp_path}/v2.zarr")
    assert volume.dtype.isnative
    assert np.array_equal(volume[3:9, 7:, 49], image[3:9, 7:, 49])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_created_metadata_is_ome_zarr(tmp_path: Path, version: str) -> None:
    nb.create(
        f"{tmp_path}/new.zarr?ome={version}",
        shape=(2, 8, 9, 10),
        axes="czyx",
        voxel_size={"z": "0.5 um", "y": "100 nm", "x": "100 nm"},
        offset={"y": 3},
        kind="labels",
    )
    group = zarr.open_group(f"{tmp_path}/new.zarr", mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    ome = group.attrs.asdict() if version == "0.4" else dict(group.attrs["ome"])  # type: ignore[arg-type]
    image = ome["multiscales"][0]
    assert (image if version == "0.4" else ome)["version"] == version
    assert [a["name"] for a in image["axes"]] == list("czyx")
    assert [a["type"] for a in image["axes"]] == ["channel", "space", "space", "space"]
    assert [a.get("unit") for a in image["axes"]] == [None, "micrometer", "micrometer", "micrometer"]
    first, second = image["datasets"][0]["coordinateTransformations"]
    assert first == scale(1.0, 0.5, 0.1, 0.1)
    assert second["translation"] == pytest.approx([0, 0, 0.3, 0])
    assert "image-label" in ome
    assert group[image["datasets"][0]["path"]].shape == (2, 8, 9, 10)


def test_a_label_image_joins_its_image(tmp_path: Path, image: Array) -> None:
    for zarr_format in (2, 3):
        path = tmp_path / f"i{zarr_format}.zarr"
        pyramid(path, image, zarr_format)
        for name in ("nuclei", "cells"):
            nb.create(f"{path}/labels/{name}", like=nb.open(str(path)), dtype="uint32", kind="labels")
        labels = zarr.open_group(f"{path}/labels", mode="r").attrs.asdict()
        assert (labels if zarr_format == 2 else labels["ome"])["labels"] == ["nuclei", "cells"]
        made = nb.open(f"{path}/labels/nuclei")
        assert (made.offset, made.dtype, made.kind) == ((3, 0, 2), np.dtype("uint32"), "labels")
        assert (path / "labels/nuclei/zarr.json").exists() == (zarr_format == 3)


def test_a_group_says_what_is_inside(tmp_path: Path, image: Array) -> None:
    group = zarr.create_group(f"{tmp_path}/g.zarr")
    group.create_array("raw", data=image)
    group.create_group("deep").create_array("seg", data=image)
    with pytest.raises(NotFound, match=r"holds deep/seg, raw; write one of them, such as .*g\.zarr/deep/seg"):
        nb.open(f"{tmp_path}/g.zarr")
    (tmp_path / "g.zarr/deep/nothing").mkdir()
    with pytest.raises(NotFound, match="holds no zarr array"):
        nb.open(f"{tmp_path}/g.zarr/deep/nothing")
    with pytest.raises(NotFound, match=r"did you mean .*g\.zarr"):
        nb.open(f"{tmp_path}/gg.zarr")
    with pytest.raises(NotFound, match="there is no folder"):
        nb.open(f"{tmp_path}/nowhere/gg.zarr")


def test_a_missing_level(tmp_path: Path, image: Array) -> None:
    pyramid(tmp_path / "p.zarr", image, 3)
    with pytest.raises(NotFound, match="has no level 2; its levels are 0 to 1"):
        nb.open(f"{tmp_path}/p.zarr?level=2")
    with pytest.raises(PlanError, match="level=one is not a whole number"):
        nb.open(f"{tmp_path}/p.zarr?level=one")
    shutil.rmtree(tmp_path / "p.zarr/half")
    with pytest.raises(Corrupt, match="its level 1, half, is missing"):
        nb.open(f"{tmp_path}/p.zarr?level=1")


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
@pytest.mark.parametrize("shards", [None, (8, 16, 16)])
def test_a_damaged_chunk_is_named(tmp_path: Path, image: Array, damage: str, shards: Any) -> None:
    url = f"{tmp_path}/d.zarr"
    volume = nb.create(url, shape=image.shape, dtype="uint16", chunks=(8, 16, 16), shards=shards)
    volume.write(volume.domain, image)
    chunk = tmp_path / "d.zarr/0/c/0/1/2"
    whole = chunk.read_bytes()
    chunk.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "garbage": b"U" * len(whole)}[damage])
    damaged = nb.open(url)
    with pytest.raises(Corrupt, match="c/0/1/2") as caught:
        damaged.read(damaged.domain)
    assert "\n" not in str(caught.value)
    assert "tensorstore_spec" not in str(caught.value)
    assert np.array_equal(damaged[:, :16], image[:, :16])


@pytest.mark.parametrize(
    "text", ['{"zarr_for', "[]", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": "array"}', ""]
)
def test_damaged_metadata(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.zarr").mkdir()
    (tmp_path / "d.zarr/zarr.json").write_text(text)
    with pytest.raises(Corrupt, match=r"d\.zarr"):
        nb.open(f"{tmp_path}/d.zarr")


def test_damaged_image_metadata(tmp_path: Path, image: Array) -> None:
    for entry in ({"axes": axes("zyx"), "datasets": [{}]}, {"axes": axes("yx"), "datasets": [{"path": "0"}]}):
        shutil.rmtree(tmp_path / "d.zarr", ignore_errors=True)
        group = zarr.create_group(f"{tmp_path}/d.zarr", attributes={"ome": {"multiscales": [entry]}})
        group.create_array("0", data=image)
        with pytest.raises(Corrupt, match="damaged"):
            nb.open(f"{tmp_path}/d.zarr")


def test_what_is_no_voxel_is_refused(tmp_path: Path) -> None:
    zarr.create_array(f"{tmp_path}/c.zarr", data=np.zeros((4, 4), "complex64"))
    with pytest.raises(RemoteError, match="complex64, which is no type of voxel"):
        nb.open(f"{tmp_path}/c.zarr")


def test_a_missing_chunk_is_the_fill_value_or_an_error(tmp_path: Path, image: Array) -> None:
    zarr.create_array(f"{tmp_path}/m.zarr", data=image + 1, chunks=(12, 20, 50), fill_value=9)
    os.remove(tmp_path / "m.zarr/c/0/1/0")
    assert (nb.open(f"{tmp_path}/m.zarr")[:, 20:] == 9).all()
    strict = nb.open(f"{tmp_path}/m.zarr?missing=error")
    assert np.array_equal(strict[:, :20], image[:, :20] + 1)
    with pytest.raises(NotFound, match="c/0/1/0"):
        strict.read(strict.domain)


def test_computing_a_chunk_needs_that_chunk_only(tmp_path: Path, image: Array) -> None:
    """All chunk files but one are damaged: what touched them would fail."""
    url = f"{tmp_path}/lazy.zarr"
    volume = nb.create(url, shape=image.shape, dtype="uint16", chunks=(4, 20, 25))
    volume.write(volume.domain, image)
    kept = tmp_path / "lazy.zarr/0/c/1/0/1"
    for file in (tmp_path / "lazy.zarr/0/c").rglob("*"):
        if file.is_file() and file != kept:
            file.write_bytes(b"broken")
    lazy = nb.open(url).dask()
    assert np.array_equal(lazy[4:8, :20, 25:].compute(scheduler="synchronous"), image[4:8, :20, 25:])
    with pytest.raises(Corrupt):
        lazy[4:8, :20, 24:].compute(scheduler="synchronous")


def test_the_same_voxels_are_the_same_bytes(tmp_path: Path, image: Array) -> None:
    trees = []
    for name in ("a.zarr", "b.zarr"):
        volume = nb.create(f"{tmp_path}/{name}/image", shape=image.shape, dtype="uint16", chunks=(8, 16, 16))
        for part in (slice(0, 8), slice(8, 12))[:: 1 if name == "a.zarr" else -1]:
            volume.write(nb.Box((part.start, 0, 0), (part.stop, 40, 50)), image[part])
        root = tmp_path / name
        trees.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert trees[0] == trees[1]
    assert len(trees[0]) == 3 + 2 * 3 * 4
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_killed_create_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    whole = zarr_nodes.write_json

    for failing in range(2):

        def killed(folder: KeyValue, name: str, document: Any, failing: int = failing) -> None:
            if len(written) == failing:
                raise KeyboardInterrupt
            written.append(name)
            whole(folder, name, document)

        monkeypatch.setattr(zarr_nodes, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            nb.create(f"{tmp_path}/k.zarr", shape=(4, 4, 4))
        assert not (tmp_path / "k.zarr").exists()
        written.clear()
    monkeypatch.setattr(zarr_nodes, "write_json", whole)
    assert nb.create(f"{tmp_path}/k.zarr", shape=(4, 4, 4)).shape == (4, 4, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["k.zarr"]


def test_only_zarr_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(RemoteError, match="is not zarr; it is not removed"):
        ZarrVolume.delete(parse(f"zarr://{tmp_path}/mine"))
    with pytest.raises(Conflict, match="exists already"):
        nb.create(f"zarr://{tmp_path}/mine", shape=(4, 4))
    with pytest.raises(RemoteError, match="is not zarr"):
        nb.create(f"zarr://{tmp_path}/mine", shape=(4, 4), overwrite=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    nb.create(f"{tmp_path}/i.zarr", shape=(4, 4))
    with pytest.raises(PlanError, match="a single level cannot be removed"):
        ZarrVolume.delete(parse(f"{tmp_path}/i.zarr?level=0"))


@pytest.mark.parametrize(
    ("url", "more", "sentence"),
    [
        ("n.zarr?ome=0.3", {}, "use 0.4 or 0.5"),
        ("n.zarr?format=n5", {}, "use ome or zarr"),
        ("n.zarr?level=1", {}, "no level 0 to append to"),
        ("n.zarr?axes=yx", {}, "for reading"),
        ("n.zarr?format=zarr&level=1", {}, "a plain array has no levels"),
        ("n.zarr?ome=0.4", {"shards": (4, 8)}, "has no shards"),
        ("n.zarr", {"shards": (6, 8)}, "not a whole number of chunks"),
        ("n.zarr", {"dtype": "complex64"}, "no type of voxel"),
    ],
)
def test_what_cannot_be_created(tmp_path: Path, url: str, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        nb.create(f"{tmp_path}/{url}", **{"shape": (16, 16), "chunks": (4, 4), **more})
    assert not (tmp_path / "n.zarr").exists()


def test_versions_see_chunks_and_not_attributes(tmp_path: Path, image: Array) -> None:
    url = f"{tmp_path}/v.zarr"
    volume = nb.create(url, shape=image.shape, dtype="uint16", chunks=(12, 20, 25))
    versions = [volume.version()]
    for change in ("write", "write again", "in place", "delete"):
        time.sleep(0.02)
        chunk = tmp_path / "v.zarr/0/c/0/0/0"
        if change == "in place":
            with chunk.open("r+b") as file:
                file.write(b"0123")
        elif change == "delete":
            chunk.unlink()
        else:
            volume.write(volume.domain, image + len(change))
        versions.append(volume.version())
        volume.set_attributes({"seen": change})
        assert nb.open(url).version() == versions[-1]
    assert len(set(versions)) == 5


def test_no_permission(tmp_path: Path, image: Array) -> None:
    volume = nb.create(f"{tmp_path}/p.zarr", shape=image.shape, dtype="uint16", chunks=(12, 40, 50))
    volume.write(volume.domain, image)
    os.chmod(tmp_path / "p.zarr/0/c/0/0/0", 0o000)
    os.chmod(tmp_path / "p.zarr/0/c/0/0", 0o500)
    with unprivileged():
        for act in (
            lambda: volume.read(volume.domain),
            lambda: volume.write(volume.domain, image),
            lambda: nb.open(f"{tmp_path}/p.zarr").read(volume.domain),
            lambda: nb.create(f"{tmp_path}/p.zarr/0/c/0/0/new.zarr", shape=(3, 3)),
        ):
            with pytest.raises(Denied, match=r"p\.zarr"):
                act()
    os.chmod(tmp_path / "p.zarr/0/c/0/0", 0o700)


def test_no_room(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: the write fails in the same place."""
    said = script(
        """
volume = nb.create(sys.argv[1], shape=(64, 64, 64), dtype="uint8")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    volume.write(volume.domain, np.random.default_rng(0).integers(0, 255, (64, 64, 64), "uint8"))
except nb.NdbatchError as error:
    print(type(error).__name__, error)
""",
        f"{tmp_path}/full.zarr",
    )
    assert said.startswith("NoRoom")
    assert "no room to write" in said


def test_a_forked_process_is_told_to_spawn(tmp_path: Path) -> None:
    said = script(
        """
import os, warnings
volume = nb.create(sys.argv[1], shape=(8, 8, 8))
warnings.simplefilter("ignore")
if os.fork() == 0:
    try:
        volume.read(volume.domain)
    except nb.NdbatchError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
""",
        f"{tmp_path}/f.zarr",
    )
    assert "use" in said
    assert "spawn" in said


def test_attributes_that_are_ndbatchs_own(tmp_path: Path) -> None:
    volume = nb.create(f"{tmp_path}/a.zarr", shape=(4, 4), kind="labels")
    with pytest.raises(RemoteError, match="ndbatch's own"):
        volume.set_attributes({"kind": "image"})
    volume.set_attributes({"run": "one"})
    document = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    assert document["attributes"]["ndbatch"] == {"kind": "labels", "run": "one"}

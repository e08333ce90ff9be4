"""OME-Zarr beside the readers, writers and validators of others: ome-zarr, ngff-zarr and zarr-python."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import ngff_zarr
import numcodecs
import numpy as np
import pytest
import zarr
from ngff_zarr.validate import validate

import ndbatch as nb
from ndbatch.errors import PlanError, RemoteError
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array, Volume
from ndbatch.remotes.registry import store_class
from ndbatch.remotes.zarr import nodes as zarr_nodes

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # ome-zarr uses what it deprecates while it is imported
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr.writer import write_image, write_labels

SHAPES = {"yx": (37, 45), "zyx": (9, 37, 45), "czyx": (2, 9, 37, 45), "tczyx": (2, 3, 9, 37, 45)}
OMERO = {"channels": [{"label": "DAPI", "color": "0000FF", "window": {"start": 1, "end": 9, "min": 0, "max": 20}}]}


def numbered(shape: tuple[int, ...], dtype: Any = "uint16") -> Array:
    return np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)


def written(url: str, axes: str, **more: Any) -> list[Array]:
    """Write two levels of an image at `url`, the second halved in y and x, and return their voxels."""
    shape = SHAPES[axes]
    names = {"z": "290 nm", "y": "0.26 um", "x": "0.26 um"}
    chunks = tuple(min(n, 16) for n in shape)
    coarse = (*shape[:-2], 19, 23)
    pair = (1.0,) * (len(shape) - 2)
    volume = nb.create(
        url, shape=shape, axes=axes, dtype="uint16", chunks=chunks, offset={"y": 4, "x": 7},
        voxel_size={n: names[n] for n in axes if n in names}, **more,
    )  # fmt: skip
    half = nb.create(
        f"{url}{'&' if '?' in url else '?'}level=1", shape=coarse, axes=axes, dtype="uint16", chunks=chunks,
        offset={"y": 2, "x": 3}, voxel_size=[*pair[:-1], *((0.29,) if "z" in axes else pair[:1]), 0.52, 0.52][-len(shape):],
        **more,
    )  # fmt: skip
    data = [numbered(one.shape) for one in (volume, half)]
    for one, voxels in zip((volume, half), data, strict=True):
        one.write(one.domain, voxels)
    return data


def attributes(path: Path | str) -> dict[str, Any]:
    return dict(zarr.open_group(str(path), mode="r", use_consolidated=False).attrs)


@pytest.mark.parametrize("axes", list(SHAPES))
@pytest.mark.parametrize("version", ["0.4", "0.5", "0.5 sharded"])
def test_others_read_what_is_written(tmp_path: Path, version: str, axes: str) -> None:
    more = {"shards": tuple(min(n, 16) * 2 for n in SHAPES[axes])} if "sharded" in version else {}
    path = f"{tmp_path}/i.zarr"
    data = written(f"{path}?ome={version[:3]}", axes, **more)
    validate(attributes(path), version[:3])
    seen = ngff_zarr.from_ome_zarr(path, validate=True).images
    (node,) = Reader(parse_url(path))()
    assert len(seen) == len(node.data) == 2
    for level, voxels in enumerate(data):
        assert np.array_equal(seen[level].data.compute(), voxels)
        assert np.array_equal(node.data[level].compute(), voxels)
        assert tuple(seen[level].dims) == tuple(axes)
        ours = nb.open(path, level=level)
        assert ours.voxel_size is not None
        for axis, size in zip(axes, ours.voxel_size, strict=True):
            assert seen[level].scale[axis] == pytest.approx(size)
            assert (seen[level].axes_units or {}).get(axis) == ("micrometer" if axis in "zyx" else None)
    assert seen[0].translation["x"] == pytest.approx(7 * 0.26)
    # Voxel 3 of the half covers voxels 6 and 7: its centre is half a voxel before that of voxel 7.
    assert seen[1].translation["x"] == pytest.approx(6.5 * 0.26)
    assert seen[1].translation["y"] == pytest.approx(4.5 * 0.26)


@pytest.mark.parametrize(("fmt", "form"), [(FormatV04(), 2), (FormatV05(), 3)])
def test_what_ome_zarr_wrote(tmp_path: Path, fmt: Any, form: int) -> None:
    data = numbered((2, 3, 8, 32, 48))
    path = f"{tmp_path}/o.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=form)
    write_image(
        data, group, axes="tczyx", fmt=fmt, scale_factors=[2, 4], method="nearest", omero=OMERO,
        scale={"t": 5.0, "c": 1.0, "z": 500.0, "y": 200.0, "x": 200.0},
        axes_units={"t": "second", "z": "nanometer", "y": "nanometer", "x": "nanometer"},
    )  # fmt: skip
    labels = (data[0, 0] % 7).astype("uint32")
    write_labels(labels, group, name="cells", axes="zyx", fmt=fmt, scale_factors=[2], scaler=None)
    volume = nb.open(path)
    assert (volume.axes, volume.levels, volume.dtype) == ("tczyx", 3, data.dtype)
    assert volume.voxel_size == pytest.approx((1, 1, 0.5, 0.2, 0.2))
    assert np.array_equal(volume[...], data)
    for level in (1, 2):
        coarse = nb.open(path, level=level)
        assert coarse.voxel_size == pytest.approx((1, 1, 0.5, 0.2 * 2**level, 0.2 * 2**level))
        assert coarse.offset == (0,) * 5
        assert np.array_equal(coarse[...], zarr.open_group(path)[attribute_paths(path)[level]][...])
    cells = nb.open(f"{path}/labels/cells")
    assert (cells.kind, cells.levels) == ("labels", 2)
    assert np.array_equal(cells[...], labels)


def attribute_paths(path: str) -> list[str]:
    found = attributes(path)
    return [d["path"] for d in found.get("ome", found)["multiscales"][0]["datasets"]]


@pytest.mark.parametrize(("version", "shards"), [("0.4", None), ("0.5", None), ("0.5", 2)])
def test_what_ngff_zarr_wrote(tmp_path: Path, version: str, shards: int | None) -> None:
    """And a level appended to it is read by its own reader, which trusts consolidated metadata."""
    data = numbered((16, 32, 48))
    image = ngff_zarr.to_ngff_image(
        data, dims=list("zyx"), scale={"z": 0.5, "y": 0.2, "x": 0.2}, translation={"z": 1.0, "y": 0.0, "x": 0.4},
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )  # fmt: skip
    multiscales = ngff_zarr.to_multiscales(image, scale_factors=[{"z": 1, "y": 2, "x": 2}], chunks=16)
    path = f"{tmp_path}/n.zarr"
    ngff_zarr.to_ngff_zarr(path, multiscales, version=version, chunks_per_shard=shards)
    volume, half = nb.open(path), nb.open(path, level=1)
    assert (volume.levels, volume.offset, half.offset) == (2, (2, 0, 2), (2, 0, 1))
    assert volume.voxel_size == pytest.approx((0.5, 0.2, 0.2))
    assert half.voxel_size == pytest.approx((0.5, 0.4, 0.4))
    assert np.array_equal(volume[...], data)
    made = nb.create(f"{path}?level=2", shape=(8, 8, 12), dtype="uint16", offset=(1, 0, 0), voxel_size=(1.0, 0.8, 0.8))
    made.write(made.domain, numbered((8, 8, 12)))
    seen = ngff_zarr.from_ome_zarr(path, validate=True).images
    assert [tuple(one.data.shape) for one in seen] == [(16, 32, 48), (16, 16, 24), (8, 8, 12)]
    assert np.array_equal(seen[2].data.compute(), numbered((8, 8, 12)))
    assert seen[2].scale == pytest.approx({"z": 1.0, "y": 0.8, "x": 0.8})
    assert seen[2].translation == pytest.approx({"z": 1.25, "y": 0.3, "x": 0.3})
    assert np.array_equal(zarr.open_group(path)[attribute_paths(path)[2]][...], numbered((8, 8, 12)))


def image_of(path: Path, data: Array, axes: str, unit: str | None, **more: Any) -> str:
    """Write an image of one level, 200 x 100 x 50 (by axis name), that begins at 400 along z, with zarr-python."""
    steps, starts = {"z": 200.0, "y": 100.0, "x": 50.0, "c": 1.0}, {"z": 400.0}
    named = [
        {"name": n, "type": "channel" if n == "c" else "space", **({"unit": unit} if unit and n != "c" else {})}
        for n in axes
    ]
    transforms = [
        {"type": "scale", "scale": [steps[n] for n in axes]},
        {"type": "translation", "translation": [starts.get(n, 0.0) for n in axes]},
    ]
    entry = {"axes": named, "datasets": [{"path": "s0", "coordinateTransformations": transforms}], **more}
    group = zarr.create_group(str(path), attributes={"ome": {"version": "0.5", "multiscales": [entry], "omero": OMERO}})
    group.create_array("s0", data=data, chunks=tuple(min(n, 8) for n in data.shape))
    return str(path)


def appended(path: str, spec: dict[str, Any]) -> tuple[Volume, list[dict[str, Any]]]:
    """Append level 1 and return it and the transformations that were written."""
    made = nb.create(f"{path}?level=1", dtype="uint16", **spec)
    made.write(made.domain, numbered(made.shape))
    return nb.open(path, level=1), attributes(path)["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]


def test_a_level_in_the_units_and_order_of_the_file(tmp_path: Path) -> None:
    path = image_of(tmp_path / "x.zarr", numbered((12, 10, 8, 2)), "xyzc", "nanometer")
    spec = {"axes": "czyx", "shape": (2, 4, 5, 6), "chunks": (1, 4, 5, 3), "offset": {"z": 1}}
    half, steps = appended(path, {**spec, "voxel_size": {"z": "0.4 um", "y": "200 nm", "x": "100 nm"}})
    assert steps == [
        {"type": "scale", "scale": [100.0, 200.0, 400.0, 1.0]},
        {"type": "translation", "translation": [25.0, 50.0, 500.0, 0.0]},
    ]
    assert (half.axes, half.shape, half.chunks, half.offset) == ("czyx", (2, 4, 5, 6), (1, 4, 5, 3), (0, 1, 0, 0))
    stored = zarr.open_group(path)["s1"]
    assert (stored.shape, stored.chunks) == ((6, 5, 4, 2), (3, 5, 4, 1))
    assert np.array_equal(stored[...], numbered((2, 4, 5, 6)).transpose(3, 2, 1, 0))
    assert attributes(path)["ome"]["omero"] == OMERO


def test_a_level_under_transformations_of_the_whole_image(tmp_path: Path) -> None:
    whole = [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation", "translation": [800, 0, 0]}]
    path = image_of(tmp_path / "w.zarr", numbered((8, 10, 12)), "zyx", "nanometer", coordinateTransformations=whole)
    full = nb.open(path)
    assert (full.offset, full.voxel_size) == ((4, 0, 0), pytest.approx((0.4, 0.2, 0.1)))
    half, steps = appended(path, {"shape": (4, 5, 6), "offset": (2, 0, 0), "voxel_size": (0.8, 0.4, 0.2)})
    assert (half.offset, half.voxel_size) == ((2, 0, 0), pytest.approx((0.8, 0.4, 0.2)))
    assert steps[0]["scale"] == pytest.approx([400, 200, 100])
    assert steps[1]["translation"] == pytest.approx([500, 50, 25])


def test_a_level_of_an_image_without_units(tmp_path: Path) -> None:
    """The factor is that of the extents: 8 of (2 to 10) and 4 of (1 to 5)."""
    path = image_of(tmp_path / "u.zarr", numbered((8, 9, 12)), "zyx", None)
    half, steps = appended(path, {"shape": (4, 3, 12), "offset": (1, 0, 0)})
    assert half.voxel_size is None
    assert steps[0]["scale"] == [400.0, 300.0, 50.0]
    assert steps[1]["translation"] == [500.0, 100.0, 0.0]
    assert half.offset == (1, 0, 0)


def test_units_of_length(tmp_path: Path) -> None:
    lengths = {"angstrom": 1e-4, "picometer": 1e-6, "millimeter": 1e3, "inch": 25400, "parsec": None}
    for unit, length in lengths.items():
        found = nb.open(image_of(tmp_path / f"{unit}.zarr", numbered((2, 3, 4)), "zyx", unit)).voxel_size
        assert found == (None if length is None else pytest.approx((200 * length, 100 * length, 50 * length)))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_append_that_is_killed_can_be_repeated(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written by then, the image has its old levels, and the new one the second time."""
    whole = zarr_nodes.write_json
    for failing in itertools.count():
        path = f"{tmp_path}/k{failing}.zarr"
        (data,) = [numbered((4, 6))]
        volume = nb.create(f"{path}?ome={version}", shape=(4, 6), dtype="uint16")
        volume.write(volume.domain, data)
        calls = itertools.count()

        def killed(*file: Any, calls: Any = calls, failing: int = failing, whole: Any = whole) -> None:
            if next(calls) == failing:
                raise KeyboardInterrupt
            whole(*file)

        monkeypatch.setattr(zarr_nodes, "write_json", killed)
        try:
            nb.create(f"{path}?level=1", shape=(2, 3), dtype="uint16")
            break
        except KeyboardInterrupt:
            monkeypatch.setattr(zarr_nodes, "write_json", whole)
            assert nb.open(path).levels == 1
            assert np.array_equal(nb.open(path)[...], data)
            assert nb.create(f"{path}?level=1", shape=(2, 3), dtype="uint16").spec.level == 1
            assert sorted(p.name for p in Path(path).iterdir() if p.is_dir()) == ["0", "1"]
    assert failing >= 2


def test_what_is_not_named_is_not_replaced(tmp_path: Path) -> None:
    nb.create(f"{tmp_path}/i.zarr", shape=(4, 6))
    zarr.create_array(f"{tmp_path}/i.zarr/1", data=numbered((2, 3), "uint8"))
    with pytest.raises(RemoteError, match="does not name; remove it"):
        nb.create(f"{tmp_path}/i.zarr?level=1", shape=(2, 3))
    assert np.array_equal(zarr.open_array(f"{tmp_path}/i.zarr/1")[...], numbered((2, 3), "uint8"))
    assert nb.open(f"{tmp_path}/i.zarr").levels == 1


def test_levels_only_where_there_is_an_image(tmp_path: Path) -> None:
    zarr.create_array(f"{tmp_path}/a.zarr", data=numbered((4, 6)))
    with pytest.raises(PlanError, match="a single array has no levels"):
        nb.create(f"{tmp_path}/a.zarr?level=1", shape=(2, 3), dtype="uint16")
    nb.create(f"{tmp_path}/b.zarr", shape=(4, 6))
    with pytest.raises(PlanError, match="leave ome out"):
        nb.create(f"{tmp_path}/b.zarr?level=1&ome=0.4", shape=(2, 3))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_are_found_from_their_image(tmp_path: Path, version: str) -> None:
    path = f"{tmp_path}/i.zarr"
    written(f"{path}?ome={version}", "zyx")
    made = nb.create(f"{path}/labels/cells", like=nb.open(path), dtype="uint32", kind="labels")
    data = numbered(made.shape, "uint32")
    made.write(made.domain, data)
    coarse = {"shape": (9, 19, 23), "offset": {"y": 2, "x": 3}, "voxel_size": (0.29, 0.52, 0.52)}
    nb.create(f"{path}/labels/cells?level=1", dtype="uint32", kind="labels", **coarse)
    found = attributes(f"{path}/labels/cells")
    validate(found, version, model="label")
    assert found.get("ome", found)["image-label"] == {"version": version, "source": {"image": "../../"}}
    nodes = {Path(node.zarr.basename()).name: node for node in Reader(parse_url(path))()}
    assert np.array_equal(nodes["cells"].data[0].compute(), data)
    assert [one.shape for one in nodes["cells"].data] == [(9, 37, 45), (9, 19, 23)]
    assert nb.open(f"{path}/labels/cells", level=1).kind == "labels"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_display_settings_are_kept(tmp_path: Path, version: str) -> None:
    """They travel as the attribute omero, are written where viewers look, and outlive levels and other attributes."""
    source = image_of(tmp_path / "s.zarr", numbered((1, 4, 6)), "cyx", "micrometer")
    assert nb.open(source).attributes == {"omero": OMERO}
    path = f"{tmp_path}/d.zarr"
    volume = nb.create(f"{path}?ome={version}", like=nb.open(source))
    volume.set_attributes(nb.open(source).attributes)
    nb.create(f"{path}?level=1", axes="cyx", shape=(1, 2, 3), dtype="uint16")
    volume.set_attributes({"run": "one"})
    again = nb.open(path)
    assert again.attributes == {"omero": OMERO, "run": "one"}
    assert again.channels == ("DAPI",)
    found = attributes(path)
    assert found.get("ome", found)["omero"] == OMERO
    assert found["ndbatch"] == {"kind": "image", "run": "one"}
    validate(found, version)


CODECS: dict[str, dict[str, Any]] = {
    "blosc v2": {"zarr_format": 2, "compressors": numcodecs.Blosc(cname="lz4", shuffle=2)},
    "zstd v2": {"zarr_format": 2, "compressors": numcodecs.Zstd(level=3)},
    "gzip v2": {"zarr_format": 2, "compressors": numcodecs.GZip(level=5)},
    "raw v2": {"zarr_format": 2, "compressors": None},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle")},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=3, checksum=True)},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=5)},
    "raw": {"compressors": None},
    "sharded": {"shards": (8, 32, 32), "compressors": zarr.codecs.ZstdCodec()},
    "turned": {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
    "big end": {"serializer": zarr.codecs.BytesCodec(endian="big")},
}


@pytest.mark.parametrize("how", list(CODECS))
@pytest.mark.parametrize("separator", [".", "/"])
def test_codecs_and_separators(tmp_path: Path, how: str, separator: str) -> None:
    """Of zarr v2 and v3, as zarr-python writes them; what is missing is the fill value."""
    data = numbered((9, 37, 45), "int32")
    path = f"{tmp_path}/a.zarr"
    name = "v2" if CODECS[how].get("zarr_format") == 2 else "default"
    array = zarr.create_array(
        path, shape=data.shape, dtype="int32", chunks=(4, 16, 16), fill_value=-7,
        chunk_key_encoding={"name": name, "separator": separator}, **CODECS[how],
    )  # fmt: skip
    array[:, :32] = data[:, :32]
    volume = nb.open(path)
    assert volume.chunks == (4, 16, 16)
    assert np.array_equal(volume[:, :32], data[:, :32])
    assert (volume[:, 32:] == -7).all()
    volume.write(volume.domain, data)
    assert np.array_equal(zarr.open_array(path)[...], data)


@pytest.mark.parametrize("dtype", ["|b1", "|i1", ">i2", "<u4", ">u8", "<i8", "<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_of_zarr_v2(tmp_path: Path, dtype: str, order: str) -> None:
    data = numbered((3, 7, 11), dtype) % 50 if dtype != "|b1" else numbered((3, 7, 11)) % 3 == 0
    array = zarr.create_array(
        f"{tmp_path}/a.zarr", shape=data.shape, dtype=dtype, chunks=(2, 4, 4), zarr_format=2, order=order
    )
    array[...] = data
    document = json.loads((tmp_path / "a.zarr/.zarray").read_text())
    assert (document["dtype"], document["order"]) == (dtype, order)
    volume = nb.open(f"{tmp_path}/a.zarr")
    assert volume.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(volume[...], data)


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("how", ["?ome=0.4", "?ome=0.5", "?format=zarr"])
def test_round_trips(tmp_path: Path, dtype: str, how: str) -> None:
    """Odd sizes at odd places, of voxel sizes that binary fractions do not hold, with two levels where there are any."""
    offsets = [(0, 0, 0), (1_000_003, -7, 12), (-1, 99_999_999, 3)]
    for number, (shape, offset) in enumerate(zip([(1, 1, 1), (7, 1, 13), (5, 17, 31)], offsets, strict=True)):
        url, size = f"{tmp_path}/{number}.zarr{how}", (0.29, 1 / 3, 1e-4)
        facts: dict[str, Any] = {"dtype": dtype, "kind": "labels", "chunks": (4, 4, 4)}
        volume = nb.create(url, shape=shape, offset=offset, voxel_size=size, **facts)
        made = [volume]
        if "ome" in how:
            start = [o // f for o, f in zip(offset, (1, 2, 3), strict=True)]
            stop = [-(-(o + n) // f) for o, n, f in zip(offset, shape, (1, 2, 3), strict=True)]
            coarse = {"offset": start, "shape": [b - a for a, b in zip(start, stop, strict=True)]}
            made.append(nb.create(f"{url}&level=1", voxel_size=(0.29, 2 / 3, 3e-4), **coarse, **facts))
        for level, one in enumerate(made):
            data = (numbered(one.shape, "int64") * 37 % 251).astype(dtype)
            one.write(one.domain, data)
            again = nb.open(url, level=level) if level else nb.open(url)
            assert again.spec == replace(one.spec, levels=len(made))
            assert again.offset == (tuple(start) if level else offset)
            assert again.voxel_size == pytest.approx((0.29, 2 / 3, 3e-4) if level else size)
            assert np.array_equal(again[...], data)


def test_inside_a_hierarchy(tmp_path: Path) -> None:
    """What `::` leads to is made and removed alone; so too by a path, and again with the other."""
    one, two = f"{tmp_path}/a.zarr::/raw/em", f"{tmp_path}/a.zarr/raw/seg"
    for url, shape in ((one, (4, 6)), (two, (8, 10))):
        nb.create(url, shape=shape)
    nb.create(one, shape=(5, 7), overwrite=True)
    assert nb.open(f"{tmp_path}/a.zarr/raw/em").shape == (5, 7)
    nb.create(f"{one}?level=1", shape=(3, 4))
    assert nb.open(f"{tmp_path}/a.zarr::/raw/em").levels == 2
    store = store_class("zarr")
    store.delete(parse(one))
    assert not store.exists(parse(one))
    assert nb.open(f"{tmp_path}/a.zarr::/raw/seg").shape == (8, 10)
    assert list(zarr.open_group(f"{tmp_path}/a.zarr", mode="r")["raw"]) == ["seg"]

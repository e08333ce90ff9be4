"""Dialects and damage of precomputed layers; cloud-volume and tensorstore write, ndbatch reads, and the other way round."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

import ndbatch as nb
from ndbatch.errors import Conflict, Corrupt, MissingExtra, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.remotes.precomputed import encodings as precomputed_encodings
from ndbatch.remotes.precomputed.info import DTYPES
from ndbatch.remotes.precomputed.sharding import chunk_number, shard_shape, sharding
from ndbatch.testing.volumes import voxels

SIZE = (20, 37, 45)
CHUNK = (8, 16, 16)
FACTS: dict[str, Any] = {"offset": (3, 0, 7), "voxel_size": (0.04, 0.0045, 0.004), "chunks": CHUNK}


@pytest.fixture
def cloudvolume() -> Any:
    return pytest.importorskip("cloudvolume", reason="cloud-volume is not installed")


def theirs(cloudvolume: Any, path: Path, data: Array, encoding: str, compress: Any, **more: Any) -> Any:
    """Write `data` (z, y, x or c, z, y, x) with cloud-volume, and return its volume."""
    stored = np.atleast_3d(data.T) if data.ndim == 3 else data.transpose(3, 2, 1, 0)
    stored = stored[..., None] if stored.ndim == 3 else stored
    info = cloudvolume.CloudVolume.create_new_info(
        num_channels=stored.shape[3],
        layer_type="segmentation" if data.dtype.kind == "u" and data.dtype.itemsize > 2 else "image",
        data_type=str(data.dtype),
        encoding=encoding,
        resolution=[4, 4.5, 40],
        voxel_offset=[7, 0, 3],
        volume_size=stored.shape[:3],
        chunk_size=CHUNK[::-1],
        **more,
    )
    volume = cloudvolume.CloudVolume(f"file://{path}", info=info, compress=compress, progress=False)
    volume.commit_info()
    volume.commit_provenance()
    volume[:] = np.asfortranarray(stored)
    return volume


def labels(dtype: str = "uint64") -> Array:
    """Return large ids in runs, some of them 0."""
    ids = np.random.default_rng(3).integers(0, 5, (5, 10, 12)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    return (ids[: SIZE[0], : SIZE[1], : SIZE[2]] * np.array(2**20 + 1)).astype(dtype)


def info_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "info").read_text())
    return found


# -- layers of others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["gzip", "br", "zstd", False])
@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_chunks_with_a_second_compression_are_not_zeros(
    cloudvolume: Any, tmp_path: Path, encoding: str, compress: Any
) -> None:
    """What cloud-volume writes by default is called .gz; tensorstore alone reads such a layer as zeros."""
    data = labels()
    theirs(cloudvolume, tmp_path / "layer", data, encoding, compress)
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    assert (volume.shape, volume.offset, volume.kind) == (SIZE, (3, 0, 7), "labels")
    assert volume.voxel_size == (0.04, 0.0045, 0.004)
    assert np.array_equal(volume.read(volume.domain), data)
    box = Box((9, 5, 8), (21, 31, 50))
    assert np.array_equal(volume.read(box), data[box.slices(volume.offset)])


def test_a_layer_of_packed_chunks_is_not_written_to(cloudvolume: Any, tmp_path: Path) -> None:
    theirs(cloudvolume, tmp_path / "layer", labels(), "raw", "gzip")
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    with pytest.raises(RemoteError, match=r"second compression .*\.gz.*write to a new volume"):
        volume.write(volume.domain, labels())
    assert np.array_equal(volume.read(volume.domain), labels())


def test_packed_chunks_among_plain_ones_are_found(cloudvolume: Any, tmp_path: Path) -> None:
    """A layer written by several programs holds both."""
    data = labels()
    theirs(cloudvolume, tmp_path / "layer", data, "raw", False)
    chunk = next((tmp_path / "layer" / "4.0_4.5_40.0").iterdir())
    chunk.with_name(f"{chunk.name}.gz").write_bytes(gzip.compress(chunk.read_bytes()))
    chunk.unlink()
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    assert np.array_equal(volume.read(volume.domain), data)


@pytest.mark.parametrize(("dtype", "encoding"), [("int64", "raw"), ("float64", "raw"), ("float32", "kempressed")])
def test_what_is_read_but_never_written(cloudvolume: Any, tmp_path: Path, dtype: str, encoding: str) -> None:
    """Types and encodings that only cloud-volume has."""
    data = (voxels(SIZE, "float64") * 1000 - 300).astype(dtype)
    found = theirs(cloudvolume, tmp_path / "layer", data, encoding, "gzip")
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    assert np.array_equal(volume.read(volume.domain), np.asarray(found[:])[..., 0].T)
    assert np.allclose(volume.read(volume.domain), data, atol=1e-3)
    with pytest.raises(PlanError, match=f"{dtype}" if encoding == "raw" else "encoding"):
        nb.create(f"precomputed://{tmp_path}/new?encoding={encoding}", shape=SIZE, dtype=dtype)


def test_shards_of_others(cloudvolume: Any, tmp_path: Path) -> None:
    """cloud-volume makes shards as large as it likes; whatever they are called, they are read."""
    data = labels()
    theirs(cloudvolume, tmp_path / "layer", data, "compressed_segmentation", False)
    info = info_of(tmp_path / "layer")
    parameters, _ = sharding(info["scales"][0]["size"], CHUNK[::-1], (32, 32, 16), "raw", "here")
    info["scales"][0] |= {"sharding": parameters | {"minishard_bits": 1, "preshift_bits": 2}, "key": "sharded"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "info").write_text(json.dumps(info))
    again = cloudvolume.CloudVolume(f"file://{tmp_path}/other", progress=False, fill_missing=True)
    again[7:39, 0:32, 3:19] = np.asfortranarray(data[:16, :32, :32].T[..., None])
    opened = nb.open(f"precomputed://{tmp_path}/other")
    assert opened.spec.shards == (16, 32, 32)
    assert np.array_equal(opened[3:19, :32, 7:39], data[:16, :32, :32])
    assert not opened[19:].any()
    strict = nb.open(f"precomputed://{tmp_path}/other?missing=error")
    assert np.array_equal(strict[3:19, :32, 7:39], data[:16, :32, :32])
    with pytest.raises(NotFound, match="chunks are missing"):
        strict.read(strict.domain)


def test_hashed_shards_are_read_and_have_no_shape(tmp_path: Path) -> None:
    """A hash scatters the chunks of a shard over the volume; tensorstore writes one."""
    data = labels()
    parameters, _ = sharding((45, 37, 20), CHUNK[::-1], (32, 32, 16), "raw", "here")
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{tmp_path}/layer/"},
        "multiscale_metadata": {"data_type": "uint64", "num_channels": 1, "type": "segmentation"},
        "scale_metadata": {
            "size": [45, 37, 20],
            "resolution": [1, 1, 1],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [4, 4, 4],
            "chunk_size": [16, 16, 8],
            "sharding": parameters | {"hash": "murmurhash3_x86_128"},
        },
    }
    tensorstore.open(spec, create=True).result()[..., 0].write(data.T).result()
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    assert volume.spec.shards is None
    assert np.array_equal(volume.read(volume.domain), data)
    with pytest.raises(RemoteError, match="hash"):
        volume.write(volume.domain, data)


# -- what ndbatch writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [None, (16, 32, 32), (32, 64, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_read_by_cloud_volume_and_tensorstore(
    cloudvolume: Any, tmp_path: Path, dtype: str, shards: Any
) -> None:
    data = voxels(SIZE, dtype, seed=5)
    volume = nb.create(f"precomputed://{tmp_path}/layer", shape=SIZE, dtype=dtype, kind="image", shards=shards, **FACTS)
    volume.write(volume.domain, data)
    found = cloudvolume.CloudVolume(f"file://{tmp_path}/layer", progress=False, fill_missing=True)
    assert list(found.resolution) == [4, 4.5, 40]
    assert list(found.voxel_offset) == [7, 0, 3]
    assert np.array_equal(np.asarray(found[:])[..., 0].T, data)
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{tmp_path}/layer/"}}
    stored = tensorstore.open(spec, open=True).result()
    assert stored.domain.origin == (7, 0, 3, 0)
    assert np.array_equal(stored[..., 0].read().result().T, data)


@pytest.mark.parametrize("encoding", ["png", "compresso", "crackle", "fpzip", "jxl"])
def test_lossless_encodings(cloudvolume: Any, tmp_path: Path, encoding: str) -> None:
    """Written in blocks that cut chunks, in two orders; equal bytes, read by ndbatch, and by cloud-volume where it can."""
    dtype = {"fpzip": "float32", "jxl": "uint8", "png": "uint16"}.get(encoding, "uint32")
    data = labels(dtype) if dtype == "uint32" else voxels(SIZE, dtype, seed=2)
    data[:8, :16, :16] = 0
    trees = []
    for name, step in (("a", 1), ("b", -1)):
        volume = nb.create(f"precomputed://{tmp_path}/{name}?encoding={encoding}", shape=SIZE, dtype=dtype, **FACTS)
        for z in (0, 5, 11, 16)[::step]:
            part = Box((3 + z, 0, 7), (min(23, 3 + z + 6), 37, 52))
            volume.write(part, data[part.slices(volume.offset)])
        again = nb.open(f"precomputed://{tmp_path}/{name}")
        assert np.array_equal(again.read(again.domain), data)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        trees.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert trees[0] == trees[1]
    assert len(trees[0]) == 3 * 3 * 3  # a chunk of zeros is not stored, and there is info
    if encoding != "png":
        found = cloudvolume.CloudVolume(f"file://{tmp_path}/a", progress=False, fill_missing=True)
        assert np.array_equal(np.asarray(found[:])[..., 0].T, data)


def test_jpeg_of_three_channels_is_a_picture(tmp_path: Path) -> None:
    """Each voxel is a pixel of three colours, x fastest, as the format says; Pillow is the witness."""
    from PIL import Image

    z, y, x = np.meshgrid(*(np.linspace(0, 6, n) for n in SIZE), indexing="ij")
    data = np.stack([100 + 60 * np.sin(f) for f in (x, y, z)]).astype("uint8")
    url = f"precomputed://{tmp_path}/layer?encoding=jpeg&jpeg_quality=95"
    with pytest.raises(PlanError, match=r"holds all channels; use chunks: \{c: 3\}"):
        nb.create(url, shape=data.shape, chunks=(1, *CHUNK))
    volume = nb.create(url, shape=data.shape, chunks=(3, *CHUNK))
    volume.write(volume.domain, data)
    assert volume.axes == "czyx"
    assert np.abs(volume.read(volume.domain).astype(int) - data).mean() < 3
    chunk = next((tmp_path / "layer").glob("*/0-16_0-16_0-8"))
    pixels = np.asarray(Image.open(chunk)).reshape(8, 16, 16, 3).transpose(3, 0, 1, 2)
    assert np.abs(pixels.astype(int) - data[:, :8, :16, :16]).mean() < 3
    assert np.abs(volume.read(Box((1, 0, 0, 0), (2, 8, 16, 16))).astype(int) - pixels[1:2]).mean() < 1


@pytest.mark.parametrize(
    ("axes", "shape", "chunks"), [("yx", (37, 45), (16, 16)), ("czyx", (1, 20, 37, 45), (1, *CHUNK))]
)
def test_axes_of_one_voxel_are_kept(tmp_path: Path, axes: str, shape: Any, chunks: Any) -> None:
    """A plane stays a plane, and a single channel a channel, though the format has neither."""
    url, data = f"precomputed://{tmp_path}/layer", voxels(shape, "int16")
    volume = nb.create(url, shape=shape, axes=axes, dtype="int16", chunks=chunks, offset={"x": 4})
    volume.write(volume.domain, data)
    again = nb.open(url)
    assert (again.axes, again.shape, again.voxel_size) == (axes, shape, None)
    assert np.array_equal(again.read(again.domain), data)
    assert np.array_equal(nb.open(url, offset=(0,) * len(shape))[..., 2:5], data[..., 2:5])


def test_kinds_are_kept(tmp_path: Path) -> None:
    for kind, dtype, told in (
        ("labels", "uint32", "segmentation"),
        ("labels", "float32", "image"),
        ("probability", "float32", "image"),
    ):
        url = f"precomputed://{tmp_path}/{kind}-{dtype}"
        nb.create(url, shape=SIZE, dtype=dtype, kind=kind)
        assert nb.open(url).kind == kind
        assert info_of(tmp_path / f"{kind}-{dtype}")["type"] == told


def test_parameters_of_encodings_are_kept_and_taken_over_by_levels(tmp_path: Path) -> None:
    url = f"precomputed://{tmp_path}/layer"
    nb.create(f"{url}?block_size=4,8,16", shape=SIZE, dtype="uint32", kind="labels", **FACTS)
    level = {**FACTS, "shape": (20, 19, 23), "offset": (3, 0, 3), "voxel_size": (0.04, 0.009, 0.008)}
    nb.create(f"{url}?level=1", dtype="uint32", kind="labels", **level)
    for scale in info_of(tmp_path / "layer")["scales"]:
        assert scale["compressed_segmentation_block_size"] == [16, 8, 4]
    assert [scale["key"] for scale in info_of(tmp_path / "layer")["scales"]] == ["4_4.5_40", "8_9_40"]


# -- metadata --------------------------------------------------------------------------------------------------------------


def test_unknown_keys_are_preserved(tmp_path: Path) -> None:
    """Meshes, skeletons, and whatever else stands in info survive attributes and levels."""
    url = f"precomputed://{tmp_path}/layer"
    nb.create(url, shape=SIZE, dtype="uint16", **FACTS)
    document = info_of(tmp_path / "layer") | {"mesh": "mesh", "rois": [[0, 1]], "odd": {"é": 1.5}}
    document["scales"][0]["locked"] = True
    (tmp_path / "layer" / "info").write_text(json.dumps(document))
    nb.open(url).set_attributes({"note": 1})
    nb.create(f"{url}?level=1", dtype="uint16", shape=(10, 19, 23), voxel_size=(0.08, 0.009, 0.008), chunks=CHUNK)
    found = info_of(tmp_path / "layer")
    assert {name: found[name] for name in ("mesh", "rois", "odd")} == {
        "mesh": "mesh",
        "rois": [[0, 1]],
        "odd": {"é": 1.5},
    }
    assert found["scales"][0] == document["scales"][0]
    assert nb.open(url).attributes == {"note": 1}
    with pytest.raises(RemoteError, match="ndbatch's own"):
        nb.open(url).set_attributes({"kind": "labels"})


def test_two_levels_of_one_resolution_do_not_share_a_folder(tmp_path: Path) -> None:
    url = f"precomputed://{tmp_path}/layer"
    first = nb.create(url, shape=SIZE, dtype="uint8", chunks=CHUNK)
    second = nb.create(f"{url}?level=1", shape=(10, 19, 23), dtype="uint8", chunks=CHUNK)
    second.write(second.domain, np.ones((10, 19, 23), "uint8"))
    assert not first.read(first.domain).any()
    assert nb.open(url).voxel_size is None


def test_provenance_is_appended_once_a_run(cloudvolume: Any, tmp_path: Path) -> None:
    """What cloud-volume wrote stays, and cloud-volume reads what is added."""
    theirs(cloudvolume, tmp_path / "layer", labels(), "raw", False)
    before = json.loads((tmp_path / "layer" / "provenance").read_text())
    before |= {
        "owners": ["somebody@lab"],
        "processing": [{"method": {"task": "downsample"}, "by": "x", "date": "then"}],
    }
    (tmp_path / "layer" / "provenance").write_text(json.dumps(before))
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    run = {"name": "count", "fingerprint": "f1", "user": "me", "started": "now", "ndbatch": "1", "inputs": ["em.zarr"]}
    for record in (run, run | {"started": "later"}, run | {"fingerprint": "f2"}):
        volume.note_run(record)
    found = cloudvolume.CloudVolume(f"file://{tmp_path}/layer", progress=False).provenance
    assert found["owners"] == ["somebody@lab"]
    assert found["sources"] == ["em.zarr"]
    assert [entry["method"]["task"] for entry in found["processing"]] == ["downsample", "ndbatch", "ndbatch"]
    assert [entry["date"] for entry in found["processing"]] == ["then", "later", "now"]


def test_a_run_is_entered_in_provenance(tmp_path: Path) -> None:
    image = nb.create(f"precomputed://{tmp_path}/image", shape=SIZE, dtype="uint8", **FACTS)
    image.write(image.domain, voxels(SIZE, "uint8"))
    (tmp_path / "run.yaml").write_text(
        f"name: copy\ninputs: {{image: 'precomputed://{tmp_path}/image'}}\n"
        "steps: [{copy: {input: image, output: out}}]\n"
        f"outputs: {{out: 'precomputed://{tmp_path}/out'}}\ncluster: {{kind: inline}}\n"
    )
    nb.run(tmp_path / "run.yaml")
    assert np.array_equal(nb.open(f"precomputed://{tmp_path}/out")[...], voxels(SIZE, "uint8"))
    found = json.loads((tmp_path / "out" / "provenance").read_text())
    assert found["sources"] == [f"precomputed://{tmp_path}/image"]
    assert found["processing"][0]["method"]["name"] == "copy"
    assert nb.open(f"precomputed://{tmp_path}/out").attributes["complete"] is True


# -- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "use"), [("int64", "uint64"), ("float64", "float32"), ("bool", "uint8"), ("float16", "float32")]
)
def test_types_that_it_cannot_hold(tmp_path: Path, dtype: str, use: str) -> None:
    with pytest.raises(PlanError, match=f"cannot hold {dtype}; use dtype: {use}"):
        nb.create(f"precomputed://{tmp_path}/layer", shape=SIZE, dtype=dtype)
    assert not (tmp_path / "layer").exists()


@pytest.mark.parametrize(
    ("options", "facts", "said"),
    [
        ("?encoding=jpg", {}, "jpg is not known; use one of raw"),
        ("?encoding=jpeg", {"dtype": "uint16"}, "holds uint8, not uint16; use encoding=raw or png"),
        ("?encoding=compressed_segmentation", {"dtype": "uint16"}, "holds uint32, uint64"),
        ("?encoding=jpeg&jpeg_quality=101", {}, "from 1 to 100"),
        ("?jpeg_quality=80", {}, "belongs to encoding=jpeg, not to raw"),
        ("?encoding=compressed_segmentation&block_size=8,8", {"dtype": "uint32"}, "one number, or three"),
        ("?encoding=jpeg", {"shape": (2, 4, 5, 6), "chunks": (2, 4, 5, 6)}, "1 or 3 channels, not 2"),
        ("", {"shape": (2, 3, 4, 5, 6), "axes": "tczyx"}, "such as .t=0"),
        ("", {"shards": (24, 32, 32)}, "use shards: {z: 16, y: 32, x: 32}|double along"),
        ("", {"shards": (8, 64, 16)}, "double along x, y, z in turn"),
        ("?encoding=crackle", {"dtype": "uint32", "shards": (16, 32, 32)}, "shards of crackle cannot be written"),
    ],
)  # fmt: skip
def test_requests_that_do_not_fit(tmp_path: Path, options: str, facts: dict[str, Any], said: str) -> None:
    asked = {"shape": SIZE, "dtype": "uint8", **({} if "shape" in facts else {"chunks": CHUNK}), **facts}
    with pytest.raises(PlanError, match=said):
        nb.create(f"precomputed://{tmp_path}/layer{options}", **asked)
    assert not (tmp_path / "layer").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = precomputed_encodings.codecs("raw")
    monkeypatch.setitem(chunks.NEEDS_INSTALL, "crackle", "crackle-codec")
    with pytest.raises(MissingExtra, match=r'needs the package crackle-codec: pip install "ndbatch\[precomputed\]"'):
        nb.create(f"precomputed://{tmp_path}/layer?encoding=crackle", shape=SIZE, dtype="uint32")


def test_missing_chunks_are_zeros_or_an_error(tmp_path: Path) -> None:
    volume = nb.create(f"precomputed://{tmp_path}/layer", shape=SIZE, dtype="uint8", **FACTS)
    volume.write(Box((3, 0, 7), (11, 16, 23)), np.ones(CHUNK, "uint8"))
    assert volume.read(volume.domain).sum() == 8 * 16 * 16
    strict = nb.open(f"precomputed://{tmp_path}/layer?missing=error")
    assert strict[3:11, :16, 7:23].all()
    with pytest.raises(NotFound, match="23-39_0-16_3-11"):
        strict[3:11, :16, 23:39]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("{", Corrupt, "it is not JSON"),
        ("[]", Corrupt, "not a JSON object"),
        ('{"@type": "neuroglancer_legacy_mesh"}', RemoteError, "says neuroglancer_legacy_mesh"),
        ('{"redirect": "s3://elsewhere/layer"}', RemoteError, "open precomputed://s3://elsewhere/layer"),
        ('{"data_type": "uint8", "num_channels": 1}', Corrupt, "has no 'scales'"),
        ('{"data_type": "uint8", "num_channels": 1, "scales": []}', Corrupt, "0 scales"),
        (
            '{"data_type": "uint8", "num_channels": 1, "scales": [{"size": [1, 2], "chunk_sizes": [[1]]}]}',
            Corrupt, "not three numbers",
        ),
    ],
)  # fmt: skip
def test_damaged_info(tmp_path: Path, text: str, kind: type[RemoteError], said: str) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "info").write_text(text)
    with pytest.raises(kind, match=said):
        nb.open(f"precomputed://{tmp_path}/layer")


@pytest.mark.parametrize("compress", ["gzip", "br", "zstd", False])
def test_damaged_chunks_are_corrupt(cloudvolume: Any, tmp_path: Path, compress: Any) -> None:
    theirs(cloudvolume, tmp_path / "layer", labels(), "raw", compress)
    chunk = next((tmp_path / "layer" / "4.0_4.5_40.0").glob("7-23_0-16_3-11*"))
    chunk.write_bytes(chunk.read_bytes()[:-9])
    volume = nb.open(f"precomputed://{tmp_path}/layer")
    with pytest.raises(Corrupt):
        volume.read(volume.domain)
    assert np.array_equal(volume[11:], labels()[8:])


def test_a_folder_that_is_no_layer_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "notes.txt").write_text("mine")
    with pytest.raises(Conflict, match="exists already"):
        nb.create(f"precomputed://{tmp_path}/layer", shape=SIZE)
    with pytest.raises(PlanError, match="no precomputed layer"):
        nb.create(f"precomputed://{tmp_path}/layer", shape=SIZE, overwrite=True)
    assert (tmp_path / "layer" / "notes.txt").read_text() == "mine"


def test_a_scale_outside_the_layer_is_refused(tmp_path: Path) -> None:
    volume = nb.create(f"precomputed://{tmp_path}/layer?encoding=crackle", shape=SIZE, dtype="uint32")
    document = info_of(tmp_path / "layer")
    document["scales"][0]["key"] = "../other"
    (tmp_path / "layer" / "info").write_text(json.dumps(document))
    with pytest.raises(RemoteError, match="outside the layer"):
        nb.open(volume.url)


# -- shards ----------------------------------------------------------------------------------------------------------------


def test_chunk_numbers_are_compressed_morton_codes() -> None:
    """The worked example of the format: bits of x, y, z in turn, none for an axis that the grid has no more of."""
    grid = (5, 3, 1)
    assert [chunk_number((x, 0, 0), grid) for x in range(5)] == [0, 1, 4, 5, 16]
    assert [chunk_number((0, y, 0), grid) for y in range(3)] == [0, 2, 8]
    numbers = {chunk_number(place, (5, 3, 7)) for place in np.ndindex(5, 3, 7)}
    assert len(numbers) == 5 * 3 * 7


@pytest.mark.parametrize("size", [(45, 37, 20), (16, 16, 8), (500, 17, 90), (1, 1, 1)])
def test_shards_come_back_as_they_were_asked_for(size: tuple[int, int, int]) -> None:
    """Every shape that is made is told again, those larger than the volume included."""
    chunk = (16, 16, 8)
    made = 0
    for powers in np.ndindex(7, 7, 7):
        wanted = tuple(c * 2 ** int(p) for c, p in zip(chunk, powers, strict=True))
        try:
            parameters, told = sharding(size, chunk, wanted, "raw", "here")
        except PlanError:
            continue
        grid = tuple(-(-n // c) for n, c in zip(size, chunk, strict=True))
        assert shard_shape(grid, chunk, parameters, {"shards": told} if told else None) == wanted
        made += 1
    assert made >= 1

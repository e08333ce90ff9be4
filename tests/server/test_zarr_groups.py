"""Groups of the service as the programs see them that read OME-Zarr."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ndbatch
from ndbatch.server.service import Access
from ndbatch.testing.serving import serving
from tests.server.sample import HTTP, TOKEN, filled


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, dict[str, NDArray[Any]]]]:
    root = tmp_path_factory.mktemp("groups")
    voxels = filled(root)
    with serving(root, Access("token", (TOKEN,))) as (url, _):
        yield f"{url}/zarr/embryo", root, voxels


Served = tuple[str, Path, dict[str, NDArray[Any]]]


@pytest.mark.parametrize("name", ["nuclei", "wide", "field", "mask", "signed", "cells", "movie"])
def test_zarr_reads_every_voxel(served: Served, name: str) -> None:
    zarr = pytest.importorskip("zarr")
    pytest.importorskip("aiohttp")
    url, _, voxels = served
    group = zarr.open_group(f"{url}/{name}", mode="r", zarr_format=2)
    array = group["0"]
    assert array.dtype == voxels[name].dtype
    np.testing.assert_array_equal(array[:], voxels[name])
    assert "multiscales" in group.attrs


def test_the_metadata_satisfies_the_specification(served: Served) -> None:
    """The models of OME-Zarr 0.4 take it, and the levels lie on each other as they do in the folder."""
    models = pytest.importorskip("ome_zarr_models.v04.multiscales")
    url, root, _ = served
    for name in ("nuclei", "cells", "movie"):
        attributes = HTTP.request("GET", f"{url}/{name}/.zattrs").json()
        for entry in attributes["multiscales"]:
            models.Multiscale.model_validate(entry)
    for level in range(2):
        over, local = (
            ndbatch.open(text, level=level) for text in (f"zarr://{url}/cells", str(root / "lab/embryo/cells.zarr"))
        )
        assert (over.shape, over.offset, over.voxel_size) == (local.shape, local.offset, local.voxel_size)
        assert over.kind == local.kind == "labels"
        np.testing.assert_array_equal(over.read(over.domain), local.read(local.domain))


def test_tensorstore_reads_every_voxel(served: Served) -> None:
    import tensorstore

    url, _, voxels = served
    for name in ("wide", "movie"):
        array = tensorstore.open({"driver": "zarr", "kvstore": f"{url}/{name}/0/"}).result()
        np.testing.assert_array_equal(array.read().result(), voxels[name])


def test_chunks_are_written_and_cut_at_the_end(served: Served) -> None:
    url, root, voxels = served
    described = HTTP.request("GET", f"{url}/wide/0/.zarray").json()
    chunk = np.arange(np.prod(described["chunks"]), dtype=described["dtype"]).reshape(described["chunks"])
    headers = {"Authorization": f"Token {TOKEN}"}
    assert HTTP.request("PUT", f"{url}/wide/0/1/2/1", body=chunk.tobytes(), headers=headers).status == 200
    expected = voxels["wide"].copy()
    last = tuple(slice(p * c, None) for p, c in zip((1, 2, 1), described["chunks"], strict=True))
    expected[last] = chunk[tuple(slice(n) for n in expected[last].shape)]
    volume = ndbatch.open(str(root / "lab/embryo/wide.zarr"))
    np.testing.assert_array_equal(volume.read(volume.domain), expected)
    volume.write(volume.domain, voxels["wide"])


def test_zarr_writes_through_the_service(served: Served) -> None:
    """zarr's own encoder packs what is sent: labels with Blosc, to chunks that stand as it names them."""
    zarr = pytest.importorskip("zarr")
    from zarr.storage import MemoryStore

    url, root, voxels = served
    names = [".zgroup", ".zattrs", "0/.zarray", "0/.zattrs"]
    memory = MemoryStore()
    from zarr.core.buffer import default_buffer_prototype

    prototype = default_buffer_prototype()

    async def fill() -> None:
        for name in names:
            data = HTTP.request("GET", f"{url}/cells/{name}").data
            await memory.set(name, prototype.buffer.from_bytes(data))

    asyncio.run(fill())
    array = zarr.open_group(memory, mode="r+", zarr_format=2)["0"]
    changed = voxels["cells"] + np.uint64(2**33)
    array[:] = changed
    headers = {"Authorization": f"Token {TOKEN}"}
    for name, value in memory._store_dict.items():
        if not name.rpartition("/")[2].startswith("."):
            reply = HTTP.request("PUT", f"{url}/cells/{name}", body=value.to_bytes(), headers=headers)
            assert reply.status == 200, reply.data
    volume = ndbatch.open(str(root / "lab/embryo/cells.zarr"))
    np.testing.assert_array_equal(volume.read(volume.domain), changed)
    volume.write(volume.domain, voxels["cells"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nuclei/zarr.json", 404),
        ("nuclei/0/zarr.json", 404),
        ("nuclei/7/0/0/0", 404),
        ("nuclei/0/0/0", 404),
        ("nuclei/0/0/0/99", 404),
        ("nuclei/0/0/0/-1", 404),
        ("nuclei/0/0.0.0", 404),
        ("nuclei/", 404),
        ("none/.zattrs", 404),
    ],
)
def test_what_is_not_there_is_a_sentence(served: Served, path: str, status: int) -> None:
    reply = HTTP.request("GET", f"{served[0]}/{path}")
    assert reply.status == status
    assert reply.data
    assert b"Traceback" not in reply.data


def test_writing_needs_the_token_and_a_whole_chunk(served: Served) -> None:
    url, _, _ = served
    headers = {"Authorization": f"Token {TOKEN}"}
    size = int(np.prod(HTTP.request("GET", f"{url}/nuclei/0/.zarray").json()["chunks"]))
    assert HTTP.request("PUT", f"{url}/nuclei/0/0/0/0", body=bytes(size)).status == 403
    assert HTTP.request("PUT", f"{url}/nuclei/0/0/0/0", body=bytes(size - 1), headers=headers).status == 400
    assert HTTP.request("PUT", f"{url}/nuclei/.zattrs", body=b"{}", headers=headers).status == 404
    place = f"{url}/cells/0/0/0/0"
    packed = HTTP.request("GET", place).data
    assert len(packed) < 0.1 * 8 * np.prod(HTTP.request("GET", f"{url}/cells/0/.zarray").json()["chunks"])
    longer = packed[:4] + (2**30).to_bytes(4, "little") + packed[8:]  # says that it unpacks to 1 GiB
    for body in (b"no frame", packed[:-1], packed + b"0", longer, packed[:20] + bytes(len(packed) - 20)):
        assert HTTP.request("PUT", place, body=body, headers=headers).status == 400
    assert HTTP.request("GET", place).data == packed

"""Layers of the service as the programs see them that read Neuroglancer's precomputed format."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ndbatch
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving
from tests.server.sample import HTTP, OFFSET, TOKEN, filled


@dataclass(frozen=True)
class Served:
    """A running service and what is in it."""

    url: str
    service: Service
    voxels: dict[str, NDArray[Any]]

    def get(self, path: str, method: str = "GET", **options: Any) -> Any:
        return HTTP.request(method, f"{self.url}/precomputed/embryo/{path}", **options)

    def info(self, name: str) -> Any:
        return self.get(f"{name}/info").json()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("layers")
    voxels = filled(root)
    with serving(root, Access("token", (TOKEN,))) as (url, service):
        yield Served(url, service, voxels)


def stored(served: Served, name: str) -> NDArray[Any]:
    volume = ndbatch.open(served.service.catalogue.channel("embryo", name).url)
    return volume.read(volume.domain)


@pytest.mark.parametrize("name", ["nuclei", "wide", "field", "cells", "mask"])
def test_tensorstore_reads_every_voxel(served: Served, name: str) -> None:
    import tensorstore

    base = f"{served.url}/precomputed/embryo/{name}/"
    layer = tensorstore.open({"driver": "neuroglancer_precomputed", "kvstore": base}).result()
    assert tuple(layer.domain.inclusive_min[:3]) == OFFSET[::-1]
    np.testing.assert_array_equal(layer[..., 0].read().result().T, served.voxels[name])


def test_cloud_volume_reads_every_voxel_of_every_level(served: Served) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    for name in ("nuclei", "cells"):
        path = f"precomputed://{served.url}/precomputed/embryo/{name}"
        url = served.service.catalogue.channel("embryo", name).url
        levels = ndbatch.open(url).levels
        assert levels == (2 if name == "cells" else 1)
        for level in range(levels):
            layer = cloudvolume.CloudVolume(path, mip=level, progress=False)
            expected = ndbatch.open(url, level=level)
            assert tuple(layer.resolution) == tuple(1000 * s for s in expected.voxel_size[::-1])
            assert tuple(layer.voxel_offset) == expected.offset[::-1]
            np.testing.assert_array_equal(np.asarray(layer[:])[..., 0].T, expected.read(expected.domain))


def test_cloud_volume_cannot_write_by_http(served: Served) -> None:
    """Its HTTP backend has no writing at all; should that change, the chunks of PUT here are what it would need."""
    cloudvolume = pytest.importorskip("cloudvolume")
    layer = cloudvolume.CloudVolume(
        f"precomputed://{served.url}/precomputed/embryo/nuclei", progress=False, non_aligned_writes=True
    )
    with pytest.raises(NotImplementedError):
        layer[10:74, 0:64, 5:37] = np.zeros((64, 64, 32, 1), np.uint8)


def test_ndbatch_reads_what_it_serves(served: Served) -> None:
    for name in ("nuclei", "cells"):
        volume = ndbatch.open(f"precomputed://{served.url}/precomputed/embryo/{name}")
        assert (volume.offset, volume.voxel_size) == (OFFSET, (2.0, 1.0, 1.0))
        assert volume.kind == ("labels" if name == "cells" else "image")
        np.testing.assert_array_equal(volume.read(volume.domain), served.voxels[name])


def test_times_are_layers_of_their_own(served: Served) -> None:
    for time in range(3):
        volume = ndbatch.open(f"precomputed://{served.url}/precomputed/embryo/movie@{time}")
        np.testing.assert_array_equal(volume.read(volume.domain), served.voxels["movie"][time])
    assert served.get("movie@3/info").status == 404
    assert b"there are 0 to 2" in served.get("movie@3/info").data


def test_channels_within_a_volume_are_channels_of_the_service(served: Served) -> None:
    for place in range(2):
        volume = ndbatch.open(f"precomputed://{served.url}/precomputed/embryo/stain_c{place}")
        np.testing.assert_array_equal(volume.read(volume.domain), served.voxels["stain"][place])


def test_images_are_packed_where_that_is_asked_for(served: Served) -> None:
    exact = ndbatch.open(f"precomputed://{served.url}/precomputed/embryo/nuclei@png")
    np.testing.assert_array_equal(exact.read(exact.domain), served.voxels["nuclei"])
    lossy = ndbatch.open(f"precomputed://{served.url}/precomputed/embryo/nuclei@jpeg")
    difference = lossy.read(lossy.domain).astype(int) - served.voxels["nuclei"]
    assert 0 < np.abs(difference).mean() < 60  # noise is what jpeg is worst at
    assert served.get("cells@jpeg/info").status == 400


def test_types_that_the_format_lacks_are_told(served: Served) -> None:
    reply = served.get("signed/info")
    assert reply.status == 400
    assert reply.data.decode() == (
        "/precomputed/embryo/signed: the precomputed format cannot hold int64; open /zarr/embryo/signed, or a copy of "
        "another type"
    )
    assert served.info("mask")["data_type"] == "uint8"


def test_chunks_are_files_with_ranges_and_tags(served: Served) -> None:
    scale = served.info("nuclei")["scales"][0]
    path = f"nuclei/{scale['key']}/10-74_0-64_5-37"
    whole = served.get(path)
    voxels = served.voxels["nuclei"][:32, :64, :64]
    assert whole.data == voxels.tobytes()  # raw is x fastest, then y, then z: C-order of z, y, x
    head = served.get(path, "HEAD")
    assert (head.status, head.headers["Content-Length"], head.data) == (200, str(voxels.size), b"")
    part = served.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status, part.data, part.headers["Content-Range"]) == (
        206,
        whole.data[100:200],
        f"bytes 100-199/{voxels.size}",
    )
    assert served.get(path, headers={"Range": "bytes=-10"}).data == whole.data[-10:]
    assert served.get(path, headers={"Range": f"bytes={voxels.size}-"}).status == 416
    assert served.get(path, headers={"If-None-Match": whole.headers["ETag"]}).status == 304
    assert served.get(path, headers={"Origin": "https://example.org"}).headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    "path",
    [
        "nuclei/none/10-74_0-64_5-37",
        "nuclei/1000_1000_2000/10-74_0-64",
        "nuclei/1000_1000_2000/0-64_0-64_5-37",
        "nuclei/1000_1000_2000/74-10_0-64_5-37",
        "nuclei/1000_1000_2000/10-10_0-64_5-37",
        "nuclei/1000_1000_2000/999999999999999999-2_0-64_5-37",
        "nuclei/1000_1000_2000/..%2f..%2finfo",
        "nuclei@x/info",
        "nuclei@1@2/info",
        "none/info",
    ],
)
def test_what_is_not_there_is_a_sentence(served: Served, path: str) -> None:
    reply = served.get(path)
    assert reply.status == 404
    assert reply.data
    assert b"Traceback" not in reply.data


def put(served: Served, path: str, body: bytes, token: str = TOKEN, **headers: str) -> Any:
    return served.get(path, "PUT", body=body, headers={"Authorization": f"Token {token}", **headers})


def test_chunks_are_written(served: Served) -> None:
    key = "1000_1000_2000"
    chunk = np.full((32, 64, 64), 9, np.uint16)
    assert put(served, f"wide/{key}/10-74_0-64_5-37", chunk.tobytes()).status == 200
    part = np.full((3, 5, 7), 2**15, np.uint16)
    assert (
        put(served, f"wide/{key}/20-27_3-8_6-9", gzip.compress(part.tobytes()), **{"Content-Encoding": "gzip"}).status
        == 200
    )
    expected = served.voxels["wide"].copy()
    expected[:32, :64, :64] = 9
    expected[1:4, 3:8, 10:17] = 2**15
    np.testing.assert_array_equal(stored(served, "wide"), expected)


def test_packed_labels_are_written(served: Served) -> None:
    """A chunk packed by tensorstore, read from its own layer, is stored here as it was there."""
    import tensorstore

    ids = served.voxels["cells"][:32, :64, :64] * 3
    key, url = "1000_1000_2000", f"{served.url}/precomputed/embryo/cells"
    info = served.info("cells")
    local = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "memory"},
            "multiscale_metadata": {"type": "segmentation", "data_type": "uint64", "num_channels": 1},
            "scale_metadata": {
                **{k: v for k, v in info["scales"][0].items() if k != "chunk_sizes"},
                "chunk_size": [64, 64, 32],
            },
            "create": True,
        }
    ).result()
    local[10:74, 0:64, 5:37, 0].write(ids.T).result()
    body = local.kvstore.read(f"{key}/10-74_0-64_5-37").result().value
    assert put(served, f"cells/{key}/10-74_0-64_5-37", body).status == 200
    volume = ndbatch.open(f"precomputed://{url.removeprefix('precomputed://')}")
    expected = served.voxels["cells"].copy()
    expected[:32, :64, :64] = ids
    np.testing.assert_array_equal(volume.read(volume.domain), expected)
    served.service.voxels.write(
        served.service.volume(served.service.catalogue.channel("embryo", "cells")),
        volume.domain,
        served.voxels["cells"],
    )


def test_chunks_of_zeros_are_chunks(served: Served) -> None:
    """A missing object means zeros to some readers and an error to others, so there is none."""
    import tensorstore

    body = np.zeros((20, 40, 30), np.uint8).tobytes()
    assert put(served, "movie@1/1000_1000_2000/10-40_0-40_5-25", body).status == 200
    assert served.get("movie@1/1000_1000_2000/10-40_0-40_5-25").data == body
    base = f"{served.url}/precomputed/embryo/movie@1/"
    layer = tensorstore.open({"driver": "neuroglancer_precomputed", "kvstore": base}).result()
    assert not layer.read().result().any()
    served.voxels["movie"][1] = 0
    np.testing.assert_array_equal(stored(served, "movie"), served.voxels["movie"])


def test_what_cannot_be_written_is_refused_and_changes_nothing(served: Served) -> None:
    path, good = "field/1000_1000_2000/10-74_0-64_5-37", np.ones((32, 64, 64), np.float32).tobytes()
    assert put(served, path, good, token="another").status == 403
    assert served.get(path, "PUT", body=good).status == 403
    assert put(served, path, good[:-1]).status == 400
    assert put(served, path, b"nonsense", **{"Content-Encoding": "gzip"}).status == 400
    assert put(served, path, gzip.compress(good)[:-20], **{"Content-Encoding": "gzip"}).status == 400
    assert put(served, path, gzip.compress(bytes(2**24)), **{"Content-Encoding": "gzip"}).status == 413
    assert put(served, path, good, **{"Content-Encoding": "br"}).status == 400
    assert put(served, "cells/1000_1000_2000/10-74_0-64_5-37", b"\x07" * 1000).status == 400
    assert put(served, "mask/1000_1000_2000/10-74_0-64_5-37", bytes(32 * 64 * 64)).status == 403
    assert put(served, "nuclei@jpeg/1000_1000_2000/10-74_0-64_5-37", b"").status == 403
    for name in ("field", "cells", "mask", "nuclei"):
        np.testing.assert_array_equal(stored(served, name), served.voxels[name])

"""DVID against a live service: the contract of volumes for images and labels, and what only DVID has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("starlette", reason="the service needs the extra serve")

import json
import urllib.request

import numpy as np

from ndbatch.remotes.base import Array, Volume
from ndbatch.remotes.dvid.label_blocks import decompress
from ndbatch.remotes.dvid.streams import unpack
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import VolumeSuite


def call(base: str, method: str, path: str, body: bytes | None = None) -> bytes:
    """Send a request as any program would, and return the body of the answer."""
    request = urllib.request.Request(f"{base}/api{path}", body, method=method)
    with urllib.request.urlopen(request, timeout=180) as answer:
        return bytes(answer.read())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a service that all tests of this module share."""
    root: Path = tmp_path_factory.mktemp("served")
    with serving(root) as (url, _):
        yield url


@pytest.fixture
def version(base: str) -> str:
    """Return the root of a new repository."""
    return str(json.loads(call(base, "POST", "/repos", b'{"alias": "mine", "description": "one"}'))["root"])


class DvidSuite(VolumeSuite):
    chunks: ClassVar[tuple[int, ...]] = (16, 16, 16)
    offset: ClassVar[tuple[int, ...]] = (16, 0, 32)

    @pytest.fixture
    def url(self, base: str, version: str) -> str:
        self.base, self.version = base, version
        return f"dvid://{base.removeprefix('http://')}/{version}/cells"

    def make(self, url: str, dtype: str = "", **changes: Any) -> Volume:
        return super().make(url, dtype, **changes)


class TestImages(DvidSuite):
    dtype: ClassVar[str] = "uint8"
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "uint16", "uint32", "float32")

    def read_raw(self, url: str) -> Array:
        z, y, x = self.shape
        body = call(self.base, "GET", f"/node/{self.version}/cells/raw/0_1_2/{x}_{y}_{z}/32_0_16")
        return np.frombuffer(body, "<u1").reshape(self.shape)

    def write_raw(self, url: str, data: Array) -> None:
        node, ends = f"/node/{self.version}/cells", {"MinPoint": [32, 0, 16], "MaxPoint": [76, 36, 35]}
        settings = {"typename": "uint8blk", "dataname": "cells", "BlockSize": "16,16,16", "VoxelSize": "260,260,290"}
        call(self.base, "POST", f"/repo/{self.version}/instance", json.dumps(settings).encode())
        whole = np.zeros((32, 48, 48), np.uint8)
        whole[:20, :37, :45] = data
        call(self.base, "POST", f"{node}/raw/0_1_2/48_48_32/32_0_16", whole.tobytes())
        call(self.base, "POST", f"{node}/extents", json.dumps(ends).encode())


class TestLabels(DvidSuite):
    dtype: ClassVar[str] = "uint64"
    dtypes: ClassVar[tuple[str, ...]] = ("uint64",)

    def keeps_levels(self, volume: Volume) -> bool:
        return False  # they follow level 0, each half the one before

    def read_raw(self, url: str) -> Array:
        path = f"/node/{self.version}/cells/blocks/48_48_32/32_0_16?compression=blocks"
        result = np.zeros((32, 48, 48), np.uint64)
        for (z, y, x), payload in unpack(call(self.base, "GET", path), "the answer"):
            z, y, x = (z - 1) * 16, y * 16, (x - 2) * 16
            result[z : z + 16, y : y + 16, x : x + 16] = decompress(payload, (16, 16, 16))
        return result[:20, :37, :45]

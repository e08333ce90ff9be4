"""Precomputed layers keep the Volume contract; tensorstore and cloud-volume are the witnesses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorstore

from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array, Volume
from ndbatch.testing import VolumeSuite


def layer(path: Path | str, dtype: str, data: Array, chunk: tuple[int, int, int], **scale: Any) -> None:
    """Write a layer with tensorstore alone; `data` is z, y, x, `chunk` x, y, z."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "multiscale_metadata": {"data_type": dtype, "num_channels": 1, "type": "segmentation"},
        "scale_metadata": {
            "size": list(data.shape[::-1]), "resolution": [8, 8, 40], "encoding": "raw", "chunk_size": list(chunk), **scale,
        },
    }  # fmt: skip
    tensorstore.open(spec, create=True).result()[..., 0].write(data.transpose()).result()


class TestPrecomputed(VolumeSuite):
    """Raw, one object a chunk."""

    dtypes: ClassVar[tuple[str, ...]] = (*VolumeSuite.dtypes, "int8", "uint16", "int32")
    options: ClassVar[str] = "?encoding=raw"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"precomputed://{tmp_path}/layer{self.options}"

    def write_raw(self, url: str, data: Array) -> None:
        layer(parse(url).path, str(data.dtype), data, self.chunks[::-1])

    def read_raw(self, url: str) -> Array:
        return self.read_raw_level(url, 0)

    def read_raw_level(self, url: str, level: int) -> Array:
        cloudvolume = pytest.importorskip("cloudvolume", reason="cloud-volume is not installed")
        volume = cloudvolume.CloudVolume(f"file://{parse(url).path}", mip=level, progress=False, fill_missing=True)
        return np.asarray(volume[...])[..., 0].transpose()


class TestShardedPrecomputed(TestPrecomputed):
    """Raw, in shards."""

    def make(self, url: str, dtype: str = "", **changes: Any) -> Volume:
        return super().make(url, dtype, **{"shards": (16, 32, 32), **changes})

    def test_one_file_a_shard(self, volume: Volume, url: str) -> None:
        assert volume.spec.write_unit == (16, 32, 32)
        self.filled(volume)
        scale = json.loads(Path(parse(url).path, "info").read_text())["scales"][0]
        assert len(list(Path(parse(url).path, scale["key"]).iterdir())) == 2 * 2 * 2


class TestCompressedSegmentation(TestPrecomputed):
    """Labels of 32 and 64 bits, in blocks that share tables."""

    dtype: ClassVar[str] = "uint32"
    dtypes: ClassVar[tuple[str, ...]] = ("uint32", "uint64")
    options: ClassVar[str] = ""

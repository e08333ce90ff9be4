"""N5: the contract, and the conventions of Paintera, n5-viewer, BigDataViewer and COSEM; z5py and tensorstore as witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import z5py

from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.testing import VolumeSuite


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
    """A group in a container that holds another one."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        dataset(tmp_path / "many.n5", "other", np.ones((2, 3), "uint8"), (2, 3))
        return f"{tmp_path}/many.n5::/volumes/raw?compression=zstd"

    def write_raw(self, url: str, data: Array) -> None:
        dataset(parse(url).path, "volumes/raw", data, self.chunks)

    def read_raw_level(self, url: str, level: int) -> Array:
        pytest.skip("z5py has no zstd for N5")


class TestN5Dataset(TestN5):
    """A single dataset, by a path inside a container."""

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

"""NIfTI, NRRD, MRC, npy and npz keep the Volume contract; nibabel, pynrrd, mrcfile and numpy are the witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest

from ndbatch.geometry import Shape
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.testing import VolumeSuite


class TestNifti(VolumeSuite):
    """NIfTI-1, as it is."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/brain.nii"

    def write_raw(self, url: str, data: Array) -> None:
        nibabel.Nifti1Image(data.T, np.diag([2.0, 2.0, 3.0, 1.0])).to_filename(url)

    def read_raw(self, url: str) -> Array:
        return np.asarray(nibabel.load(url).dataobj).T


class TestPackedNifti(TestNifti):
    """NIfTI-1, packed by gzip."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/brain.nii.gz"


class TestNrrd(VolumeSuite):
    """NRRD, raw; what others write is packed."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/scan.nrrd"

    def write_raw(self, url: str, data: Array) -> None:
        nrrd.write(url, data, index_order="C")

    def read_raw(self, url: str) -> Array:
        return np.asarray(nrrd.read(url, index_order="C")[0])


class TestMrc(VolumeSuite):
    """MRC2014."""

    dtypes: ClassVar[tuple[str, ...]] = ("int8", "int16", "uint16", "float16", "float32")

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/tomogram.mrc"

    def write_raw(self, url: str, data: Array) -> None:
        with mrcfile.new(url, data) as file:
            file.set_volume()

    def read_raw(self, url: str) -> Array:
        assert mrcfile.validate(url)
        return np.asarray(mrcfile.read(url))


class TestPackedMrc(TestMrc):
    """MRC2014, packed by gzip."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/tomogram.mrc.gz"

    def write_raw(self, url: str, data: Array) -> None:
        with mrcfile.new(url, data, compression="gzip") as file:
            file.set_volume()

    def read_raw(self, url: str) -> Array:
        return np.asarray(mrcfile.read(url))


class TestNpy(VolumeSuite):
    """One array; the format knows neither place nor voxel size."""

    offset: ClassVar[Shape] = (0, 0, 0)
    dtypes: ClassVar[tuple[str, ...]] = (*VolumeSuite.dtypes, "bool", "float16", "int64")

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/a.npy"

    def write_raw(self, url: str, data: Array) -> None:
        np.save(url, np.asfortranarray(data))

    def read_raw(self, url: str) -> Array:
        return np.asarray(np.load(url))


class TestNpz(TestNpy):
    """An array beside another one."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        np.savez(tmp_path / "many.npz", other=np.ones((2, 3)))
        return f"{tmp_path}/many.npz::/seg"

    def write_raw(self, url: str, data: Array) -> None:
        np.savez_compressed(parse(url).path, seg=data, other=np.ones((2, 3)))

    def read_raw(self, url: str) -> Array:
        with np.load(parse(url).path) as file:
            assert np.array_equal(file["other"], np.ones((2, 3)))
            return np.asarray(file[parse(url).inside.strip("/")])

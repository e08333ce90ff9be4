"""BigDataViewer's HDF5 files: levels, voxel sizes of the XML file, unsigned voxels; ilastik; writing by one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import NotFound, PlanError
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.hdf5.volume import Hdf5Volume

XML = """<?xml version="1.0" encoding="UTF-8"?>
<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="bdv.hdf5"><hdf5 type="relative">embryo.h5</hdf5></ImageLoader><ViewSetups>
<ViewSetup><id>0</id><size>50 40 12</size><voxelSize><unit>µm</unit><size>0.4 0.5 2.0</size></voxelSize></ViewSetup>
<ViewSetup><id>1</id><size>50 40 12</size><voxelSize><unit>pixel</unit><size>1 1 1</size></voxelSize></ViewSetup>
</ViewSetups></SequenceDescription></SpimData>"""


@pytest.fixture
def embryo(tmp_path: Path, image: Array) -> tuple[str, Array]:
    """Return the path of a file with two setups of two times and three levels, and the voxels of the first."""
    data = image + 40_000
    with h5py.File(tmp_path / "embryo.h5", "w") as file:
        for setup in (0, 1):
            file[f"s{setup:02d}/resolutions"] = np.array([[1, 1, 1], [2, 2, 1], [4, 4, 2]], "float64")
            for time in (0, 1):
                for level, (z, y, x) in enumerate([(1, 1, 1), (1, 2, 2), (2, 4, 4)]):
                    cells = (data + 100 * setup + time)[::z, ::y, ::x]
                    name = f"t{time:05d}/s{setup:02d}/{level}/cells"
                    file.create_dataset(name, data=cells.view("int16"), chunks=(4, 8, 8), compression="gzip")
    (tmp_path / "embryo.xml").write_text(XML, encoding="utf-8")
    return f"{tmp_path}/embryo.h5", data


def test_levels(embryo: tuple[str, Array]) -> None:
    path, data = embryo
    volume = nb.open(f"{path}::/t00001/s00/0/cells")
    assert (volume.axes, volume.dtype, volume.levels, volume.chunks) == ("zyx", np.dtype("uint16"), 3, (4, 8, 8))
    assert volume.voxel_size == pytest.approx((2.0, 0.5, 0.4))
    assert np.array_equal(volume[...], data + 1)
    coarse = nb.open(f"{path}::/t00001/s00/0/cells", level=2)
    assert (coarse.shape, coarse.spec.level, coarse.levels) == ((6, 10, 13), 2, 3)
    assert coarse.voxel_size == pytest.approx((4.0, 2.0, 1.6))
    assert np.array_equal(coarse[2:, 3:7], (data + 1)[::2, ::4, ::4][2:, 3:7])
    direct = nb.open(f"{path}::/t00000/s00/1/cells")
    assert (direct.levels, direct.voxel_size) == (1, pytest.approx((2.0, 1.0, 0.8)))
    assert nb.open(f"{path}::/t00000/s01/0/cells").voxel_size is None
    with pytest.raises(NotFound, match="the dataset has levels 0 to 2"):
        nb.open(f"{path}::/t00000/s00/0/cells", level=3)
    with pytest.raises(NotFound, match=r"/s00/resolutions .*, /s01/resolutions .*, /t00000/s00/0/cells"):
        nb.open(path)


def test_large_values_are_written_as_they_are(embryo: tuple[str, Array]) -> None:
    path, data = embryo
    volume = nb.open(f"{path}::/t00000/s00/0/cells")
    volume.write(nb.Box((1, 2, 3), (2, 4, 5)), np.full((1, 2, 2), 65_000, "uint16"))
    data[1, 2:4, 3:5] = 65_000
    assert np.array_equal(volume[...], data)
    with h5py.File(path) as file:
        assert np.array_equal(file["t00000/s00/0/cells"][...].view("uint16"), data)
        assert np.array_equal(file["t00000/s00/1/cells"][...].view("uint16")[0], (data - 0)[0, ::2, ::2])
    with pytest.raises(PlanError, match="single level"):
        Hdf5Volume.delete(parse(f"{path}::/t00000/s00/0/cells?level=1"))


def test_without_its_xml(embryo: tuple[str, Array], tmp_path: Path) -> None:
    (tmp_path / "embryo.xml").write_text("<SpimData>")
    assert nb.open(f"{embryo[0]}::/t00000/s00/0/cells").voxel_size is None
    (tmp_path / "embryo.xml").unlink()
    assert nb.open(f"{embryo[0]}::/t00000/s00/0/cells").voxel_size is None


def test_an_export_of_ilastik(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((2, 5, 9, 7, 3)).astype("float32")
    tags = json.dumps({"axes": [{"key": key, "typeFlags": 2, "resolution": 0, "description": ""} for key in "tzyxc"]})
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("exported_data", data=data, chunks=(1, 5, 9, 7, 3)).attrs["axistags"] = tags
    volume = nb.open(f"{tmp_path}/p.h5")
    assert (volume.axes, volume.shape) == ("tczyx", (2, 3, 5, 9, 7))
    assert np.array_equal(volume[1, 2, 3:], data[1, 3:, ..., 2])


CONFIG: dict[str, Any] = {
    "name": "masks",
    "inputs": {"image": {"url": "in.h5::/raw", "voxel_size": {"z": 1, "y": 1, "x": 1}}},
    "steps": [{"threshold": {"input": "image", "method": "fixed", "value": 100, "output": "mask"}}],
    "blocks": {"z": 5, "y": 16, "x": 16},
}
OUTPUTS = (
    "out.h5::/mask",
    "out.nii.gz",
    "out.nrrd",
    "out.npz::/mask",
    "out.ome.tif?compression=zlib",
    "images://slices",
    "out.mrc",
)


@pytest.mark.parametrize("kind", ["inline", "processes", "dask"])
def test_one_process_writes_whatever_computes(tmp_path: Path, image: Array, kind: str) -> None:
    """Files that one process must write are whole and right when several processes compute their blocks."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("raw", data=(image % 251).astype("uint8"), chunks=(4, 16, 16))
    cluster = {"kind": kind} if kind == "inline" else {"kind": kind, "workers": 2}
    for number, name in enumerate(OUTPUTS if kind == "inline" else OUTPUTS[:2]):
        scheme, separator, path = name.rpartition("://")
        url = f"{scheme}{separator}{tmp_path}/{path}"
        mask = {"url": url, "dtype": "int8" if name.endswith("mrc") else "uint8"}
        job = {**CONFIG, "outputs": {"mask": mask}, "cluster": cluster, "directory": str(tmp_path / f"run{number}")}
        (tmp_path / f"job{number}.yaml").write_text(json.dumps(job))
        nb.run(tmp_path / f"job{number}.yaml")
        found = nb.open(url)
        assert np.array_equal(found[...] > 0, image % 251 > 100), name
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

"""A run writes whole pyramids in each format that keeps levels; other programs read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ngff_zarr
import numpy as np
import pytest
import z5py

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.remotes.base import Array
from ndbatch.runner import run


def by_ngff_zarr(path: Path) -> list[Array]:
    return [image.data.compute() for image in ngff_zarr.from_ome_zarr(str(path), validate=True).images]


def by_z5py(path: Path) -> list[Array]:
    group = z5py.File(str(path), "r")
    return [group[f"s{level}"][:] for level in range(3)]


@pytest.mark.parametrize(
    ("name", "more", "witness"),
    [
        ("out.zarr", "", by_ngff_zarr),
        ("out.zarr", "?ome=0.4", by_ngff_zarr),
        ("out.n5", "", by_z5py),
    ],
)
def test_pyramids_of_every_format(tmp_path: Path, name: str, more: str, witness: Any) -> None:
    data = np.random.default_rng(0).integers(0, 60_000, (12, 45, 37)).astype("uint16")
    source = nb.create(
        tmp_path / "in.zarr", shape=data.shape, dtype="uint16", offset=(4, 16, 24), voxel_size=(0.4, 0.1, 0.1)
    )
    source.write(source.domain, data)
    output = {"url": f"{tmp_path / name}{more}", "chunks": {"z": 8, "y": 16, "x": 16}, "pyramid": 2}
    document = {
        "name": "pyramid",
        "inputs": {"image": {"url": source.url}},
        "steps": [{"copy": {"input": "image", "output": "copied"}}],
        "outputs": {"copied": output},
        "cluster": {"kind": "inline"},
        "directory": str(tmp_path / "run"),
    }
    run(from_mapping(document))
    seen = witness(tmp_path / name)
    for level, shape in enumerate([(12, 45, 37), (12, 23, 19), (12, 12, 10)]):
        volume = nb.open(f"{tmp_path / name}", level=level)
        factor = 2**level
        assert (volume.levels, volume.shape) == (3, shape)
        assert volume.offset == (4, 16 // factor, 24 // factor)
        assert volume.voxel_size == pytest.approx((0.4, 0.1 * factor, 0.1 * factor))
        assert np.array_equal(volume[...], seen[level])
    assert np.array_equal(seen[0], data)
    whole = data[:, :44, :36].reshape(12, 22, 2, 18, 2).astype(float).mean(axis=(2, 4))
    assert np.abs(seen[1][:, :22, :18] - whole).max() <= 0.5

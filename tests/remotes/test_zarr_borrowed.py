"""Arrays of up to three axes are written without a copy: whatever their chunks and layout, every voxel arrives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import ndbatch as nb
from ndbatch.geometry import Box

AXES = "tczyx"


def test_every_voxel_arrives_however_the_array_lies(tmp_path: Path) -> None:
    """Sparse arrays, views and transposed ones, chunks that lie scattered in them: what tensorstore took for zeros once."""
    rng = np.random.default_rng(0)
    for number in range(60):
        axes = AXES[-int(rng.integers(2, 6)) :]
        chunks = tuple(int(rng.integers(1, {2: 20, 3: 9, 4: 7, 5: 5}[len(axes)])) for _ in axes)
        shape = tuple(n * int(rng.integers(1, 4)) + int(rng.integers(0, 3)) for n in chunks)
        data = np.where(rng.random(shape) < rng.choice([0.02, 0.3, 1]), rng.integers(1, 200, shape), 0).astype(
            np.uint16
        )
        if number % 2:
            data = np.ascontiguousarray(data.T).T
        volume = nb.create(tmp_path / f"{number}.zarr", shape=shape, dtype="uint16", chunks=chunks, axes=axes)
        start = tuple(int(rng.integers(0, n)) if rng.random() < 0.3 else 0 for n in shape)
        box = Box(start, shape)
        volume.write(box, data[box.slices()])
        np.testing.assert_array_equal(nb.open(volume.url).read(box), data[box.slices()], err_msg=f"{axes} {chunks}")

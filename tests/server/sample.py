"""A folder of small volumes of every sort that `ndbatch serve` meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import urllib3
from numpy.typing import NDArray

import ndbatch

HTTP = urllib3.PoolManager(retries=False, maxsize=16, timeout=180)
SHAPE = (50, 130, 100)
OFFSET = (5, 0, 10)
SIZE = (2.0, 1.0, 1.0)
TOKEN = "a-token-of-tests"


def noise(dtype: str, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    """Return values over much of the range of a type, the same each time."""
    source = np.random.default_rng(7)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return source.normal(size=shape).astype(kind)
    if kind.kind == "b":
        return source.random(shape) > 0.5
    return source.integers(0, min(np.iinfo(kind).max, 2**62), shape, endpoint=True).astype(kind)


def objects(dtype: str = "uint64", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    """Return boxes with ids above 2^32 where the type has them, and background between them."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    ids = (z // 16) * 10_000 + (y // 20) * 100 + x // 15 + 1
    inside = ((z % 16) > 2) & ((y % 20) > 4) & ((x % 15) > 3)
    first = 2**40 if dtype == "uint64" else 0
    result: NDArray[Any] = np.where(inside, ids + first, 0).astype(dtype)
    return result


def store(path: Path, data: NDArray[Any], **facts: Any) -> None:
    """Write a volume; `facts` as `ndbatch.create` takes them, of a frame that all volumes here share if not given."""
    wanted = {"axes": "zyx", "voxel_size": SIZE, "offset": OFFSET, "chunks": (32, 64, 64), **facts}
    volume = ndbatch.create(str(path), shape=data.shape, dtype=data.dtype, **wanted)
    volume.write(volume.domain, data)


def filled(root: Path) -> dict[str, NDArray[Any]]:
    """Fill a folder with `lab/embryo/NAME.zarr` and return the voxels by name, level 0."""
    made: dict[str, NDArray[Any]] = {
        "nuclei": noise("uint8"),
        "wide": noise("uint16"),
        "field": noise("float32"),
        "mask": noise("bool"),
        "signed": noise("int64"),
    }
    for name, data in made.items():
        store(root / f"lab/embryo/{name}.zarr", data)
    made["cells"] = objects()
    store(root / "lab/embryo/cells.zarr", made["cells"], kind="labels")
    runs = root.parent / f"{root.name}-runs"
    ndbatch.downsample(str(root / "lab/embryo/cells.zarr"), levels=1, cluster="inline", directory=runs)
    made["movie"] = noise("uint8", (3, 20, 40, 30))
    moving = {"axes": "tzyx", "voxel_size": (1.0, *SIZE), "offset": (0, *OFFSET), "chunks": (1, 20, 40, 30)}
    store(root / "lab/embryo/movie.zarr", made["movie"], **moving)
    made["stain"] = noise("uint16", (2, 20, 40, 30))
    store(root / "lab/embryo/stain.zarr", made["stain"], **{**moving, "axes": "czyx"})
    return made

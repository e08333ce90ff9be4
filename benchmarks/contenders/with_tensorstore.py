"""The works of benchmarks/speed.py as bare as can be: tensorstore alone, or the array in memory in one thread (`floor`).

For the works of the floor that run in memory, half of the wall time is printed: two cores could at best halve it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts


def opened(path: Path) -> Any:
    """Open a zarr v3 array, with two threads."""
    context = ts.Context({"data_copy_concurrency": {"limit": 2}, "file_io_concurrency": {"limit": 2}})
    return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/0/"}}, context=context).result()


def empty(like: Any, path: Path, shape: tuple[int, ...], chunk: int, dtype: str) -> Any:
    """Create an array with the codecs of `like`."""
    metadata = like.spec().to_json()["metadata"]
    blosc = {**metadata["codecs"][-1]["configuration"], "typesize": np.dtype(dtype).itemsize}
    made = {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk] * 3}},
        "codecs": [metadata["codecs"][0], {"name": "blosc", "configuration": blosc}],
    }
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/0/"}, "metadata": made}
    return ts.open(spec, create=True).result()


def copied(folder: Path, out: Path, make: Callable[[Any], Any]) -> None:
    """Copy slabs of whole chunks, one after another, by two threads."""
    source = opened(folder / "image.zarr")
    target = make(source)
    for first in range(0, source.shape[0], 128):
        part = source[first : first + 128]
        data = part.read().result()
        (target[..., 0].T if target.rank == 4 else target)[first : first + 128].write(data).result()


def precomputed(source: Any, out: Path) -> Any:
    """Create a raw precomputed volume of 64^3 chunks."""
    return ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{out}.precomputed/"},
            "multiscale_metadata": {"data_type": source.dtype.name, "num_channels": 1, "type": "image"},
            "scale_metadata": {
                "size": list(source.shape[::-1]),
                "encoding": "raw",
                "chunk_size": [64] * 3,
                "resolution": [1000] * 3,
            },
        },
        create=True,
    ).result()


def pyramid(folder: Path, out: Path, name: str, method: str) -> None:
    """Write three levels, each pooled from the one before, 256^3 voxels of the source at a time."""
    source = opened(folder / name)
    for level in (1, 2, 3):
        smaller = ts.downsample(source, [2, 2, 2], method)
        path = out.with_name(f"{out.name}-{level}.zarr")
        target = empty(source, path, smaller.shape, 64, str(source.dtype.numpy_dtype))
        for first in range(0, smaller.shape[0], 64):
            part = smaller[first : min(first + 64, smaller.shape[0])].read().result()
            target[first : first + part.shape[0]].write(part).result()
        source = opened(path)


def in_memory(work: str, folder: Path) -> float:
    """Return half the seconds that the arithmetic takes on an array in memory, in one thread."""
    import cc3d
    from scipy import ndimage

    names = {"components": "mask.zarr", "image-pyramid": "image64.zarr", "labels-pyramid": "labels64.zarr"}
    data = np.asarray(opened(folder / names.get(work, "image.zarr")).read().result())
    begun = time.perf_counter()
    if work == "gaussian":
        ndimage.gaussian_filter(data, 2, output=np.float32) > 128.5  # noqa: B015
    elif work == "components":
        cc3d.connected_components(data, connectivity=6)
    else:
        for _ in range(3):
            data = (
                ts.downsample(ts.array(data), [2, 2, 2], "mean" if work == "image-pyramid" else "mode").read().result()
            )
    return (time.perf_counter() - begun) / 2


def main() -> None:
    """Do the work named on the command line and print its seconds; `floor` as third argument runs it in memory."""
    work, folder = sys.argv[1], Path(sys.argv[2])
    out = folder / "tensorstore"
    if sys.argv[3:] == ["floor"] and work not in ("transcode", "precomputed"):
        print(in_memory(work, folder))
        return
    begun = time.perf_counter()
    if work == "transcode":
        copied(
            folder,
            out,
            lambda source: empty(source, out.with_name("tensorstore.zarr"), source.shape, 64, source.dtype.name),
        )
    elif work == "precomputed":
        copied(folder, out, lambda source: precomputed(source, out))
    else:
        pyramid(folder, out, *(("image64.zarr", "mean") if work == "image-pyramid" else ("labels64.zarr", "mode")))
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()

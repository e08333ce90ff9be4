"""The works of benchmarks/speed.py by dask arrays on two threads, blocks of 256^3, volumes through tensorstore."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from scipy import ndimage
from with_tensorstore import empty, opened


class Adapter:
    """A tensorstore array as dask takes it: its own dtype object is not understood there."""

    def __init__(self, store: Any) -> None:
        self.store, self.shape, self.ndim = store, store.shape, store.rank
        self.dtype = np.dtype(store.dtype.numpy_dtype)

    def __getitem__(self, key: Any) -> Any:
        return self.store[key].read().result()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.store[key].write(value).result()


def main() -> None:
    """Do the work named on the command line and print its seconds."""
    work, folder = sys.argv[1], Path(sys.argv[2])
    source = opened(folder / "image.zarr")
    chunk, dtype = (64, str(np.dtype(source.dtype.numpy_dtype))) if work == "transcode" else (128, "uint8")
    begun = time.perf_counter()
    target = empty(source, folder / "dask.zarr", source.shape, chunk, dtype)
    lazy = da.from_array(Adapter(source), chunks=256)
    if work == "gaussian":
        lazy = lazy.map_overlap(
            lambda block: (ndimage.gaussian_filter(block, 2, output=np.float32) > 128.5).astype(np.uint8),
            depth=8,
            boundary="reflect",
            dtype=np.uint8,
        )
    da.store(lazy, Adapter(target), lock=False, scheduler="threads", num_workers=2)
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()

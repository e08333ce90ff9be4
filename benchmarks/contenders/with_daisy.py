"""The copy of benchmarks/speed.py by daisy: two workers, blocks of 128^3, volumes through tensorstore."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import daisy
from with_tensorstore import empty, opened

FOLDER = Path(sys.argv[2])


def one(block: daisy.Block) -> None:
    """Copy one block; the arrays are opened once a worker."""
    state = one.__dict__
    if "source" not in state:
        state["source"] = opened(FOLDER / "image.zarr")
        state["target"] = opened(FOLDER / "daisy.zarr")
    where = tuple(slice(a, b) for a, b in zip(block.write_roi.begin, block.write_roi.end, strict=True))
    state["target"][where].write(state["source"][where].read().result()).result()


def main() -> None:
    """Copy, and print the seconds."""
    source = opened(FOLDER / "image.zarr")
    shape = tuple(source.shape)
    empty(source, FOLDER / "daisy.zarr", shape, 64, source.dtype.name)
    whole, block = daisy.Roi((0, 0, 0), shape), daisy.Roi((0, 0, 0), (128, 128, 128))
    begun = time.perf_counter()
    task = daisy.Task(
        "copy",
        total_roi=whole,
        read_roi=block,
        write_roi=block,
        process_function=one,
        num_workers=2,
        read_write_conflict=False,
    )
    assert daisy.run_blockwise([task])
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()

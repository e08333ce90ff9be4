"""Run a function of your own over all blocks: an array, and the rows of a table. Give a folder for the results, or none."""

import sys
import tempfile
from pathlib import Path

import pandas as pd
from scipy import ndimage

import ndbatch as nb

DATA = Path(__file__).parent / "data"


def flatten(image, block, width):
    """Subtract the background from a block; tell how bright it was. Runs in worker processes."""
    background = ndimage.minimum_filter(image, size=width)
    z, y, x = block.core.start
    return image - background, {"z": z, "y": y, "x": x, "background": float(background.mean())}


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    result = nb.map_blocks(
        flatten,
        nb.open(DATA / "nuclei_cells3d.tif"),
        str(folder / "flat.zarr"),
        table=folder / "background.parquet",
        parameters={"width": 9},
        halo=4,
        blocks={"z": 60, "y": 128, "x": 128},
        directory=folder / "run",
    )
    print(f"{result.status}: {result.counts.done} blocks in {result.seconds:.1f} s, in {folder}")
    print(nb.open(folder / "flat.zarr"))
    print(pd.read_parquet(folder / "background.parquet"))

"""Find the nuclei of a real volume and read the table of them. Give a folder for the results, or none."""

import sys
import tempfile
from pathlib import Path

import pandas as pd

import ndbatch as nb

DATA = Path(__file__).parent / "data"

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
result = nb.run(
    {
        "name": "count-nuclei",
        "inputs": {
            "image": {
                "url": str(DATA / "nuclei_cells3d.tif"),
                "voxel_size": {"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"},
            }
        },
        "steps": [
            {"nuclei": {"input": "image", "diameter": "11 um", "output": "labels"}},
            {"measure": {"labels": "labels", "intensity": "image", "output": "cells"}},
        ],
        "outputs": {"labels": "labels.zarr", "cells": "cells.parquet"},
        "directory": str(folder),
    }
)
cells = pd.read_parquet(result.outputs["cells"])
print(cells[["label", "z_um", "y_um", "x_um", "volume_um3", "intensity_mean"]].round(1).to_string(index=False))
print(f"{len(cells)} nuclei; look at {result.report}")

"""Find the nuclei of a real volume and read the table of them. Give a folder for the results, or none."""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

import ndbatch as nb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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

image, labels = nb.open(DATA / "nuclei_cells3d.tif"), nb.open(result.outputs["labels"])
size, plane, section = labels.voxel_size, image[30], labels[30]
extent = (0, image.shape[2] * size[2], image.shape[1] * size[1], 0)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
left.imshow(plane, cmap="gray", extent=extent, vmax=np.percentile(plane, 99.5))
rows, columns = ((np.arange(n) + 0.5) * s for n, s in zip(section.shape, size[1:], strict=True))
for label in np.unique(section[section > 0]):
    left.contour(columns, rows, section == label, [0.5], colors="gold", linewidths=1)
left.set(title=f"{len(cells)} nuclei; those in plane 30", xlabel="x, um", ylabel="y, um")
right.hist(cells.volume_um3, bins=12, color="gray", edgecolor="white")
right.set(title="their sizes; the smallest are cut by the volume's sides", xlabel="volume, cubic um", ylabel="nuclei")
figure.savefig(folder / "count_nuclei.png", dpi=90)
print(f"{len(cells)} nuclei; look at {result.report} and {folder / 'count_nuclei.png'}")

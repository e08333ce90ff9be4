"""Threshold, connected components, a table with shapes and zones, and two plots. Give a folder for the results, or none."""

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
SIZE = {"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"}


def quarters(image: nb.Volume, folder: Path) -> nb.Volume:
    """Write a volume of four zones, as an atlas has hundreds of them, and the table of their names."""
    zones = nb.create(folder / "zones.zarr", like=image, dtype="uint8", kind="labels")
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    plane = 1 + (y >= image.shape[1] // 2) * 2 + (x >= image.shape[2] // 2)
    zones.write(zones.domain, np.ascontiguousarray(np.broadcast_to(plane, image.shape)).astype(np.uint8))
    (folder / "zones.csv").write_text("number,name\n1,upper left\n2,upper right\n3,lower left\n4,lower right\n")
    return zones


def draw(image: nb.Volume, labels: nb.Volume, cells: pd.DataFrame, picture: Path) -> None:
    """Draw the outlines over the image, and volume against sphericity, coloured by zone."""
    plane, size = 30, image.voxel_size
    colours = np.array(["black", "tab:blue", "tab:orange", "tab:green", "tab:red"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
    extent = (0, image.shape[2] * size[2], image.shape[1] * size[1], 0)
    left.imshow(image[plane], cmap="gray", extent=extent, vmax=np.percentile(image[plane], 99.5))
    section = labels[plane]
    for row in cells.itertuples():
        if (section == row.label).any():
            rows, columns = (np.arange(n) + 0.5 for n in section.shape)
            left.contour(columns * size[2], rows * size[1], section == row.label, [0.5], colors=[colours[row.zone]])
            left.text(row.x_um, row.y_um, row.label, color="white", ha="center", va="center", fontsize=8)
    left.set(xlabel="x, um", ylabel="y, um", title=f"plane {plane}: outlines in the colour of their zone")
    for zone, name in enumerate(("upper left", "upper right", "lower left", "lower right"), 1):
        inside = cells[cells.zone == zone]
        right.scatter(inside.volume_um3, inside.sphericity, color=colours[zone], label=name)
    for row in cells.itertuples():
        right.annotate(
            row.label, (row.volume_um3, row.sphericity), fontsize=8, xytext=(4, 3), textcoords="offset points"
        )
    right.set(
        xlabel="volume, cubic um", ylabel="sphericity", title="1 is a sphere; touching nuclei are one object here"
    )
    right.legend(title="zone")
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    image = nb.open(DATA / "nuclei_cells3d.tif", voxel_size=SIZE)
    zones = quarters(image, folder)
    measured = {"labels": "objects", "intensity": "image", "properties": ["shape", "surface", "neighbours"]}
    result = nb.run(
        {
            "name": "label-and-measure",
            "inputs": {"image": {"url": image.url, "voxel_size": SIZE}, "zones": zones.url},
            "steps": [
                {"filter": {"input": "image", "sigma": "0.5 um", "output": "smooth"}},
                {"threshold": {"input": "smooth", "method": "otsu", "output": "mask"}},
                {"fill": {"input": "mask", "size": "3 um", "output": "full"}},
                {"components": {"input": "full", "dust": 2000, "output": "objects"}},
                {
                    "measure": {
                        **measured,
                        "zones": "zones",
                        "zones_output": "density",
                        "zone_names": str(folder / "zones.csv"),
                        "output": "cells",
                    }
                },
            ],
            "outputs": {"objects": "objects.zarr", "cells": "cells.parquet", "density": "density.csv"},
            "cluster": {"kind": "inline"},
            "directory": str(folder),
        }
    )
    cells = pd.read_parquet(result.outputs["cells"])
    shown = ["label", "zone", "volume_um3", "axis_major_length_um", "sphericity", "neighbours", "intensity_mean"]
    print(cells[shown].round(2).to_string(index=False))
    print(pd.read_csv(result.outputs["density"]).to_string(index=False))
    draw(image, nb.open(result.outputs["objects"]), cells, folder / "label_and_measure.png")
    print(f"{len(cells)} objects; look at {folder / 'label_and_measure.png'}")

"""Open a volume, look at a piece of it, and reckon with all of it lazily. Give a folder for the picture, or none."""

import sys
import tempfile
from pathlib import Path

import matplotlib

import ndbatch as nb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(__file__).parent / "data"

image = nb.open(DATA / "nuclei_cells3d.tif", voxel_size={"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"})
print(image)

# Slicing reads what is asked for and nothing else.
plane = image[30]
print(f"plane 30: {plane.shape} {plane.dtype}, mean {plane.mean():.0f}")

# A dask array reads when it is computed, chunk by chunk.
projection = image.dask().max(axis=0).compute()
print(f"brightest along z: {projection.shape}, from {projection.min()} to {projection.max()}")

# From voxels to micrometres, for axes that say how large it is.
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
extent = (0, image.shape[2] * image.voxel_size[2], image.shape[1] * image.voxel_size[1], 0)
figure, places = plt.subplots(1, 2, figsize=(9.5, 4.6), sharey=True, layout="constrained")
for place, drawn, name in zip(places, (plane, projection), ("plane 30", "brightest along z"), strict=True):
    place.imshow(drawn, cmap="gray", extent=extent)
    place.set(title=name, xlabel="x, um")
places[0].set_ylabel("y, um")
figure.savefig(folder / "look.png", dpi=90)
print(f"look at {folder / 'look.png'}")

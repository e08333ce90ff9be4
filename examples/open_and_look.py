"""Open a volume, look at a piece of it, and reckon with all of it lazily."""

from pathlib import Path

import ndbatch as nb

DATA = Path(__file__).parent / "data"

image = nb.open(DATA / "nuclei_cells3d.tif", voxel_size={"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"})
print(image)

# Slicing reads what is asked for and nothing else.
plane = image[30]
print(f"plane 30: {plane.shape} {plane.dtype}, mean {plane.mean():.0f}")

# A dask array reads when it is computed, chunk by chunk.
projection = image.dask().max(axis=0).compute()
print(f"brightest along z: {projection.shape}, from {projection.min()} to {projection.max()}")

"""TIFF to OME-Zarr to precomputed to N5 to NIfTI and back: not a voxel changes. Give a folder for the results, or none."""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

import ndbatch as nb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(__file__).parent / "data"
SIZE = {"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"}
CHAIN = ("nuclei.zarr", "precomputed://layer", "nuclei.n5", "nuclei.nii.gz", "nuclei.ome.tif")

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    first = nb.open(DATA / "nuclei_cells3d.tif", voxel_size=SIZE)
    volumes = [first]
    for address in CHAIN:
        scheme, separator, path = address.rpartition("://")
        target = f"{scheme}{separator}{folder / path}"
        # What `ndbatch copy` does; the same again would find everything done. cluster="processes" uses all cores.
        result = nb.copy(volumes[-1], target, cluster="inline", directory=folder / "runs" / path)
        volumes.append(nb.open(target))
        print(
            f"{address:22} {volumes[-1].dtype} {volumes[-1].shape}, chunks {volumes[-1].chunks}, {result.seconds:.1f} s"
        )

    last = volumes[-1]
    difference = np.abs(last[...].astype(np.int64) - first[...]).max()
    assert difference == 0
    assert np.allclose(last.voxel_size, first.voxel_size)
    print(f"the last is the first: largest difference {difference}, voxels of {last.voxel_size} um")

    plane = first.shape[0] // 2
    extent = (0, first.shape[2] * first.voxel_size[2], first.shape[1] * first.voxel_size[1], 0)
    figure, places = plt.subplots(1, len(volumes), figsize=(15, 3.2), sharey=True, layout="constrained")
    for volume, name, place in zip(volumes, ("nuclei_cells3d.tif", *CHAIN), places, strict=True):
        place.imshow(volume[plane], cmap="gray", extent=extent)
        place.set_title(name, fontsize=10)
        place.set_xlabel("x, um")
    places[0].set_ylabel("y, um")
    figure.suptitle(
        f"From left to right, each made from the one before; plane {plane}, largest difference {difference}"
    )
    figure.savefig(folder / "convert.png", dpi=90)
    print(f"look at {folder / 'convert.png'}")

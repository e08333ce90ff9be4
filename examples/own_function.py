"""Functions of your own: over blocks with context, and a model over patches. Give a folder for the results, or none."""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from scipy import ndimage

import ndbatch as nb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(__file__).parent / "data"


def flatten(image, block, width):
    """Subtract the background from a block; tell how bright it was. Runs in worker processes."""
    background = ndimage.minimum_filter(image, size=width)
    z, y, x = block.core.start
    return image - background, {"z": z, "y": y, "x": x, "background": float(background.mean())}


class Model:
    """As a network is run: loaded once a process, then given patches of one shape, several at a time.

    This one knows but two numbers, the grey values of background and nuclei; put the loading of your own weights here.
    """

    def __init__(self, weights):
        self.dark, self.bright = map(float, np.load(weights))

    def __call__(self, patches):
        """Return the probability of nucleus for patches of shape (batch, z, y, x)."""
        smooth = ndimage.gaussian_filter(patches.astype(np.float32), (0, 1, 1, 1))
        middle, slope = (self.dark + self.bright) / 2, 8 / (self.bright - self.dark)
        return 1 / (1 + np.exp(-slope * (smooth - middle)))


def draw(volumes, picture):
    """Draw a plane of each volume, by name, with the scale in micrometres."""
    figure, places = plt.subplots(1, len(volumes), figsize=(12.5, 4.2), sharey=True, layout="constrained")
    for (name, volume, unit), place in zip(volumes, places, strict=True):
        extent = (0, volume.shape[2] * volume.voxel_size[2], volume.shape[1] * volume.voxel_size[1], 0)
        drawn = place.imshow(volume[30], cmap="gray", extent=extent)
        figure.colorbar(drawn, ax=place, shrink=0.8, label=unit)
        place.set(title=name, xlabel="x, um")
    places[0].set_ylabel("y, um")
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    image = nb.open(DATA / "nuclei_cells3d.tif", voxel_size={"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"})
    result = nb.map_blocks(
        flatten,
        image,
        str(folder / "flat.zarr"),
        table=folder / "background.parquet",
        parameters={"width": 9},
        halo=4,
        blocks={"z": 60, "y": 128, "x": 128},
        directory=folder / "run",
    )
    assert result.status == "done", f"look at {result.report}"
    print(f"{result.status}: {result.counts.done} blocks in {result.seconds:.1f} s, in {folder}")
    print(pd.read_parquet(folder / "background.parquet"))

    # The file is an argument of Model, by name; where it changes, the run is not gone on with. Neighbouring patches share
    # 16 voxels, over which their outputs are blended, so that no seams show.
    np.save(folder / "weights.npy", np.percentile(image[...], [50, 95]))
    result = nb.map_blocks(
        Model,
        image,
        str(folder / "probability.zarr"),
        dtype="float32",
        patches={
            "setup": {"weights": str(folder / "weights.npy")},
            "patch": {"z": 30, "y": 96, "x": 96},
            "overlap": {"mode": "linear", "size": 16},
            "batch": 4,
        },
        cluster="threads",  # one Model for all of them; with "processes", one for each process
        directory=folder / "patches",
    )
    assert result.status == "done", f"look at {result.report}"
    print(f"{result.status}: patches in batches of 4, {result.seconds:.1f} s")
    flat, probability = nb.open(folder / "flat.zarr"), nb.open(folder / "probability.zarr")
    print(f"{probability}: from {probability[...].min():.2f} to {probability[...].max():.2f}")
    volumes = (("image", image, "grey value"), ("flatten, over blocks", flat, "above background"))
    draw((*volumes, ("Model, over patches", probability, "probability")), folder / "own_function.png")
    print(f"look at {folder / 'own_function.png'}")

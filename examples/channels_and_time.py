"""Five axes: channels by name, times one by one, views and a projection. Give a folder for the results, or none."""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from scipy import ndimage

import ndbatch as nb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(__file__).parent / "data"
SIZE = {"z": "0.29 um", "y": "0.26 um", "x": "0.26 um"}
TIMES, CHANNELS = 3, ("DAPI", "edges")


def film(folder):
    """Write an image of 3 times and 2 channels, in which the nuclei drift to the right, as t, c, z, y, x."""
    nuclei = nb.open(DATA / "nuclei_cells3d.tif", voxel_size=SIZE)
    volume = nb.create(
        folder / "film.zarr",
        shape=(TIMES, len(CHANNELS), *nuclei.shape),
        axes="tczyx",
        dtype="uint16",
        chunks={"t": 1, "c": 1, "z": 30, "y": 128, "x": 128},
        voxel_size=SIZE,
    )
    # Names and colours of channels are kept where viewers of OME-Zarr look for them.
    shown = [{"label": name, "color": colour} for name, colour in zip(CHANNELS, ("00FFFF", "FF8000"), strict=True)]
    volume.set_attributes({"omero": {"channels": shown}})
    for t in range(TIMES):
        dapi = np.roll(nuclei[...], 24 * t, axis=2)
        edges = ndimage.gaussian_gradient_magnitude(dapi, 1.5, output=np.float32).astype(np.uint16)
        voxels = np.stack([dapi, edges])[None]
        volume.write(nb.Box.of_shape(voxels.shape, (t, 0, 0, 0, 0)), voxels)
    return volume


def run(name, inputs, steps, folder):
    """Run steps and return the address of their result, which has the run's name."""
    result = nb.run(
        {
            "name": name,
            "inputs": inputs,
            "steps": steps,
            "outputs": {name: f"{name}.zarr"},
            "cluster": {"kind": "inline"},
            "directory": str(folder / name),
        }
    )
    return result.outputs[name]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    volume = film(folder)
    print(volume)
    # The address takes a place of an axis, which goes away: by number, and channels by name.
    dapi = nb.open(f"{volume.url}?t=0&c=DAPI")
    print(f"{dapi.axes} {dapi.shape}; the same: {np.array_equal(dapi[30], volume[0, 0, 30])}")
    cropped = nb.open(volume.url, t=2, c="edges", crop={"y": ("10 um", "40 um")}, flip="x")
    print(f"{cropped.axes} {cropped.shape} from {cropped.offset}")

    # A step does all times and channels, each by itself.
    project = {"project": {"input": "film", "method": "max", "output": "flat"}}
    seen = run("flat", {"film": volume.url}, [project], folder)
    # An input may be one channel of all times: objects are those of DAPI, numbered through all times.
    steps = [
        {"filter": {"input": "dapi", "sigma": "0.5 um", "output": "smooth"}},
        {"threshold": {"input": "smooth", "method": "otsu", "output": "mask"}},
        {"components": {"input": "mask", "dust": 2000, "output": "nuclei"}},
    ]
    found = run("nuclei", {"dapi": f"{volume.url}?c=DAPI"}, steps, folder)
    flat, nuclei = nb.open(seen), nb.open(found)
    print(f"projection: {flat.axes} {flat.shape}; nuclei: {nuclei.axes} {nuclei.shape}")

    figure, places = plt.subplots(3, TIMES, figsize=(9, 9), sharex=True, sharey=True, layout="constrained")
    extent = (0, flat.shape[-1] * flat.voxel_size[-1], flat.shape[-2] * flat.voxel_size[-2], 0)
    for t, column in enumerate(places.T):
        for place, plane, colour in zip(column, flat[t, :, 0], ("bone", "copper"), strict=False):
            place.imshow(plane, cmap=colour, extent=extent)
        labels = nuclei[t, 30]
        column[2].imshow(
            np.where(labels > 0, labels % 19 + 1, 0), cmap="nipy_spectral", extent=extent, interpolation="nearest"
        )
        column[0].set_title(f"t = {t}")
        column[2].set_xlabel("x, um")
    for place, name in zip(
        places[:, 0], ("DAPI, brightest along z", "edges, brightest along z", "objects in plane 30"), strict=True
    ):
        place.set_ylabel(f"{name}\ny, um")
    figure.savefig(folder / "channels_and_time.png", dpi=90)
    print(f"look at {folder / 'channels_and_time.png'}")

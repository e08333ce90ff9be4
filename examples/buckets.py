"""A volume in a bucket: written, listed, worked on and read again. Give a folder for the results, or none.

A real S3 server is started on this machine (moto, of the extra `test`). With a bucket of your own, leave that out: the
addresses are all there is; keys come from the environment, from a profile (`?profile=lab`) or from the machine.
"""

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


def work(folder):
    """Copy an image into the bucket, find its nuclei there, and draw what is read of both."""
    copied = nb.copy(
        nb.open(DATA / "nuclei_cells3d.tif", voxel_size=SIZE),
        "zarr://s3://microscope/nuclei.zarr",
        chunks={"z": 30, "y": 128, "x": 128},
        levels=1,
        cluster="inline",
        directory=folder / "copy",
    )
    result = nb.run(
        {
            "name": "objects",
            "inputs": {"image": copied.outputs["copy"]},
            "steps": [
                {"filter": {"input": "image", "sigma": "0.5 um", "output": "smooth"}},
                {"threshold": {"input": "smooth", "output": "mask"}},
                {"components": {"input": "mask", "dust": 2000, "output": "objects"}},
            ],
            "outputs": {"objects": "precomputed://s3://microscope/objects"},
            "cluster": {"kind": "threads"},
            "directory": str(folder / "objects"),
        }
    )
    for entry in nb.connect("s3://microscope").ls():
        print(f"s3://microscope/{entry.name}: {entry.format} {entry.shape} {entry.dtype}, {entry.levels} level(s)")
    image, objects = nb.open(copied.outputs["copy"]), nb.open(result.outputs["objects"])
    print(f"{len(np.unique(objects[...])) - 1} objects in {objects.url}")

    figure, places = plt.subplots(1, 2, figsize=(9.5, 4.8), sharey=True, layout="constrained")
    extent = (0, image.shape[2] * image.voxel_size[2], image.shape[1] * image.voxel_size[1], 0)
    section = objects[30]
    places[0].imshow(image[30], cmap="gray", extent=extent)
    places[1].imshow(
        np.where(section > 0, section % 19 + 1, 0), cmap="nipy_spectral", extent=extent, interpolation="nearest"
    )
    for place, volume in zip(places, (image, objects), strict=True):
        place.set(title=volume.url, xlabel="x, um")
    places[0].set_ylabel("y, um")
    figure.savefig(folder / "buckets.png", dpi=90)
    print(f"look at {folder / 'buckets.png'}")


if __name__ == "__main__":
    try:
        from ndbatch.testing.servers import s3_server

        served = s3_server("microscope")
        served.__enter__()
    except ImportError as error:
        print(f'this example needs an S3 server on this machine: pip install "moto[server]" ({error})')
        raise SystemExit(0) from None
    try:
        work(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
    finally:
        served.__exit__(None, None, None)

"""Pyramids of an image and of its labels, by YAML and in Python. Give a folder for the results, or none."""

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

YAML = """\
name: pyramid
inputs:
  image: {{url: {data}/nuclei_cells3d.tif, voxel_size: {{z: 0.29 um, y: 0.26 um, x: 0.26 um}}}}
steps:
  - copy: {{input: image, output: nuclei}}
outputs:
  nuclei: {{url: nuclei.zarr, chunks: {{z: 16, y: 64, x: 64}}, pyramid: 3}}  # auto would end at 128 voxels
cluster: {{kind: inline}}
directory: {folder}
"""


def scaled(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return a colour for each id; the background is black."""
    return colours[labels % len(colours)] * (labels > 0)[..., None]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve()
    # The file is what `ndbatch run pyramid.yaml` takes; the image becomes smaller by the mean.
    (folder / "pyramid.yaml").write_text(YAML.format(data=DATA, folder=folder))
    nb.run(folder / "pyramid.yaml")
    # The same in Python, for labels: they keep their ids, the most frequent one wins.
    image = nb.open(folder / "nuclei.zarr")
    truth = nb.open(DATA / "nuclei_cells3d_truth.tif", kind="labels", voxel_size=SIZE)
    nb.copy(truth, folder / "labels.zarr", levels=2, cluster="inline", directory=folder / "labels")
    # A level more, of the volume that is there: `ndbatch downsample labels.zarr --levels 1`.
    nb.downsample(folder / "labels.zarr", levels=1, cluster="inline", directory=folder / "more")

    ids = set(np.unique(truth[...]))
    colours = np.random.default_rng(3).uniform(0.3, 1, (256, 3))
    figure, places = plt.subplots(2, image.levels, figsize=(12, 6.4), sharex=True, sharey=True, layout="constrained")
    for level in range(image.levels):
        coarse = nb.open(folder / "nuclei.zarr", level=level)
        labels = nb.open(folder / "labels.zarr", level=level)
        assert (coarse.shape, coarse.voxel_size) == (labels.shape, labels.voxel_size)
        assert set(np.unique(labels[...])) <= ids
        sizes = " x ".join(f"{s:.2f}" for s in coarse.voxel_size)
        print(f"level {level}: {coarse.shape}, voxels of {sizes} um, {np.unique(labels[...]).size - 1} nuclei")
        plane = coarse.shape[0] // 2
        extent = (0, coarse.shape[2] * coarse.voxel_size[2], coarse.shape[1] * coarse.voxel_size[1], 0)
        places[0, level].imshow(coarse[plane], cmap="gray", extent=extent)
        places[0, level].set_title(f"level {level}: {' x '.join(map(str, coarse.shape))}\n{sizes} um", fontsize=10)
        places[1, level].imshow(scaled(labels[plane], colours), extent=extent, interpolation="nearest")
        places[1, level].set_xlabel("x, um")
    places[0, 0].set_ylabel("image, by the mean\ny, um")
    places[1, 0].set_ylabel("labels, by the most frequent id\ny, um")
    figure.savefig(folder / "pyramid.png", dpi=90)
    print(f"look at {folder / 'pyramid.png'}")

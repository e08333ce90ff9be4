"""One image in every format of this machine, each opened the same way. Give a folder for the files, or none."""

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

ADDRESSES = (
    "nuclei.zarr",  # OME-Zarr 0.5
    "nuclei-0.4.zarr?ome=0.4",
    "nuclei.n5",
    "precomputed://nuclei-layer",
    "nuclei.h5::/nuclei",
    "nuclei.ome.tif",
    "packed.ome.tif?compression=zlib",
    "images://slices?format=png",
    "nuclei.nii.gz",
    "nuclei.nrrd",
    "nuclei.mrc",
    "nuclei.npy",
    "nuclei.npz",
    "memory://nuclei",
)


def written(address: str, image: nb.Volume, voxels: np.ndarray, folder: Path) -> nb.Volume:
    """Write the voxels to an address below `folder`, and return the volume opened again by its address alone."""
    made = nb.create(address, like=image, shape=voxels.shape, offset=(0, 0, 0), base=folder)
    made.write(made.domain, voxels)
    made.close()  # files that are packed, such as .nii.gz, are whole from now on
    return nb.open(made.url)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    image = nb.open(DATA / "nuclei_cells3d.tif", voxel_size=SIZE)
    voxels = image[24:36, 40:168, 20:148]

    figure, places = plt.subplots(3, 5, figsize=(11, 7), layout="constrained")
    for address, place in zip(ADDRESSES, places.flat[1:], strict=True):
        volume = written(address, image, voxels, folder)
        size = "voxel size not kept" if volume.voxel_size is None else " x ".join(f"{s:g}" for s in volume.voxel_size)
        print(f"{address:32} {volume.shape} {volume.dtype}, chunks {volume.chunks}, {size}")
        assert np.array_equal(volume[...], voxels)
        place.imshow(volume[6], cmap="gray")
        place.set_title(address.partition("?")[0].removesuffix("::/nuclei"), fontsize=9)
    places.flat[0].imshow(image[30, 40:168, 20:148], cmap="gray")
    places.flat[0].set_title("nuclei_cells3d.tif, as it came", fontsize=9)
    for place in places.flat:
        place.set_xticks([])
        place.set_yticks([])
    # A bar of 10 micrometres says how large it all is.
    length = 10 / image.voxel_size[2]
    places.flat[0].plot([8, 8 + length], [118, 118], color="white", linewidth=3)
    places.flat[0].text(8 + length / 2, 112, "10 um", color="white", ha="center", fontsize=8)
    figure.suptitle(f"One image in {len(ADDRESSES)} formats, plane 6 of {voxels.shape[0]}")
    figure.savefig(folder / "formats.png", dpi=90)
    print(f"all {len(ADDRESSES)} equal; look at {folder / 'formats.png'}")

"""The configurations of the repository, run as they are but for where results go; each against an answer of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy import ndimage

import ndbatch as nb
from ndbatch.config.load import load
from ndbatch.runner import Result

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
IMAGE = ROOT / "examples/data/nuclei_cells3d.tif"


def done(name: str, folder: Path) -> Result:
    """Run a configuration with the results below `folder`, in this process."""
    result = nb.run(load(CONFIGS / name, [f"directory={folder}", "cluster.kind=threads", "cluster.workers=2"]))
    assert result.status == "done"
    return result


RUN = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.stem != "serve"]
SERVED = "count-nuclei-served"
"""Needs the service that configs/serve.yaml describes: `make demo` runs it."""


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_each_can_be_planned_and_writes_beside_itself(path: Path) -> None:
    config = load(path)
    assert (config.name, config.run_directory) == (path.stem, CONFIGS / "runs" / path.stem)
    assert path.read_text().startswith("# "), "it begins with what it is for"
    if path.stem == SERVED:
        return
    assert nb.make_plan(load(path, [f"directory={path.parent}/runs/never"])).document()["stages"]


def test_pyramid(tmp_path: Path) -> None:
    result = done("pyramid.yaml", tmp_path)
    image, labels = (nb.open(result.outputs[name]) for name in ("nuclei", "labels"))
    truth = nb.open(IMAGE.with_name("nuclei_cells3d_truth.tif"))
    assert (image.levels, labels.levels, labels.kind) == (3, 3, "labels")
    assert np.array_equal(image[...], nb.open(IMAGE)[...])
    half = nb.open(result.outputs["nuclei"], level=1)
    mean = image[...].astype(np.float64).reshape(30, 2, 128, 2, 128, 2).mean(axis=(1, 3, 5))
    assert np.abs(half[...] - mean).max() <= 0.5
    assert half.voxel_size == pytest.approx((0.58, 0.52, 0.52))
    coarsest = nb.open(result.outputs["labels"], level=2)
    assert coarsest.shape == (15, 64, 64)
    assert set(np.unique(coarsest[...])) == set(np.unique(truth[...]))


def test_convert(tmp_path: Path) -> None:
    result = done("convert.yaml", tmp_path)
    expected = nb.open(IMAGE)[...]
    for name, scheme in (("layer", "precomputed"), ("n5", "n5"), ("nifti", "nifti")):
        volume = nb.open(result.outputs[name])
        assert volume.scheme == scheme
        assert np.array_equal(volume[...], expected)
        assert volume.voxel_size == pytest.approx((0.29, 0.26, 0.26))


def test_label_and_measure(tmp_path: Path) -> None:
    result = done("label-and-measure.yaml", tmp_path)
    labels, table = nb.open(result.outputs["objects"])[...], parquet.read_table(result.outputs["table"])
    _, count = ndimage.label(labels > 0, np.ones((3, 3, 3)))
    assert table.num_rows == labels.max() == count > 10
    assert table["voxels"].to_pylist() == np.bincount(labels.ravel())[1:].tolist()
    means = ndimage.mean(nb.open(IMAGE)[...], labels, range(1, count + 1))
    assert table["intensity_mean"].to_pylist() == pytest.approx(list(means))
    assert all(0 < value <= 1.1 for value in table["sphericity"].to_pylist())

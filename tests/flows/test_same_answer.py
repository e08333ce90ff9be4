"""One real pipeline, every shape of block, every executor: the same voxels and the same bytes, and those of the whole array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import ndbatch as nb
from ndbatch.config.load import from_mapping

Array = np.ndarray[Any, Any]

NUCLEI = Path(__file__).parents[2] / "examples/data/nuclei_cells3d.tif"
SIZE = (0.29, 0.26, 0.26)
CROP = nb.Box((0, 40, 100), (60, 136, 196))
SIGMA = 0.6

VOLUMES = ("smooth", "bright", "pieces", "nuclei", "copied")
TABLES = ("sizes", "cells")

STEPS = (
    {"filter": {"input": "image", "method": "gaussian", "sigma": SIGMA, "output": "smooth"}},
    {"threshold": {"input": "smooth", "output": "bright"}},
    {"components": {"input": "bright", "connectivity": 6, "output": "pieces"}},
    {"measure": {"labels": "pieces", "intensity": "image", "output": "sizes"}},
    {"nuclei": {"input": "image", "diameter": "11 um", "output": "nuclei"}},
    {"measure": {"labels": "nuclei", "intensity": "smooth", "percentiles": [10, 50], "output": "cells"}},
    {"copy": {"input": "image", "output": "copied"}},
)

SHAPES = (
    {"z": 60, "y": 96, "x": 96},
    {"z": 60, "y": 32, "x": 96},
    {"z": 30, "y": 48, "x": 48},
    {"z": 7, "y": 50, "x": 96},
    {"z": 23, "y": 37, "x": 41},
)
ODD = {"z": 19, "y": 61, "x": 43}


@dataclass(frozen=True)
class Answer:
    """Everything a run made."""

    facts: Mapping[str, Any]
    volumes: Mapping[str, Array]
    tables: Mapping[str, bytes]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> nb.Volume:
    """The crop, in chunks that no block is a whole number of, where it lies in the original."""
    data = nb.open(NUCLEI, voxel_size=SIZE).read(CROP)
    volume = nb.create(
        tmp_path_factory.mktemp("image") / "image.zarr",
        shape=data.shape,
        dtype=data.dtype,
        chunks=(16, 29, 64),
        voxel_size=SIZE,
        offset=CROP.start,
    )
    volume.write(volume.domain, data)
    return volume


def answer(folder: Path, image: nb.Volume, blocks: Mapping[str, int], kind: str) -> Answer:
    document = {
        "name": "pipeline",
        "inputs": {"image": image.url},
        "steps": list(STEPS),
        "outputs": {name: f"{name}.zarr" for name in VOLUMES} | {name: f"{name}.parquet" for name in TABLES},
        "blocks": dict(blocks),
        "cluster": {"kind": kind, "workers": 1 if kind == "inline" else 2, "memory": "2 GB"},
    }
    result = nb.run(from_mapping(document, folder), report=False)
    assert (result.status, result.counts.failed) == ("done", 0)
    return Answer(
        facts=result.facts,
        volumes={name: nb.open(result.outputs[name])[...] for name in VOLUMES},
        tables={name: Path(result.outputs[name]).read_bytes() for name in TABLES},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, image: nb.Volume) -> Answer:
    """The answer of one block that is the whole volume."""
    return answer(tmp_path_factory.mktemp("whole"), image, SHAPES[0], "inline")


def require_same(found: Answer, expected: Answer) -> None:
    assert found.facts == expected.facts
    for name in VOLUMES:
        assert found.volumes[name].dtype == expected.volumes[name].dtype
        assert np.array_equal(found.volumes[name], expected.volumes[name]), name
    for name in TABLES:
        assert found.tables[name] == expected.tables[name], name


@pytest.mark.parametrize("blocks", SHAPES[1:], ids=str)
def test_any_block_gives_the_same_answer(
    blocks: Mapping[str, int], whole: Answer, image: nb.Volume, tmp_path: Path
) -> None:
    require_same(answer(tmp_path, image, blocks, "inline"), whole)


@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
def test_any_executor_gives_the_same_answer(kind: str, whole: Answer, image: nb.Volume, tmp_path: Path) -> None:
    require_same(answer(tmp_path, image, ODD, kind), whole)


def test_there_is_something_to_agree_on(whole: Answer) -> None:
    """Objects that many blocks share, or the comparisons above would say little."""
    assert whole.volumes["pieces"].max() > 10
    assert whole.volumes["nuclei"].max() >= 3
    for name in ("pieces", "nuclei"):
        extents = [[s.stop - s.start for s in found] for found in ndimage.find_objects(whole.volumes[name])]
        assert (np.array(extents) > 25).all(axis=1).any(), name


def test_filter_threshold_and_components_are_those_of_scipy_and_skimage(whole: Answer, image: nb.Volume) -> None:
    from skimage.filters import threshold_otsu

    data = image[...]
    sigma = tuple(SIGMA * min(SIZE) / s for s in SIZE)
    smooth = ndimage.gaussian_filter(data.astype(np.float32), sigma)
    assert np.array_equal(whole.volumes["smooth"], smooth)
    assert np.array_equal(whole.volumes["copied"], data)
    bright = whole.volumes["bright"] > 0
    level = whole.facts["threshold"]["threshold"]
    assert np.array_equal(bright, smooth > level)
    # scikit-image rounds the middles of its 256 bins to float32.
    assert level == pytest.approx(threshold_otsu(smooth, nbins=256), rel=1e-6)
    labels, count = ndimage.label(bright)
    assert whole.volumes["pieces"].max() == count
    assert np.array_equal(whole.volumes["pieces"], labels)


@pytest.mark.parametrize(("table", "labels", "intensity"), [("sizes", "pieces", None), ("cells", "nuclei", "smooth")])
def test_tables_are_those_of_scikit_image(
    table: str, labels: str, intensity: str | None, whole: Answer, image: nb.Volume
) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    from skimage.measure import regionprops_table

    rows = parquet.read_table(pa.BufferReader(whole.tables[table])).to_pydict()
    pixels = image[...] if intensity is None else whole.volumes[intensity]
    wanted = ("label", "num_pixels", "bbox", "centroid", "intensity_mean", "intensity_min", "intensity_max")
    expected = regionprops_table(whole.volumes[labels], pixels.astype(np.float64), properties=wanted)
    assert np.array_equal(rows["label"], expected["label"])
    assert np.array_equal(rows["voxels"], expected["num_pixels"])
    for i, axis in enumerate("zyx"):
        assert np.allclose(rows[axis], expected[f"centroid-{i}"] + CROP.start[i], rtol=1e-12)
        assert np.array_equal(rows[f"bbox_min_{axis}"], expected[f"bbox-{i}"] + CROP.start[i])
        assert np.array_equal(rows[f"bbox_max_{axis}"], expected[f"bbox-{i + 3}"] + CROP.start[i])
    assert np.allclose(rows["intensity_mean"], expected["intensity_mean"], rtol=1e-12)
    assert np.array_equal(rows["intensity_min"], expected["intensity_min"])
    assert np.array_equal(rows["intensity_max"], expected["intensity_max"])

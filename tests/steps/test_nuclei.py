"""Nuclei: the accuracy on data with truth, the same to the bit for any blocks, and nothing found where nothing is."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from scipy import ndimage

from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.nuclei.detection import blob_response, detection_halo, fine_halo, response_halo, smooth
from ndbatch.steps.nuclei.step import Nuclei
from ndbatch.steps.nuclei.survey import stabilise
from ndbatch.testing.scoring import centroid_f1, centroids, iou_f1, median_diameter
from ndbatch.testing.steps import Products, StepSuite, run_operation

ROOT = Path(__file__).parents[2]
EXAMPLES, SHARED = ROOT / "examples" / "data", ROOT.parent / "shared" / "data"
EMBRYO, CULTURE = (2.18, 1.0, 1.0), (0.29, 0.26, 0.26)
CUBES = (1.0, 1.0, 1.0)
FILES = {
    "dense": (EXAMPLES / "nuclei_dense_small.tif", EXAMPLES / "nuclei_dense_small_truth.tif", CUBES),
    "cells3d": (EXAMPLES / "nuclei_cells3d.tif", EXAMPLES / "nuclei_cells3d_truth.tif", CULTURE),
    "embryo8": (SHARED / "nuclei_embryo/8cell_image.tif", SHARED / "nuclei_embryo/8cell_labels.tif", EMBRYO),
    "embryo16": (SHARED / "nuclei_embryo/16cell_image.tif", SHARED / "nuclei_embryo/16cell_labels.tif", EMBRYO),
}
RNG = np.random.default_rng(3)


@cache
def load(name: str) -> tuple[Array, Array, tuple[float, ...]]:
    image, truth, size = FILES[name]
    if not image.exists():
        pytest.skip(f"{image.name} is not part of the repository and is not there")
    return tifffile.imread(image), tifffile.imread(truth), size


def balls(shape: tuple[int, ...], centres: list[tuple[float, ...]], diameter: float, heights: list[float]) -> Array:
    """Return float64 balls of `diameter` voxels on 100, smoothed by one voxel."""
    image = np.full(shape, 100.0)
    grid = np.indices(shape)
    for centre, height in zip(centres, heights, strict=True):
        apart = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        image[apart <= diameter**2 / 4] += height
    return np.asarray(ndimage.gaussian_filter(image, 1.0))


CENTRES: list[tuple[float, ...]] = [(8, 8, 8), (8, 9, 19), (15, 30, 12), (6, 28, 30), (20, 12, 33)]


@cache
def scene() -> Array:
    image = balls((26, 39, 43), CENTRES, 9, [900, 400, 300, 600, 900])
    return np.random.default_rng(5).poisson(image).astype(np.uint16)


def find(image: Array, diameter: float | str, **options: Any) -> Products:
    keys = {k: options.pop(k) for k in ("threshold",) if k in options}
    step = Nuclei(input="image", diameter=diameter, output="labels", points="points", **keys)
    return run_operation(step, {"image": image}, options.pop("block", image.shape), **options)


def places(products: Products) -> Array:
    table = products["points"]
    return np.stack([table[n].to_numpy() for n in "zyx"], axis=1) if table.num_rows else np.empty((0, 3))


# -- the step contract: any block, order, place, context -----------------------------------------------------------


class TestNuclei(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return Nuclei(input="image", diameter=9, output="labels", points="points")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": scene()}

    def moved(self, table: pa.Table, offset: Any) -> pa.Table:
        for axis, by in zip("zyx", offset, strict=True):
            if axis in table.column_names:
                place = table.column_names.index(axis)
                table = table.set_column(place, axis, pa.array(table[axis].to_numpy() + by))
        return table


class TestNucleiOfDenseTissue(TestNuclei):
    @pytest.fixture
    def step(self) -> Step:
        return Nuclei(input="image", diameter=11.33, threshold="otsu", output="labels", points="points")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": load("dense")[0][:, :40, :33].astype(np.float32)}


class TestNucleiOfAFlatVoxel(TestNuclei):
    voxel_size = (2.0, 1.0, 1.0)


@pytest.mark.parametrize("block", [(16, 16, 16), (11, 23, 57), (31, 30, 20), (7, 61, 57), (64, 17, 40)])
def test_blocks_change_nothing_in_dense_tissue(block: tuple[int, ...]) -> None:
    image, _, _ = load("dense")
    whole, blocks = find(image, 11.33), find(image, 11.33, block=block, order=1)
    assert whole["points"].equals(blocks["points"])
    np.testing.assert_array_equal(whole["labels"], blocks["labels"])


# -- accuracy, with one set of defaults ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counts", "by_centroid", "by_mask"),
    [
        ("dense", (45, 57), 0.93, 0.78),
        ("cells3d", (18, 22), 0.93, 0.86),
        ("embryo8", (8, 8), 1.0, 1.0),
        ("embryo16", (16, 16), 1.0, 1.0),
    ],
)
def test_accuracy(name: str, counts: tuple[int, int], by_centroid: float, by_mask: float) -> None:
    image, truth, size = load(name)
    diameter = median_diameter(truth, size)
    found = find(image, f"{diameter} um", voxel_size=size)
    assert counts[0] <= found["points"].num_rows <= counts[1]
    assert centroid_f1(centroids(truth), places(found), size, diameter / 2) >= by_centroid
    assert iou_f1(truth, found["labels"]) >= by_mask


@pytest.mark.parametrize(("factor", "counts"), [(0.92, (16, 16)), (1.2, (16, 16))])
def test_a_wrong_diameter_does_little(factor: float, counts: tuple[int, int]) -> None:
    image, truth, size = load("embryo16")
    found = find(image, f"{factor * median_diameter(truth, size)} um", voxel_size=size)
    assert counts[0] <= found["points"].num_rows <= counts[1]


def test_table_tells_what_was_found() -> None:
    found = find(scene(), 9)
    table = found["points"]
    expected = ["id", "z", "y", "x", "score", "intensity", "background", "snr", "diameter"]
    assert table.column_names == expected
    assert table["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert found.facts["nuclei"] == 5
    order = np.lexsort(np.array(CENTRES).T[::-1])
    np.testing.assert_allclose(places(found)[np.lexsort(places(found).T[::-1])], np.array(CENTRES)[order], atol=1)
    np.testing.assert_allclose(table["background"].to_numpy(), 100, atol=15)
    assert all(600 < v < 1100 for v, p in zip(table["intensity"].to_pylist(), places(found), strict=True) if p[0] > 18)
    assert all(7 < d < 12 for d in table["diameter"].to_pylist())
    assert all(s > 5 for s in table["snr"].to_pylist())
    assert [found["labels"][tuple(p)] for p in places(found)] == [1, 2, 3, 4, 5]


# -- what must not matter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "offset"), [(2.0, 0.0), (0.25, 512.0), (16.0, -1024.0)])
def test_intensity_scale_and_offset_change_nothing(factor: float, offset: float) -> None:
    plain, other = find(scene(), 9), find((scene() * factor + offset).astype(np.float32), 9)
    np.testing.assert_array_equal(plain["labels"], other["labels"])
    np.testing.assert_array_equal(places(plain), places(other))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "int32", "float32", "float64"])
def test_dtypes_change_nothing(dtype: str) -> None:
    np.testing.assert_array_equal(find(scene(), 9)["labels"], find(scene().astype(dtype), 9)["labels"])


def test_eight_bits_are_enough() -> None:
    image = np.clip(scene() / 5, 0, 255).astype(np.uint8)
    assert find(image, 9)["points"].num_rows == 5


def test_not_a_number_is_not_a_nucleus() -> None:
    image = scene().astype(np.float32)
    image[2:4, 2:4, 2:4], image[24, 38, 42] = np.nan, np.inf
    found = find(image, 9)
    assert found["points"].num_rows == 5
    assert all(np.isfinite(found["points"][n].to_numpy()).all() for n in found["points"].column_names)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 30, 40), np.uint16),
        np.full((20, 30, 40), 1234.5, np.float32),
        np.full((20, 30, 40), np.nan, np.float32),
        RNG.normal(100, 10, (64, 64, 64)).astype(np.float32),
        RNG.poisson(5, (64, 64, 64)).astype(np.uint8),
        RNG.poisson(0.1, (64, 64, 64)).astype(np.uint8),
    ],
    ids=["zeros", "constant", "nan", "normal", "poisson", "few counts"],
)
@pytest.mark.parametrize("diameter", [6, 12])
def test_nothing_is_found_where_nothing_is(image: Array, diameter: float) -> None:
    found = find(image, diameter)
    assert found["points"].num_rows == 0
    assert not found["labels"].any()


# -- halos ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diameter", [(9.0, 9.0, 9.0), (5.2, 11.3, 11.3)])
def test_halos_are_exact(diameter: tuple[float, ...]) -> None:
    """A core computed with its halo equals the whole to the bit; with one voxel less it does not."""
    image = RNG.normal(100, 10, (70, 70, 70)).astype(np.float32)
    flat, whole = stabilise(image, 50.0), Box.of_shape(image.shape)
    core = Box((34, 34, 34), (36, 36, 36))
    beside = tuple(r - 1 for r in response_halo(diameter))
    for function, halo in ((smooth, fine_halo(diameter)), (blob_response, beside)):
        expected = function(flat, diameter)[core.slices()]
        for less in (0, 1):
            box = core.grow([h - less for h in halo]).intersect(whole)
            equal = np.array_equal(function(flat[box.slices()], diameter)[core.slices(box.start)], expected)
            assert equal == (less == 0)
    assert all(d >= r for d, r in zip(detection_halo(diameter), response_halo(diameter), strict=True))


# -- choices -------------------------------------------------------------------------------------------------------


def test_a_threshold_is_an_intensity_inside_the_nucleus() -> None:
    assert find(scene(), 9, threshold=800.0)["points"].num_rows == 2
    assert find(scene(), 9, threshold=5000)["points"].num_rows == 0
    assert 0 < find(scene(), 9, threshold="otsu")["points"].num_rows <= 5


def test_planes_and_single_channels_work() -> None:
    plane = scene()[8]
    flat = find(plane, 9)
    assert flat["points"].column_names[:3] == ["id", "y", "x"]
    assert flat["points"].num_rows >= 2
    np.testing.assert_array_equal(find(plane, 9, block=(10, 13))["labels"], flat["labels"])
    one = find(scene()[None], 9, axes="czyx", block=(1, 13, 14, 15))
    np.testing.assert_array_equal(one["labels"][0], find(scene(), 9)["labels"])


def test_labels_can_be_wider_and_not_too_narrow() -> None:
    assert find(scene(), 9, dtypes={"labels": "uint64"})["labels"].dtype == np.uint64
    with pytest.raises(PlanError, match="labels are whole numbers and cannot be float32"):
        find(scene(), 9, dtypes={"labels": "float32"})
    image = np.tile(balls((12, 12, 12), [(6, 6, 6)], 5, [900.0]), (6, 7, 7))
    with pytest.raises(StepError, match="does not fit uint8; set dtype: uint32"):
        find(image, 5, dtypes={"labels": "uint8"})


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"2 is 2 voxels of the finest axis"):
        find(scene(), 2)
    with pytest.raises(PlanError, match="has no voxel size"):
        find(scene(), "9 um")
    with pytest.raises(PlanError, match="set region to one voxel of c"):
        find(np.zeros((2, 9, 9, 9)), 5, axes="czyx")

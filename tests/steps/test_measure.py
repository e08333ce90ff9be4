"""measure: equal to the whole-array result, and to the bit for every way of cutting the volume into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage
from skimage.measure import regionprops

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Kind
from ndbatch.steps.base import ArrayInfo, Patch, Step
from ndbatch.steps.measure.step import Measure
from ndbatch.testing.steps import StepSuite, run_operation

DATA = Path(__file__).parents[3] / "shared/data"
SHAPES = [(12, 14, 10), (5, 14, 10), (4, 4, 4), (1, 3, 7), (3, 5, 2)]
Arrays = dict[str, np.ndarray[Any, Any]]


def blobs(dtype: str = "uint16", seed: int = 0) -> Arrays:
    """Labels with gaps, holes, far apart pieces and large ids; intensities of any size."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 7, (12, 14, 10)).astype("uint64") ** 3
    labels[0, 0, 0] = labels[11, 13, 9] = 2**63 + 5
    if np.dtype(dtype).kind == "f":
        image = (random.normal(0, 1, labels.shape) * 10.0 ** random.integers(-20, 20, labels.shape)).astype(dtype)
    else:
        image = random.integers(0, np.iinfo(dtype).max, labels.shape, dtype=dtype, endpoint=True)
    return {"labels": labels, "image": image}


def table(arrays: Arrays, block: tuple[int, ...], **more: Any) -> pa.Table:
    step = Measure(labels="labels", intensity="image", percentiles=(5, 50, 95), output="cells")
    return run_operation(step, arrays, block, **more)["cells"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_the_same_to_the_bit_for_every_block_shape(dtype: str) -> None:
    whole = table(blobs(dtype), SHAPES[0], voxel_size=(2.0, 0.5, 0.5))
    assert whole.num_rows == len(np.unique(blobs(dtype)["labels"])) - 1
    for shape in SHAPES[1:]:
        assert table(blobs(dtype), shape, voxel_size=(2.0, 0.5, 0.5)).equals(whole), shape


def test_equal_to_scikit_image() -> None:
    arrays = blobs()
    arrays["labels"] = ndimage.label(arrays["labels"] > 60)[0].astype("uint32")
    found = table(arrays, (4, 5, 6)).to_pydict()
    props = regionprops(arrays["labels"].astype(int), arrays["image"])
    assert found["label"] == [p.label for p in props]
    assert found["voxels"] == [int(p.area) for p in props]
    assert np.allclose(np.stack([found[a] for a in "zyx"], 1), [p.centroid for p in props], rtol=1e-14)
    box = [[found[f"bbox_{side}_{a}"][i] for side in ("min", "max") for a in "zyx"] for i in range(len(props))]
    assert box == [list(p.bbox) for p in props]
    assert np.allclose(found["intensity_mean"], [p.intensity_mean for p in props], rtol=1e-14)
    assert found["intensity_min"] == [p.intensity_min for p in props]
    assert found["intensity_max"] == [p.intensity_max for p in props]
    values = [arrays["image"][arrays["labels"] == p.label] for p in props]
    assert np.allclose(found["intensity_std"], [v.std() for v in values], rtol=1e-12)
    for p in (5, 50, 95):
        assert np.allclose(found[f"intensity_p{p}"], [np.percentile(v, p) for v in values], rtol=1e-14)


def test_border_and_offset_and_physical_units() -> None:
    labels = np.zeros((6, 6, 6), "uint16")
    labels[2:4, 2:4, 2:4], labels[5, 3, 3] = 7, 9
    step = Measure(labels="labels", output="cells")
    rows = run_operation(step, {"labels": labels}, (3, 3, 3), voxel_size=(2.0, 1.0, 0.5), offset=(100, 10, 0))[
        "cells"
    ].to_pylist()
    assert [r["touches_border"] for r in rows] == [False, True]
    assert (rows[0]["z"], rows[0]["y"], rows[0]["x"]) == (102.5, 12.5, 2.5)
    assert (rows[0]["z_um"], rows[0]["x_um"], rows[0]["volume_um3"]) == (205.0, 1.25, 8.0)
    assert (rows[0]["bbox_min_z"], rows[0]["bbox_max_z"]) == (102, 104)


def test_no_objects_give_a_table_with_all_columns_and_no_rows() -> None:
    empty = {"labels": np.zeros((4, 4, 4), "uint8"), "image": np.zeros((4, 4, 4), "uint8")}
    one = {**empty, "labels": np.ones((4, 4, 4), "uint8")}
    assert table(empty, (2, 2, 2)).schema.equals(table(one, (2, 2, 2)).schema)


def test_two_dimensions() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 2]], "uint8")
    rows = run_operation(Measure(labels="labels", output="t"), {"labels": labels}, (1, 2), voxel_size=(1.0, 2.0))[
        "t"
    ].to_pylist()
    assert [r["area_um2"] for r in rows] == [4.0, 2.0]


def test_voxels_that_are_no_numbers_are_left_out_and_counted() -> None:
    arrays = blobs("float32")
    arrays["labels"][3, 3, 3:5] = 1
    arrays["image"][3, 3, 3], arrays["image"][3, 3, 4] = np.nan, np.inf
    row = table(arrays, (4, 4, 4)).to_pylist()[0]
    values = arrays["image"][(arrays["labels"] == 1) & np.isfinite(arrays["image"])]
    assert row["intensity_excluded"] == 2
    assert row["intensity_mean"] == pytest.approx(values.astype("float64").mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": "labels", "percentiles": (5,)}, "intensity"),
        ({"labels": "labels", "intensity": "image", "percentiles": (101,)}, "100"),
        ({"labels": "labels", "intensity": "image", "percentiles": (5, 5)}, "twice"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Measure(output="t", **fields)


def test_labels_must_be_whole_numbers() -> None:
    with pytest.raises(PlanError, match="told apart by whole numbers"):
        run_operation(Measure(labels="image", output="t"), blobs("float32"), (12, 14, 10))


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    image = np.full((100, 100, 100), 2**31, "uint32")
    image.reshape(-1)[::2] += 1
    arrays = {"labels": np.ones(image.shape, "uint8"), "image": image}
    row = table(arrays, (30, 100, 100)).to_pylist()[0]
    assert (row["intensity_mean"], row["intensity_std"]) == (2**31 + 0.5, 0.5)


class TestMeasure(StepSuite):
    """The step contract: any block, order, place and region."""

    voxel_size = (2.0, 0.5, 0.25)

    @pytest.fixture
    def step(self) -> Step:
        return Measure(labels="labels", intensity="image", percentiles=(2.5, 50, 100), output="cells")

    @pytest.fixture
    def arrays(self) -> Arrays:
        random = np.random.default_rng(3)
        smooth = ndimage.gaussian_filter(random.normal(size=(23, 31, 37)), 2)
        labels = ndimage.label(smooth > 0.02)[0].astype("uint32")
        return {"labels": labels, "image": (smooth * 10.0 ** random.integers(-9, 9, smooth.shape)).astype("float32")}

    def moved(self, table: pa.Table, offset: Sequence[int]) -> pa.Table:
        """Shift every position: centroids by way of the whole numbers they were divided from."""
        voxels = table["voxels"].to_numpy()
        for axis, by, size in zip("zyx", offset, self.voxel_size, strict=True):
            for name in (f"bbox_min_{axis}", f"bbox_max_{axis}"):
                table = replaced(table, name, table[name].to_numpy() + by)
            centre = (np.rint(table[axis].to_numpy() * voxels) + voxels * by) / voxels
            table = replaced(replaced(table, axis, centre), f"{axis}_um", centre * size)
        return table


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


label_images = st.sampled_from(["uint8", "int16", "uint32", "uint64"]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.integers(0, 4))
)


@settings(max_examples=60, deadline=None)
@given(st.data(), label_images, st.sampled_from(["uint8", "uint16", "int64", "uint64", "float32", "float64"]))
def test_any_labels_and_any_image_equal_the_whole_array(data: st.DataObject, labels: Any, dtype: str) -> None:
    floating = np.dtype(dtype).kind == "f"
    elements: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if floating else {}
    image = data.draw(npst.arrays(dtype, labels.shape, elements=elements))
    block = data.draw(st.tuples(*(st.integers(1, n) for n in labels.shape)))
    arrays = {"labels": labels, "image": image}
    found = table(arrays, block, order=1)
    assert found.equals(table(arrays, labels.shape))
    rows = found.to_pylist()
    assert [row["label"] for row in rows] == [n for n in np.unique(labels) if n]
    for row in rows:
        inside = labels == row["label"]
        values, places = image[inside], np.argwhere(inside)
        exact = [Fraction(value) for value in values.tolist()]
        mean = sum(exact) / len(exact)
        assert row["voxels"] == len(values)
        for axis, at in zip("zyx"[-labels.ndim :], places.T, strict=True):
            assert row[axis] == int(at.sum()) / len(at)
            assert (row[f"bbox_min_{axis}"], row[f"bbox_max_{axis}"]) == (at.min(), at.max() + 1)
        assert (row["intensity_min"], row["intensity_max"]) == (values.min(), values.max())
        assert row["intensity_mean"] == float(mean)
        variance = sum((value - mean) ** 2 for value in exact) / len(exact)
        assert abs(Fraction(row["intensity_std"]) ** 2 - variance) <= variance / 2**50 or row["intensity_std"] < 1e-300


def test_a_label_in_pieces_far_apart_is_one_object() -> None:
    labels = np.zeros((4, 4, 200), "uint64")
    labels[1, 1, 2:5], labels[2, 2, 190:196] = 2**64 - 1, 2**64 - 1
    labels[3, 3, 100] = 2**53 + 1
    image = np.arange(labels.size, dtype="uint16").reshape(labels.shape)
    rows = table({"labels": labels, "image": image}, (2, 2, 16)).to_pylist()
    assert [row["label"] for row in rows] == [2**53 + 1, 2**64 - 1]
    values = image[labels == 2**64 - 1]
    assert (rows[1]["voxels"], rows[1]["bbox_min_x"], rows[1]["bbox_max_x"]) == (9, 2, 196)
    assert [rows[1][f"intensity_p{p}"] for p in (5, 50, 95)] == np.percentile(values, [5, 50, 95]).tolist()


def test_positions_far_from_the_origin_do_not_overflow() -> None:
    labels, offset = np.ones((64, 64, 64), "uint8"), (2**43, -(2**43), 2**40)
    rows = run_operation(Measure(labels="labels", output="t"), {"labels": labels}, (64, 40, 64), offset=offset)["t"]
    assert [rows[axis][0].as_py() for axis in "zyx"] == [start + 31.5 for start in offset]


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=40, deadline=None)
@given(st.lists(finite, min_size=1, max_size=60), st.integers(1, 60))
def test_float_means_are_exact_and_can_be_cut_anywhere(values: list[float], cut: int) -> None:
    image = np.array(values, "float32").reshape(1, 1, -1)
    arrays = {"labels": np.ones(image.shape, "uint8"), "image": image}
    step = Measure(labels="labels", intensity="image", output="cells")
    row = run_operation(step, arrays, (1, 1, cut))["cells"].to_pylist()[0]
    assert row["intensity_mean"] == float(sum(map(Fraction, image.reshape(-1).astype(float).tolist())) / len(values))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.floats(0, 100), st.integers(1, 30))
def test_percentiles_are_numpys(values: list[int], p: float, cut: int) -> None:
    image = np.array(values, "int16").reshape(1, 1, -1)
    arrays = {"labels": np.ones(image.shape, "uint8"), "image": image}
    step = Measure(labels="labels", intensity="image", percentiles=(p,), output="cells")
    row = run_operation(step, arrays, (1, 1, cut))["cells"].to_pylist()[0]
    assert row[f"intensity_p{p:g}"] == pytest.approx(np.percentile(values, p), rel=1e-12, abs=1e-12)


def test_a_million_objects_are_merged_a_part_at_a_time(tmp_path: Path) -> None:
    labels = np.arange(1, 1 + 100**3, dtype="uint32").reshape(100, 100, 100)
    info = ArrayInfo(Box.of_shape(labels.shape), labels.dtype, "zyx", kind=Kind.LABELS)
    operation = Measure(labels="labels", output="t").bind({"labels": info}, {})
    cores = [Box((z, 0, 0), (z + 10, 100, 100)) for z in range(0, 100, 10)]

    def rows() -> Iterator[pa.RecordBatch]:
        for number, core in enumerate(cores):
            patch = Patch(labels[core.slices()], core)
            yield operation.apply({"labels": patch}, core, Block(number, core), {})["output"]

    last, count, process = 0, 0, psutil.Process()
    before, peak = process.memory_info().rss, 0
    for batch in operation.finish("output", rows(), tmp_path):
        found = batch["label"].to_numpy()
        assert found[0] == last + 1
        last, count = int(found[-1]), count + batch.num_rows
        peak = max(peak, process.memory_info().rss)
    assert count == last == 10**6
    assert peak - before < 300e6


@pytest.mark.skipif(not DATA.exists(), reason="needs shared/data beside the checkout: nuclei_dense_small")
def test_centroids_of_real_nuclei() -> None:
    import csv

    import tifffile

    truth = list(csv.DictReader((DATA / "nuclei_dense_small/centroids.csv").read_text().splitlines()))
    labels = tifffile.imread(DATA / "nuclei_dense_small/mask3d.tif")
    rows = run_operation(Measure(labels="labels", output="t"), {"labels": labels}, (16, 32, 32))["t"].to_pylist()
    assert [(r["label"], r["voxels"]) for r in rows] == [(int(t["label"]), int(float(t["voxels"]))) for t in truth]
    assert np.allclose([[r[a] for a in "zyx"] for r in rows], [[float(t[a]) for a in "zyx"] for t in truth], atol=0.01)


@pytest.mark.skipif(not DATA.exists(), reason="needs shared/data beside the checkout: em_fib25_medulla")
def test_bodies_of_real_tissue() -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(DATA / "em_fib25_medulla/fib25_250.h5") as file:
        arrays = {"labels": file["bodies"][:], "image": file["raw"][:]}
    found = table(arrays, (100, 250, 125))
    largest = int(np.argmax(found["voxels"].to_numpy()))
    assert found.num_rows == 525
    assert (found["label"][largest].as_py(), found["voxels"][largest].as_py()) == (114488, 3702057)
    ids = found["label"].to_numpy()
    for name, reference in (("mean", ndimage.mean), ("std", ndimage.standard_deviation), ("p50", ndimage.median)):
        with np.errstate(invalid="ignore"):  # scipy divides by the voxels of ids that are not there
            expected = reference(arrays["image"], arrays["labels"], ids)
        np.testing.assert_allclose(found[f"intensity_{name}"], expected, rtol=1e-10)  # scipy rounds as it adds

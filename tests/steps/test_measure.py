"""measure: equal to the whole-array result, and to the bit for every way of cutting the volume into blocks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops

from ndbatch.errors import PlanError, StepError
from ndbatch.steps.key_ranges import by_key
from ndbatch.steps.measure import Measure
from ndbatch.steps.objects import weighted_percentiles
from ndbatch.steps.sums import exact_square_sums, exact_sums, mean_and_deviation
from ndbatch.testing.steps import run_operation

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


def test_not_a_number_is_refused() -> None:
    arrays = blobs("float32")
    arrays["image"][3, 3, 3] = np.nan
    arrays["labels"][3, 3, 3] = 1
    with pytest.raises(StepError, match="NaN or infinity under objects of block"):
        table(arrays, (4, 4, 4))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Measure(labels="image", output="t"), "which is not labels"),
        (Measure(labels="labels", percentiles=(5,), output="t"), "percentiles need intensity"),
        (Measure(labels="labels", intensity="image", percentiles=(101,), output="t"), "101 is not between 0 and 100"),
    ],
)
def test_what_does_not_fit_is_refused(step: Measure, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        run_operation(step, blobs("float32"), (12, 14, 10))


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.tuples(st.integers(0, 3), finite), min_size=1, max_size=40), st.integers(0, 39))
def test_float_sums_are_exact_and_can_be_cut_anywhere(pairs: list[tuple[int, float]], cut: int) -> None:
    index, values = np.array([i for i, _ in pairs]), np.array([v for _, v in pairs], "float32")
    parts = [exact_sums(index[s], values[s], 4) for s in (slice(0, cut), slice(cut, None))]
    for label in range(4):
        assert math.fsum(parts[0][label] + parts[1][label]) == math.fsum(values[index == label].astype(float).tolist())


@given(st.sampled_from(["uint8", "int16", "uint32", "int32"]), st.data())
def test_integer_sums_and_squares_are_exact(dtype: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1, max_size=50))
    index = np.zeros(len(values), np.int64)
    array = np.array(values, dtype)
    assert sum(map(int, exact_sums(index, array, 1)[0])) == sum(values)
    assert sum(map(int, exact_square_sums(index, array, 1)[0])) == sum(v * v for v in values)


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    values = np.full(10**6, 2**31, "uint32")
    values[::2] += 1
    index = np.zeros(len(values), np.int64)
    mean, deviation = mean_and_deviation(
        len(values), exact_sums(index, values, 1)[0], exact_square_sums(index, values, 1)[0]
    )
    assert (mean, deviation) == (2**31 + 0.5, 0.5)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.floats(0, 100))
def test_percentiles_of_counted_values_are_numpys(values: list[int], p: float) -> None:
    unique, counts = np.unique(values, return_counts=True)
    assert weighted_percentiles(unique, counts, (p,))[0] == pytest.approx(
        np.percentile(values, p), rel=1e-12, abs=1e-12
    )


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), max_size=10), st.sampled_from([64, 300, 10**6]))
def test_rows_come_back_grouped_by_rising_ranges(batches: list[list[int]], part: int) -> None:
    import tempfile

    rows = [
        pa.RecordBatch.from_pydict({"label": pa.array(b, pa.uint64()), "batch": pa.array([i] * len(b), pa.int64())})
        for i, b in enumerate(batches)
    ]
    with tempfile.TemporaryDirectory() as folder:
        parts = [t.to_pydict() for t in by_key(rows, "label", Path(folder), part)]
        assert not list(Path(folder).iterdir())
    assert sorted(itertools.chain(*[p["label"] for p in parts])) == sorted(itertools.chain(*batches))
    assert all(max(a["label"]) < min(b["label"]) for a, b in itertools.pairwise(parts))
    for found in parts:
        for label in set(found["label"]):
            order = [b for key, b in zip(found["label"], found["batch"], strict=True) if key == label]
            assert order == sorted(order)


def test_a_million_objects_are_merged_a_part_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    step = Measure(labels="labels", output="t")
    labels = np.arange(1, 1 + 100**3, dtype="uint32").reshape(100, 100, 100)
    from ndbatch.geometry import Block, Box
    from ndbatch.remotes.base import Kind
    from ndbatch.steps.base import ArrayInfo, Patch

    info = ArrayInfo(Box.of_shape(labels.shape), labels.dtype, "zyx", kind=Kind.LABELS)
    operation = step.bind({"labels": info}, {})
    whole = Patch(labels, info.domain)
    cores = [Box((z, 0, 0), (z + 10, 100, 100)) for z in range(0, 100, 10)]
    rows = [operation.apply({"labels": whole}, c, Block(i, c), {})["table"] for i, c in enumerate(cores)]
    size = sum(r.nbytes for r in rows)
    import ndbatch.steps.measure as module

    before, module.by_key = module.by_key, lambda r, k, s: by_key(r, k, s, part_bytes=size // 20)
    try:
        tracemalloc.start()
        count = sum(batch.num_rows for batch in operation.finish("table", rows, tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        module.by_key = before
    assert count == 10**6
    assert peak < size / 2


@pytest.mark.skipif(not DATA.exists(), reason="needs shared/data beside the checkout: nuclei_dense_small")
def test_centroids_of_real_nuclei() -> None:
    import csv

    import tifffile

    truth = list(csv.DictReader((DATA / "nuclei_dense_small/centroids.csv").read_text().splitlines()))
    labels = tifffile.imread(DATA / "nuclei_dense_small/mask3d.tif")
    rows = run_operation(Measure(labels="labels", output="t"), {"labels": labels}, (16, 32, 32))["t"].to_pylist()
    assert [(r["label"], r["voxels"]) for r in rows] == [(int(t["label"]), int(float(t["voxels"]))) for t in truth]
    assert np.allclose([[r[a] for a in "zyx"] for r in rows], [[float(t[a]) for a in "zyx"] for t in truth], atol=0.01)

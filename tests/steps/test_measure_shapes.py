"""Shape, surface, neighbours, distribution and zones of objects: against scikit-image, scipy and counting by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.measure import regionprops_table

import ndbatch as nb
from ndbatch.errors import NdbatchError, PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.measure.step import Measure, Property
from ndbatch.testing.steps import StepSuite, run_operation

SIZE = (2.0, 1.0, 0.5)
ALL: tuple[Property, ...] = ("shape", "surface", "neighbours", "distribution")


def touching_objects(shape: tuple[int, ...] = (14, 19, 23), seed: int = 3) -> Array:
    """Return objects that touch one another and the border, some in several pieces, with large ids."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    ids = np.array([0, 5, 9, 2**40, 2**63 + 1], np.uint64)
    found: Array = ids[np.digitize(noise, np.quantile(noise, (0.4, 0.6, 0.8, 0.9)))]
    return found


def image_of(labels: Array) -> Array:
    return np.random.default_rng(4).integers(0, 4000, labels.shape, dtype=np.uint16)


def measured(labels: Array, block: tuple[int, ...], **fields: Any) -> dict[str, Array]:
    options = {name: fields.pop(name) for name in ("voxel_size", "axes") if name in fields}
    step = Measure(labels="labels", intensity="image", output="cells", **fields)
    made = run_operation(step, {"labels": labels, "image": image_of(labels)}, block, **options)
    return {name: made["cells"][name].to_numpy() for name in made["cells"].column_names}


class TestBlocks(StepSuite):
    """Every column; a volume that begins elsewhere differs in the last bit of its centroids."""

    rtol: ClassVar[float] = 1e-13
    voxel_size: ClassVar[tuple[float, ...]] = SIZE

    @pytest.fixture
    def step(self) -> Step:
        return Measure(
            labels="labels", intensity="image", properties=ALL, zones="zones", zones_output="regions", output="cells"
        )

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        labels = touching_objects()
        zones = np.zeros(labels.shape, np.uint16)
        zones[:7], zones[7:, 10:] = 3, 8
        return {"labels": labels, "image": image_of(labels), "zones": zones}

    def moved(self, table: Any, offset: Any) -> Any:
        import pyarrow as pa

        columns = {}
        for name in table.column_names:
            axis = name.removesuffix("_um")[-1]
            place = "zyx".find(axis) if name.startswith("bbox") or name.removesuffix("_um") in ("z", "y", "x") else -1
            step = 0 if place < 0 else offset[place] * (SIZE[place] if name.endswith("_um") else 1)
            values = table[name].to_numpy()
            columns[name] = values + step if place >= 0 else values
        return pa.table(columns)

    # A thin volume has other columns, and a line no shape: see test_planes_have_perimeters.
    test_axis_of_one_voxel = None  # type: ignore[assignment]


def test_the_same_to_the_bit_for_every_block_shape() -> None:
    labels = touching_objects()
    whole = measured(labels, labels.shape, properties=ALL, voxel_size=SIZE)
    for block in ((5, 7, 9), (14, 4, 23), (1, 19, 3)):
        for name, values in measured(labels, block, properties=ALL, voxel_size=SIZE).items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.mark.parametrize("size", [None, SIZE])
def test_shapes_are_those_of_scikit_image(size: tuple[float, ...] | None) -> None:
    labels = np.searchsorted(np.unique(touching_objects()), touching_objects())
    names = ("label", "area", "extent", "axis_major_length", "axis_minor_length", "inertia_tensor_eigvals")
    wanted = regionprops_table(
        labels, image_of(labels), (*names, "equivalent_diameter_area", "centroid", "bbox", "num_pixels", "intensity_mean"),
        spacing=size or (1.0, 1.0, 1.0),
    )  # fmt: skip
    found = measured(
        labels.astype(np.uint32),
        (5, 7, 9),
        properties=ALL,
        names="regionprops",
        **({"voxel_size": size} if size else {}),
    )
    for name, values in wanted.items():
        if name == "area" and size is None:
            continue  # without a voxel size there is no area beside num_pixels
        if name.startswith("centroid"):
            values = values / (size or (1.0, 1.0, 1.0))[int(name[-1])]  # ours are voxels; micrometres stand beside them
        np.testing.assert_allclose(found[name], values, rtol=1e-9, err_msg=name)


def test_distribution_is_that_of_scipy() -> None:
    labels = touching_objects()
    found, image = measured(labels, (6, 6, 6), properties=("distribution",)), image_of(labels)
    for row, label in enumerate(found["label"]):
        values = image[labels == label].astype(float)
        assert found["intensity_median"][row] == np.median(values)
        np.testing.assert_allclose(found["intensity_skew"][row], stats.skew(values), rtol=1e-9)
        np.testing.assert_allclose(found["intensity_kurtosis"][row], stats.kurtosis(values), rtol=1e-9)


def test_a_flat_object_has_no_skew() -> None:
    labels = np.ones((4, 4, 4), np.uint8)
    step = Measure(labels="labels", intensity="image", properties=("distribution",), output="cells")
    rows = run_operation(step, {"labels": labels, "image": np.full((4, 4, 4), 7, np.uint8)}, (2, 2, 2))["cells"]
    assert math.isnan(rows["intensity_skew"][0].as_py())
    assert rows["intensity_median"][0].as_py() == 7


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (3.0, 1.0, 0.5)])
def test_surface_of_a_ball(size: tuple[float, ...]) -> None:
    radius = 11.0
    shape = [int(2 * radius / s) + 5 for s in size]
    places = np.meshgrid(*((np.arange(n) - n / 2 + 0.37) * s for n, s in zip(shape, size, strict=True)), indexing="ij")
    ball = (sum(p**2 for p in places) <= radius**2).astype(np.uint8)
    found = measured(ball, (9, 11, 13), properties=("surface", "shape"), voxel_size=size)
    assert found["surface_area_um2"][0] == pytest.approx(4 * math.pi * radius**2, rel=0.015)
    assert found["sphericity"][0] == pytest.approx(1.0, abs=0.015)
    assert found["equivalent_diameter_area_um"][0] == pytest.approx(2 * radius, rel=0.01)


def test_planes_have_perimeters() -> None:
    y, x = np.mgrid[-30:31, -30:31]
    disc = (y**2 + x**2 <= 25**2).astype(np.uint8)[None]
    found = measured(disc, (1, 13, 17), properties=("surface", "shape"))
    assert found["perimeter_crofton"][0] == pytest.approx(2 * math.pi * 25, rel=0.02)
    assert "sphericity" not in found
    assert found["axis_major_length"][0] == pytest.approx(50, rel=0.01)


def test_direction_of_the_longest_axis() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    for k in range(16):
        labels[2 + k, 2 + k, 10] = 1
    found = measured(labels, (7, 7, 7), properties=("shape",))
    way = [found[f"axis_major_direction_{axis}"][0] for axis in "zyx"]
    np.testing.assert_allclose(way, [math.sqrt(0.5), math.sqrt(0.5), 0.0], atol=1e-12)


def test_neighbours_and_contact() -> None:
    labels = np.zeros((6, 6, 6), np.uint32)
    labels[:3], labels[3:, :2], labels[3:, 2:4] = 1, 2, 3
    found = measured(labels, (2, 4, 5), properties=("neighbours",), voxel_size=SIZE)
    assert found["neighbours"].tolist() == [2, 2, 2]
    z_face, y_face = SIZE[1] * SIZE[2], SIZE[0] * SIZE[2]
    between_12, between_13, between_23 = 12 * z_face, 12 * z_face, 18 * y_face
    expected = [between_12 + between_13, between_12 + between_23, between_13 + between_23]
    np.testing.assert_allclose(found["contact_area_um2"], expected, rtol=1e-12)


def test_zones_count_objects(tmp_path: Path) -> None:
    labels, zones = np.zeros((4, 8, 8), np.uint32), np.zeros((4, 8, 8), np.int32)
    zones[:, :, :4], zones[:, :4, 4:] = 11, 7
    labels[0, 0, 0:3], labels[1, 2, 3:5], labels[2, 6, 6], labels[3, 1, 5:8] = 1, 2, 3, 4
    names = tmp_path / "zones.csv"
    names.write_text("id,name\n11,cortex\n7,thalamus\n")
    step = Measure(labels="labels", zones="zones", zones_output="regions", zone_names=str(names), output="cells")
    made = run_operation(step, {"labels": labels, "zones": zones}, (3, 3, 3), voxel_size=(10.0, 10.0, 10.0))
    assert made["cells"]["zone"].to_pylist() == [11, 7, 0, 7], "object 2 lies half in either: the smaller id"
    regions = made["regions"].to_pydict()
    assert regions["zone"] == [7, 11]
    assert regions["structure"] == ["thalamus", "cortex"]
    assert regions["count"] == [2, 1]
    assert regions["voxels"] == [4 * 4 * 4, 4 * 8 * 4]
    np.testing.assert_allclose(regions["density_per_mm3"], [2 / (64 * 1e-6), 1 / (128 * 1e-6)], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["uint16", "int64", "float32"])
def test_mean_intensity_of_zones(dtype: str) -> None:
    """Over every voxel of a zone, of an object or not; exact, so that blocks do not matter; what is not finite is left out."""
    rng = np.random.default_rng(4)
    labels = (rng.random((9, 10, 11)) < 0.1).astype(np.uint32)
    zones = rng.integers(-1, 4, labels.shape).astype(np.int16) * 1000
    image = rng.integers(0, 60000, labels.shape).astype(dtype)
    if dtype == "float32":
        image = (image * 1e-3).astype(dtype)
        image[4, 4], zones[0, 0, 0], image[0, 0, 0] = np.nan, 77, np.inf
    step = Measure(labels="labels", intensity="image", zones="zones", zones_output="regions", output="cells")
    arrays = {"labels": labels, "image": image, "zones": zones}
    made = run_operation(step, arrays, (4, 3, 5))["regions"]
    whole = run_operation(step, arrays, (9, 10, 11))["regions"]
    for name in made.column_names:
        np.testing.assert_array_equal(made[name], whole[name], name)
    finite = np.isfinite(image)
    for zone, mean in zip(made["zone"].to_pylist(), made["intensity_mean"].to_pylist(), strict=True):
        inside = image[(zones == zone) & finite].astype(np.float64)
        np.testing.assert_allclose(mean, inside.mean() if inside.size else np.nan, rtol=1e-14)
    assert made["zone"].to_pylist() == sorted(set(zones.ravel().tolist()) - {0})


def test_names_of_zones_lie_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, data in (("labels", [[[1, 0]]]), ("zones", [[[5, 5]]])):
        volume = nb.create(f"{tmp_path}/study/{name}.zarr", shape=(1, 1, 2), dtype="uint16", kind="labels")
        volume.write(volume.domain, np.array(data, np.uint16))
    step = {
        "labels": "labels",
        "zones": "zones",
        "zones_output": "regions",
        "zone_names": "names.csv",
        "output": "cells",
    }
    document = {
        "name": "zones",
        "inputs": {"labels": "labels.zarr", "zones": "zones.zarr"},
        "steps": [{"measure": step}],
        "outputs": {"cells": "cells.csv", "regions": "regions.csv"},
        "cluster": {"kind": "inline"},
    }
    (tmp_path / "study/run.yaml").write_text(json.dumps(document))
    with pytest.raises(PlanError, match=r"names\.csv does not exist; give the path from the configuration's folder"):
        nb.run(tmp_path / "study/run.yaml", report=False)
    (tmp_path / "study/names.csv").write_text("5,cortex\n")
    result = nb.run(tmp_path / "study/run.yaml", report=False)
    assert "cortex" in (result.directory / "regions.csv").read_text()
    # The names are part of what decides the table.
    (tmp_path / "study/names.csv").write_text("5,thalamus\n")
    with pytest.raises(NdbatchError, match="fresh"):
        nb.run(tmp_path / "study/run.yaml", report=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"properties": ("distribution",)}, "add intensity"),
        ({"zones_output": "regions"}, "needs zones"),
        ({"zones": "zones", "zone_names": "a.csv"}, "add zones_output"),
    ],
)
def test_parameters_that_do_not_fit(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Measure(labels="labels", output="cells", **fields)


@pytest.mark.parametrize(
    ("shape", "fields", "words"),
    [
        ((1, 1, 9), {"properties": ("shape",)}, "at least two axes"),
        ((2, 2, 2**22), {"properties": ("shape",)}, "set the offset"),
        ((9, 9, 9), {"zones": "zones", "zones_output": "r", "zone_names": "/nowhere/a.csv"}, "does not exist"),
    ],
)
def test_refusals(shape: tuple[int, ...], fields: dict[str, Any], words: str) -> None:
    info = ArrayInfo(Box.of_shape(shape), np.dtype("uint32"), "zyx")
    with pytest.raises(PlanError, match=words):
        Measure(labels="labels", output="cells", **fields).bind({"labels": info, "zones": info}, {})

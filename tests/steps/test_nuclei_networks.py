"""Nuclei by networks: whole objects from patches, the same for every block, and one sentence where a network is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy import ndimage

from ndbatch.errors import ConfigError, MissingExtra, PlanError, StepError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.function.loading import search_in
from ndbatch.steps.nuclei.objects import Objects, settle
from ndbatch.steps.nuclei.step import Nuclei
from ndbatch.testing.scoring import iou_f1
from ndbatch.testing.steps import StepSuite, run_operation

SOURCE = '''
import numpy as np
from scipy import ndimage

class Finder:
    """Connected voxels above the level that a file holds: what a network's last layer comes to."""

    def __init__(self, model, device):
        self.level = float(np.loadtxt(model))
        self.device = device

    def __call__(self, patch, diameter):
        assert patch.dtype == np.float32 and len(diameter) == patch.ndim
        labels, count = ndimage.label(patch > self.level)
        return labels, ndimage.sum(patch, labels, np.arange(1, count + 1)) / 1000

class Unscored(Finder):
    def __call__(self, patch, diameter):
        return super().__call__(patch, diameter)[0]

class Wrong(Finder):
    def __call__(self, patch, diameter):
        return patch

class Miscounted(Finder):
    def __call__(self, patch, diameter):
        return (patch > self.level).astype(int), np.zeros(5)

class Broken(Finder):
    def __call__(self, patch, diameter):
        raise RuntimeError("out of luck")
'''


def scene() -> Array:
    """Return 40 blobs of about 7 voxels, some at the volume's edges."""
    rng = np.random.default_rng(8)
    image = np.zeros((30, 48, 52))
    image[tuple(rng.integers(0, n, 40) for n in image.shape)] = 4000
    image = ndimage.gaussian_filter(image, 1.6, mode="constant") * 20 + 100
    return rng.poisson(image).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A user's network and its weights beside a configuration; forgotten afterwards."""
    (tmp_path / "lab_network.py").write_text(SOURCE)
    (tmp_path / "level.txt").write_text("0.35")
    search_in(str(tmp_path))
    yield tmp_path
    search_in(str(tmp_path.parent))


def step(name: str = "Finder", **fields: Any) -> Nuclei:
    made = {"method": f"lab_network:{name}", "model": "level.txt", "diameter": 6, "patch": {"z": 32, "y": 32, "x": 32}}
    return Nuclei(**{"input": "image", "output": "labels", "points": "points", **made, **fields})


@pytest.mark.usefixtures("folder")
class TestUsersNetwork(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return step()

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": scene()}

    def moved(self, table: pa.Table, offset: Any) -> pa.Table:
        for axis, by in zip("zyx", offset, strict=True):
            place = table.column_names.index(axis)
            table = table.set_column(place, axis, pa.array(table[axis].to_numpy() + by))
        return table

    def test_as_the_whole_array(self, arrays: dict[str, Array]) -> None:
        made = self.run(step("Unscored"), arrays, (11, 20, 52))
        image = arrays["image"].astype(np.float64)
        ordered = np.sort(image.ravel())
        low, high = np.quantile(ordered, [0.01, 0.999])
        expected = ndimage.label((image - low) / (high - low) > 0.35)[0]
        assert iou_f1(expected, made["labels"]) > 0.97
        assert made["points"]["id"].to_pylist() == list(range(1, made["labels"].max() + 1))
        sizes = np.bincount(made["labels"].ravel())[1:]
        np.testing.assert_array_equal(made["points"]["voxels"].to_numpy(), sizes)

    def test_other_weights_are_another_run(self, folder: Path) -> None:
        before = step().identity()
        assert step(device="cpu").identity() == before, "where it runs is not what it finds"
        (folder / "level.txt").write_text("0.5")
        assert step().identity() != before

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("Wrong", r"returned float32 of \(32, 32, 32\) where labels \(integers\)"),
            ("Miscounted", "returned 5 scores for 1 labels"),
            ("Broken", "lab_network:Broken raised RuntimeError: out of luck"),
        ],
    )
    def test_mistakes_of_a_network(self, name: str, message: str) -> None:
        with pytest.raises(StepError, match=message):
            run_operation(step(name), {"image": scene()}, (30, 48, 52))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "unet"}, "method"),
        ({"model": "w.h5"}, "model goes with a network"),
        ({"method": "stardist", "model": "m", "threshold": 5.0}, "threshold and preset go with method: blobs"),
    ],
)
def test_fields_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Nuclei(input="image", output="labels", diameter=6, **fields)


@pytest.mark.usefixtures("folder")
def test_patches_that_do_not_fit() -> None:
    info = {"image": ArrayInfo(Box.of_shape((30, 48, 52)), np.dtype(np.uint16), "zyx")}
    with pytest.raises(PlanError, match="z: 16 leaves nothing beside the 9 voxels of context"):
        step(patch={"z": 16}).bind(info, {})
    with pytest.raises(PlanError, match="axis 'c' is not one of z, y, x"):
        step(patch={"c": 1}).bind(info, {})


@pytest.mark.parametrize("method", ["stardist", "cellpose"])
def test_a_missing_extra_is_told_with_its_command(method: Any) -> None:
    if importlib.util.find_spec(method) is not None:
        with pytest.raises(ConfigError, match="needs model"):
            Nuclei(input="i", output="o", diameter=6, method=method).identity()
        return
    with pytest.raises(MissingExtra, match=rf'needs the package {method}: pip install "ndbatch\[{method}\]"'):
        Nuclei(input="i", output="o", diameter=6, method=method, model="m").identity()


def test_of_two_objects_that_overlap_the_better_stays() -> None:
    def cube(start: int, score: float) -> Objects:
        place = np.array([[start, 0, 0]])
        size = np.array([[4, 4, 4]])
        return Objects(place, size, place + 2, np.array([score], np.float32), np.packbits(np.ones((4, 4, 4), bool)))

    def kept(*cubes: Objects) -> list[int]:
        return settle(Objects.joined(cubes, 3), (4.0, 4.0, 4.0)).start[:, 0].tolist()

    assert kept(cube(0, 0.5), cube(1, 0.9)) == [1]
    assert kept(cube(1, 0.9), cube(0, 0.9)) == [0], "of equals the first"
    assert kept(cube(0, 0.5), cube(3, 0.9)) == [0, 3], "a quarter is not the same"
    assert kept(cube(0, 0.7), cube(1, 0.8), cube(2, 0.9)) == [0, 2], "one that is gone takes none with it"
    assert kept() == []

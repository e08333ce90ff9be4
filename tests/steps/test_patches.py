"""Functions over overlapping patches: the same for every block, equal to a naive sweep over the whole array."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import ConfigError, StepError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.function.loading import search_in
from ndbatch.steps.function.models import KEPT, once
from ndbatch.steps.function.patches import Lattice
from ndbatch.steps.function.step import Function
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(11)
IMAGE = RNG.integers(0, 60000, (13, 31, 27), np.uint16)
SOURCE = '''
import os
from pathlib import Path
import numpy as np

def swirl(patches):
    """Depend on the place in the patch and on all of its voxels, so that nothing can be joined wrongly unseen."""
    x = patches.astype(np.float32)
    axes = tuple(range(1, x.ndim))
    ramp = np.arange(x[0].size, dtype=np.float32).reshape(x.shape[1:]) / x[0].size
    return x * (1 + ramp) + x.max(axis=axes, keepdims=True)

def one(patch):
    return swirl(patch[None])[0]

def pair(patches):
    made = swirl(patches)
    return np.stack([made, -made], axis=1)

def ids(patches):
    return (patches > 30000).astype(np.uint32) * 7

def sees(patches):
    assert patches.shape == (3, 2, 8, 8), patches.shape
    return patches

class Network:
    def __init__(self, weights, gain=1.0):
        self.weights = np.loadtxt(weights) * gain
        with open(Path(weights).with_name("made.txt"), "a") as log:
            log.write(f"{os.getpid()}\\n")

    def __call__(self, patches, bias=0):
        return (patches * self.weights + bias).astype(np.float32)

def build(gain):
    return lambda patches: patches.astype(np.float32) * gain

def broken(gain):
    raise OSError("no such weights")

def nothing(gain):
    return gain

def wrong(patches):
    return patches[0]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a user's module beside a configuration; forgotten afterwards."""
    (tmp_path / "lab_patches.py").write_text(SOURCE)
    (tmp_path / "weights.txt").write_text("2.0\n")
    search_in(str(tmp_path))
    yield tmp_path
    search_in(str(tmp_path.parent))


def function(name: str, **fields: Any) -> Function:
    shape = {"patch": {"z": 6, "y": 12, "x": 10}, "batch": 4, "output": "out", "dtype": "float32"}
    made = {"input": "a", **shape, **fields}
    return Function.of(f"lab_patches:{name}", **{name: value for name, value in made.items() if value is not None})


def naive(image: Array, shape: tuple[int, ...], overlap: tuple[int, ...], mode: str) -> Array:
    """Return the joined outputs of `swirl`: every patch of the whole image, weights summed voxel by voxel, in float64."""
    stride = [n - o for n, o in zip(shape, overlap, strict=True)]
    counts = [-(-n // s) for n, s in zip(image.shape, stride, strict=True)]
    total, weight = np.zeros(image.shape), np.zeros(image.shape)
    for place in itertools.product(*map(range, counts)):
        start = [k * s - o // 2 for k, s, o in zip(place, stride, overlap, strict=True)]
        before = [max(0, -a) for a in start]
        after = [max(0, a + n - extent) for a, n, extent in zip(start, shape, image.shape, strict=True)]
        wide = np.pad(image, list(zip(before, after, strict=True)), mode="symmetric")
        patch = wide[tuple(slice(a + b, a + b + n) for a, b, n in zip(start, before, shape, strict=True))]
        x = patch.astype(np.float32)
        made = x * (1 + np.arange(x.size, dtype=np.float32).reshape(x.shape) / np.float32(x.size)) + x.max()
        for inside in np.ndindex(*shape):
            voxel = tuple(a + i for a, i in zip(start, inside, strict=True))
            if any(not 0 <= v < n for v, n in zip(voxel, image.shape, strict=True)):
                continue
            own = 1.0
            for v, i, k, n, o, s in zip(voxel, inside, place, shape, overlap, stride, strict=True):
                if mode == "crop":
                    own *= float(k * s <= v < (k + 1) * s)
                elif o:
                    edge = min(1.0, (i + 0.5) / o, (n - i - 0.5) / o)
                    own *= edge if mode == "linear" else 0.5 - 0.5 * np.cos(np.pi * edge)
            total[voxel] += own * float(made[inside])
            weight[voxel] += own
    return (total / weight).astype(np.float32)


@pytest.mark.usefixtures("folder")
class TestCrop(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return function("swirl", overlap={"mode": "crop", "size": {"z": 3, "y": 4, "x": 2}})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": IMAGE}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": naive(IMAGE, (6, 12, 10), (3, 4, 2), "crop")}


@pytest.mark.usefixtures("folder")
class TestLinear(StepSuite):
    rtol = 1e-6

    @pytest.fixture
    def step(self) -> Step:
        return function("swirl", overlap={"mode": "linear", "size": 4})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": IMAGE}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": naive(IMAGE, (6, 12, 10), (4, 4, 4), "linear")}


@pytest.mark.usefixtures("folder")
class TestCosineToTheBit(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return function("swirl", overlap={"mode": "cosine", "size": {"y": 7, "x": 3}})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": IMAGE}

    def test_as_a_naive_sweep(self, step: Step) -> None:
        made = self.run(step, {"a": IMAGE}, (5, 9, 27))["out"]
        np.testing.assert_allclose(made, naive(IMAGE, (6, 12, 10), (0, 7, 3), "cosine"), rtol=1e-6)


@pytest.mark.usefixtures("folder")
class TestPatchesOfPlanes(StepSuite):
    """A 2-D network on (c, z, y, x): it is given (patches, c, y, x)."""

    @pytest.fixture
    def step(self) -> Step:
        return function("sees", patch={"y": 8, "x": 8}, overlap={"size": 2}, batch=3, dtype=None)

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": np.stack([IMAGE[:5], IMAGE[5:10]])}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": np.stack([IMAGE[:5], IMAGE[5:10]])}

    @pytest.mark.parametrize("axis", [1, -1])
    def test_axis_of_one_voxel(self, axis: int, step: Step, arrays: dict[str, Array]) -> None:
        super().test_axis_of_one_voxel(axis, step, arrays)

    def test_region_inside_the_volume(self, step: Step, arrays: dict[str, Array], reference: Any) -> None:
        region = Box((0, 1, 3, 4), (2, 4, 20, 22))
        made = self.run(step, arrays, (1, 2, 7, 11), region=region)["out"]
        np.testing.assert_array_equal(made, arrays["a"][region.slices()])


@pytest.mark.usefixtures("folder")
class TestWhatItReturns:
    def test_one_patch_at_a_time(self) -> None:
        joined = {"overlap": {"mode": "cosine", "size": 4}}
        one = run_operation(function("one", batch=None, **joined), {"a": IMAGE}, (6, 12, 12))
        several = run_operation(function("swirl", batch=5, **joined), {"a": IMAGE}, (6, 12, 12))
        np.testing.assert_array_equal(one["out"], several["out"])

    def test_channels_become_arrays(self) -> None:
        joined = {"overlap": {"mode": "linear", "size": 2}}
        made = run_operation(function("pair", output=None, outputs=["up", "down"], **joined), {"a": IMAGE}, (9, 9, 9))
        alone = run_operation(function("swirl", **joined), {"a": IMAGE}, (9, 9, 9))
        np.testing.assert_array_equal(made["up"], alone["out"])
        np.testing.assert_array_equal(made["down"], -alone["out"])

    def test_labels_are_cropped(self) -> None:
        made = run_operation(function("ids", dtype="uint32", overlap={"size": 3}), {"a": IMAGE}, (9, 9, 9))
        np.testing.assert_array_equal(made["out"], (IMAGE > 30000).astype(np.uint32) * 7)

    def test_blended_integers_are_rounded(self) -> None:
        step = function(
            "sees", patch={"z": 2, "y": 8, "x": 8}, overlap={"mode": "linear", "size": 1}, batch=3, dtype=None
        )
        np.testing.assert_array_equal(run_operation(step, {"a": IMAGE}, (7, 7, 30))["out"], IMAGE)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": "wrong"}, r"returned shape \(6, 12, 10\) where \(4, 6, 12, 10\) is due, \(patches, patch\)"),
            ({"name": "swirl", "dtype": "uint16"}, "returned float32 where uint16 is due"),
            ({"name": "swirl", "output": None, "outputs": ["a1", "b1"]}, r"where \(4, 2, 6, 12, 10\) is due"),
            (
                {"name": "broken", "setup": {"gain": 1}},
                "lab_patches:broken raised OSError: no such weights while it was set up",
            ),
            ({"name": "nothing", "setup": {"gain": 1}}, "made a int, which cannot be called"),
        ],
    )
    def test_mistakes_in_a_block(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(StepError, match=message):
            run_operation(function(fields.pop("name"), **fields), {"a": IMAGE}, IMAGE.shape)


@pytest.mark.usefixtures("folder")
class TestMistakesInThePlan:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"patch": None, "overlap": {"size": 2}, "batch": None}, "overlap goes with patch"),
            ({"patch": None, "overlap": None}, "batch goes with patch"),
            ({"halo": 3}, "give overlap in place of halo"),
            ({"output": None, "table": "t"}, "returns arrays, not a table"),
            ({"outputs": ["a1"]}, "either output"),
            ({"batch": 0}, "greater than or equal to 1"),
            ({"overlap": {"mode": "gaussian"}}, "'crop', 'linear' or 'cosine'"),
            ({"setup": {"when": object()}}, "setup.when is a object"),
        ],
    )
    def test_fields(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            function("swirl", **fields)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"overlap": {"size": 6}},
                "overlap.size: 6 voxels along z do not fit patches of 6; it must be from 0 to 5",
            ),
            ({"patch": {"w": 3}}, "patch: axis 'w' is not one of z, y, x"),
            ({"patch": {"z": 0}}, "patch: z: 0 is below 1"),
            ({"overlap": {"size": {"t": 1}}}, "overlap.size: axis 't' is not one of"),
            (
                {"overlap": {"mode": "linear", "size": 2}, "dtype": "uint64"},
                "linear blends numbers, which uint64 voxels",
            ),
            ({"name": "Network", "setup": {}}, "missing a required argument: 'weights'"),
            (
                {"name": "Network", "setup": {"weights": "weights.txt"}, "parameters": {"wrong": 1}},
                "unexpected keyword",
            ),
        ],
    )
    def test_bound(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            function(fields.pop("name", "swirl"), **fields).bind(
                {"input": ArrayInfo(Box.of_shape(IMAGE.shape), IMAGE.dtype, "zyx")}, {}
            )


class TestModel:
    def test_made_once_a_process_from_a_file_beside_the_configuration(self, folder: Path) -> None:
        step = function("Network", setup={"weights": "weights.txt", "gain": 1.5}, parameters={"bias": 1})
        made = run_operation(step, {"a": IMAGE}, (5, 9, 27))
        np.testing.assert_array_equal(made["out"], (IMAGE * 3.0 + 1).astype(np.float32))
        assert len((folder / "made.txt").read_text().split()) == 1

    def test_a_factory_over_blocks(self, folder: Path) -> None:
        step = function("build", setup={"gain": 0.5}, patch=None, batch=None)
        np.testing.assert_array_equal(
            run_operation(step, {"a": IMAGE}, (5, 9, 27))["out"], IMAGE.astype(np.float32) / 2
        )

    def test_other_weights_are_another_run(self, folder: Path) -> None:
        step = function("Network", setup={"weights": "weights.txt"})
        before = step.identity()
        assert step.identity() == before
        (folder / "weights.txt").write_text("3.25\n")
        assert step.identity() != before
        assert "files" not in function("swirl").identity()

    def test_the_least_used_is_let_go(self) -> None:
        made: list[str] = []

        def make(name: str) -> str:
            made.append(name)
            return name

        names = [f"model {i}" for i in range(KEPT + 1)]
        for name in (*names, *names[1:], names[0]):
            assert once(name, lambda name=name: make(name)) == name  # type: ignore[misc]
        assert made == [*names, names[0]]


@pytest.mark.parametrize("mode", ["crop", "linear", "cosine"])
@pytest.mark.parametrize(("n", "overlap", "extent"), [(5, 0, 12), (8, 3, 21), (8, 7, 9), (16, 4, 3), (1, 0, 4)])
def test_lattice_covers_with_weights_that_add_up_to_one(mode: Any, n: int, overlap: int, extent: int) -> None:
    lattice = Lattice(Box((-3,), (extent - 3,)), (n,), (overlap,), mode)
    total = np.zeros(extent)
    for voxel in range(-3, extent - 3):
        places = list(lattice.near(Box((voxel,), (voxel + 1,))))
        every = [(k,) for k in range(lattice.counts[0])]
        seen = lattice.part if mode == "crop" else lattice.box
        assert places == [k for k in every if seen(k).start[0] <= voxel < seen(k).stop[0]]
        for place in places:
            weight = 1.0 if mode == "crop" else lattice.weights(place)[0][voxel - lattice.box(place).start[0]]
            total[voxel + 3] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_executors_and_blocks_give_the_same_bytes(folder: Path) -> None:
    source = nb.create(folder / "image.zarr", shape=IMAGE.shape, dtype=IMAGE.dtype, chunks=(6, 16, 16))
    source.write(source.domain, IMAGE)
    made = []
    for number, (kind, blocks) in enumerate(
        [("inline", "auto"), ("threads", {"z": 6, "y": 16, "x": 16}), ("processes", {"z": 13, "y": 8, "x": 27})]
    ):
        out = nb.create(folder / f"out{number}.zarr", shape=IMAGE.shape, dtype="float32", chunks=(1, 8, 1))
        document = {
            "name": f"net{number}",
            "inputs": {"image": source.url},
            "steps": [
                {
                    "lab_patches:Network": {
                        "input": "image", "output": "made", "dtype": "float32", "batch": 3,
                        "setup": {"weights": "weights.txt"}, "patch": {"z": 6, "y": 12, "x": 10},
                        "overlap": {"mode": "cosine", "size": 4},
                    }
                }
            ],
            "outputs": {"made": {"url": out.url, "create": False}},
            "blocks": blocks,
            "cluster": {"kind": kind, "workers": 2},
        }  # fmt: skip
        result = nb.run(from_mapping(document, folder), report=False)
        assert result.exit_code == 0
        made.append(nb.open(out.url)[...])
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])
    makers = (folder / "made.txt").read_text().split()
    assert 2 <= len(set(makers)) == len(makers) <= 3, "one model for this process, one for each worker that had a block"

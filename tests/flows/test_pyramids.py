"""Coarser levels made in the same run: equal to pooling the whole array, whatever the blocks, and after a run that stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.plan.make import make_plan
from ndbatch.remotes.base import Array
from ndbatch.runner import run
from ndbatch.steps.base import Patch
from ndbatch.steps.pooling import Pooling, pool
from ndbatch.verify import check

SHAPE = (40, 90, 76)
SIZE = (40.0, 10.0, 10.0)
FACTORS: tuple[Shape, ...] = ((1, 2, 2), (1, 2, 2), (2, 2, 2))
"""What `auto` makes of voxels four times as long along z."""


@pytest.fixture
def labels(tmp_path: Path) -> nb.Volume:
    """Labels with large ids, anisotropic, beginning away from 0."""
    rng = np.random.default_rng(5)
    ids = np.array([0, 7, 2**40 + 1, 2**63 + 3], np.uint64)[rng.integers(0, 4, (10, 15, 13))]
    volume = nb.create(
        tmp_path / "labels.zarr",
        shape=SHAPE,
        dtype="uint64",
        chunks=(16, 16, 16),
        voxel_size=SIZE,
        offset=(3, 13, 22),
        kind="labels",
    )
    volume.write(volume.domain, np.kron(ids, np.ones((4, 6, 6), np.uint64))[:, :, : SHAPE[2]])
    return volume


def cascade(data: Array, start: Shape, method: Pooling, factors: tuple[Shape, ...] = FACTORS) -> list[Patch]:
    """Return the levels below `data`, each pooled from the one before as a whole."""
    levels, patch = [], Patch(data, Box.of_shape(data.shape, start))
    for step in factors:
        box = patch.box.coarsened(step)
        patch = Patch(pool(patch, box, step, method), box)
        levels.append(patch)
    return levels


def document(folder: Path, labels: nb.Volume, **changes: Any) -> dict[str, Any]:
    output = {"url": str(folder / "out.zarr"), "chunks": {"z": 8, "y": 8, "x": 8}, "pyramid": 3}
    return {
        "name": "pyramid",
        "inputs": {"labels": {"url": labels.url}},
        "steps": [{"copy": {"input": "labels", "output": "copied"}}],
        "outputs": {"copied": {**output, **changes.pop("output", {})}},
        "cluster": {"kind": "inline"},
        "directory": str(folder / "run"),
        **changes,
    }


def levels_of(url: str, count: int) -> list[nb.Volume]:
    return [nb.open(url, level=number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "blocks",
    ["auto", {"z": 16, "y": 16, "x": 16}, {"z": 16, "y": 32, "x": 64}, {"z": 32, "y": 64, "x": 16}],
)
@pytest.mark.parametrize("region", [None, {"z": [8, 40], "y": [16, 99], "x": [24, 90]}])
def test_levels_are_those_of_the_whole_array(
    tmp_path: Path, labels: nb.Volume, blocks: Any, region: dict[str, list[int]] | None
) -> None:
    aligned = region or {"z": [8, 43], "y": [16, 103], "x": [24, 98]}
    result = run(from_mapping(document(tmp_path, labels, blocks=blocks, region=aligned), tmp_path), report=False)
    assert result.status == "done"
    assert list(result.outputs) == ["copied"], "levels are parts of their output"
    box = Box(*(tuple(aligned[axis][end] for axis in "zyx") for end in (0, 1)))
    for made, expected in zip(
        levels_of(result.outputs["copied"], 3), cascade(labels.read(box), box.start, "mode"), strict=True
    ):
        assert (made.domain, made.dtype.name, made.kind) == (expected.box, "uint64", nb.Kind.LABELS)
        np.testing.assert_array_equal(made.read(made.domain), expected.data)
    assert nb.open(result.outputs["copied"], level=3).voxel_size == (80.0, 80.0, 80.0)
    assert check(tmp_path / "run").ok


def test_windows_count_from_absolute_zero(tmp_path: Path, labels: nb.Volume) -> None:
    """A level alone may begin anywhere: the voxels at the ends are made of those that there are."""
    steps = [{"downsample": {"input": "labels", "output": "small", "factors": {"z": 3, "y": 4, "x": 5}}}]
    made = document(tmp_path, labels, steps=steps, outputs={"small": str(tmp_path / "small.zarr")}, blocks="auto")
    url = run(from_mapping(made, tmp_path), report=False).outputs["small"]
    (expected,) = cascade(labels.read(labels.domain), labels.offset, "mode", ((3, 4, 5),))
    assert nb.open(url).domain == expected.box
    np.testing.assert_array_equal(nb.open(url)[...], expected.data)


def test_level_zero_must_line_up_with_the_windows(tmp_path: Path, labels: nb.Volume) -> None:
    with pytest.raises(PlanError, match=r"level 1 is made of y: 2 .* set region: \{y: \[14, 103\]\}"):
        make_plan(from_mapping(document(tmp_path, labels), tmp_path))


def test_chunks_that_begin_elsewhere_along_an_axis_that_every_block_holds(tmp_path: Path) -> None:
    """A projection looks along all of z: where other chunks begin along it is of no account."""
    data = np.random.default_rng(2).integers(0, 999, (30, 20, 24), np.uint16)
    volume = nb.create(tmp_path / "in.zarr", shape=data.shape, dtype="uint16", offset=(5, -7, 2), chunks=(8, 8, 8))
    volume.write(volume.domain, data)
    result = run(
        {
            "inputs": {"a": volume.url},
            "region": {"z": [9, 30], "y": [-5, 11]},
            "steps": [
                {"project": {"input": "a", "output": "highest"}},
                {"copy": {"input": "a", "output": "same"}},
            ],
            "outputs": {"highest": "highest.tif", "same": {"url": "same.zarr", "chunks": {"z": 4, "y": 8, "x": 8}}},
            "cluster": {"kind": "inline"},
            "directory": str(tmp_path / "run"),
        }
    )
    part = data[4:25, 2:18]
    assert np.array_equal(nb.open(result.outputs["same"])[...], part)
    assert np.array_equal(nb.open(result.outputs["highest"])[...], part.max(axis=0, keepdims=True))


def test_blocks_too_small_for_all_levels_make_stages_of_their_own(tmp_path: Path, labels: nb.Volume) -> None:
    region = {"z": [8, 43], "y": [16, 103], "x": [24, 98]}
    small = document(tmp_path, labels, region=region, blocks={"z": 16, "y": 16, "x": 16})
    plan = make_plan(from_mapping(small, tmp_path))
    assert [stage.scale for stage in plan.stages] == [(1, 1, 1), (1, 2, 2)]
    assert [list(stage.after) for stage in plan.stages] == [[], [0]]
    auto = make_plan(from_mapping({**small, "blocks": "auto"}, tmp_path))
    assert [stage.stores for stage in auto.stages] == [("copied", "copied@1", "copied@2", "copied@3")]


def test_an_interrupted_run_goes_on(tmp_path: Path, labels: nb.Volume) -> None:
    """Blocks of a coarse stage taken back: only they are done again."""
    region = {"z": [8, 43], "y": [16, 103], "x": [24, 98]}
    made = document(tmp_path, labels, region=region, blocks={"z": 16, "y": 16, "x": 16}, retry={"attempts": 1})
    url = run(from_mapping(made, tmp_path), report=False).outputs["copied"]
    before = [volume[...] for volume in levels_of(url, 3)]
    last = levels_of(url, 3)[-1]
    last.write(last.domain, np.zeros(last.shape, last.dtype))
    found = check(tmp_path / "run", rebuild=True)
    assert {mismatch.stage for mismatch in found.mismatches} == {1}
    again = run(from_mapping(made, tmp_path), report=False)
    assert again.counts.done == len(found.mismatches)
    for one, other in zip(before, levels_of(url, 3), strict=True):
        np.testing.assert_array_equal(one, other[...])


def test_levels_below_an_existing_volume(tmp_path: Path, labels: nb.Volume) -> None:
    """A step may write level 1 of its own input, a pyramid of that output the levels below; voxels of level 0 stay."""
    before = labels[...]
    made = document(
        tmp_path,
        labels,
        steps=[{"downsample": {"input": "labels", "output": "next"}}],
        outputs={"next": {"url": f"{labels.url}?level=1", "pyramid": {"levels": 2}}},
    )
    run(from_mapping(made, tmp_path), report=False)
    assert nb.open(labels.url).levels == 4
    np.testing.assert_array_equal(nb.open(labels.url)[...], before)
    for volume, expected in zip(levels_of(labels.url, 3), cascade(before, labels.offset, "mode"), strict=True):
        assert volume.domain == expected.box
        np.testing.assert_array_equal(volume[...], expected.data)
    with pytest.raises(PlanError, match="level=1 exists already"):
        run(from_mapping({**made, "name": "again", "directory": str(tmp_path / "again")}, tmp_path), report=False)


def test_coarse_arrays_are_worked_on(tmp_path: Path) -> None:
    """Steps go on at the coarser scale: with context inside one stage, with passes and tables in blocks of their own."""
    rng = np.random.default_rng(6)
    volume = nb.create(tmp_path / "image.zarr", shape=(32, 48, 40), dtype="float32", voxel_size=(1.0, 1.0, 1.0))
    volume.write(volume.domain, rng.normal(size=volume.shape).astype(np.float32))
    targets = {"objects": "objects.zarr", "flat": "flat.zarr", "smooth": "smooth.zarr"}
    made: dict[str, Any] = {
        "inputs": {"image": volume.url},
        "steps": [
            {"downsample": {"input": "image", "output": "small"}},
            {"filter": {"input": "small", "sigma": 1.0, "output": "smooth"}},
            {"threshold": {"input": "smooth", "output": "mask"}},
            {"components": {"input": "mask", "output": "objects"}},
            {"measure": {"labels": "objects", "intensity": "small", "output": "rows"}},
            {"project": {"input": "smooth", "output": "flat"}},
        ],
        "cluster": {"kind": "inline"},
    }
    answers = []
    for name, more in (("one", {}), ("many", {"blocks": {"z": 32, "y": 8, "x": 8}})):
        outputs = {k: {"url": v, "chunks": {"z": 4, "y": 4, "x": 4}} for k, v in targets.items()}
        document = {**made, "name": name, "outputs": {**outputs, "rows": "rows.parquet"}, **more}
        result = run(from_mapping(document, tmp_path), report=False)
        volumes = {k: nb.open(result.outputs[k]) for k in outputs}
        answers.append(({k: v[...] for k, v in volumes.items()}, Path(result.outputs["rows"]).read_bytes()))
        assert volumes["objects"].voxel_size == (2.0, 2.0, 2.0)
        assert volumes["flat"].shape == (1, 24, 20)
        np.testing.assert_array_equal(volumes["flat"][...], volumes["smooth"][...].max(axis=0, keepdims=True))
        assert result.rows["rows"] == volumes["objects"][...].max() > 3
    for name, array in answers[0][0].items():
        np.testing.assert_array_equal(array, answers[1][0][name])
    assert answers[0][1] == answers[1][1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "out.h5::/x"}, "hdf5 volumes keep one level only"),
        ({"pyramid": {"levels": 2, "factors": {"t": 2}}}, "outputs.copied.pyramid: level 1: axis 't'"),
        ({"pyramid": 9}, r"level 4 is made of x: 16 .* set region: \{x: \[32, 98\]\}, or fewer levels"),
    ],
)
def test_refusals(tmp_path: Path, labels: nb.Volume, changes: dict[str, Any], words: str) -> None:
    region = {"z": [8, 43], "y": [16, 103], "x": [24, 98]}
    with pytest.raises(PlanError, match=words):
        make_plan(from_mapping(document(tmp_path, labels, output=changes, region=region), tmp_path))


def test_more_levels_than_there_are_voxels(tmp_path: Path, labels: nb.Volume) -> None:
    made = document(tmp_path, labels, output={"pyramid": 9})
    made["inputs"]["labels"]["offset"] = {"z": 0, "y": 0, "x": 0}
    with pytest.raises(PlanError, match=r"outputs.copied.pyramid: level 9: there is but one voxel"):
        make_plan(from_mapping(made, tmp_path))


def test_a_step_of_two_scales_is_refused(tmp_path: Path, labels: nb.Volume) -> None:
    steps = [
        {"downsample": {"input": "labels", "output": "small"}},
        {"measure": {"labels": "labels", "intensity": "small", "output": "rows"}},
    ]
    made = document(tmp_path, labels, steps=steps, outputs={"rows": str(tmp_path / "rows.parquet")})
    with pytest.raises(PlanError, match=r"step 2 \(measure\): labels and small have voxels of different size"):
        make_plan(from_mapping(made, tmp_path))

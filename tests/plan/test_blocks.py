"""Blocks: aligned with what is written, within memory, and never two on one chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import ConfigError, NdbatchError, PlanError
from ndbatch.plan.blocks import candidates
from ndbatch.plan.make import make_plan
from ndbatch.plan.model import Plan


@pytest.fixture
def source(tmp_path: Path) -> Path:
    nb.create(f"{tmp_path}/image.zarr", shape=(100, 200, 300), dtype="uint8", voxel_size=(2, 1, 1), offset=(10, 0, 0))
    return tmp_path


def plan(folder: Path, **changes: Any) -> Plan:
    document = {
        "name": "plan",
        "inputs": {"image": "image.zarr"},
        "steps": [{"copy": {"input": "image", "output": "out"}}],
        "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 32, "y": 32, "x": 32}}},
        "cluster": {"kind": "processes", "workers": 2, "memory": "4 GB"},
        **changes,
    }
    return make_plan(from_mapping(document, folder))


def test_blocks_are_whole_chunks_and_tile_the_region(source: Path) -> None:
    made = plan(source)
    assert all(n % 32 == 0 for n in made.grid.block)
    seen = np.zeros((100, 200, 300), np.uint8)
    for block in made.grid:
        seen[block.core.slices((10, 0, 0))] += 1
    assert seen.min() == seen.max() == 1


def test_blocks_are_whole_shards(source: Path) -> None:
    out = {"url": "out.zarr", "chunks": {"z": 16, "y": 16, "x": 16}, "shards": {"z": 64, "y": 64, "x": 64}}
    assert all(n % 64 == 0 for n in plan(source, outputs={"out": out}).grid.block)


def test_a_misaligned_block_is_refused_with_the_nearest_one(source: Path) -> None:
    with pytest.raises(PlanError, match=r"y: 50 is not a whole number of 32.*use y: 64"):
        plan(source, blocks={"z": 32, "y": 50, "x": 64})


def test_a_block_that_covers_the_region_may_have_any_extent(source: Path) -> None:
    assert plan(source, blocks={"z": 100, "y": 200, "x": 300}).grid.counts == (1, 1, 1)


def test_too_large_a_block_is_refused_with_one_that_fits(source: Path) -> None:
    tight = {"kind": "processes", "workers": 2, "memory": "180 MB"}
    with pytest.raises(
        PlanError, match=r"need 0\...? GiB a worker, and a worker may use 0.17 GiB; blocks: \{z: .*\} would fit"
    ) as caught:
        plan(source, blocks={"z": 100, "y": 200, "x": 300}, cluster=tight)
    fits = dict(zip("zyx", caught.value.fields["fits"], strict=True))
    assert plan(source, blocks=fits, cluster=tight).costs[0].memory <= 180e6


def test_too_little_memory_for_one_chunk_is_refused(source: Path) -> None:
    with pytest.raises(PlanError, match=r"a block of one unit .* needs .* raise cluster: memory"):
        plan(source, cluster={"kind": "processes", "memory": "100 MB"})


def test_more_memory_gives_larger_blocks_but_no_more_than_useful(source: Path) -> None:
    few = plan(source, cluster={"kind": "processes", "workers": 2, "memory": "158 MB"}).grid
    many = plan(source, cluster={"kind": "processes", "workers": 2, "memory": "9 GB"}).grid
    assert len(few) > len(many) >= 2


def test_context_wider_than_the_block_takes_more_memory_where_that_halves_the_work(tmp_path: Path) -> None:
    """A mask watershed of objects of 100 voxels: blocks of one chunk would compute the whole volume 16 times, twice over."""
    nb.create(f"{tmp_path}/mask.zarr", shape=(60, 256, 256), dtype="uint8", voxel_size=(1, 1, 1))
    flood = {"mask": "mask", "size": "48 um", "spacing": "6 um", "output": "cells"}
    made = plan(
        tmp_path,
        inputs={"mask": "mask.zarr"},
        steps=[{"watershed": flood}],
        outputs={"cells": {"url": "cells.zarr", "chunks": {"z": 60, "y": 64, "x": 64}}},
        cluster={"kind": "threads", "workers": 2, "memory": "12 GB"},
    )
    assert len(made.grid) <= 2
    small = plan(
        tmp_path,
        inputs={"mask": "mask.zarr"},
        steps=[{"watershed": flood}],
        outputs={"cells": {"url": "cells.zarr", "chunks": {"z": 60, "y": 64, "x": 64}}},
        cluster={"kind": "threads", "workers": 2, "memory": "500 MB"},
    )
    assert len(small.grid) > len(made.grid)


def test_a_region_takes_named_axes_and_lengths(source: Path) -> None:
    made = plan(source, region={"z": [20, 40], "x": ["10 um", "100 um"]})
    assert made.region == nb.Box((20, 0, 10), (40, 200, 100))
    assert made.targets["out"].spec.offset == (20, 0, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"region": {"z": [0, 20]}}, r"region.z: \[0, 20\] is not inside the volume, which is \[10, 110\]"),
        ({"region": {"y": [50, 50]}}, r"region.y"),
        ({"region": {"t": [0, 1]}}, "region.t"),
        ({"outputs": {"out": "image.h5x"}}, "cannot tell the format from the ending"),
        ({"outputs": {"out": "zar://x"}}, r"did you mean zarr://\?"),
        ({"outputs": {"out": "cells.parquet"}}, "is a table, but out is an array"),
        (
            {
                "outputs": {
                    "out": {
                        "url": "out.zarr",
                        "chunks": {"z": 30, "y": 32, "x": 32},
                        "shards": {"z": 64, "y": 64, "x": 64},
                    }
                }
            },
            "shard",
        ),
        ({"outputs": {"out": "memory://x"}}, "lives in one process only"),
        ({"inputs": {"image": "nothing.zarr"}}, r"inputs.image: .*nothing.zarr does not exist"),
        ({"blocks": {"t": 3}}, "blocks.t"),
    ],
)
def test_what_cannot_be_is_refused_before_work_starts(source: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NdbatchError, match=words):
        plan(source, **changes)
    assert not (source / "runs").exists()


def test_two_outputs_to_one_place_and_output_onto_input_are_refused(source: Path) -> None:
    steps = [{"copy": {"input": "image", "output": "a"}}, {"copy": {"input": "image", "output": "b"}}]
    same = {"a": "out.zarr", "b": f"{source}/runs/plan/out.zarr"}
    with pytest.raises(PlanError, match=r"out\.zarr is the output a already"):
        plan(source, steps=steps, outputs=same)
    with pytest.raises(PlanError, match="is the input image already"):
        plan(source, outputs={"out": f"{source}/image.zarr"})


def test_chunks_follow_blocks_that_are_asked_for(source: Path) -> None:
    made = plan(source, outputs={"out": "out.zarr"}, blocks={"z": 30, "y": 100, "x": 128})
    assert made.grid.block == (30, 100, 128)
    assert all(b % c == 0 for b, c in zip(made.grid.block, made.targets["out"].spec.chunks, strict=True))


def test_inputs_of_different_shape_are_refused(source: Path) -> None:
    nb.create(f"{source}/small.zarr", shape=(50, 200, 300), dtype="uint8", voxel_size=(2, 1, 1))
    with pytest.raises(PlanError, match=r"inputs image and small do not lie on the same voxels: domain"):
        plan(source, inputs={"image": "image.zarr", "small": "small.zarr"})


def test_a_step_that_nobody_uses_is_refused(source: Path) -> None:
    steps = [{"copy": {"input": "image", "output": "a"}}, {"copy": {"input": "image", "output": "out"}}]
    with pytest.raises(ConfigError, match=r"step 1 \(copy\) makes a, which no step and no output uses"):
        plan(source, steps=steps)


def test_an_existing_volume_takes_a_region_in_whole_chunks(source: Path) -> None:
    there = nb.create(
        f"{source}/there.zarr", shape=(100, 200, 300), dtype="uint8", chunks=(32, 32, 32), offset=(10, 0, 0)
    )
    out = {"url": there.url, "create": False}
    made = plan(source, outputs={"out": out}, region={"z": [20, 90]})
    assert made.grid.origin == (10, 0, 0)
    assert (made.grid[0].core.start[0] - 10) % 32 == 10
    assert all((b.core.stop[0] - 10) % 32 == 0 or b.core.stop[0] == 90 for b in made.grid)


@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.integers(1, 500)] * 3))
def test_candidates_are_whole_units_up_to_the_region(unit: tuple[int, ...], region: tuple[int, ...]) -> None:
    shapes = list(candidates(unit, region))
    assert unit in shapes
    assert all(n % u == 0 and n < r + u for shape in shapes for n, u, r in zip(shape, unit, region, strict=True))
    assert any(all(n >= r for n, r in zip(shape, region, strict=True)) for shape in shapes)

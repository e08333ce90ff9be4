"""The look before the long run: one block or one slice, computed here, nothing written."""

from __future__ import annotations

import math
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndbatch.config.cluster import Cluster
from ndbatch.config.model import Config, Output
from ndbatch.errors import ConfigError
from ndbatch.geometry import Box
from ndbatch.importing import about_to_act
from ndbatch.plan.make import make_plan
from ndbatch.plan.model import Plan
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array
from ndbatch.remotes.registry import open_volume, store_class
from ndbatch.runner import as_config, run


@dataclass(frozen=True)
class TrialResult:
    """What the steps made of one place."""

    box: Box
    axes: str
    arrays: Mapping[str, tuple[Array, Box]]
    """Inputs and volume outputs, by name: voxels (C-order, `axes`) and where they lie."""
    tables: Mapping[str, Any]
    """Tables (pyarrow.Table), by name."""
    facts: Mapping[str, Any]
    """What passes found out here; over the whole volume a threshold may come out differently."""
    voxel_size: tuple[float, ...] | None
    seconds: float


def try_region(
    config: Config | Mapping[str, Any] | str | Path, at: Mapping[str, int] | None = None, *, slice_only: bool = False
) -> TrialResult:
    """Run the steps on the block that holds the voxel `at` (the middle of the region if not given), in this process.

    With `slice_only` it is one plane of the first axis instead, seen with the context that the steps need: objects are
    those of the slab around it, arrays are cut to the plane. Coarser arrays are their voxels there, pyramids are left out.
    Nothing of the user's is written: volumes go to memory,
    tables to a temporary folder. Raises NdbatchError.
    """
    about_to_act("starts a run")
    config = as_config(config)
    plan = make_plan(config, resume=False)
    box = _place(plan, at, slice_only=slice_only)
    slab = _with_context(plan, box) if slice_only else box
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ndbatch-try-") as folder:
        outputs, volumes = _elsewhere(plan)
        changes = {
            "region": {axis: (a, b) for axis, a, b in zip(plan.axes, slab.start, slab.stop, strict=True)},
            "blocks": dict(zip(plan.axes, slab.shape, strict=True)),
            "outputs": outputs,
            "cluster": Cluster(kind="inline"),
            "directory": folder,
        }
        try:
            result = run(config.model_copy(update=changes), report=False)
            _require_success(result.status, Path(folder))
            arrays = {name: (volume.read(box), box) for name, volume in plan.sources.items()}
            for name, url in volumes.items():
                seen = box.coarsened(plan.infos[name].scales)
                arrays[name] = (open_volume(parse(url)).read(seen), seen)
            tables = {name: _table(Path(result.outputs[name])) for name in plan.tables}
        finally:
            for url in volumes.values():
                store_class("memory").delete(parse(url))
    frame = next(iter(plan.infos.values()))
    seconds = time.perf_counter() - begun
    return TrialResult(box, plan.axes, arrays, tables, result.facts, frame.voxel_size, seconds)


def _place(plan: Plan, at: Mapping[str, int] | None, *, slice_only: bool) -> Box:
    """Return the block that holds `at`, or the plane through it."""
    middle = [(a + b) // 2 for a, b in zip(plan.region.start, plan.region.stop, strict=True)]
    for axis, value in (at or {}).items():
        if axis not in plan.axes:
            raise ConfigError(f"at: {axis!r} is not one of the axes {', '.join(plan.axes)}")
        middle[plan.axes.index(axis)] = value
    voxel = Box(tuple(middle), tuple(v + 1 for v in middle))
    if not plan.region.contains(voxel):
        raise ConfigError(f"at: the voxel {voxel.describe(plan.axes)} lies outside {plan.region.describe(plan.axes)}")
    if slice_only:
        return Box((voxel.start[0], *plan.region.start[1:]), (voxel.stop[0], *plan.region.stop[1:]))
    return plan.grid[plan.grid.containing(voxel.start)].core


def _with_context(plan: Plan, plane: Box) -> Box:
    """Return the plane grown along its axis by the furthest that any stage looks and to whole windows, inside the region."""
    reach = max((load.halo[0] for stage in plan.stages for load in stage.loads), default=0)
    window = math.lcm(*(plan.infos[name].scales[0] for name in plan.config.outputs if name in plan.infos))
    others = (1,) * (plane.ndim - 1)
    slab = plane.grow((reach, *(0 for _ in others))).aligned_to((window, *others), (0,) * plane.ndim)
    return slab.intersect(plan.region)


def _elsewhere(plan: Plan) -> tuple[dict[str, Output], dict[str, str]]:
    """Return the outputs led into memory and a temporary folder, and the addresses of those in memory."""
    outputs: dict[str, Output] = {}
    volumes: dict[str, str] = {}
    for name, output in plan.config.outputs.items():
        if name in plan.tables:
            outputs[name] = output.model_copy(update={"url": f"{name}.parquet", "objects": None})
        else:
            volumes[name] = f"memory://try-{uuid.uuid4().hex}-{name}"
            changes = {"url": volumes[name], "create": True, "chunks": None, "shards": None, "pyramid": None}
            outputs[name] = output.model_copy(update=changes)
    return outputs, volumes


def _require_success(status: str, folder: Path) -> None:
    from ndbatch.errors import StepError
    from ndbatch.journal import Journal

    if status != "done":
        with Journal.read(folder) as journal:
            failures = journal.failures()
        raise StepError(failures[0].error if failures else f"the trial ended {status}")


def _table(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)

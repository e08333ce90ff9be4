"""Over which blocks the stages go: one grid for each scale of voxels, chosen by memory and by the chunks of the outputs.

Coarser arrays (a pyramid's levels) are made in the same look at the volume as what they are made from, as far as blocks of
whole chunks of all of them fit the memory; from there on they are read back and go over blocks of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndbatch.config.model import Config
from ndbatch.errors import ConfigError, PlanError
from ndbatch.geometry import Box, Grid, Shape, common_multiple
from ndbatch.plan.blocks import AUTO_BYTES, BASE_BYTES, DASK_BYTES, Cost, Workload, require_alignment
from ndbatch.plan.identity import scale_name
from ndbatch.plan.model import Target
from ndbatch.plan.program import Apply, Bound, Stage, compile_stages, level_of, ratio
from ndbatch.plan.targets import volume_targets, write_unit
from ndbatch.remotes.base import Volume
from ndbatch.steps.base import ArrayInfo

PYRAMID_BYTES = AUTO_BYTES
"""What the smallest block of a stage may take where the stage makes arrays of several scales.

Twice as much lets labels of 64 bits go down three levels in one look, and was a third slower on 512^3 voxels: the system
clears what a process touches for the first time, which is half a gigabyte then, and reading a level back is an eighth.
"""


@dataclass(frozen=True)
class Work:
    """What the steps are to do and what with: all that decides stages and blocks."""

    config: Config
    steps: tuple[Bound, ...]
    infos: Mapping[str, ArrayInfo]
    sources: Mapping[str, Volume]
    region: Box
    workers: int
    limit: int

    @property
    def axes(self) -> str:
        """Axis names of every array."""
        return next(iter(self.infos.values())).axes

    def load(self, stages: Sequence[Stage], scale: Shape) -> Workload:
        """Return what `stages`, which go over blocks of `scale`, cost."""
        base = BASE_BYTES + (DASK_BYTES if self.config.cluster.is_dask else 0)
        reading = {name: volume.reading_bytes for name, volume in self.sources.items()}
        far = {name: volume.chunks for name, volume in self.sources.items() if is_far(volume)}
        return Workload(stages, self.steps, self.infos, self.region.coarsened(scale), self.axes, base, reading, far)


def is_far(volume: Volume) -> bool:
    """Return whether reading a volume waits for a network: buckets, web servers, services."""
    return volume.abilities.service or volume.address.place != "file"


@dataclass(frozen=True)
class Layout:
    """Stages, what they write, and the blocks they go over, by scale."""

    stages: tuple[Stage, ...]
    targets: Mapping[str, Target]
    grids: Mapping[Shape, Grid]
    costs: tuple[Cost, ...]


def lay_out(work: Work, begun: Mapping[str, Any] | None) -> Layout:
    """Return stages and blocks; the blocks that a run was `begun` with stay. PlanError where nothing fits."""
    apart: frozenset[str] = frozenset()
    arrays = {name for step in work.steps for name in step.products.values()}
    kept = frozenset(name for name in arrays if level_of(name)[0] in work.config.outputs)
    within = any(work.infos[name].domain != work.region for name in work.sources)
    while True:
        stages, stored = compile_stages(work.steps, work.infos, kept, apart, within)
        targets = volume_targets(work.config, stored, work.steps, work.infos, work.region, work.sources)
        more = _too_many_scales(work, stages, targets)
        if not more - apart:
            break
        apart |= more
    grids = {}
    for scale in sorted({stage.scale for stage in stages}):
        grids[scale] = _grid(work, [stage for stage in stages if stage.scale == scale], scale, targets, begun)
    costs = tuple(work.load([s], s.scale).cost(s, grids[s.scale].block) for s in stages)
    return Layout(stages, targets, grids, costs)


def _unit(work: Work, stages: Sequence[Stage], targets: Mapping[str, Target], names: set[str]) -> tuple[Shape, Shape]:
    """Return what blocks of `stages` must be whole numbers of, with the stored arrays `names`, and the voxel it is
    counted from. PlanError where there is no such unit."""
    scale = stages[0].scale
    written = {name: (targets[name], ratio(work.infos[name].scales, scale)) for name in sorted(names)}
    made = {call.step for stage in stages for call in stage.calls if isinstance(call, Apply)}
    windows = [ratio(work.steps[i].scale, scale) for i in sorted(made) if work.steps[i].array_names()]
    return write_unit(written, common_multiple([(1,) * len(scale), *windows]), work.region.coarsened(scale))


def _too_many_scales(work: Work, stages: Sequence[Stage], targets: Mapping[str, Target]) -> frozenset[str]:
    """Return the arrays that must be read back, because a stage would make coarser ones of them than fit its blocks."""
    makers = {name: step for step in work.steps for name in step.array_names().values()}
    for stage in stages:
        names: set[str] = set()
        for name in sorted(stage.stores, key=lambda n: work.infos[n].scales):
            names.add(name)
            between = {n for n in makers[name].sources.values() if work.infos[n].scales != stage.scale}
            if between and not _fits(work, stage, targets, names, names - {name}):
                return frozenset(between)
    return frozenset()


def _fits(work: Work, stage: Stage, targets: Mapping[str, Target], names: set[str], without: set[str]) -> bool:
    """Return whether blocks can hold whole chunks of all of `names`, and leave no worker idle that would have had work
    `without` the last of them."""
    load, blocks = work.load([stage], stage.scale), work.config.blocks
    try:
        unit, _ = _unit(work, [stage], targets, names)
        if blocks != "auto" and not _is_coarse(stage.scale):
            require_alignment(_named_block(blocks, work.axes, unit, load.region), unit, load.region, work.axes)
    except PlanError:
        return False
    if load.peak(unit) > min(work.limit, load.base + PYRAMID_BYTES):
        return False
    finer, _ = _unit(work, [stage], targets, without)
    return min(len(Grid.over(load.region, finer)), 2 * work.workers) <= len(Grid.over(load.region, unit))


def _grid(
    work: Work,
    stages: Sequence[Stage],
    scale: Shape,
    targets: Mapping[str, Target],
    begun: Mapping[str, Any] | None,
) -> Grid:
    """Return the blocks of one scale: as asked for, as begun, or chosen. PlanError where they do not fit memory or chunks."""
    load, blocks = work.load(stages, scale), work.config.blocks
    unit, origin = _unit(work, stages, targets, {name for stage in stages for name in stage.stores})
    known = ((begun or {}).get("identity", {}).get("blocks") or {}).get(scale_name(scale))
    if blocks != "auto" and not _is_coarse(scale):
        block = _named_block(blocks, work.axes, unit, load.region)
    elif known and len(known) == load.region.ndim:
        block = tuple(known)
    else:
        block = load.choose(unit, work.workers, work.limit)
    require_alignment(block, unit, load.region, work.axes)
    load.require_fit(block, unit, work.workers, work.limit)
    return Grid.over(load.region, block, origin)


def _is_coarse(scale: Shape) -> bool:
    return any(n > 1 for n in scale)


def _named_block(sizes: Mapping[Any, int], axes: str, unit: Shape, region: Box) -> Shape:
    """Return the block asked for; axes not named take the whole region, in whole units."""
    for axis in sizes:
        if axis not in axes:
            raise ConfigError(f"blocks.{axis}: the volume's axes are {', '.join(axes)}")
    return tuple(sizes.get(axis, -(-n // u) * u) for axis, n, u in zip(axes, region.shape, unit, strict=True))

"""Making a plan: open the inputs (metadata only), bind the steps, compile stages, choose blocks, refuse what cannot be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil

from ndbatch.config.model import Cluster, Config
from ndbatch.errors import ConfigError, NdbatchError, PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.journal import Journal
from ndbatch.plan.identity import digest, identity, require_same
from ndbatch.plan.layout import Work, lay_out
from ndbatch.plan.model import Plan
from ndbatch.plan.program import Bound
from ndbatch.plan.sources import open_sources, require_one_frame
from ndbatch.plan.targets import output_dtypes, require_free, require_writable, table_targets
from ndbatch.remotes.base import Kind, Volume
from ndbatch.steps.base import ArrayInfo
from ndbatch.steps.loading import search_in
from ndbatch.units import in_voxels


def make_plan(config: Config, *, resume: bool = True) -> Plan:
    """Return the plan of `config`; no voxel is read and nothing is written.

    With `resume`, a run directory that was begun before must have the same fingerprint, and its block shape is taken over
    where the configuration says auto. Without it, what stands at the targets is not looked at. Raises ConfigError,
    PlanError or RemoteError.
    """
    search_in(str(config.base))  # users' functions may lie beside the configuration file
    sources = open_sources(config)
    infos = {name: _info(volume) for name, volume in sources.items()}
    require_one_frame(infos)
    frame = next(iter(infos.values()))
    region = _region(config, frame)
    steps = _bind(config, infos, region)
    _require_used(config, steps)
    workers, limit = capacity(config.cluster)
    begun = _begun(config) if resume else None
    layout = lay_out(Work(config, steps, infos, sources, region, workers, limit), begun)
    facts = identity(config, sources, layout.targets, region, layout.grids)
    plan = Plan(
        config=config,
        sources=sources,
        infos=infos,
        steps=steps,
        stages=layout.stages,
        costs=layout.costs,
        grids=layout.grids,
        region=region,
        targets=layout.targets,
        tables=table_targets(config, steps, layout.stages),
        workers=workers,
        memory_limit=limit,
        identity=facts,
        fingerprint=digest(facts),
        warnings=tuple(
            f"{step.kind}: {step.operation.caveat}" for step in steps if not step.operation.block_independent
        ),
    )
    if begun:
        require_same(begun["identity"], facts, str(plan.directory))
    elif resume:
        require_free(plan.targets, plan.tables)
    if resume:
        require_writable(plan.directory, plan.targets, plan.tables)
    return plan


def capacity(cluster: Cluster) -> tuple[int, int]:
    """Return the number of workers and the bytes each may use. PlanError where more is promised than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 1 if cluster.kind == "inline" else cores if cluster.workers == "auto" else cluster.workers
    if cluster.memory_bytes is not None:
        return workers, cluster.memory_bytes
    return workers, int(0.8 * psutil.virtual_memory().available / workers)


def _info(volume: Volume) -> ArrayInfo:
    return ArrayInfo(volume.domain, volume.dtype, volume.axes, volume.voxel_size, Kind(volume.kind))


def _bind(config: Config, infos: dict[str, ArrayInfo], region: Box) -> tuple[Bound, ...]:
    """Bind every step in order; `infos` gains what they make."""
    steps = []
    for number, step in enumerate(config.steps, 1):
        inputs = {role: infos[name] for role, name in step.sources.items()}
        try:
            operation = step.bind(inputs, output_dtypes(config, step.products))
        except NdbatchError as error:
            error.message = f"step {number} ({step.kind}): {error.message}"
            raise
        frame = _frame_of(f"step {number} ({step.kind})", step.sources, infos)
        bound = Bound(step.kind, operation, step.sources, step.products, frame)
        infos.update(
            {name: _placed(operation.arrays[role], bound, region) for role, name in bound.array_names().items()}
        )
        steps.append(bound)
    return tuple(steps)


def _frame_of(where: str, sources: Mapping[str, str], infos: Mapping[str, ArrayInfo]) -> Shape:
    """Return the scale that the inputs of a step have in common. PlanError where they differ."""
    (first, scale), *others = ((name, infos[name].scales) for name in sources.values())
    for name, other in others:
        if other != scale:
            raise PlanError(
                f"{where}: {first} and {name} have voxels of different size, {scale} and {other} times those of the inputs; "
                "bring them to the same size first"
            )
    return scale


def _placed(info: ArrayInfo, bound: Bound, region: Box) -> ArrayInfo:
    """Return the array with its scale; a coarse one covers the region, as if that were the whole volume."""
    coarse = any(n > 1 for n in bound.scale)
    return replace(info, scale=bound.scale, domain=region.coarsened(bound.scale)) if coarse else info


def _require_used(config: Config, steps: tuple[Bound, ...]) -> None:
    used = {name for step in steps for name in step.sources.values()} | set(config.outputs)
    for number, step in enumerate(steps, 1):
        if not used & set(step.products.values()):
            names = ", ".join(step.products.values())
            raise ConfigError(
                f"step {number} ({step.kind}) makes {names}, which no step and no output uses; add it to outputs"
            )


def _region(config: Config, frame: ArrayInfo) -> Box:
    """Return the region in voxels. PlanError where it leaves the volume or is empty."""
    start, stop = list(frame.domain.start), list(frame.domain.stop)
    for axis, ends in (config.region or {}).items():
        if axis not in frame.axes:
            raise ConfigError(f"region.{axis}: the volume's axes are {', '.join(frame.axes)}")
        i = frame.axes.index(axis)
        start[i], stop[i] = (_position(end, frame, i, f"region.{axis}") for end in ends)
        if not frame.domain.start[i] <= start[i] < stop[i] <= frame.domain.stop[i]:
            raise PlanError(
                f"region.{axis}: [{start[i]}, {stop[i]}] is not inside the volume, which is "
                f"[{frame.domain.start[i]}, {frame.domain.stop[i]}]"
            )
    return Box(tuple(start), tuple(stop))


def _position(value: Any, frame: ArrayInfo, axis: int, what: str) -> int:
    if isinstance(value, str):
        return round(in_voxels(value, frame.voxel_size, frame.ndim, what)[axis])
    if value != int(value):
        raise ConfigError(f"{what}: {value} is not a whole voxel; write an integer, or a length such as 12 um")
    return int(value)


def _begun(config: Config) -> dict[str, Any] | None:
    """Return the plan that the run directory was begun with, or None."""
    if not Journal.exists(config.run_directory):
        return None
    with Journal.read(config.run_directory) as journal:
        return journal.document or None

"""Making a plan: open the inputs (metadata only), bind the steps, compile stages, choose blocks, refuse what cannot be."""

from __future__ import annotations

import os
from typing import Any

import psutil

from ndbatch.config.cluster import Cluster
from ndbatch.config.model import Config
from ndbatch.errors import ConfigError, PlanError
from ndbatch.geometry import Box
from ndbatch.journal import Journal
from ndbatch.plan.binding import bind
from ndbatch.plan.identity import digest, identity, require_same
from ndbatch.plan.layout import Work, lay_out
from ndbatch.plan.model import Plan
from ndbatch.plan.sources import open_sources, require_one_frame
from ndbatch.plan.targets import require_free, require_writable, table_targets
from ndbatch.remotes.base import Kind, Volume
from ndbatch.steps.base import ArrayInfo
from ndbatch.steps.function.loading import search_in
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
    steps = bind(config, infos, region)
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
    workers = cluster.most_workers or (cores if cluster.workers == "auto" else cluster.workers)
    workers = 1 if cluster.kind == "inline" else workers
    if cluster.memory_bytes is not None:
        return workers, cluster.memory_bytes
    return workers, int(0.8 * psutil.virtual_memory().available / workers)


def _info(volume: Volume) -> ArrayInfo:
    return ArrayInfo(volume.domain, volume.dtype, volume.axes, volume.voxel_size, Kind(volume.kind))


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
    if not Journal.begun(config.run_directory):
        return None
    with Journal.read(config.run_directory) as journal:
        return journal.document or None

"""Which block: by memory and by the work that its context costs, in whole units of what is written.

The compute block is not the storage chunk. A large block wastes less on context (a halo of 8 voxels costs 1.42 x the
arithmetic at 128^3 and 1.20 x at 256^3) and needs more memory; a small one spreads better over workers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.plan.program import Apply, Bound, Load, Map, Stage, ratio, times
from ndbatch.steps.base import ArrayInfo

BASE_BYTES = 150 * 2**20
"""A worker process with its libraries, before it holds a voxel (measured: 80 MB resident, 160 with tables)."""

DASK_BYTES = 35 * 2**20
"""What dask takes in a worker beside that."""

AUTO_BYTES = 256 * 2**20
"""What `blocks: auto` lets the arrays of one worker take, if its limit allows: larger blocks gain little."""

MOST_AUTO_BYTES = 4 * AUTO_BYTES
"""What it may take where that at least halves the time: with context wider than a block, small blocks compute the volume over
and over (a watershed of 60 x 256 x 256 voxels: 16 times in as many blocks at 509 MiB, twice in two blocks at 558)."""

BLOCK_COST = 50_000
"""Cost of one block beside its voxels, in voxels: messages, chunk look-ups, Python."""

REQUESTS, AHEAD_BYTES = 24, 32 * 2**20
"""Chunks that a worker has asked a bucket or a service for at the same time, as far as the blocks read ahead for it take no more
than so many bytes: at 20 ms an answer, one block after another would wait most of the time."""


@dataclass(frozen=True)
class Cost:
    """What one block of a stage takes, the largest one (all bytes not compressed)."""

    memory: int
    """Peak bytes of the worker, its libraries included."""
    read: int
    written: int
    voxels: int
    """Voxels of the largest box that is computed."""
    ahead: int = 1
    """Blocks whose input is read while one is computed."""


@dataclass(frozen=True)
class Workload:
    """Stages that go over the same blocks, and the voxels they go over: what a block of any shape costs.

    Every shape here, and `region`, counts voxels of the stages' scale.
    """

    stages: Sequence[Stage]
    steps: Sequence[Bound]
    infos: Mapping[str, ArrayInfo]
    region: Box
    axes: str
    base: int = BASE_BYTES
    """Bytes of a worker before it holds a voxel."""
    reading: Mapping[str, float] = field(default_factory=dict)
    """Bytes a voxel that reading an input takes beside its voxels, by name."""
    far: Mapping[str, Shape] = field(default_factory=dict)
    """Chunks of the inputs that lie in buckets and services, by name, in voxels of the input."""

    def cost(self, stage: Stage, block: Shape) -> Cost:
        """Return the cost of an interior block of `block` voxels. Every term is named; a test holds the sum against a run.

        One block is computed while the next one is read (more than one from far away) and the last one is written, so
        loads and stores count twice.
        """
        loads = sum(self._bytes(stage, block, load.halo, self.infos[load.name]) for load in stage.loads)
        reading = max((self._reading(stage, block, load) for load in stage.loads), default=0.0)
        made, working, largest = 0, 0.0, math.prod(block)
        for call in stage.calls:
            step = self.steps[call.step]
            source = self.infos[next(iter(step.sources.values()), next(iter(self.infos)))]
            size = math.prod(self._extent(stage, block, self._context(call), source))
            largest = max(largest, size)
            working = max(working, step.operation.working_bytes * size)
            if isinstance(call, Apply):
                arrays = (replace(info, scale=step.scale) for info in step.operation.arrays.values())
                made += sum(self._bytes(stage, block, call.halo, info) for info in arrays)
        none = (0,) * len(block)
        stores = sum(self._bytes(stage, block, none, self.infos[name]) for name in stage.stores)
        ahead = self._ahead(stage, block, loads)
        memory = self.base + (1 + ahead) * loads + ahead * reading + made + working + 2 * stores
        return Cost(int(memory), loads, stores, largest, ahead)

    def _ahead(self, stage: Stage, block: Shape, loads: int) -> int:
        """Return how many blocks to read ahead, so that about `REQUESTS` chunks are asked for at a time."""
        requests = 0
        for load in stage.loads:
            if load.name in self.far:
                extent = self._extent(stage, block, load.halo, self.infos[load.name])
                requests += math.prod(-(-n // c) for n, c in zip(extent, self.far[load.name], strict=True))
        return max(1, min(-(-REQUESTS // requests), AHEAD_BYTES // max(1, loads))) if requests else 1

    def _reading(self, stage: Stage, block: Shape, load: Load) -> float:
        """Return the bytes that reading an input for a block takes beside the voxels it gives."""
        extent = self._extent(stage, block, load.halo, self.infos[load.name])
        return self.reading.get(load.name, 0.0) * math.prod(extent)

    def peak(self, block: Shape) -> int:
        """Return the most bytes that any stage needs a worker."""
        return max(self.cost(stage, block).memory for stage in self.stages)

    def choose(self, unit: Shape, workers: int, limit: int) -> Shape:
        """Return the block that should finish first within `limit` bytes a worker.

        The estimate is the number of rounds over all workers times what a block computes, context included. More than
        `AUTO_BYTES` is taken only where it halves the estimate. Raises PlanError where not even one `unit` fits.
        """
        smallest = self.peak(unit)
        if smallest > limit:
            raise PlanError(
                f"a block of one unit ({self._named(unit)}) needs {_gib(smallest)} a worker, and a worker may use "
                f"{_gib(limit)}; raise cluster: memory, lower cluster: workers, or choose smaller chunks for the output",
                needed=smallest,
                limit=limit,
            )
        room, most = (max(min(limit, self.base + nbytes), smallest) for nbytes in (AUTO_BYTES, MOST_AUTO_BYTES))
        peaks = {block: self.peak(block) for block in candidates(unit, self.region.shape)}
        estimated = {block: self._time(block, workers) for block, peak in peaks.items() if peak <= most}
        best = min((b for b in estimated if peaks[b] <= room), key=lambda block: (estimated[block], block))
        larger = min(estimated, key=lambda block: (estimated[block], peaks[block], block))
        return larger if 2 * estimated[larger] <= estimated[best] else best

    def _time(self, block: Shape, workers: int) -> float:
        """Return how long a run with `block` takes, in voxels computed one after another.

        Blocks are read and written while others are computed, but for the first read and the last write, which take about
        as long as a block: many blocks overlap better than few.
        """
        rounds = -(-len(Grid.over(self.region, block)) // workers)
        return (rounds + 1) * (BLOCK_COST + sum(self.cost(stage, block).voxels for stage in self.stages))

    def require_fit(self, block: Shape, unit: Shape, workers: int, limit: int) -> None:
        """Raise PlanError, with a block that would fit, where `block` needs more than `limit` bytes a worker."""
        needed = self.peak(block)
        if needed <= limit:
            return
        fits = self.choose(unit, workers, limit)
        raise PlanError(
            f"blocks of {self._named(block)} need {_gib(needed)} a worker, and a worker may use {_gib(limit)}; "
            f"blocks: {{{self._named(fits)}}} would fit, or raise cluster: memory",
            needed=needed,
            limit=limit,
            fits=fits,
        )

    def _context(self, call: Apply | Map) -> Shape:
        """Return how far the inputs of `call` reach beyond the core."""
        operation = self.steps[call.step].operation
        if isinstance(call, Map):
            return operation.passes[call.number].halo
        own = operation.halo or (0,) * len(call.halo)
        return tuple(a + b for a, b in zip(times(call.halo, operation.scale), own, strict=True))

    def _extent(self, stage: Stage, block: Shape, halo: Shape, info: ArrayInfo) -> Shape:
        """Return the extent, in the voxels of `info`, of a block of `stage` with `halo` of them around it."""
        by = ratio(info.scales, stage.scale)
        sides = zip(block, by, halo, info.domain.shape, strict=True)
        return tuple(min(-(-n // f) + 2 * h, whole) for n, f, h, whole in sides)

    def _bytes(self, stage: Stage, block: Shape, halo: Shape, info: ArrayInfo) -> int:
        return math.prod(self._extent(stage, block, halo, info)) * info.dtype.itemsize

    def _named(self, shape: Shape) -> str:
        return ", ".join(f"{name}: {n}" for name, n in zip(self.axes, shape, strict=True))


def candidates(unit: Shape, region: Shape) -> Iterator[Shape]:
    """Yield block shapes: `unit` doubled any number of times along each axis, up to one that covers the region."""
    axes = []
    for n, extent in zip(unit, region, strict=True):
        cells = -(-extent // n)
        powers = [1 << k for k in range(cells.bit_length()) if 1 << k < cells]
        axes.append([n * p for p in [*powers, cells]])
    yield from itertools.product(*axes)


def require_alignment(block: Shape, unit: Shape, region: Box, axes: str) -> None:
    """Raise PlanError, with the nearest block that fits, where two blocks would write one chunk or shard (`unit`)."""
    sizes = zip(block, unit, region.shape, strict=True)
    wrong = [i for i, (n, u, extent) in enumerate(sizes) if n % u and n < extent]
    if wrong:
        nearest = {axes[i]: max(1, round(block[i] / unit[i])) * unit[i] for i in wrong}
        said = ", ".join(f"{axes[i]}: {block[i]} is not a whole number of {unit[i]}" for i in wrong)
        raise PlanError(
            f"blocks: {said}, so two blocks would write into one output chunk; use "
            + ", ".join(f"{name}: {value}" for name, value in nearest.items()),
            nearest=nearest,
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"

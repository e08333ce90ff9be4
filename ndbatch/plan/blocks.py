"""Which block: by memory and by the work that its context costs, in whole units of what is written.

The compute block is not the storage chunk. A large block wastes less on context (a halo of 8 voxels costs 1.42 x the
arithmetic at 128^3 and 1.20 x at 256^3) and needs more memory; a small one spreads better over workers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.plan.program import Apply, Bound, Map, Stage
from ndbatch.steps.base import ArrayInfo

BASE_BYTES = 150 * 2**20
"""A worker process with its libraries, before it holds a voxel (measured: 110-160 MB resident)."""

AUTO_BYTES = 384 * 2**20
"""What `blocks: auto` lets the arrays of one worker take, if its limit allows: larger blocks gain little (see docs)."""

BLOCK_COST = 50_000
"""Cost of one block beside its voxels, in voxels: messages, chunk look-ups, Python."""


@dataclass(frozen=True)
class Cost:
    """What one block of a stage takes, the largest one (all bytes not compressed)."""

    memory: int
    """Peak bytes of the worker, its libraries included."""
    read: int
    written: int
    voxels: int
    """Voxels of the largest box that is computed."""


def stage_cost(stage: Stage, steps: Sequence[Bound], infos: Mapping[str, ArrayInfo], domain: Box, block: Shape) -> Cost:
    """Return the cost of an interior block of `block` voxels. Every term is named, and a test compares the sum with a run.

    One block is computed while the next one is read and the last one is written, so loads and stores count twice.
    """
    boxes = {load.name: _extent(block, load.halo, domain) for load in stage.loads}
    loads = sum(_bytes(boxes[load.name], infos[load.name]) for load in stage.loads)
    made, working, largest = 0, 0.0, math.prod(block)
    for call in stage.calls:
        operation = steps[call.step].operation
        halo = _context(call, steps)
        box = _extent(block, halo, domain)
        largest = max(largest, math.prod(box))
        working = max(working, operation.working_bytes * math.prod(box))
        if isinstance(call, Apply):
            out = _extent(block, call.halo, domain)
            made += sum(_bytes(out, info) for info in operation.arrays.values())
    stores = sum(_bytes(_extent(block, (0,) * len(block), domain), infos[name]) for name in stage.stores)
    memory = int(BASE_BYTES + 2 * loads + made + working + 2 * stores)
    return Cost(memory, loads, stores, largest)


def _context(call: Apply | Map, steps: Sequence[Bound]) -> Shape:
    """Return how far the inputs of `call` reach beyond the core."""
    operation = steps[call.step].operation
    if isinstance(call, Map):
        return operation.passes[call.number].halo
    own = operation.halo or (0,) * len(call.halo)
    return tuple(a + b for a, b in zip(call.halo, own, strict=True))


def _extent(block: Shape, halo: Shape, domain: Box) -> Shape:
    return tuple(min(n + 2 * h, d) for n, h, d in zip(block, halo, domain.shape, strict=True))


def _bytes(shape: Shape, info: ArrayInfo) -> int:
    return math.prod(shape) * info.dtype.itemsize


def candidates(unit: Shape, region: Shape) -> Iterator[Shape]:
    """Yield block shapes: `unit` doubled any number of times along each axis, up to the region, the last one covering it."""
    axes = []
    for n, extent in zip(unit, region, strict=True):
        cells = -(-extent // n)
        powers = [1 << k for k in range(cells.bit_length()) if 1 << k < cells]
        axes.append([n * p for p in [*powers, cells]])
    yield from itertools.product(*axes)


def choose_block(
    stages: Sequence[Stage],
    steps: Sequence[Bound],
    infos: Mapping[str, ArrayInfo],
    domain: Box,
    region: Box,
    unit: Shape,
    workers: int,
    limit: int,
) -> Shape:
    """Return the block that should finish first within the memory limit of a worker (bytes).

    The estimate is the number of rounds over all workers times what a block computes, context included. Raises PlanError
    where not even one unit fits.
    """
    best: tuple[float, int, Shape] | None = None
    smallest = min(_peak(stages, steps, infos, domain, unit), limit + 1)
    if smallest > limit:
        needed = _peak(stages, steps, infos, domain, unit)
        raise PlanError(
            f"a block of one unit ({_named(unit, infos)}) needs {_gib(needed)} a worker, and a worker may use {_gib(limit)}; "
            "raise cluster: memory, lower cluster: workers, or choose smaller chunks for the output",
            needed=needed,
            limit=limit,
        )
    room = min(limit, BASE_BYTES + AUTO_BYTES)
    for block in candidates(unit, region.shape):
        memory = _peak(stages, steps, infos, domain, block)
        if memory > max(room, smallest):
            continue
        count = len(Grid.over(region, block))
        rounds = -(-count // workers)
        work = sum(stage_cost(s, steps, infos, domain, block).voxels for s in stages) + BLOCK_COST
        score = (rounds * work, memory, block)
        best = score if best is None else min(best, score)
    return best[2] if best is not None else unit


def require_fit(
    stages: Sequence[Stage],
    steps: Sequence[Bound],
    infos: Mapping[str, ArrayInfo],
    domain: Box,
    region: Box,
    block: Shape,
    unit: Shape,
    workers: int,
    limit: int,
) -> None:
    """Raise PlanError, with a block that would fit, where `block` needs more than `limit` bytes a worker."""
    needed = _peak(stages, steps, infos, domain, block)
    if needed <= limit:
        return
    fits = choose_block(stages, steps, infos, domain, region, unit, workers, limit)
    raise PlanError(
        f"blocks of {_named(block, infos)} need {_gib(needed)} a worker, and a worker may use {_gib(limit)}; "
        f"blocks: {{{_named(fits, infos)}}} would fit, or raise cluster: memory",
        needed=needed,
        limit=limit,
        fits=fits,
    )


def require_alignment(block: Shape, unit: Shape, region: Box, axes: str) -> None:
    """Raise PlanError where two blocks of `block` would write one chunk or shard (`unit`)."""
    wrong = [i for i, (n, u, extent) in enumerate(zip(block, unit, region.shape, strict=True)) if n % u and n < extent]
    if wrong:
        nearest = {axes[i]: max(1, round(block[i] / unit[i])) * unit[i] for i in wrong}
        said = ", ".join(f"{axes[i]}: {block[i]} is not a whole number of {unit[i]}" for i in wrong)
        raise PlanError(
            f"blocks: {said}, so two blocks would write into one output chunk; use "
            + ", ".join(f"{name}: {value}" for name, value in nearest.items()),
            nearest=nearest,
        )


def _peak(
    stages: Sequence[Stage], steps: Sequence[Bound], infos: Mapping[str, ArrayInfo], domain: Box, block: Shape
) -> int:
    return max(stage_cost(stage, steps, infos, domain, block).memory for stage in stages)


def _named(shape: Shape, infos: Mapping[str, ArrayInfo]) -> str:
    axes = next(iter(infos.values())).axes
    return ", ".join(f"{name}: {n}" for name, n in zip(axes, shape, strict=True))


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"

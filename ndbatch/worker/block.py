"""One block: load its context, compute, store its core. Pure apart from the volumes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ndbatch.casting import cast
from ndbatch.errors import StepError
from ndbatch.geometry import Block, Box
from ndbatch.journal import CHECKSUM_BITS
from ndbatch.plan.program import Apply, Bound, Map, made_box, ratio
from ndbatch.remotes.base import Array, Volume
from ndbatch.steps.base import Patch
from ndbatch.steps.payload import pack_rows
from ndbatch.worker.work import BlockStates, Work

Payloads = list[tuple[str, int, bytes]]


def rows_key(step: int, role: str) -> str:
    """Return the journal's name for the rows of table `role` of step `step`."""
    return f"{step}.rows.{role}"


def load(work: Work, block: Block) -> dict[str, Patch]:
    """Read what the stage loads for `block`: its core with context, clipped to the volume."""
    patches = {}
    for entry in work.stage.loads:
        volume = work.volumes[entry.name]
        core = block.core.coarsened(work.ratio(entry.name))
        box = core.grow(entry.halo).intersect(volume.domain)
        data = volume.read(box)
        data.flags.writeable = False
        patches[entry.name] = Patch(data, box)
    return patches


def compute(
    work: Work, block: Block, patches: dict[str, Patch], states: BlockStates
) -> tuple[dict[str, Array], Payloads]:
    """Run the stage's calls; return the voxels of the core to store, by name, and the payloads and rows."""
    payloads: Payloads = []
    known = dict(patches)
    for call in work.stage.calls:
        step = work.steps[call.step]
        own = states.get(call.step, {})
        if isinstance(call, Map):
            stage_pass = step.operation.passes[call.number]
            inputs = _inputs(step, known, block.core.grow(stage_pass.halo))
            payloads.append((call.key, block.index, stage_pass.map(inputs, block, own)))
        else:
            payloads.extend(_apply(work, step, call, block, known, own))
    return {name: known[name].crop(block.core.coarsened(work.ratio(name))) for name in work.stage.stores}, payloads


def store(work: Work, block: Block, results: Mapping[str, Array]) -> int:
    """Write the core of every stored array; return what the receipt keeps: the CRC-32 of those it proves in turn, and in
    the bits above it which of them needed no writing."""
    checksum, unwritten = 0, 0
    for place, name in enumerate(work.stage.stores):
        data = np.ascontiguousarray(results[name])
        box, volume = block.core.coarsened(work.ratio(name)), work.volumes[name]
        rule = "" if work.mending else work.unwritten(name)
        if place < CHECKSUM_BITS and _is_there(rule, volume, box, data):
            unwritten |= 1 << place
        else:
            volume.write(box, data)
        if work.proved is None or name in work.proved:
            checksum = zlib.crc32(data.data, checksum)
    return checksum | unwritten << CHECKSUM_BITS


def _is_there(rule: str, volume: Volume, box: Box, data: Array) -> bool:
    """Return whether `data` needs no writing. Bits are compared, so that -0.0 is not 0 and one NaN is like another."""
    bits = f"u{data.itemsize}"
    if rule == "identical":
        return np.array_equal(volume.read(box).view(bits), data.view(bits))
    return rule == "empty" and not data.view(bits).any()


def _apply(
    work: Work, step: Bound, call: Apply, block: Block, known: dict[str, Patch], states: Mapping[str, Any]
) -> Payloads:
    """Make the arrays of one step on the core and the context that is wanted; add them to `known`, return the rows."""
    operation = step.operation
    box = made_box(step, call, work.stage, block, work.infos)
    wanted = box
    if operation.scale:
        around = work.grid.bounds.coarsened(ratio(step.frame, work.stage.scale))
        wanted = box.refined(operation.scale).intersect(around)
    inputs = _inputs(step, known, wanted.grow(operation.halo) if operation.halo else wanted)
    core = Block(block.index, block.core.coarsened(ratio(step.frame, work.stage.scale)))
    made = operation.apply(inputs, box, core, states)
    for role, name in step.array_names().items():
        known[name] = Patch(_checked(made, role, name, box, work, step.kind), box)
    if not call.rows:
        return []
    rows: dict[str, Any] = {role: made[role] for role in step.table_names()}
    return [(rows_key(call.step, r), block.index, pack_rows(batch)) for r, batch in rows.items() if batch.num_rows]


def _inputs(step: Bound, known: Mapping[str, Patch], box: Box) -> dict[str, Patch]:
    """Return the step's inputs, by role, as views of `box` clipped to what there is."""
    result = {}
    for role, name in step.sources.items():
        patch = known[name]
        common = box.intersect(patch.box)
        result[role] = patch if common == patch.box else Patch(patch.crop(common), common)
    return result


def _checked(made: Mapping[str, Any], role: str, name: str, box: Box, work: Work, kind: str) -> Array:
    """Return the array of `role` with its declared shape and dtype; StepError where it is another."""
    array = made[role]
    if array.shape != box.shape:
        raise StepError(f"{kind} made {name} with shape {array.shape} where {box.shape} is due")
    dtype = work.infos[name].dtype
    result: Array = array if array.dtype == dtype else cast(array, dtype, name)
    return result

"""States of a run: what passes found out, reduced from the journal when first asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from ndbatch.geometry import Block
from ndbatch.journal import CHECKSUM_BITS, Journal
from ndbatch.plan.model import Plan
from ndbatch.plan.program import Map, Stage, made_box
from ndbatch.ranges import Ranges
from ndbatch.steps.base import State


class States:
    """Reduces each pass once a session. A resumed run reduces again from the journal: no second copy can disagree."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._plan, self._journal = plan, journal
        self._stage_of = {
            (call.step, call.number): stage.index
            for stage in plan.stages
            for call in stage.calls
            if isinstance(call, Map)
        }
        self._known: dict[tuple[int, int], State] = {}

    def get(self, step: int, number: int) -> State:
        """Return the state of pass `number` of step `step`; every block of its stage must be done."""
        if (step, number) not in self._known:
            stage_pass = self._plan.steps[step].operation.passes[number]
            scratch = self._plan.directory / "scratch" / f"{step}.{stage_pass.name}"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            stage = self._plan.stages[self._stage_of[step, number]]
            grid = self._plan.blocks(stage)
            payloads = self._journal.payloads(stage.index, f"{step}.{stage_pass.name}", grid)
            self._known[step, number] = stage_pass.reduce(payloads, grid, scratch)
        return self._known[step, number]

    def facts(self, stage: Stage) -> dict[str, Any]:
        """Return what the passes of `stage` found out, by step: reduces them. Blocks that it did not write are counted.

        A step is named by its kind, and by what it makes too where there are several of that kind.
        """
        result: dict[str, Any] = {}
        for call in stage.calls:
            if isinstance(call, Map):
                found = self.get(call.step, call.number).facts()
                if found:
                    result.setdefault(self._name(call.step), {}).update(found)
        for place, name in enumerate(stage.stores[:CHECKSUM_BITS]):
            for number, step in enumerate(self._plan.steps):
                if step.operation.unwritten and name in step.array_names().values():
                    count = self._unwritten(stage.index, place)
                    result.setdefault(self._name(number), {})["blocks_not_written"] = count
        return result

    def _unwritten(self, stage: int, place: int) -> int:
        """Return how many blocks of the array that a stage stores at `place` needed no writing."""
        bit = 1 << CHECKSUM_BITS + place
        return sum(int(np.count_nonzero(batch["checksum"] & bit)) for batch in self._journal.batches(stage))

    def _name(self, number: int) -> str:
        steps = self._plan.steps
        alike = [step for step in steps if step.kind == steps[number].kind]
        product = next(iter(steps[number].products.values()))
        return steps[number].kind if len(alike) == 1 else f"{steps[number].kind} {product}"

    def needed(self, stage: Stage) -> bool:
        """Return whether blocks of `stage` need any state."""
        return any(self._passes(stage, place) for place in range(len(stage.calls)))

    def _passes(self, stage: Stage, place: int) -> range:
        call = stage.calls[place]
        return range(call.number if isinstance(call, Map) else len(self._plan.steps[call.step].operation.passes))

    def for_blocks(self, stage: Stage, blocks: Ranges) -> dict[int, dict[int, Mapping[str, Any]]]:
        """Return what each block needs: by block, by step, by pass name."""
        if not self.needed(stage):
            return {}
        grid = self._plan.blocks(stage)
        return {index: self._for_block(stage, grid[index]) for index in blocks}

    def _for_block(self, stage: Stage, block: Block) -> dict[int, Mapping[str, Any]]:
        result: dict[int, Mapping[str, Any]] = {}
        for place, call in enumerate(stage.calls):
            step = self._plan.steps[call.step]
            operation = step.operation
            box = block.core if isinstance(call, Map) else made_box(step, call, stage, block, self._plan.infos)
            found = {
                operation.passes[k].name: self.get(call.step, k).select(block, box) for k in self._passes(stage, place)
            }
            if found:
                result[call.step] = {**result.get(call.step, {}), **found}
        return result

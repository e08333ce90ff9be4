"""What a stage does to a block, as plain data: what to load, what to compute in which order, what to keep.

`compile_stages` finds the stages. A pass needs the states of the passes before it, so each step has a *depth*: how many
global passes must be over before it can run. Everything of one depth is done in one look at the blocks, fused: arrays
between steps live only in memory, for a block and its context, and are computed again in a later stage rather than
stored. An array is stored on the way only where computing it again is impossible (labels that belong to their block
are wanted with context) or forbidden (a user's function runs once a block).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndbatch.geometry import Shape
from ndbatch.steps.base import ArrayInfo, Operation


@dataclass(frozen=True)
class Bound:
    """A step of the configuration after binding: its operation and the names of what it reads and makes, by role."""

    kind: str
    operation: Operation
    sources: Mapping[str, str]
    products: Mapping[str, str]

    def array_names(self) -> dict[str, str]:
        """Return the names of its arrays, by role."""
        return {role: name for role, name in self.products.items() if role in self.operation.arrays}

    def table_names(self) -> dict[str, str]:
        """Return the names of its tables, by role."""
        return {role: name for role, name in self.products.items() if role in self.operation.tables}


@dataclass(frozen=True)
class Load:
    """Read the volume of `name` on the block's core grown by `halo`."""

    name: str
    halo: Shape


@dataclass(frozen=True)
class Apply:
    """Make the arrays of step `step` on the core grown by `halo`; `rows` is whether its tables' rows are kept."""

    step: int
    halo: Shape
    rows: bool


@dataclass(frozen=True)
class Map:
    """Run pass `number` of step `step`; its payload is journaled under `key`."""

    step: int
    number: int
    key: str


@dataclass(frozen=True)
class Stage:
    """One look at the blocks: loads, then calls in order, then stores."""

    index: int
    loads: tuple[Load, ...]
    calls: tuple[Apply | Map, ...]
    stores: tuple[str, ...]
    """Names of the arrays written to their volume."""
    after: frozenset[int] = frozenset()
    """Stages whose passes must have seen every block before this one can begin."""
    beside: frozenset[int] = frozenset()
    """Stages that wrote what this one loads: a block needs only those blocks of them that it reads."""

    def title(self, steps: Sequence[Bound]) -> str:
        """Return what the stage does in words: `nuclei: detect`, `filter + threshold`."""
        maps = [f"{steps[c.step].kind}: {_pass_name(steps, c)}" for c in self.calls if isinstance(c, Map)]
        kept = [steps[c.step].kind for c in self.calls if isinstance(c, Apply) and self._emits(steps, c)]
        return " + ".join([*maps, *kept]) or "nothing"

    def _emits(self, steps: Sequence[Bound], call: Apply) -> bool:
        return call.rows or any(name in self.stores for name in steps[call.step].array_names().values())


def _pass_name(steps: Sequence[Bound], call: Map) -> str:
    return steps[call.step].operation.passes[call.number].name


@dataclass
class _Depths:
    """When each step's passes and arrays can be made, given the arrays that are read back from storage."""

    passes: list[list[int]] = field(default_factory=list)
    apply: list[int] = field(default_factory=list)


def compile_stages(
    steps: Sequence[Bound], infos: Mapping[str, ArrayInfo], kept: frozenset[str]
) -> tuple[tuple[Stage, ...], frozenset[str]]:
    """Return the stages, and the names of all arrays that are stored: those `kept` and those needed on the way."""
    forced: frozenset[str] = frozenset()
    while True:
        stages, more = _compile(steps, infos, kept, forced)
        if not more - forced:
            return stages, _stored(steps, kept, forced)
        forced |= more


def _stored(steps: Sequence[Bound], kept: frozenset[str], forced: frozenset[str]) -> frozenset[str]:
    arrays = {name for step in steps for name in step.array_names().values()}
    return (kept & arrays) | forced


def _compile(
    steps: Sequence[Bound], infos: Mapping[str, ArrayInfo], kept: frozenset[str], forced: frozenset[str]
) -> tuple[tuple[Stage, ...], frozenset[str]]:
    depths = _depths_of(steps, forced)
    stored = _stored(steps, kept, forced)
    stages: list[Stage] = []
    more: set[str] = set()
    made_at = {name: depths.apply[i] for i, step in enumerate(steps) for name in step.array_names().values()}
    used = sorted({d for p in depths.passes for d in p} | _emitting_depths(steps, depths, kept | stored))
    for depth in used:
        draft = _Draft(steps, infos, depths, depth, stored, kept)
        stage, wanted = draft.stage()
        more |= wanted
        stages.append(stage)
    return _numbered(stages, used, steps, depths, made_at), frozenset(more)


def _depths_of(steps: Sequence[Bound], forced: frozenset[str]) -> _Depths:
    depths = _Depths()
    ready: dict[str, int] = {}
    for step in steps:
        first = max((ready.get(name, 0) for name in step.sources.values()), default=0)
        count = len(step.operation.passes)
        depths.passes.append([first + k for k in range(count)])
        depths.apply.append(first + count)
        for name in step.array_names().values():
            ready[name] = depths.apply[-1] + (1 if name in forced else 0)
    return depths


def _emitting_depths(steps: Sequence[Bound], depths: _Depths, kept: frozenset[str]) -> set[int]:
    return {depths.apply[i] for i, step in enumerate(steps) if any(name in kept for name in step.products.values())}


def _grown(a: Shape | None, b: Shape) -> Shape:
    return b if a is None else tuple(max(x, y) for x, y in zip(a, b, strict=True))


class _Draft:
    """The making of one stage: sweeps the steps backwards to learn how much context each array is wanted with."""

    def __init__(
        self,
        steps: Sequence[Bound],
        infos: Mapping[str, ArrayInfo],
        depths: _Depths,
        depth: int,
        stored: frozenset[str],
        kept: frozenset[str],
    ) -> None:
        self.steps, self.infos, self.depths, self.depth = steps, infos, depths, depth
        self.stored, self.kept = stored, kept
        self.needs: dict[str, Shape] = {}
        self.more: set[str] = set()
        self.made = {name: i for i, step in enumerate(steps) for name in step.array_names().values()}

    def stage(self) -> tuple[Stage, frozenset[str]]:
        """Return the stage and the names of arrays that would have to be stored on the way."""
        calls: list[Apply | Map] = []
        stores: list[str] = []
        for index in reversed(range(len(self.steps))):
            apply = self._apply(index, stores)
            maps = self._maps(index)
            calls = [*maps, *([apply] if apply else []), *calls]
        loads = tuple(Load(name, halo) for name, halo in self.needs.items() if self._from_storage(name))
        return Stage(self.depth, tuple(reversed(loads)), tuple(calls), tuple(reversed(stores))), frozenset(self.more)

    def _from_storage(self, name: str) -> bool:
        return name not in self.made or (name in self.stored and self.depths.apply[self.made[name]] < self.depth)

    def _maps(self, index: int) -> list[Map]:
        step, result = self.steps[index], []
        for number, at in enumerate(self.depths.passes[index]):
            if at == self.depth:
                stage_pass = step.operation.passes[number]
                self._want(index, stage_pass.halo)
                result.append(Map(index, number, f"{index}.{stage_pass.name}"))
        return result

    def _apply(self, index: int, stores: list[str]) -> Apply | None:
        """Return the call that makes the arrays of a step here, if anything here wants them."""
        step = self.steps[index]
        emits = self.depths.apply[index] == self.depth
        arrays = list(step.array_names().values())
        rows = emits and any(name in self.kept for name in step.table_names().values())
        written = [name for name in arrays if emits and name in self.stored]
        wanted = [name for name in arrays if name in self.needs and not self._from_storage(name)]
        if not (rows or written or wanted):
            return None
        stores.extend(reversed(written))
        halo = (0,) * next(iter(self.infos.values())).ndim
        for name in wanted:
            halo = _grown(self.needs[name], halo)
        operation = step.operation
        if (operation.block_bound and any(halo)) or (operation.once and not emits):
            self.more.update(arrays)
        self._want(
            index, tuple(a + b for a, b in zip(halo, operation.halo or halo, strict=True)) if operation.halo else halo
        )
        return Apply(index, halo, rows)

    def _want(self, index: int, halo: Shape) -> None:
        for name in self.steps[index].sources.values():
            self.needs[name] = _grown(self.needs.get(name), halo)


def _numbered(
    stages: Sequence[Stage], used: Sequence[int], steps: Sequence[Bound], depths: _Depths, made_at: Mapping[str, int]
) -> tuple[Stage, ...]:
    """Return the stages counted from 0, each knowing the earlier stages that it depends on."""
    place = {depth: i for i, depth in enumerate(used)}
    result = []
    for stage in stages:
        involved = {call.step for call in stage.calls}
        passes = {place[d] for i in involved for d in depths.passes[i] if d < stage.index}
        loaded = {place[made_at[load.name]] for load in stage.loads if load.name in made_at}
        result.append(replace(stage, index=place[stage.index], after=frozenset(passes), beside=frozenset(loaded)))
    return tuple(result)

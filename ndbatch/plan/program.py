"""What a stage does to a block, as plain data: what to load, what to compute in which order, what to keep.

`compile_stages` finds the stages. A pass needs the states of the passes before it, so each step has a *depth*: how many
global passes must be over before it can run. Everything of one depth is done in one look at the blocks, fused: arrays
between steps live only in memory, for a block and its context, and are computed again in a later stage rather than
stored. An array is stored on the way only where computing it again is impossible (labels that belong to their block
are wanted with context) or forbidden (a user's function runs once a block), or where it is asked for (`apart`).

Arrays may have coarser voxels than the run's inputs. A step that makes them runs among the others, in blocks of its
inputs; so does a step that reads them, if it only looks at one block at a time. One that has passes or tables, or that
reads an array that is stored `apart`, goes over coarser blocks in stages of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndbatch.geometry import Block, Box, Shape
from ndbatch.steps.base import ArrayInfo, Operation


@dataclass(frozen=True)
class Bound:
    """A step of the configuration after binding: its operation and the names of what it reads and makes, by role."""

    kind: str
    operation: Operation
    sources: Mapping[str, str]
    products: Mapping[str, str]
    frame: Shape
    """Voxels of the run's inputs to one of the arrays that it reads, along each axis."""
    asks: Mapping[str, float] = field(default_factory=dict)
    """What a worker must offer beside its core."""

    @property
    def scale(self) -> Shape:
        """Voxels of the run's inputs to one of the arrays that it makes, along each axis."""
        return times(self.frame, self.operation.scale)

    @property
    def looks_around(self) -> bool:
        """Whether its blocks must be those of the arrays that it reads."""
        return bool(self.operation.passes or self.operation.tables or self.operation.block_bound)

    def array_names(self) -> dict[str, str]:
        """Return the names of its arrays, by role."""
        return {role: name for role, name in self.products.items() if role in self.operation.arrays}

    def table_names(self) -> dict[str, str]:
        """Return the names of its tables, by role."""
        return {role: name for role, name in self.products.items() if role in self.operation.tables}


@dataclass(frozen=True)
class Load:
    """Read the volume of `name` on the block's core grown by `halo`, in that volume's voxels."""

    name: str
    halo: Shape


@dataclass(frozen=True)
class Apply:
    """Make the arrays of step `step` on the core grown by `halo`, in their voxels; `rows`: its tables' rows are kept."""

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
    scale: Shape = ()
    """Voxels of the run's inputs to one voxel of its blocks, along each axis."""
    after: frozenset[int] = frozenset()
    """Stages whose passes must have seen every block before this one can begin."""
    beside: frozenset[int] = frozenset()
    """Stages that wrote what this one loads: a block needs only those blocks of them that it reads."""

    def title(self, steps: Sequence[Bound]) -> str:
        """Return what the stage does in words: `nuclei: detect`, `filter + threshold`."""
        maps = [f"{steps[c.step].kind}: {_pass_name(steps, c)}" for c in self.calls if isinstance(c, Map)]
        kept = [steps[c.step].kind for c in self.calls if isinstance(c, Apply) and self._emits(steps, c)]
        return " + ".join([*maps, *kept]) or "nothing"

    def asks(self, steps: Sequence[Bound]) -> dict[str, float]:
        """Return what a worker must offer beside its core: of everything the most that a step asks for."""
        most: dict[str, float] = {}
        for call in self.calls:
            for name, amount in steps[call.step].asks.items():
                most[name] = max(amount, most.get(name, 0.0))
        return most

    def _emits(self, steps: Sequence[Bound], call: Apply) -> bool:
        return call.rows or any(name in self.stores for name in steps[call.step].array_names().values())


def _pass_name(steps: Sequence[Bound], call: Map) -> str:
    return steps[call.step].operation.passes[call.number].name


def times(scale: Shape, factor: Shape) -> Shape:
    """Return the scale of voxels that are `factor` larger than those of `scale`; () is one everywhere."""
    return tuple(a * b for a, b in zip(scale, factor, strict=True)) if factor else scale


def ratio(coarse: Shape, fine: Shape) -> Shape:
    """Return how many voxels of scale `fine` make one of scale `coarse`, along each axis."""
    return tuple(a // b for a, b in zip(coarse, fine, strict=True))


def level_name(name: str, level: int) -> str:
    """Return the name of the array that is level `level` (counted from the output itself) of the output `name`."""
    return f"{name}@{level}" if level else name


def level_of(name: str) -> tuple[str, int]:
    """Return the output that the array `name` belongs to, and which of its levels it is."""
    output, _, level = name.partition("@")
    return output, int(level or 0)


def made_box(step: Bound, call: Apply, stage: Stage, block: Block, infos: Mapping[str, ArrayInfo]) -> Box:
    """Return what `call` makes for `block`: its core with context, in voxels of what the step makes.

    A step that changes the scale sees the region as the whole volume.
    """
    core = block.core.coarsened(ratio(step.scale, stage.scale))
    names = step.array_names().values()
    source = infos[next(iter(step.sources.values()), next(iter(infos)))].domain
    domain = infos[next(iter(names))].domain if names and step.operation.scale else source
    return core.grow(call.halo).intersect(domain)


@dataclass
class _Places:
    """When and over which blocks each step runs, given the arrays that are read back from storage."""

    passes: list[list[int]] = field(default_factory=list)
    """Depths of its passes."""
    apply: list[int] = field(default_factory=list)
    """Depth from which on its arrays can be made."""
    scale: list[Shape] = field(default_factory=list)
    """Scale of the blocks it goes over."""
    more: set[str] = field(default_factory=set)
    """Arrays that must be stored, because what reads them goes over other blocks than what makes them."""


def compile_stages(
    steps: Sequence[Bound],
    infos: Mapping[str, ArrayInfo],
    kept: frozenset[str],
    apart: frozenset[str] = frozenset(),
    within: bool = False,
) -> tuple[tuple[Stage, ...], frozenset[str]]:
    """Return the stages, and the names of all arrays that are stored: those `kept` and those needed on the way.

    What reads an array of `apart` reads it back from storage, in blocks of its voxels. `within` says that the inputs reach
    beyond the region: what is stored ends there, so that context is computed again, the same in every stage.
    """
    forced = apart
    while True:
        stages, more = _compile(steps, infos, kept, forced, within)
        if not more - forced:
            return stages, _stored(steps, kept, forced)
        forced |= more


def _stored(steps: Sequence[Bound], kept: frozenset[str], forced: frozenset[str]) -> frozenset[str]:
    arrays = {name for step in steps for name in step.array_names().values()}
    return (kept & arrays) | forced


def _compile(
    steps: Sequence[Bound], infos: Mapping[str, ArrayInfo], kept: frozenset[str], forced: frozenset[str], within: bool
) -> tuple[tuple[Stage, ...], frozenset[str]]:
    places = _places_of(steps, infos, forced)
    if places.more - forced:
        return (), frozenset(places.more)
    stored = _stored(steps, kept, forced)
    stages: list[Stage] = []
    more: set[str] = set()
    for depth, scale in _used(steps, places, kept | stored):
        stage, wanted = _Draft(steps, infos, places, depth, scale, stored, kept, forced if within else None).stage()
        more |= wanted
        stages.append(stage)
    return _numbered(stages, steps, places), frozenset(more)


def _places_of(steps: Sequence[Bound], infos: Mapping[str, ArrayInfo], forced: frozenset[str]) -> _Places:
    places = _Places()
    ready: dict[str, int] = {}
    blocks: dict[str, Shape] = {}
    for step in steps:
        sources = set(step.sources.values())
        over = {name: blocks.get(name, infos[name].scales) for name in sources}
        apart = {name for name in sources if over[name] != infos[name].scales}
        if apart and (step.looks_around or len(set(over.values())) > 1):
            places.more |= apart
        first = max((ready.get(name, 0) for name in sources), default=0)
        count = len(step.operation.passes)
        places.passes.append([first + k for k in range(count)])
        places.apply.append(first + count)
        places.scale.append(next(iter(over.values()), step.frame))
        for name in step.array_names().values():
            ready[name] = places.apply[-1] + (1 if name in forced else 0)
            blocks[name] = step.scale if name in forced else places.scale[-1]
    return places


def _used(steps: Sequence[Bound], places: _Places, kept: frozenset[str]) -> list[tuple[int, Shape]]:
    """Return depth and scale of every stage: wherever a pass runs or something that is kept is made."""
    used = {(depth, scale) for depths, scale in zip(places.passes, places.scale, strict=True) for depth in depths}
    for index, step in enumerate(steps):
        if any(name in kept for name in step.products.values()):
            used.add((places.apply[index], places.scale[index]))
    return sorted(used)


def _grown(a: Shape | None, b: Shape) -> Shape:
    return b if a is None else tuple(max(x, y) for x, y in zip(a, b, strict=True))


class _Draft:
    """The making of one stage: sweeps the steps backwards to learn how much context each array is wanted with."""

    def __init__(
        self,
        steps: Sequence[Bound],
        infos: Mapping[str, ArrayInfo],
        places: _Places,
        depth: int,
        scale: Shape,
        stored: frozenset[str],
        kept: frozenset[str],
        read_back: frozenset[str] | None,
    ) -> None:
        self.steps, self.infos, self.places, self.depth, self.scale = steps, infos, places, depth, scale
        self.stored, self.kept, self.read_back = stored, kept, read_back
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
        stage = Stage(self.depth, tuple(reversed(loads)), tuple(calls), tuple(reversed(stores)), self.scale)
        return stage, frozenset(self.more)

    def _from_storage(self, name: str) -> bool:
        if name not in self.made:
            return True
        index = self.made[name]
        if name not in self.stored or self.places.apply[index] >= self.depth:
            return False
        # Context that a first stage had beyond the region would be missing in what it stored.
        operation = self.steps[index].operation
        again = not (operation.once or operation.block_bound or operation.scale)
        context = self.read_back is not None and name not in self.read_back and any(self.needs.get(name, ()))
        return not (context and again and self.places.scale[index] == self.scale)

    def _maps(self, index: int) -> list[Map]:
        step, result = self.steps[index], []
        for number, at in enumerate(self.places.passes[index]):
            if (at, self.places.scale[index]) == (self.depth, self.scale):
                stage_pass = step.operation.passes[number]
                self._want(index, stage_pass.halo)
                result.append(Map(index, number, f"{index}.{stage_pass.name}"))
        return result

    def _apply(self, index: int, stores: list[str]) -> Apply | None:
        """Return the call that makes the arrays of a step here, if anything here wants them."""
        step = self.steps[index]
        emits = (self.places.apply[index], self.places.scale[index]) == (self.depth, self.scale)
        arrays = list(step.array_names().values())
        rows = emits and any(name in self.kept for name in step.table_names().values())
        written = [name for name in arrays if emits and name in self.stored]
        wanted = [name for name in arrays if name in self.needs and not self._from_storage(name)]
        if not (rows or written or wanted):
            return None
        stores.extend(reversed(written))
        halo = (0,) * len(self.scale)
        for name in wanted:
            halo = _grown(self.needs[name], halo)
        operation = step.operation
        if (operation.block_bound and any(halo)) or (operation.once and not emits):
            self.more.update(arrays)
        context = times(halo, operation.scale)
        if operation.halo:
            context = tuple(a + b for a, b in zip(context, operation.halo, strict=True))
        self._want(index, context)
        return Apply(index, halo, rows)

    def _want(self, index: int, halo: Shape) -> None:
        for name in self.steps[index].sources.values():
            self.needs[name] = _grown(self.needs.get(name), halo)


def _numbered(stages: Sequence[Stage], steps: Sequence[Bound], places: _Places) -> tuple[Stage, ...]:
    """Return the stages counted from 0, each knowing the earlier stages that it depends on.

    A stage over other blocks must be over as a whole before what it wrote is read.
    """
    number = {(stage.index, stage.scale): i for i, stage in enumerate(stages)}
    made_at = {
        name: number.get((places.apply[i], places.scale[i]))
        for i, step in enumerate(steps)
        for name in step.array_names().values()
    }
    result = []
    for index, stage in enumerate(stages):
        involved = {call.step for call in stage.calls}
        after = {number[d, places.scale[i]] for i in involved for d in places.passes[i] if d < stage.index}
        loaded = {made_at[load.name] for load in stage.loads if load.name in made_at} - {None}
        beside = {i for i in loaded if i is not None and stages[i].scale == stage.scale}
        after |= {i for i in loaded if i is not None and i not in beside}
        result.append(replace(stage, index=index, after=frozenset(after), beside=frozenset(beside)))
    return tuple(result)

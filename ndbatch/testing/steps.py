"""The step contract, driven in memory: for the tests of any step, ndbatch's own and those of other packages.

`run_operation` does what planner, worker and driver do with one step, over arrays, and asserts on the way that the step
keeps its contract. `StepSuite` is inherited by the tests of a step: it needs the step, its input arrays and what a
whole-array library makes of them, and checks that blocks, their order and their place change nothing.

Arrays are C-order, in the axes the caller names (zyx, or yx, unless told otherwise).
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch, State, Step
from ndbatch.steps.payload import pack_rows, unpack_rows

if TYPE_CHECKING:
    import pyarrow as pa


class Products(dict[str, Any]):
    """What a step made, by product name: arrays (`numpy.ndarray` of the region) and tables (`pyarrow.Table`)."""

    facts: dict[str, Any]
    """What its passes told, all together."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.facts = dict(facts)


def run_operation(
    step: Step,
    arrays: Mapping[str, Array],
    block: Sequence[int],
    *,
    axes: str | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[int] | None = None,
    region: Box | None = None,
    kinds: Mapping[str, Kind] | None = None,
    dtypes: Mapping[str, Any] | None = None,
    order: int | None = None,
    context: int = 0,
) -> Products:
    """Run `step` over `arrays` (by input name, one shape) in blocks of `block` voxels; return what it made, by name.

    `voxel_size` is in micrometres along `axes`, `offset` the absolute position of the first voxel, `region` the box
    that is worked on (the whole if not given; inputs reach beyond it), `kinds` what inputs mean (image if not given),
    `dtypes` what the user asked of products, by name. `order` is the seed of the order of blocks, C-order if not given.
    `context` makes arrays on cores grown by so many voxels, as a following step would want them.

    Raises AssertionError where the step breaks its contract, and what the step itself raises.
    """
    first = next(iter(arrays.values()))
    domain = Box.of_shape(first.shape, offset)
    frozen = {name: _frozen(array) for name, array in arrays.items()}
    size = None if voxel_size is None else tuple(voxel_size)
    infos = {
        name: ArrayInfo(domain, array.dtype, axes or "tczyx"[-domain.ndim :], size, (kinds or {}).get(name, Kind.IMAGE))
        for name, array in frozen.items()
    }
    inputs = {role: infos[name] for role, name in step.sources.items()}
    asked = {role: np.dtype(dtypes[name]) for role, name in step.products.items() if dtypes and name in dtypes}
    operation = _travelled(step.bind(inputs, asked))
    _assert_declared(step, operation, inputs)
    patches = {role: Patch(frozen[name], domain) for role, name in step.sources.items()}
    grid = _grid(region or domain, block, operation.scale or (1,) * domain.ndim)
    with tempfile.TemporaryDirectory(prefix="ndbatch-step-") as scratch:
        return _Course(step, operation, patches, grid, _order(len(grid), order), Path(scratch), context).run()


def _grid(region: Box, block: Sequence[int], windows: Shape) -> Grid:
    """Return blocks of whole `windows`, as the planner cuts them: at least `block`, counted from absolute 0."""
    whole = tuple(-(-n // w) * w for n, w in zip(block, windows, strict=True))
    return Grid.over(region, whole, tuple(a // w * w for a, w in zip(region.start, windows, strict=True)))


def _frozen(array: Array) -> Array:
    """Return a view of `array` that nothing can be written into."""
    view = array.view()
    view.flags.writeable = False
    return view


def _order(count: int, seed: int | None) -> list[int]:
    return list(range(count)) if seed is None else np.random.default_rng(seed).permutation(count).tolist()


def _travelled(thing: Any) -> Any:
    """Return `thing` as it comes out in another process."""
    return pickle.loads(pickle.dumps(thing))


def _assert_declared(step: Step, operation: Operation, inputs: Mapping[str, ArrayInfo]) -> None:
    ndim = next(iter(inputs.values())).ndim
    roles = {*operation.arrays, *operation.tables}
    assert set(step.products) <= roles, f"products {step.products} but the operation makes {roles}"
    assert len(operation.halo) in (0, ndim), f"halo {operation.halo} on {ndim} axes"
    assert all(len(stage_pass.halo) == ndim for stage_pass in operation.passes), "a pass without a halo for each axis"
    names = [stage_pass.name for stage_pass in operation.passes]
    assert len(set(names)) == len(names), f"passes of one name: {names}"
    assert operation.working_bytes >= 0
    assert operation.block_independent or operation.caveat, "block dependent, without a word why"
    domain = next(iter(inputs.values())).domain
    expected = domain.coarsened(operation.scale) if operation.scale else domain
    assert all(info.domain == expected for info in operation.arrays.values())


@dataclass
class _Course:
    """One run of an operation: its passes, its blocks, its tables."""

    step: Step
    operation: Operation
    patches: Mapping[str, Patch]
    grid: Grid
    order: list[int]
    scratch: Path
    context: int
    states: dict[str, State] = field(default_factory=dict)

    def run(self) -> Products:
        self._passes()
        facts: dict[str, Any] = {}
        for state in self.states.values():
            facts |= state.facts()
        made, rows = self._blocks()
        products = Products(facts)
        for role, name in self.step.products.items():
            products[name] = made[role] if role in made else self._table(role, rows[role])
        return products

    def _passes(self) -> None:
        for number, stage_pass in enumerate(self.operation.passes):
            payloads: dict[int, bytes] = {}
            for index in self.order:
                block = self.grid[index]
                payload = stage_pass.map(
                    self._inputs(block.core.grow(stage_pass.halo)), block, self._states(block, block.core)
                )
                assert isinstance(payload, bytes), f"pass {stage_pass.name} returned {type(payload).__name__}"
                payloads[index] = payload
            folder = self.scratch / f"{number}.{stage_pass.name}"
            folder.mkdir()
            self.states[stage_pass.name] = stage_pass.reduce(_InOrder(self.grid, payloads), self.grid, folder)

    def _states(self, block: Block, box: Box) -> dict[str, Any]:
        return {name: _travelled(state.select(block, box)) for name, state in self.states.items()}

    def _inputs(self, box: Box) -> dict[str, Patch]:
        result = {}
        for role, patch in self.patches.items():
            common = box.intersect(patch.box)
            result[role] = Patch(patch.crop(common), common)
        return result

    def _blocks(self) -> tuple[dict[str, Array], dict[str, dict[int, bytes]]]:
        """Apply the operation to every block; return whole arrays and the rows of blocks, by role."""
        operation = self.operation
        scale = operation.scale or (1,) * self.grid.bounds.ndim
        bounds = self.grid.bounds.coarsened(scale)
        made = {role: np.zeros(bounds.shape, info.dtype) for role, info in operation.arrays.items()}
        rows: dict[str, dict[int, bytes]] = {role: {} for role in operation.tables}
        grown = 0 if operation.block_bound or operation.once else self.context
        domain = bounds if operation.scale else next(iter(self.patches.values())).box
        for index in self.order:
            block = self.grid[index]
            core = block.core.coarsened(scale)
            box = core.grow((grown,) * bounds.ndim).intersect(domain)
            wanted = box.refined(scale).intersect(self.grid.bounds) if operation.scale else box
            reach = operation.halo or (0,) * bounds.ndim
            result = operation.apply(self._inputs(wanted.grow(reach)), box, block, self._states(block, box))
            for role, info in operation.arrays.items():
                array = result[role]
                assert isinstance(array, np.ndarray), f"{role} is {type(array).__name__}"
                assert array.shape == box.shape, f"{role} has shape {array.shape}, declared {box.shape}"
                assert array.dtype == info.dtype, f"{role} is {array.dtype}, declared {info.dtype}"
                made[role][core.slices(bounds.start)] = Patch(array, box).crop(core)
            for role in operation.tables:
                batch: Any = result[role]
                if batch.num_rows:
                    rows[role][index] = pack_rows(batch)
        return made, rows

    def _table(self, role: str, rows: Mapping[int, bytes]) -> pa.Table:
        import pyarrow as pa

        folder = self.scratch / f"table.{role}"
        folder.mkdir()
        batches = list(self.operation.finish(role, _Rows(rows), folder))
        return pa.Table.from_batches(batches) if batches else pa.table({})


@dataclass
class _InOrder:
    """Payloads in block order; can be iterated again."""

    grid: Grid
    payloads: Mapping[int, bytes]

    def __iter__(self) -> Iterator[tuple[Block, bytes]]:
        return ((self.grid[index], self.payloads[index]) for index in sorted(self.payloads))


@dataclass
class _Rows:
    """Rows of blocks in block order; can be iterated again. Blocks without rows leave nothing, as in a journal."""

    rows: Mapping[int, bytes]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return (unpack_rows(self.rows[index]) for index in sorted(self.rows))


class StepSuite:
    """What holds for every step. Inherit it, give the fixtures `step`, `arrays` and `reference`, and set what differs.

    `reference` is what a whole-array library makes of `arrays`: by product name, arrays or tables; {} compares blocks
    with the result in one block only.
    """

    rtol: ClassVar[float] = 0.0
    """Relative difference that arithmetic may leave; 0 compares bits."""
    atol: ClassVar[float] = 0.0
    """Absolute difference allowed beside `rtol`."""
    axes: ClassVar[str | None] = None
    voxel_size: ClassVar[tuple[float, ...] | None] = None
    kinds: ClassVar[Mapping[str, Kind]] = {}
    dtypes: ClassVar[Mapping[str, str]] = {}
    context: ClassVar[int] = 3
    windows: ClassVar[Shape] = (1, 1, 1, 1, 1)
    """Multiples by which the volume is moved: those of the windows that a step makes one voxel of."""

    @pytest.fixture
    def step(self) -> Step:
        """Return the step under test."""
        raise NotImplementedError("a StepSuite needs a fixture `step`")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        """Return its inputs, by name; about 1e5 voxels are plenty."""
        raise NotImplementedError("a StepSuite needs a fixture `arrays`")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        """Return what the whole-array result must be, by product name."""
        return {}

    def run(self, step: Step, arrays: Mapping[str, Array], block: Sequence[int], **options: Any) -> Products:
        """Run the step with this suite's axes, voxel size, kinds and dtypes."""
        fixed = {"axes": self.axes, "voxel_size": self.voxel_size, "kinds": self.kinds, "dtypes": self.dtypes}
        return run_operation(step, arrays, block, **{**fixed, **options})

    def _elsewhere(self, ndim: int) -> Shape:
        return tuple(o * w for o, w in zip((-5, 11, 3, -2, 7)[:ndim], self.windows[:ndim], strict=True))

    def moved(self, table: pa.Table, offset: Sequence[int]) -> pa.Table:
        """Return `table` as it must be when the domain begins at `offset`; override for columns of positions."""
        del offset
        return table

    def same(self, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Assert that products are the same: names, types, shapes, and values within the tolerance."""
        for name, value in expected.items():
            if isinstance(value, np.ndarray):
                assert got[name].dtype == value.dtype, f"{name}: {got[name].dtype}, expected {value.dtype}"
                self._same_array(got[name], value, name)
            else:
                assert got[name].column_names == value.column_names, name
                assert got[name].num_rows == value.num_rows, name
                for column in value.column_names:
                    self._same_column(got[name][column], value[column], f"{name}.{column}")

    def _same_array(self, got: Array, expected: Array, what: str) -> None:
        if self.rtol or self.atol:
            np.testing.assert_allclose(got, expected, rtol=self.rtol, atol=self.atol, err_msg=what)
        else:
            np.testing.assert_array_equal(got, expected, err_msg=what)

    def _same_column(self, got: Any, expected: Any, what: str) -> None:
        import pyarrow as pa

        if pa.types.is_floating(expected.type):
            self._same_array(got.to_numpy(), expected.to_numpy(), what)
        else:
            assert got.equals(expected), what

    @pytest.mark.parametrize("block", ["whole", "larger", "halves", "odd", "slabs", "rods"])
    def test_equal_for_every_block(
        self, block: str, step: Step, arrays: dict[str, Array], reference: dict[str, Any]
    ) -> None:
        """One block, larger than the volume, even, odd, slabs, rods: all equal to the whole-array result."""
        shape = next(iter(arrays.values())).shape
        expected = reference or self.run(step, arrays, shape)
        self.same(self.run(step, arrays, block_shapes(shape)[block]), expected)

    def test_order_of_blocks_changes_nothing(self, step: Step, arrays: dict[str, Array]) -> None:
        """Blocks done in another order leave the same, to the bit."""
        block = block_shapes(next(iter(arrays.values())).shape)["odd"]
        first, second = (self.run(step, arrays, block, order=seed) for seed in (None, 7))
        for name, value in first.items():
            equal = (
                np.array_equal(value, second[name], equal_nan=value.dtype.kind in "fc")
                if isinstance(value, np.ndarray)
                else value.equals(second[name])
            )
            assert equal, f"{name} depends on the order of blocks"

    def test_place_of_the_domain_changes_nothing(self, step: Step, arrays: dict[str, Array]) -> None:
        """A domain that begins elsewhere, below zero too, gives the same voxels."""
        shape = next(iter(arrays.values())).shape
        block, offset = block_shapes(shape)["halves"], self._elsewhere(len(shape))
        plain = self.run(step, arrays, block)
        moved = self.run(step, arrays, block, offset=offset)
        expected = {n: v if isinstance(v, np.ndarray) else self.moved(v, offset) for n, v in plain.items()}
        self.same(moved, expected)

    def test_context_for_later_steps(self, step: Step, arrays: dict[str, Array]) -> None:
        """Arrays made on more than the core are the same there."""
        shape = next(iter(arrays.values())).shape
        block = block_shapes(shape)["halves"]
        self.same(self.run(step, arrays, block, context=self.context), self.run(step, arrays, block))

    def test_region_inside_the_volume(self, step: Step, arrays: dict[str, Array]) -> None:
        """Within a region, blocks change nothing; voxels beyond it are there to be read as context."""
        shape = next(iter(arrays.values())).shape
        region = Box(tuple(n // 4 for n in shape), tuple(max(n // 4 + 1, n - n // 5) for n in shape))
        whole = self.run(step, arrays, region.shape, region=region)
        self.same(self.run(step, arrays, block_shapes(region.shape)["odd"], region=region), whole)

    @pytest.mark.parametrize("axis", [0, -1])
    def test_axis_of_one_voxel(self, axis: int, step: Step, arrays: dict[str, Array]) -> None:
        """A volume of one plane works, and blocks change nothing in it."""
        thin = {name: array.take([array.shape[axis] // 2], axis) for name, array in arrays.items()}
        shape = next(iter(thin.values())).shape
        self.same(self.run(step, thin, block_shapes(shape)["odd"]), self.run(step, thin, shape))


def block_shapes(shape: Shape) -> dict[str, Shape]:
    """Return block shapes that try different things on a volume of `shape`: all differ in how they cut it."""
    odd = (7, 11, 13, 5, 9)
    return {
        "whole": shape,
        "larger": tuple(n + 3 for n in shape),
        "halves": tuple(-(-n // 2) for n in shape),
        "odd": tuple(max(1, min(n, max(o, n // 4 | 1))) for n, o in zip(shape, odd, strict=False)),
        "slabs": (max(1, shape[0] // 5), *shape[1:]),
        "rods": (*(max(1, n // 3) for n in shape[:-1]), shape[-1]),
    }

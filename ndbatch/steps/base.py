"""The step contract: a function over blocks, with its declaration.

A *Step* is what the user wrote: a frozen pydantic model, unbound, with lengths as text. `bind` turns it into an
*Operation* once the planner knows the inputs: numbers in voxels, halos, dtypes, memory. An operation is pure and
picklable, and is all that a worker sees.

An operation may need to look at the whole volume before it can say what a voxel becomes (a threshold, an id). It does so
in *passes*: each maps blocks to small payloads, which the driver reduces, in block order, to a *state*. Then `apply`
makes the voxels of any box. Nothing is stored in between: arrays are computed again from their inputs in a later pass
where that is needed, unless the user asked to keep them.

Axis order is that of the arrays, (t?, c?, z, y, x); boxes are absolute voxels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ArrayInfo:
    """What a step may know of an array when it is bound: everything but the voxels."""

    domain: Box
    dtype: np.dtype[Any]
    axes: str
    voxel_size: tuple[float, ...] | None = None
    kind: Kind = Kind.IMAGE
    scale: Shape = ()
    """Voxels of the run's inputs to one of this array, along each axis; () is one everywhere. The planner's to set."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.domain.ndim

    @property
    def scales(self) -> Shape:
        """`scale`, written out."""
        return self.scale or (1,) * self.ndim


@dataclass(frozen=True, slots=True)
class Patch:
    """Voxels of a box: `data.shape == box.shape`. Kernels never write into a patch they were given."""

    data: Array
    box: Box

    def crop(self, box: Box) -> Array:
        """Return the view of `box`, which must lie inside this patch."""
        return self.data[box.slices(self.box.start)]


class Pass(ABC):
    """One look at the whole volume: blocks to payloads, payloads to a state."""

    name: str
    halo: Shape
    """Voxels of context around the block's core that `map` is given of every input (clipped to the volume)."""

    @abstractmethod
    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the payload of `block`. `inputs` cover core + halo; `states` holds earlier passes' values by name."""

    @abstractmethod
    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> State:
        """Return the state. `payloads` come in block order and can be iterated again; `scratch` is an empty folder for
        what should not be held in memory. The result may not depend on the grid."""


class State(ABC):
    """What a pass found out, as the blocks of later passes see it."""

    @abstractmethod
    def select(self, block: Block, box: Box) -> Any:
        """Return the small, picklable part that making `box` (the core of `block`, or more) needs."""

    def facts(self) -> dict[str, Any]:
        """Return numbers worth telling the user (`{"threshold": 117.0}`), JSON types only."""
        return {}


@dataclass(frozen=True)
class Constant(State):
    """A state that is the same small value for every block."""

    value: Any
    told: Mapping[str, Any] = field(default_factory=dict)

    def select(self, block: Block, box: Box) -> Any:
        """Return the value."""
        return self.value

    def facts(self) -> dict[str, Any]:
        """Return what the pass wants told."""
        return dict(self.told)


@dataclass(frozen=True)
class Operation(ABC):
    """A bound step. Subclasses are frozen dataclasses and set the fields below in `Step.bind`."""

    arrays: Mapping[str, ArrayInfo]
    """The arrays that `apply` makes, by role."""
    tables: tuple[str, ...] = ()
    """Roles of the tables that `apply` gives rows of."""
    objects: Mapping[str, str] = field(default_factory=dict)
    """Roles of the tables whose rows are RAMON objects, and of which type."""
    halo: Shape = ()
    """Context that `apply` needs of every input around the box it makes; () is none."""
    scale: Shape = ()
    """Voxels of the inputs to one voxel of the arrays, along each axis; () is one everywhere. Voxel j of an array belongs to
    the input voxels from j * scale up to (j + 1) * scale, counted from absolute 0 and cut off at the region's ends, which
    such an operation is given as if they were the volume's."""
    passes: tuple[Pass, ...] = ()
    working_bytes: float = 0.0
    """Peak memory of `apply` or of any pass beyond its inputs and outputs, in bytes a voxel of the input box."""
    block_bound: bool = False
    """`apply` can only make whole cores, because its states belong to the blocks (block-local labels)."""
    once: bool = False
    """`apply` runs exactly once a block (a user's function): its arrays are stored rather than computed again."""
    block_independent: bool = True
    """The result is the same for every block shape. Where False, `caveat` says why, and the plan prints it."""
    caveat: str = ""
    unwritten: str = ""
    """Which blocks of its arrays need not be written: `empty`, those of nothing but zeros, as a new volume has them already;
    `identical`, those that the volume holds already. They are counted and told."""

    @abstractmethod
    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array | pa.RecordBatch]:
        """Return the voxels of `box` for every role in `arrays` and the rows of `block` for every role in `tables`.

        `inputs` cover `box` + halo, clipped to the volume, so that a mirrored boundary condition acts only at true edges.
        `box` is the core, or larger where a following step needs context; with `scale` it counts coarse voxels, and the
        inputs cover `box` times `scale`, + halo. Rows are only taken when `box` holds the core;
        they belong to `block.core` alone. `states` holds the values of all passes by name.
        """

    def require_here(self) -> None:  # noqa: B027 - most operations are in the package
        """Raise ConfigError or StepError where this process lacks what `apply` needs, such as a user's module. A look that
        costs little; a worker on another machine takes it before the first block."""

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Turn the rows of all blocks, in block order, into the table `role`; as they are unless overridden.

        Must stream: neither all rows nor the whole table may be held in memory.
        """
        del role, scratch
        yield from rows


class Step(BaseModel, ABC):
    """What the user wrote. Fields are the YAML keys; `version` is raised whenever the same input gives another output."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def sources(self) -> dict[str, str]:
        """The names of the arrays it reads, by role."""

    @property
    @abstractmethod
    def products(self) -> dict[str, str]:
        """The names of the arrays and tables it makes, by role."""

    @abstractmethod
    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation for `inputs` (by role). `dtypes` holds, by role, the dtype the user asked an output to
        have; absent roles take the step's own. Raises PlanError where the inputs or parameters do not fit."""

    @property
    def asks(self) -> Mapping[str, float]:
        """What a worker must offer beside its core, such as {"gpu": 1}. Steps that can use such have a key `resources`."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Return what the fingerprint keeps of this step: kind, version, parameters."""
        return {"kind": self.kind, "version": self.version, **self.model_dump(mode="json")}

"""`components`: connected components with ids that know nothing of blocks.

One pass labels every block (cc3d), tells the sizes and the contacts of its components, and forgets the labels; the
driver joins them; `apply` labels the block again and puts the final ids in place. Labelling twice costs less than writing
and reading labels once. Ids run from 1 without gaps in the raster order of each component's first voxel, as
scipy.ndimage.label and scikit-image number a whole array.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ndbatch.casting import integer_for
from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch, Step
from ndbatch.steps.components.contacts import contacts, forward_offsets
from ndbatch.steps.components.labelling import Adjacency, extents, foreground, label, relabel
from ndbatch.steps.components.merge import NodeValues, join
from ndbatch.steps.payload import pack

RANKS = {3: {6: 1, 18: 2, 26: 3}, 2: {4: 1, 8: 2}, 1: {2: 1}}
"""Along how many axes neighbours may differ, by number of axes and of neighbours."""


class Components(Step):
    """Label connected components: every connected piece of a mask, or of each label, gets its own id from 1."""

    kind: ClassVar[str] = "components"

    input: str
    """A mask or labels, integers; 0 is background."""
    output: str
    """The name of the labels: uint32 unless the output asks for another integer dtype."""
    connectivity: Literal[6, 18, 26, 4, 8] | None = None
    """Neighbours that connect: 6, 18 or 26 in 3-D, 4 or 8 in 2-D; all (26, 8) if not given."""
    multilabel: bool | None = None
    """Whether different values are different objects. If not given, they are in labels wider than 8 bits; bool, uint8 and
    images are masks, in which everything above 0 is alike."""
    dust: int | None = Field(default=None, ge=0)
    """Smallest component that is kept, in voxels; all are kept if not given."""

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: one pass with one voxel of context, applied to whole blocks only.

        Raises PlanError for an input that is no mask and no labels, for a connectivity that does not fit its axes, and
        for an output dtype that holds no ids.
        """
        info = inputs["input"]
        if info.dtype.kind not in "bui":
            raise PlanError(
                f"components: {self.input} is {info.dtype}, which is neither a mask nor labels; put a threshold step before it"
            )
        dtype = dtypes.get("output", np.dtype(np.uint32))
        if dtype.kind not in "ui":
            raise PlanError(f"components: {self.output} holds ids, which {dtype} does not; use uint32 or uint64")
        multilabel = self.multilabel
        if multilabel is None:
            multilabel = info.kind is Kind.LABELS and info.dtype.itemsize > 1
        binary = not multilabel or info.dtype.kind == "b"
        adjacency = adjacency_of(info, self.connectivity, binary)
        return _Labelling(
            arrays={"output": replace(info, dtype=dtype, kind=Kind.LABELS)},
            passes=(_Joining("join", adjacency.halo(info.ndim), adjacency, dtype, self.dust or 0, self.output),),
            # Measured on noise, which is the worst: 8.0 bytes a voxel of a mask, 15.2 of labels and a copy of the core.
            working_bytes=9.0 if binary else 16.0 + info.dtype.itemsize,
            block_bound=True,
            adjacency=adjacency,
            name=self.output,
        )


def adjacency_of(info: ArrayInfo, connectivity: int | None, binary: bool) -> Adjacency:
    """Return what connects voxels of `info`; t and c never do. PlanError where `connectivity` does not fit its axes."""
    leading = sum(axis in "tc" for axis in info.axes)
    ranks = RANKS[info.ndim - leading]
    if connectivity is None:
        connectivity = max(ranks)
    if connectivity not in ranks:
        raise PlanError(
            f"connectivity: {connectivity} does not fit the axes {info.axes[leading:]}; "
            f"use {' or '.join(map(str, ranks))}"
        )
    return Adjacency(leading, ranks[connectivity], binary)


@dataclass(frozen=True)
class _Joining(Pass):
    """Finds which components of which blocks are one, and how they are numbered."""

    name: str
    halo: Shape
    adjacency: Adjacency
    dtype: np.dtype[Any]
    dust: int
    output: str

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return sizes, first voxels and contacts of the block's components."""
        patch = inputs["input"]
        values = foreground(patch.crop(block.core), self.adjacency.binary)
        labels, count = label(values, self.adjacency)
        sizes, first = extents(labels, count)
        told = {"sizes": sizes, "first": first}
        return pack({**told, **contacts(patch, block.core, values, labels, self.adjacency)})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> NodeValues:
        """Return the final id of every block's components; PlanError where the dtype cannot hold them."""
        offsets = forward_offsets(grid.bounds.ndim, self.adjacency)
        nodes = join(payloads, grid, offsets, scratch)
        totals = nodes.totals()
        large = totals >= max(1, self.dust)
        ids = nodes.numbers(large)
        count, removed = int(large.sum()), int((totals > 0).sum() - large.sum())
        if count > np.iinfo(self.dtype).max:
            raise PlanError(
                f"components: {count} components do not fit into {self.output}, which is {self.dtype}; set dtype: "
                f"{integer_for(0, count)} for this output",
                components=count,
                dtype=str(self.dtype),
                holds=integer_for(0, count),
            )
        told = {"components": count} | ({"dust removed": removed} if self.dust else {})
        return NodeValues(nodes.starts, ids.astype(self.dtype), scratch, told)


@dataclass(frozen=True)
class _Labelling(Operation):
    adjacency: Adjacency = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Label the core again, in the final ids."""
        return {"output": relabelled(inputs["input"].crop(box), self.adjacency, states["join"], self.name)}


def relabelled(values: Array, adjacency: Adjacency, ids: Array, name: str) -> Array:
    """Return the components of a core with the final value of each; StepError where they are not those of the pass."""
    labels, count = label(foreground(values, adjacency.binary), adjacency)
    if count != len(ids):
        raise StepError(
            f"{name}: the block has {count} components where the first look found {len(ids)}; its input changed during the "
            "run: start over with --fresh"
        )
    return relabel(labels, ids)

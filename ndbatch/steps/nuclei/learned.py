"""`nuclei` by a network: one pass finds the objects, whole, and the blocks are painted from them.

The network runs once, in the pass, because two runs on different machines need not agree to the last bit; masks travel with the
payloads, packed to a bit a voxel of an object's box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import StepError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch, State
from ndbatch.steps.function.patches import Lattice, voxels_at_once
from ndbatch.steps.nuclei.networks import Network
from ndbatch.steps.nuclei.objects import Objects, find_objects, lattice_of, paint, settle
from ndbatch.steps.nuclei.space import Space, SurveyPass
from ndbatch.steps.nuclei.survey import LAG, Level
from ndbatch.steps.payload import pack, unpack

if TYPE_CHECKING:
    import pyarrow as pa

NETWORK_BYTES = 400.0
"""Peak memory of a network, in bytes a voxel of its patch: some thirty feature maps of float32, and their copies."""


def bind_network(
    labels: ArrayInfo,
    points: bool,
    space: Space,
    diameter: Sequence[float],
    patch: Mapping[str, int] | None,
    network: Network,
) -> Operation:
    """Return the operation that makes `labels`, and the table of points if asked for."""
    lattice = lattice_of(space.domain, space.names, diameter, patch)
    level = SurveyPass("survey", space.whole((LAG,) * len(space.axes)), space, False)
    found = _Finding("nuclei", space.whole(lattice.halo), space, tuple(diameter), lattice, network)
    return _Painting(
        arrays={"labels": labels},
        tables=("points",) if points else (),
        passes=(level, found),
        working_bytes=8.0 + NETWORK_BYTES * voxels_at_once(lattice, 1),
        space=space,
    )


@dataclass(frozen=True)
class _Finding(Pass):
    name: str
    halo: Shape
    space: Space
    diameter: tuple[float, ...]
    lattice: Lattice
    network: Network

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the objects whose centre lies in the block's core."""
        level: Level = states["survey"]
        image, box = self.space.patch(inputs["image"])
        found = find_objects(image, box, self.space.box(block.core), self.lattice, level, self.network, self.diameter)
        return pack(found.columns())

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> State:
        """Return the objects of all blocks, each once; they are held in memory, their boxes at a bit a voxel."""
        parts = [Objects(**arrays) for _, payload in payloads if len((arrays := unpack(payload))["score"])]
        found = settle(Objects.joined(parts, len(self.space.axes)), self.diameter)
        return _Found(found, self.space)


@dataclass(frozen=True)
class _Found(State):
    """All objects, in C-order of their centres: the row is the id, counted from 1."""

    objects: Objects
    space: Space

    def select(self, block: Block, box: Box) -> tuple[Objects, Array]:
        """Return the objects that reach into `box`, with their ids."""
        near, some = self.space.box(box), self.objects
        touching = (some.start < near.stop) & (some.start + some.shape > near.start)
        rows = np.flatnonzero(touching.all(axis=1))
        return some.take(rows), rows + 1

    def facts(self) -> dict[str, Any]:
        """Return the number of nuclei."""
        return {"nuclei": len(self.objects)}


@dataclass(frozen=True)
class _Painting(Operation):
    space: Space = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array | pa.RecordBatch]:
        """Return the labels of `box`, and a row for every nucleus whose centre lies in the core."""
        objects, ids = states["nuclei"]
        dtype = self.arrays["labels"].dtype
        if len(ids) and int(ids[-1]) > np.iinfo(dtype).max:
            raise StepError(f"nucleus {ids[-1]} does not fit {dtype}; set dtype: uint32 or uint64 for the labels")
        made: dict[str, Any] = {"labels": paint(self.space.box(box), objects, ids, dtype).reshape(box.shape)}
        if self.tables:
            core = self.space.box(block.core)
            own = ((objects.centre >= core.start) & (objects.centre < core.stop)).all(axis=1)
            made["points"] = _rows(objects.take(np.flatnonzero(own)), ids[own], self.space.names)
        return made

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Return the table in order of id, whatever the blocks; smaller than the state that the driver holds anyway."""
        import pyarrow as pa

        batches = list(rows)
        if batches:
            yield from pa.Table.from_batches(batches).sort_by("id").to_batches()


def _rows(objects: Objects, ids: Array, names: str) -> pa.RecordBatch:
    """Return the table's rows: id, centre, score, voxels."""
    import pyarrow as pa

    sizes = np.array([np.count_nonzero(mask) for _, mask in objects.masks()], np.int64)
    return pa.RecordBatch.from_pydict(
        {
            "id": ids.astype(np.int64),
            **{name: objects.centre[:, i] for i, name in enumerate(names)},
            "score": objects.score,
            "voxels": sizes,
        }
    )

"""The global half of a labelling: the components of all blocks, joined where they touch.

Blocks come in C-order. Each brings the sizes and first voxels of its components and what `contacts` tells of its
borders. A component of a block is a *node*, numbered block after block; touching ones are edges of a graph whose connected
parts are the components of the volume (`scipy.sparse.csgraph`, breadth first on arrays). Numbers that go to the blocks
are kept in a file under `scratch`, so that a slice of it can be handed out at any time.

Memory on the driver: about 60 bytes a node, and the open pairs of one layer of blocks; nothing grows with voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.geometry import Block, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import State
from ndbatch.steps.components.contacts import lookup_of
from ndbatch.steps.payload import unpack
from ndbatch.steps.scratch import scratch_array


@dataclass(frozen=True)
class Nodes:
    """The components of all blocks. `starts`: first node of each block, one more at the end; the others by node.

    All int64. `root` is the smallest node of the component of the volume that the node belongs to; `first` the C-order
    position, within the grid's bounds, of its first voxel.
    """

    starts: Array
    root: Array
    sizes: Array
    first: Array
    marks: Array | None

    def totals(self) -> Array:
        """Return the voxels of each whole component at its root, 0 at other nodes."""
        total = np.zeros(len(self.root), np.int64)
        np.add.at(total, self.root, self.sizes)
        return total

    def numbers(self, kept: Array) -> Array:
        """Return, by node, the number of its component: from 1 in the raster order of first voxels, over the components
        whose root is in `kept` (bool, by node); 0 for the others."""
        first = np.full(len(self.root), np.iinfo(np.int64).max)
        np.minimum.at(first, self.root, self.first)
        roots = np.flatnonzero(kept & (self.root == np.arange(len(self.root))))
        number = np.zeros(len(self.root), np.int64)
        number[roots[np.argsort(first[roots])]] = np.arange(1, len(roots) + 1)
        return number[self.root]


def join(
    payloads: Iterable[tuple[Block, bytes]], grid: Grid, offsets: list[Shape], scratch: Path, marks: bool = False
) -> Nodes:
    """Return the nodes of all blocks, joined. `payloads` are packed `sizes`, `first` (position in the core, C-order),
    `marks` where asked for, and what `contacts` returned for the same `offsets`."""
    reader = _Reader(grid, offsets, scratch, ("sizes", "first", "marks") if marks else ("sizes", "first"))
    with reader:
        for block, payload in payloads:
            reader.add(block, unpack(payload))
    count = reader.count
    columns = [np.fromfile(scratch / name, np.int64) for name in reader.columns]
    edges = np.fromfile(scratch / "edges", np.int64).reshape(-1, 2)
    return Nodes(reader.starts, roots(count, edges), columns[0], columns[1], columns[2] if marks else None)


class _Reader:
    """Takes payloads in block order and leaves nodes and edges in files."""

    def __init__(self, grid: Grid, offsets: list[Shape], scratch: Path, columns: tuple[str, ...]) -> None:
        self.grid, self.offsets, self.columns = grid, offsets, columns
        self.count = 0
        self.starts = scratch_array(scratch / "starts", np.int64, (len(grid) + 1,))
        self._files = {name: (scratch / name).open("wb") for name in (*columns, "edges")}
        self._open: dict[int, list[tuple[int, Array, Array]]] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, block: Block, arrays: Mapping[str, Array]) -> None:
        """Take the payload of the next block: its nodes, and the edges to the blocks before it."""
        first = _global(arrays["first"], block, self.grid)
        for name in self.columns:
            column = first if name == "first" else arrays[name].astype(np.int64)
            self._files[name].write(column.tobytes())
        for number, nodes, patches in self._open.pop(block.index, ()):
            own = lookup_of(arrays, number)[patches - 1].astype(np.int64) + (self.count - 1)
            self._files["edges"].write(np.column_stack([nodes, own]).tobytes())
        self._ask(block, arrays["pairs"])
        self.count += len(first)
        self.starts[block.index + 1] = self.count

    def _ask(self, block: Block, pairs: Array) -> None:
        """Keep the pairs until the neighbour comes that knows their patches; it always comes later."""
        place = self.grid.position(block.index)
        for number in np.unique(pairs[:, 0]):
            there = [p + o for p, o in zip(place, self.offsets[number], strict=True)]
            if all(0 <= p < n for p, n in zip(there, self.grid.counts, strict=True)):
                mine = pairs[pairs[:, 0] == number]
                nodes = mine[:, 1].astype(np.int64) + (self.count - 1)
                self._open.setdefault(self.grid.index(there), []).append(
                    (int(number), nodes, mine[:, 2].astype(np.int64))
                )


def _global(first: Array, block: Block, grid: Grid) -> Array:
    """Return positions in the core as positions in the grid's bounds, both C-order; int64."""
    if first.size == 0:
        return np.empty(0, np.int64)
    start = [a - o for a, o in zip(block.core.start, grid.bounds.start, strict=True)]
    inside = np.unravel_index(first, block.core.shape)
    result = np.zeros(len(first), np.int64)
    for axis, extent in enumerate(grid.bounds.shape):
        result = result * extent + (inside[axis] + start[axis])
    return result


def roots(count: int, edges: Array) -> Array:
    """Return, for `count` nodes joined by `edges` (int64 (k, 2)), the smallest node of each one's connected part."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    root = np.arange(count, dtype=np.int64)
    if len(edges) == 0:
        return root
    # Only nodes that touch a border take part: the graph stays small where components are.
    nodes, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, part = connected_components(graph, directed=False)
    _, smallest = np.unique(part, return_index=True)
    root[nodes] = nodes[smallest[part]]
    return root


class NodeValues(State):
    """A value for each node, kept in a file; a block gets those of its own components, in their order."""

    def __init__(self, starts: Array, values: Array, scratch: Path, told: Mapping[str, Any]) -> None:
        self._starts, self._told = starts, dict(told)
        self._values = scratch_array(scratch / "values", values.dtype, (len(values),))
        self._values[: len(values)] = values

    def select(self, block: Block, box: Any) -> Array:
        """Return the values of the block's components 1, 2, ... as one small array."""
        return np.array(self._values[self._starts[block.index] : self._starts[block.index + 1]])

    def facts(self) -> dict[str, Any]:
        """Return what the pass wants told."""
        return dict(self._told)

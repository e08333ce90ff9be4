"""Boxes, grids and blocks: exact integer geometry, C-order, absolute voxels of one level.

Nothing here knows of files, steps or physical units. Axis order is the caller's (inside ndbatch: t?, c?, z, y, x).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open region `start <= voxel < stop` in absolute voxels."""

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise ValueError(f"box with {len(self.start)} start and {len(self.stop)} stop coordinates")

    @staticmethod
    def of_shape(shape: Sequence[int], start: Sequence[int] | None = None) -> Box:
        """Return the box of `shape` whose first voxel is `start` (the origin if not given)."""
        origin = tuple(start) if start is not None else (0,) * len(shape)
        return Box(origin, tuple(a + n for a, n in zip(origin, shape, strict=True)))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.start)

    @property
    def shape(self) -> Shape:
        """Extent along each axis; 0 where the box is empty."""
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def empty(self) -> bool:
        """Whether the box holds no voxel."""
        return any(b <= a for a, b in zip(self.start, self.stop, strict=True))

    def intersect(self, other: Box) -> Box:
        """Return the common part, with `stop >= start` also when there is none."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(max(s, min(a, b)) for s, a, b in zip(start, self.stop, other.stop, strict=True))
        return Box(start, stop)

    def contains(self, other: Box) -> bool:
        """Return whether every voxel of `other` lies in this box."""
        return other.empty or (
            all(a <= b for a, b in zip(self.start, other.start, strict=True))
            and all(a >= b for a, b in zip(self.stop, other.stop, strict=True))
        )

    def grow(self, halo: Sequence[int]) -> Box:
        """Return the box larger by `halo[i]` voxels at both ends of axis i."""
        if len(halo) == self.ndim and not any(halo):  # most blocks, and each of them several times
            return self
        return Box(
            tuple(a - h for a, h in zip(self.start, halo, strict=True)),
            tuple(b + h for b, h in zip(self.stop, halo, strict=True)),
        )

    def shift(self, by: Sequence[int]) -> Box:
        """Return the box moved by `by` voxels."""
        return Box(
            tuple(a + d for a, d in zip(self.start, by, strict=True)),
            tuple(b + d for b, d in zip(self.stop, by, strict=True)),
        )

    def slices(self, origin: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Return numpy slices of this box in an array whose first voxel is `origin` (absolute 0 if not given)."""
        base = origin if origin is not None else (0,) * self.ndim
        return tuple(slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, base, strict=True))

    def coarsened(self, by: Sequence[int]) -> Box:
        """Return the box of the coarser voxels, `by[i]` voxels each counted from absolute 0, that hold any of this one."""
        if len(by) == self.ndim and max(by, default=1) == 1:
            return self
        start = tuple(a // f for a, f in zip(self.start, by, strict=True))
        return Box(start, tuple(-(-b // f) for b, f in zip(self.stop, by, strict=True)))

    def refined(self, by: Sequence[int]) -> Box:
        """Return the box of the finer voxels, `by[i]` to each of this one."""
        start = tuple(a * f for a, f in zip(self.start, by, strict=True))
        return Box(start, tuple(b * f for b, f in zip(self.stop, by, strict=True)))

    def aligned_to(self, step: Sequence[int], origin: Sequence[int]) -> Box:
        """Return the smallest box of whole `step` cells, counted from `origin`, that contains this one."""
        start = tuple(o + (a - o) // s * s for a, s, o in zip(self.start, step, origin, strict=True))
        stop = tuple(o - (o - b) // s * s for b, s, o in zip(self.stop, step, origin, strict=True))
        return Box(start, stop)

    def describe(self, axes: str) -> str:
        """Return the box with named axes, for messages: `z: [0, 64], y: [0, 256], x: [0, 256]`."""
        return ", ".join(f"{n}: [{a}, {b}]" for n, a, b in zip(axes, self.start, self.stop, strict=True))


@dataclass(frozen=True, slots=True)
class Block:
    """The unit of work: its place in the grid and the region it alone writes."""

    index: int
    core: Box


@dataclass(frozen=True, slots=True)
class Grid:
    """Blocks of `block` voxels, counted from `origin`, clipped to `bounds`; they tile `bounds` exactly once.

    The grid is an arithmetic object: a block is computed from its index, so that 1e8 blocks take no memory.
    """

    bounds: Box
    block: Shape
    origin: Shape
    counts: Shape = field(init=False, repr=False, compare=False)
    """Number of blocks along each axis."""
    _corner: Shape = field(init=False, repr=False, compare=False)
    """First voxel of the first cell, which may lie before the bounds."""

    def __post_init__(self) -> None:
        # Kept, not computed at each call: a worker looks up every block it is given, at 20 us a look-up otherwise.
        sides = list(zip(self.bounds.start, self.bounds.stop, self.origin, self.block, strict=True))
        corner = tuple(o + (a - o) // n * n for a, _, o, n in sides)
        counts = tuple(-((c - b) // n) for c, (_, b, _, n) in zip(corner, sides, strict=True))
        object.__setattr__(self, "counts", (0,) * len(sides) if self.bounds.empty else counts)
        object.__setattr__(self, "_corner", corner)

    @staticmethod
    def over(bounds: Box, block: Sequence[int], origin: Sequence[int] | None = None) -> Grid:
        """Return the grid of `block`-shaped cells over `bounds`, counted from `origin` (the bounds' first voxel)."""
        if any(n <= 0 for n in block):
            raise ValueError(f"block shape {tuple(block)} has an extent below 1")
        return Grid(bounds, tuple(block), tuple(origin) if origin is not None else bounds.start)

    def document(self) -> dict[str, Any]:
        """Return the grid as JSON, which `Grid.described` reads."""
        shapes = {"start": self.bounds.start, "stop": self.bounds.stop, "block": self.block, "origin": self.origin}
        return {**{name: list(s) for name, s in shapes.items()}, "counts": list(self.counts), "blocks": len(self)}

    @staticmethod
    def described(document: Mapping[str, Any]) -> Grid:
        """Return the grid that `document` describes."""
        start, stop, block, origin = (tuple(document[name]) for name in ("start", "stop", "block", "origin"))
        return Grid(Box(start, stop), block, origin)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def position(self, index: int) -> Shape:
        """Return the grid position of block `index`, C-order."""
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        place = []
        for n in reversed(self.counts):
            index, rest = divmod(index, n)
            place.append(rest)
        return tuple(reversed(place))

    def index(self, position: Sequence[int]) -> int:
        """Return the index of the block at `position`, C-order."""
        result = 0
        for p, n in zip(position, self.counts, strict=True):
            if not 0 <= p < n:
                raise IndexError(f"grid position {tuple(position)} outside {self.counts}")
            result = result * n + p
        return result

    def __getitem__(self, index: int) -> Block:
        start, stop = [], []
        place = self.position(index)
        for p, corner, n, low, high in zip(
            place, self._corner, self.block, self.bounds.start, self.bounds.stop, strict=True
        ):
            first = corner + p * n
            start.append(first if first > low else low)
            stop.append(first + n if first + n < high else high)
        return Block(index, Box(tuple(start), tuple(stop)))

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))

    def containing(self, voxel: Sequence[int]) -> int:
        """Return the index of the block whose core holds `voxel`."""
        return self.index([(v - c) // n for v, c, n in zip(voxel, self._corner, self.block, strict=True)])

    def touching(self, box: Box) -> Iterator[int]:
        """Yield, in C-order, the indices of the blocks whose core shares a voxel with `box`."""
        common = box.intersect(self.bounds)
        if common.empty:
            return
        low = self.position(self.containing(common.start))
        high = self.position(self.containing([b - 1 for b in common.stop]))
        spans = Box(low, tuple(h + 1 for h in high))
        for cell in Grid.over(spans, (1,) * spans.ndim):
            yield self.index(cell.core.start)


def common_multiple(shapes: Sequence[Sequence[int]]) -> Shape:
    """Return the smallest shape that is a whole number of every shape in `shapes`, axis by axis."""
    return tuple(math.lcm(*extents) for extents in zip(*shapes, strict=True))

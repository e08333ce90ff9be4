"""Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994) on a grid of tiles that belongs to
the volume, not to the blocks.

The volume is cut into equal tiles, as near to the wanted size as whole tiles allow. Every tile has a histogram of its own
voxels; counts above the limit are shared out among all bins, and the running sum of the bins becomes the tile's curve. A
voxel takes the value between the curves of the tiles whose centres surround it, linear along every tiled axis. A block
needs the tiles around it as a whole, which is its halo; tiles are made of the same voxels in every block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch

SLAB = 1 << 16
"""Voxels whose values are between several curves that are computed together."""


@dataclass(frozen=True)
class Tiling:
    """`counts` equal tiles along each axis of `domain`; 0 where every voxel of the axis is a tile by itself (t, c, or z by
    slice), which nothing is mixed along."""

    domain: Box
    counts: Shape

    @staticmethod
    def near(domain: Box, sides: tuple[float, ...]) -> Tiling:
        """Return the tiling whose tiles are as near as whole ones can be to `sides` (voxels; 0 as for `counts`)."""
        pairs = zip(domain.shape, sides, strict=True)
        return Tiling(domain, tuple(max(1, int(n / side + 0.5)) if side else 0 for n, side in pairs))

    @property
    def halo(self) -> Shape:
        """Voxels from any voxel to the far ends of the tiles that it takes part in: one and a half tiles."""
        return tuple(
            min(n, -(-3 * -(-n // count) // 2) + 1) if count > 1 else n if count else 0
            for n, count in zip(self.domain.shape, self.counts, strict=True)
        )

    def edges(self, axis: int) -> Array:
        """Return where tiles begin along `axis`, absolute voxels, and where the last one ends; int64."""
        count, n = self.counts[axis] or self.domain.shape[axis], self.domain.shape[axis]
        return self.domain.start[axis] + np.arange(count + 1) * n // count

    def around(self, axis: int, start: int, stop: int) -> tuple[Array, Array]:
        """Return, for the voxels from `start` to `stop` along `axis`, the lower of the two tiles between whose centres each
        lies, and the weight of the upper one; beyond the outer centres the outer tile alone."""
        edges = self.edges(axis)
        if not self.counts[axis]:
            return np.arange(start, stop) - self.domain.start[axis], np.zeros(stop - start)
        centres = (edges[:-1] + edges[1:] - 1) / 2
        place = np.interp(np.arange(start, stop), centres, np.arange(len(centres)))
        lower = np.minimum(place.astype(np.int64), max(0, len(centres) - 2))
        return lower, place - lower


def equalized(levels: Patch, box: Box, tiling: Tiling, bins: int, limit: float) -> Array:
    """Return float32 of `box`, 0 to 1: `levels` (integers below `bins`, over `box` and the tiling's halo) after CLAHE.

    `limit` is the largest share of a tile's voxels that one bin may hold.
    """
    result = np.empty(box.shape, np.float32)
    lower, weight = zip(
        *(tiling.around(axis, a, b) for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True))), strict=True
    )
    curves: dict[Shape, Array] = {}
    for cell, part in _cells(lower):
        own = Box(
            tuple(a + s.start for a, s in zip(box.start, part, strict=True)),
            tuple(a + s.stop for a, s in zip(box.start, part, strict=True)),
        )
        target = result[part]
        target[...] = 0
        weights = [w[s] for w, s in zip(weight, part, strict=True)]
        values = levels.crop(own)
        for corner in product(*((0, 1) if w.any() else (0,) for w in weights)):
            tile = tuple(c + k for c, k in zip(cell, corner, strict=True))
            if tile not in curves:
                curves[tile] = _curve(levels, tile, tiling, bins, limit)
            shares = (w if k else 1 - w for w, k in zip(weights, corner, strict=True))
            target += np.take(curves[tile], values) * _outer(shares)
    return result


def _cells(lower: tuple[Array, ...]) -> Iterator[tuple[Shape, tuple[slice, ...]]]:
    """Yield the cells between tile centres: the lowest tile of each and its part of the box."""
    runs = []
    for tiles in lower:
        starts = np.concatenate([[0], np.flatnonzero(np.diff(tiles)) + 1])
        stops = np.append(starts[1:], len(tiles))
        runs.append([(int(tiles[a]), slice(int(a), int(b))) for a, b in zip(starts, stops, strict=True)])
    for chosen in product(*runs):
        yield tuple(tile for tile, _ in chosen), tuple(part for _, part in chosen)


def _outer(weights: Iterator[Array]) -> Array:
    """Return the product of weights along every axis, float32."""
    result = np.ones((), np.float32)
    for weight in weights:
        result = np.multiply.outer(result, weight.astype(np.float32))
    return result


def _curve(levels: Patch, tile: Shape, tiling: Tiling, bins: int, limit: float) -> Array:
    """Return the curve of a tile: float32, from level to 0 .. 1."""
    edges = [tiling.edges(axis)[k : k + 2] for axis, k in enumerate(tile)]
    box = Box(tuple(int(e[0]) for e in edges), tuple(int(e[1]) for e in edges))
    counts = np.bincount(levels.crop(box).reshape(-1), minlength=bins).astype(np.float64)
    curve: Array = np.cumsum(_limited(counts, box.size, limit)) / box.size
    return np.minimum(curve, 1.0).astype(np.float32)


def _limited(counts: Array, size: int, limit: float) -> Array:
    """Return `counts`, float64, with what is above the limit shared out among the bins below it, none above it then."""
    most = max(limit, 1 / len(counts)) * size
    counts = counts.copy()
    while (excess := np.maximum(counts - most, 0).sum()) > 1e-9 * size:
        np.minimum(counts, most, out=counts)
        below = counts < most
        if not below.any():
            break
        counts[below] += excess / below.sum()
    return counts

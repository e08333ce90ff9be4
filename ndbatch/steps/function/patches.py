"""Overlapping patches over a volume: where they lie, what they see, and how their outputs are joined.

Networks want patches of one shape, and answer worse near a patch's border. So patches lie on a lattice that begins at the
volume's first voxel, whatever the blocks: along an axis, patch k is centred on its own part [k s, (k + 1) s) with
s = shape - overlap, and sees half the overlap more on either side, mirrored where the volume ends. Outputs are cropped to these
parts, or blended by weights that add up to 1.

A voxel depends on the patches around it alone, and their weighted outputs are added in C-order of the lattice: every block
makes the same bits of it. Arrays are C-order; boxes are absolute voxels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch

Mode = Literal["crop", "linear", "cosine"]


@dataclass(frozen=True)
class Lattice:
    """Patches of `shape` voxels over `domain`; neighbours share `overlap` voxels, fewer than the shape, along each axis."""

    domain: Box
    shape: Shape
    overlap: Shape
    mode: Mode

    @property
    def stride(self) -> Shape:
        """From one patch to the next, in voxels: the extent of the part that a patch is centred on."""
        return tuple(n - o for n, o in zip(self.shape, self.overlap, strict=True))

    @property
    def counts(self) -> Shape:
        """Patches along each axis: as many as have a part inside the domain."""
        return tuple(-(-n // s) for n, s in zip(self.domain.shape, self.stride, strict=True))

    @property
    def halo(self) -> Shape:
        """Voxels around a voxel that its value depends on, mirrored ones included."""
        if self.mode == "crop":
            return tuple(n - 1 - o // 2 for n, o in zip(self.shape, self.overlap, strict=True))
        return tuple(n - 1 for n in self.shape)

    def part(self, place: Shape) -> Box:
        """Return the part that the patch at `place` is centred on; the last ones reach beyond the domain."""
        start = tuple(a + k * s for a, k, s in zip(self.domain.start, place, self.stride, strict=True))
        return Box(start, tuple(a + s for a, s in zip(start, self.stride, strict=True)))

    def box(self, place: Shape) -> Box:
        """Return what the patch at `place` sees; it may reach beyond the domain."""
        start = tuple(a - o // 2 for a, o in zip(self.part(place).start, self.overlap, strict=True))
        return Box.of_shape(self.shape, start)

    def near(self, box: Box) -> Iterator[Shape]:
        """Yield, in C-order, the places of the patches that decide the voxels of `box`."""
        spans = []
        rows = zip(
            box.start, box.stop, self.domain.start, self.shape, self.overlap, self.stride, self.counts, strict=True
        )
        for low, high, origin, n, o, s, count in rows:
            ahead, behind = (0, s) if self.mode == "crop" else (o // 2, n - o // 2)
            first = max(0, (low - origin - behind) // s + 1)
            last = min(count - 1, (high - 1 - origin + ahead) // s)
            spans.append(range(first, last + 1))
        yield from itertools.product(*spans)

    def gather(self, patch: Patch, place: Shape) -> Array:
        """Return a new array of what the patch at `place` sees, from voxels that cover core + halo, clipped to the domain."""
        seen = self.box(place)
        if patch.box.contains(seen):
            return np.array(patch.crop(seen), order="C")
        sides = zip(seen.start, seen.stop, self.domain.start, self.domain.stop, patch.box.start, strict=True)
        rows = [_mirrored(np.arange(a, b), low, high) - first for a, b, low, high, first in sides]
        return np.ascontiguousarray(patch.data[np.ix_(*rows)])

    def weights(self, place: Shape) -> list[Array]:
        """Return, for each axis, float64 weights of the patch at `place`; over all patches they add up to 1 at every voxel."""
        rows = zip(self.shape, self.overlap, place, self.counts, strict=True)
        return [_weights(n, o, k, count, self.mode) for n, o, k, count in rows]


def _mirrored(places: Array, low: int, high: int) -> Array:
    """Return `places` mirrored into [low, high), border voxels twice, as often as it takes."""
    turn = np.mod(places - low, 2 * (high - low))
    result: Array = low + np.minimum(turn, 2 * (high - low) - 1 - turn)
    return result


@lru_cache(maxsize=1024)
def _weights(n: int, overlap: int, place: int, count: int, mode: Mode) -> Array:
    """Return the weights of patch `place` of `count` along one axis: its ramps, over the sum of those of all patches there."""
    own, stride = _ramps(n, overlap, mode), n - overlap
    total = np.zeros(n)
    reach = (n - 1) // stride
    for other in range(max(0, place - reach), min(count, place + reach + 1)):
        shift = (other - place) * stride
        low, high = max(0, shift), min(n, n + shift)
        total[low:high] += own[low - shift : high - shift]
    result: Array = own / total
    result.flags.writeable = False
    return result


def _ramps(n: int, overlap: int, mode: Mode) -> Array:
    """Return float64 (n,): 1 in the middle, falling over `overlap` voxels at both ends, never 0."""
    if overlap == 0:
        return np.ones(n)
    edge = np.minimum((np.arange(n) + 0.5) / overlap, 1.0)
    ramp: Array = np.minimum(edge, edge[::-1])
    return ramp if mode == "linear" else 0.5 - 0.5 * np.cos(np.pi * ramp)


def sweep(
    lattice: Lattice,
    inputs: Sequence[Patch],
    box: Box,
    made: Sequence[Array],
    predict: Callable[[list[Array]], Sequence[Array]],
    batch: int,
) -> None:
    """Fill `made`, arrays of the shape of `box`, from what `predict` makes of the patches of all `inputs`.

    `predict` gets one array (batch, *lattice.shape) for each input and returns one of that shape for each of `made`. It always
    gets whole batches, the last patch repeated: what a network makes of a patch can depend, in the last bit, on how many
    there are. With crop the arrays of `made` are assigned to; otherwise they must be floating point and hold zeros.
    """
    for places in _batches(lattice.near(box), batch):
        padded = [*places, *[places[-1]] * (batch - len(places))]
        arrays = [np.stack([lattice.gather(patch, place) for place in padded]) for patch in inputs]
        for out, values in zip(made, predict(arrays), strict=True):
            for place, value in zip(places, values, strict=False):
                _join(lattice, place, value, box, out)


def _batches(places: Iterable[Shape], size: int) -> Iterator[list[Shape]]:
    rest = iter(places)
    while some := list(itertools.islice(rest, size)):
        yield some


def _join(lattice: Lattice, place: Shape, value: Array, box: Box, out: Array) -> None:
    """Put the output of one patch where it belongs in `out`, which covers `box`."""
    seen = lattice.box(place)
    if lattice.mode == "crop":
        common = lattice.part(place).intersect(box)
        out[common.slices(box.start)] = value[common.slices(seen.start)]
        return
    common = seen.intersect(box)
    cuts = common.slices(seen.start)
    weighted = value[cuts].astype(out.dtype)
    for axis, (weights, cut) in enumerate(zip(lattice.weights(place), cuts, strict=True)):
        weighted *= weights[cut].astype(out.dtype).reshape((-1,) + (1,) * (out.ndim - axis - 1))
    out[common.slices(box.start)] += weighted


def voxels_at_once(lattice: Lattice, batch: int) -> float:
    """Return the voxels of a batch as a share of those of the smallest input box that a block can have."""
    smallest = math.prod(min(2 * h + 1, extent) for h, extent in zip(lattice.halo, lattice.domain.shape, strict=True))
    return batch * math.prod(lattice.shape) / smallest

"""Thresholds from the values of the whole volume: Otsu's and percentiles, merged exactly from block counts.

Counts are integers, so neither blocks nor their order can change them. Voxels that are not finite are left out.

- *Otsu* (Otsu 1979, as scikit-image computes it from a histogram): integers of 8 and 16 bits are counted value by value
  in one look. Wider ones and floating point take two: the range, then counts, value by value where at most `EXACT`
  integers lie in the range, else in equal bins between the smallest and the largest value.
- *Percentiles* (linear interpolation between the two nearest values, numpy's default, in float64) are exact for every
  dtype: each look counts 16 bits of an order-preserving key among the voxels that share the bits found before (a radix
  selection). 8 and 16 bits take one look, 32 bits two, 64 bits four.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Constant, Pass, Patch
from ndbatch.steps.payload import pack, unpack

DIGIT = 16
"""Bits of a key that one look counts."""
EXACT = 1 << 20
"""Integers that are counted one by one."""
SLAB = 1 << 18
"""Voxels taken together where an intermediate is wider than a voxel."""

Dtype = np.dtype[Any]


def order_key(values: Array) -> Array:
    """Return unsigned integers of the same width that sort as `values` (finite, one of bool, integer, float) do."""
    bits: Array = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    if values.dtype.kind in "bu":
        return bits
    top = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    if values.dtype.kind == "i":
        flipped: Array = bits ^ top
        return flipped
    # Negative floating point numbers sort backwards by their bits; positive ones come after all of them.
    return np.where(bits & top, ~bits, bits | top)


def value_of_key(key: int, dtype: Dtype) -> Any:
    """Return the scalar of `dtype` whose `order_key` is `key`."""
    width = 8 * dtype.itemsize
    top = 1 << (width - 1)
    if dtype.kind == "i":
        key ^= top
    elif dtype.kind == "f":
        key = key ^ top if key & top else ~key & (2 * top - 1)
    return np.array(key, f"u{dtype.itemsize}").view(dtype)[()]


def _slabs(patch: Patch, block: Block) -> Iterator[Array]:
    """Yield the finite voxels of the block's core, some at a time, one axis."""
    flat = np.ascontiguousarray(patch.crop(block.core)).reshape(-1)
    for begin in range(0, flat.size, SLAB):
        part = flat[begin : begin + SLAB]
        yield part[np.isfinite(part)] if part.dtype.kind == "f" else part


def _sparse(counts: Array) -> dict[str, Array]:
    """Return a histogram without its empty bins."""
    bins = np.flatnonzero(counts)
    return {"bins": bins.astype(np.uint32), "counts": counts[bins].astype(np.int64)}


def otsu(counts: Array, centers: Array) -> float:
    """Return Otsu's threshold of a histogram, the very number that scikit-image finds from the same one."""
    from skimage.filters import threshold_otsu

    filled = np.flatnonzero(counts)
    if len(filled) == 1:
        return float(centers[filled[0]])
    return float(threshold_otsu(hist=(counts, centers)))


def _nothing_finite() -> PlanError:
    return PlanError(
        "threshold: no voxel of the image is finite, so there is no threshold; write method: fixed and a value"
    )


def otsu_passes(dtype: Dtype, ndim: int, names: tuple[str, ...], bins: int) -> tuple[Pass, ...]:
    """Return the passes that find Otsu's threshold; the state of the last one maps each of `names` to it."""
    halo = (0,) * ndim
    if dtype.kind in "bui" and dtype.itemsize <= 2:
        return (ValueCounts("histogram", halo, dtype, names),)
    return (Range("range", halo), BinCounts("histogram", halo, dtype, names, bins))


def percentile_passes(dtype: Dtype, ndim: int, wanted: Mapping[str, float]) -> tuple[Pass, ...]:
    """Return the passes that find percentiles (0 to 100, by name); the state of the last one maps names to values."""
    levels = max(1, 8 * dtype.itemsize // DIGIT)
    return tuple(
        Digits(f"percentile{level or ''}", (0,) * ndim, dtype, dict(wanted), level, level == levels - 1)
        for level in range(levels)
    )


@dataclass(frozen=True)
class ValueCounts(Pass):
    """Counts every value of a dtype of 8 or 16 bits, for Otsu's threshold."""

    name: str
    halo: Shape
    dtype: Dtype
    names: tuple[str, ...]

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the counts of the values there are."""
        counts = np.zeros(1 << (8 * self.dtype.itemsize), np.int64)
        for part in _slabs(inputs["input"], block):
            counts += np.bincount(order_key(part), minlength=counts.size)
        return pack(_sparse(counts))

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> Constant:
        """Return the threshold."""
        counts = np.zeros(1 << (8 * self.dtype.itemsize), np.int64)
        for _, payload in payloads:
            told = unpack(payload)
            counts[told["bins"]] += told["counts"]
        values = np.arange(counts.size) + int(value_of_key(0, self.dtype))
        return _named(self.names, otsu(counts, values))


@dataclass(frozen=True)
class Range(Pass):
    """Finds the smallest and the largest finite value."""

    name: str
    halo: Shape

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the range of the block; nothing where no voxel is finite."""
        ends = [(part.min(), part.max()) for part in _slabs(inputs["input"], block) if part.size]
        dtype = inputs["input"].data.dtype
        return pack({"range": np.array([min(a for a, _ in ends), max(b for _, b in ends)] if ends else [], dtype)})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> Constant:
        """Return the range as an array of two; PlanError where no voxel is finite."""
        low, high = None, None
        for _, payload in payloads:
            ends = unpack(payload)["range"]
            if ends.size:
                low = ends[0] if low is None else min(low, ends[0])
                high = ends[1] if high is None else max(high, ends[1])
        if low is None or high is None:
            raise _nothing_finite()
        return Constant(np.array([low, high]))


@dataclass(frozen=True)
class BinCounts(Pass):
    """Counts values between the ends that `Range` found, for Otsu's threshold."""

    name: str
    halo: Shape
    dtype: Dtype
    names: tuple[str, ...]
    bins: int

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the counts, and the range they stand in."""
        ends = states["range"]
        low, high = ends
        counts = np.zeros(self._count(ends), np.int64)
        for part in _slabs(inputs["input"], block) if high > low else ():
            if self._exact(ends):
                counts += np.bincount((part - low).astype(np.intp), minlength=counts.size)
            else:
                counts += np.histogram(part, bins=self.bins, range=(low, high))[0]
        return pack({**_sparse(counts), "range": ends})

    def _exact(self, ends: Array) -> bool:
        return self.dtype.kind in "ui" and int(ends[1]) - int(ends[0]) < EXACT

    def _count(self, ends: Array) -> int:
        return int(ends[1]) - int(ends[0]) + 1 if self._exact(ends) else self.bins

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> Constant:
        """Return the threshold; that value itself where there is only one."""
        counts, ends = np.zeros(0, np.int64), np.zeros(2, self.dtype)
        for _, payload in payloads:
            told = unpack(payload)
            ends = told["range"]
            counts = counts if counts.size else np.zeros(self._count(ends), np.int64)
            counts[told["bins"]] += told["counts"]
        low, high = ends
        if low == high:
            return _named(self.names, float(low))
        if self._exact(ends):
            return _named(self.names, otsu(counts, np.arange(counts.size) + int(low)))
        edges = np.histogram_bin_edges(np.empty(0, self.dtype), self.bins, (low, high))
        return _named(self.names, otsu(counts, (edges[:-1] + edges[1:]) / 2))


@dataclass(frozen=True)
class Digits(Pass):
    """One look of a radix selection: counts the next 16 bits of the keys that begin as the wanted values do."""

    name: str
    halo: Shape
    dtype: Dtype
    wanted: Mapping[str, float]
    level: int
    last: bool

    @property
    def _bits(self) -> int:
        return min(DIGIT, 8 * self.dtype.itemsize)

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the counts for every beginning that is looked for, and what is looked for."""
        before = states[f"percentile{self.level - 1 or ''}"] if self.level else {}
        heads = np.unique(before["heads"]) if before else np.zeros(1, np.uint64)
        counts = np.zeros((len(heads), 1 << self._bits), np.int64)
        shift = 8 * self.dtype.itemsize - (self.level + 1) * self._bits
        for part in _slabs(inputs["input"], block):
            keys = order_key(part)
            digits = (keys >> keys.dtype.type(shift)) & keys.dtype.type((1 << self._bits) - 1)
            begins = keys >> keys.dtype.type(shift + self._bits) if self.level else None
            for row, head in zip(counts, heads, strict=True):
                chosen = digits if begins is None else digits[begins == head]
                row += np.bincount(chosen.astype(np.intp), minlength=row.size)
        return pack({**_sparse(counts.reshape(-1)), **before})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> Constant:
        """Return the longer beginnings of the wanted values with their ranks among the voxels that share them; at last,
        the percentiles."""
        counts: Array = np.zeros(0, np.int64)
        told: dict[str, Array] = {}
        for _, payload in payloads:
            told = unpack(payload)
            if counts.size == 0:
                heads = len(np.unique(told["heads"])) if self.level else 1
                counts = np.zeros(heads << self._bits, np.int64)
            counts[told["bins"]] += told["counts"]
        if not counts.any():
            raise _nothing_finite()
        found = self._longer(
            counts.reshape(-1, 1 << self._bits), told if self.level else self._wanted(int(counts.sum()))
        )
        return self._percentiles(found) if self.last else Constant(found)

    def _wanted(self, total: int) -> dict[str, Array]:
        """Return the ranks of the two values around each percentile among `total` voxels, and the weight of the upper
        one; nothing is known of how their keys begin."""
        ranks, weights = [], []
        for percentile in self.wanted.values():
            place = (total - 1) * (percentile / 100)
            below = math.floor(place)
            ranks += [below, min(below + 1, total - 1)]
            weights.append(place - below)
        return {"heads": np.zeros(len(ranks), np.uint64), "ranks": np.array(ranks), "weights": np.array(weights)}

    def _longer(self, counts: Array, known: Mapping[str, Array]) -> dict[str, Array]:
        """Return what is known of the wanted values with one more digit; a row of `counts` for each beginning so far."""
        rows = np.searchsorted(np.unique(known["heads"]), known["heads"])
        heads, ranks = [], []
        for row, head, rank in zip(rows, known["heads"], known["ranks"], strict=True):
            upto = np.cumsum(counts[row])
            digit = int(np.searchsorted(upto, rank, side="right"))
            heads.append((int(head) << self._bits) | digit)
            ranks.append(int(rank) - (int(upto[digit - 1]) if digit else 0))
        return {"heads": np.array(heads, np.uint64), "ranks": np.array(ranks), "weights": known["weights"]}

    def _percentiles(self, found: Mapping[str, Array]) -> Constant:
        values = [value_of_key(int(head), self.dtype) for head in found["heads"]]
        # Integers as Python's own: numpy's percentile takes the difference in the image's dtype, where it can wrap around.
        values = [float(v) if v.dtype.kind == "f" else int(v) for v in values]
        pairs = zip(self.wanted, values[::2], values[1::2], found["weights"], strict=True)
        told = {name: _between(low, high, float(weight)) for name, low, high, weight in pairs}
        return Constant(told, told)


def _between(low: float, high: float, weight: float) -> float:
    """Return the value at `weight` between two, to the bit as numpy.percentile interpolates where nothing overflows."""
    span = high - low
    return float(high - span * (1 - weight) if weight >= 0.5 else low + span * weight)


def _named(names: Iterable[str], value: float) -> Constant:
    values = dict.fromkeys(names, value)
    return Constant(values, values)

"""Otsu's threshold from the values of the whole volume, merged exactly from block counts.

Counts are integers, so neither blocks nor their order can change them. Voxels that are not finite are left out. As
scikit-image computes it from a histogram (Otsu 1979): integers of 8 and 16 bits are counted value by value in one look.
Wider ones and floating point take two: the range, then counts, value by value where at most `EXACT` integers lie in the
range, else in equal bins between the smallest and the largest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Constant, Pass, Patch
from ndbatch.steps.payload import pack, unpack
from ndbatch.steps.statistics.frames import finite_slabs
from ndbatch.steps.statistics.percentiles import order_key, sparse, value_of_key

EXACT = 1 << 20
"""Integers that are counted one by one."""

Dtype = np.dtype[Any]


def otsu(counts: Array, centers: Array) -> float:
    """Return Otsu's threshold of a histogram, the very number that scikit-image finds from the same one."""
    from skimage.filters import threshold_otsu

    filled = np.flatnonzero(counts)
    if len(filled) == 1:
        return float(centers[filled[0]])
    return float(threshold_otsu(hist=(counts, centers)))


NOTHING_FINITE = "threshold: no voxel of the image is finite, so there is no threshold; write method: fixed and a value"


def otsu_passes(dtype: Dtype, ndim: int, names: tuple[str, ...], bins: int) -> tuple[Pass, ...]:
    """Return the passes that find Otsu's threshold; the state of the last one maps each of `names` to it."""
    halo = (0,) * ndim
    if dtype.kind in "bui" and dtype.itemsize <= 2:
        return (ValueCounts("histogram", halo, dtype, names),)
    return (Range("range", halo), BinCounts("histogram", halo, dtype, names, bins))


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
        for part in finite_slabs(inputs["input"].crop(block.core)):
            counts += np.bincount(order_key(part), minlength=counts.size)
        return pack(sparse(counts))

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
    """Finds the smallest and the largest finite value; `refusal` is said where there is none."""

    name: str
    halo: Shape
    refusal: str = NOTHING_FINITE

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the range of the block; nothing where no voxel is finite."""
        ends = [(part.min(), part.max()) for part in finite_slabs(inputs["input"].crop(block.core)) if part.size]
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
            raise PlanError(self.refusal)
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
        for part in finite_slabs(inputs["input"].crop(block.core)) if high > low else ():
            if self._exact(ends):
                counts += np.bincount((part - low).astype(np.intp), minlength=counts.size)
            else:
                counts += np.histogram(part, bins=self.bins, range=(low, high))[0]
        return pack({**sparse(counts), "range": ends})

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


def _named(names: Iterable[str], value: float) -> Constant:
    values = dict.fromkeys(names, value)
    return Constant(values, values)

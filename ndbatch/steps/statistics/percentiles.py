"""Percentiles of whole volumes, times, channels or slices: exact for every dtype, merged from block counts.

Linear interpolation between the two nearest values, numpy's default, in float64. Found by radix selection: each look counts
16 bits of an order-preserving key among the voxels that share the bits found before. 8 and 16 bits take one look, 32 bits
two, 64 bits four. Counts are integers, so neither blocks nor their order can change them. Voxels that are not finite are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Pass, Patch
from ndbatch.steps.payload import pack
from ndbatch.steps.statistics.frames import FrameValues, finite_slabs, frames_of, rows_of_blocks

DIGIT = 16
"""Bits of a key that one look counts."""
HELD = 1 << 22
"""Counts that the driver holds in memory; more are in a file."""

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


def sparse(counts: Array) -> dict[str, Array]:
    """Return a histogram (1-D) without its empty bins: `bins`, uint32, and `counts`, int64."""
    bins = np.flatnonzero(counts)
    return {"bins": bins.astype(np.uint32), "counts": counts[bins].astype(np.int64)}


def percentile_passes(
    dtype: Dtype, ndim: int, wanted: Mapping[str, float], leading: int = 0, what: str = "threshold"
) -> tuple[Pass, ...]:
    """Return the passes that find percentiles (0 to 100, by name); the state of the last one maps names to values, of each
    frame (`frames.py`) where `leading` axes tell frames apart. `what` names the step in messages."""
    levels = max(1, 8 * dtype.itemsize // DIGIT)
    return tuple(
        Digits(f"percentile{level or ''}", (0,) * ndim, dtype, dict(wanted), level, level == levels - 1, leading, what)
        for level in range(levels)
    )


@dataclass(frozen=True)
class Digits(Pass):
    """One look of a radix selection: counts the next 16 bits of the keys that begin as the wanted values do.

    What is known of the wanted values of a frame are `heads`, how their keys begin, and `ranks`, their places among the
    voxels that share the head: two for each percentile, and a `weights` of the upper one. A payload has them beside its
    counts, because the driver sees nothing else.
    """

    name: str
    halo: Shape
    dtype: Dtype
    wanted: Mapping[str, float]
    level: int
    last: bool
    leading: int
    what: str

    @property
    def _bits(self) -> int:
        return min(DIGIT, 8 * self.dtype.itemsize)

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return, for every frame, the counts for every head that is looked for, and what is looked for."""
        before = states[f"percentile{self.level - 1 or ''}"] if self.level else {}
        known = {name: array.reshape(-1, array.shape[-1]) for name, array in before.items()}
        found = []
        for number, frame in enumerate(frames_of(inputs["input"].crop(block.core), self.leading)):
            heads = np.unique(known["heads"][number]) if known else None
            found.append(sparse(self._counts(frame, heads).reshape(-1)))
        columns = {name: np.concatenate([part[name] for part in found]) for name in ("bins", "counts")}
        return pack({**columns, "ends": np.cumsum([len(part["bins"]) for part in found]), **known})

    def _counts(self, frame: Array, heads: Array | None) -> Array:
        """Return the counts of the next digit, a row for each of `heads`; one row where nothing is known yet."""
        counts = np.zeros((1 if heads is None else len(heads), 1 << self._bits), np.int64)
        shift = 8 * self.dtype.itemsize - (self.level + 1) * self._bits
        for part in finite_slabs(frame):
            keys = order_key(part)
            digits = (keys >> keys.dtype.type(shift)) & keys.dtype.type((1 << self._bits) - 1)
            if heads is None:
                counts[0] += np.bincount(digits.astype(np.intp), minlength=counts.shape[1])
                continue
            begins = keys >> keys.dtype.type(shift + self._bits)
            for row, head in zip(counts, heads, strict=True):
                row += np.bincount(digits[begins == head].astype(np.intp), minlength=row.size)
        return counts

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> FrameValues:
        """Return the longer heads of the wanted values with their ranks; at last, the percentiles.

        Raises PlanError where no voxel of any frame is finite.
        """
        extent = grid.bounds.shape[: self.leading]
        two, one = 2 * len(self.wanted), len(self.wanted)
        result = {
            "heads": np.zeros((*extent, two), np.uint64),
            "ranks": np.zeros((*extent, two), np.int64),
            "weights": np.full((*extent, one), np.nan),
        }
        for box, told in rows_of_blocks(payloads, self.leading):
            rows = 1 if self.level == 0 else two
            counts = _zeros((math.prod(box.shape), rows, 1 << self._bits), scratch)
            known: dict[str, Array] = {}
            for part in told:
                _add(counts, part)
                known = {name: part[name] for name in result if name in part}
            at = box.slices(grid.bounds.start[: self.leading])
            for name, column in self._longer(counts, known).items():
                result[name][at] = column.reshape(*box.shape, -1)
        if np.isnan(result["weights"]).all():
            raise PlanError(
                f"{self.what}: no voxel of the image is finite, so it has no percentiles; look at the input, or give values"
            )
        if not self.last:
            return FrameValues(grid.bounds, self.leading, result, told=False)
        return FrameValues(grid.bounds, self.leading, self._percentiles(result, extent))

    def _longer(self, counts: Array, known: Mapping[str, Array]) -> dict[str, Array]:
        """Return what is known of the wanted values of every frame with one more digit."""
        found: dict[str, list[Any]] = {"heads": [], "ranks": [], "weights": []}
        for number, rows in enumerate(counts):
            own = {name: column[number] for name, column in known.items()} or self._wanted(int(rows.sum()))
            heads = np.unique(own["heads"])
            longer, ranks = [], []
            sums: dict[int, Array] = {}
            for head, rank in zip(own["heads"].tolist(), own["ranks"].tolist(), strict=True):
                if head not in sums:
                    sums[head] = np.cumsum(rows[int(np.searchsorted(heads, np.uint64(head)))])
                upto = sums[head]
                # Beyond the last digit only in a frame without any finite voxel, whose weights are NaN.
                digit = min(int(np.searchsorted(upto, rank, side="right")), len(upto) - 1)
                longer.append((head << self._bits) | digit)
                ranks.append(rank - (int(upto[digit - 1]) if digit else 0))
            for name, value in (("heads", longer), ("ranks", ranks), ("weights", own["weights"])):
                found[name].append(value)
        return {"heads": np.array(found["heads"], np.uint64), "ranks": np.array(found["ranks"], np.int64)} | {
            "weights": np.array(found["weights"])
        }

    def _wanted(self, total: int) -> dict[str, Array]:
        """Return the ranks of the two values around each percentile among `total` voxels, and the weight of the upper one;
        nothing is known of how their keys begin."""
        ranks, weights = [], []
        for percentile in self.wanted.values():
            place = max(0, total - 1) * (percentile / 100)
            below = math.floor(place)
            ranks += [below, min(below + 1, max(0, total - 1))]
            weights.append(place - below if total else math.nan)
        return {"heads": np.zeros(len(ranks), np.uint64), "ranks": np.array(ranks), "weights": np.array(weights)}

    def _percentiles(self, found: Mapping[str, Array], extent: Shape) -> dict[str, Array]:
        """Return the percentiles by name, float64 of the frames' extent; NaN where no voxel is finite."""
        result = {name: np.empty(extent) for name in self.wanted}
        for place in np.ndindex(extent):
            # Integers as Python's own: numpy's percentile takes the difference in the image's dtype, where it can wrap
            # around.
            values = [value_of_key(int(head), self.dtype).item() for head in found["heads"][place]]
            weights = found["weights"][place].tolist()
            for name, low, high, weight in zip(self.wanted, values[::2], values[1::2], weights, strict=True):
                result[name][place] = math.nan if math.isnan(weight) else _between(low, high, weight)
        return result


def _zeros(shape: Shape, scratch: Path) -> Array:
    """Return int64 zeros; many of them, most of which stay untouched, in a file."""
    if math.prod(shape) <= HELD:
        return np.zeros(shape, np.int64)
    return np.memmap(scratch / "counts", np.int64, "w+", shape=shape)


def _add(counts: Array, part: Mapping[str, Array]) -> None:
    """Add the counts of one block's frames, (frames, heads, digits), in place."""
    begin = 0
    for frame, end in zip(counts.reshape(len(counts), -1), part["ends"].tolist(), strict=True):
        frame[part["bins"][begin:end]] += part["counts"][begin:end]
        begin = end


def _between(low: float, high: float, weight: float) -> float:
    """Return the value at `weight` between two, to the bit as numpy.percentile interpolates where nothing overflows."""
    span = high - low
    return float(high - span * (1 - weight) if weight >= 0.5 else low + span * weight)

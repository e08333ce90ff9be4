"""`histogram`: how often each value occurs in the whole volume, as a table.

    - histogram: {input: image, output: counts}
    - histogram: {input: image, output: counts, bins: 256, range: [0, 4096], per: slice}

Counts are whole numbers that are added up, so that neither blocks nor their order can change them. Bins are numpy's for float64:
of equal width, each with its lower end, the last one with its upper end too. Without a range they reach from the smallest to the
largest value of the whole volume, which takes one more look. Voxels that are not finite are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Operation, Patch
from ndbatch.steps.grouping import in_batches, merged_by_key
from ndbatch.steps.statistics.frames import Per, finite_slabs, frames_of, leading_axes
from ndbatch.steps.statistics.histogram import Range
from ndbatch.steps.statistics.percentiles import order_key, value_of_key
from ndbatch.steps.unary import Unary

if TYPE_CHECKING:
    import pyarrow as pa

Ends = Annotated[tuple[float, float], Field(strict=False)]
Bins = Annotated[int, Field(ge=1, le=1 << 20)]
BINS = 256
"""Bins of values that are too many to be counted one by one."""
REFUSAL = (
    "histogram: no voxel of the image is finite, so there is no range to count in; look at the input, or write range"
)


class Histogram(Unary):
    """Count how often each value occurs, or how many values lie in each of a number of bins: a table.

    Columns: `value` and `count`, or `low`, `high` and `count` of each bin; before them `t`, `c` and, by slice, `z`.
    """

    kind: ClassVar[str] = "histogram"

    input: str
    """The array: an image, a mask or labels."""
    output: str
    """The name of the table."""
    bins: Bins | Literal["auto"] = "auto"
    """The number of bins, all of one width. auto counts integers of 8 and 16 bits value by value, those that occur, and all
    others in 256 bins."""
    range: Ends | None = None
    """The lower and the upper end; values beyond do not count. If not given, bins reach from the smallest to the largest
    value of the whole volume."""
    per: Per = "volume"
    """volume: each time and channel is counted by itself. slice: each slice along z too."""

    @model_validator(mode="after")
    def _range_fits(self) -> Histogram:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {self.range[0]:g} is not below {self.range[1]:g}")
        return self

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: a table, no halo; a pass that finds the range where bins need one.

        Raises PlanError for an array that is neither integer nor floating point.
        """
        info = inputs["input"]
        self.require_numbers(info)
        exact = self.bins == "auto" and info.dtype.kind in "bui" and info.dtype.itemsize <= 2
        return _Counting(
            arrays={},
            tables=("output",),
            passes=() if exact or self.range else (Range("range", (0,) * info.ndim, REFUSAL),),
            # A core that is not contiguous is copied; slabs are small beside it.
            working_bytes=info.dtype.itemsize + 1.0,
            info=info,
            leading=leading_axes(info, self.per),
            bins=None if exact else BINS if self.bins == "auto" else self.bins,
            ends=self.range,
        )


@dataclass(frozen=True)
class _Counting(Operation):
    """Counts of values (`bins` is None), or of values in bins, frame by frame.

    A row of a block has a `key`, the number of its frame times the number of places a frame has, plus its place: that of a
    bin, or of a value's `order_key`.
    """

    info: ArrayInfo = field(kw_only=True)
    leading: int = field(kw_only=True)
    bins: int | None = field(kw_only=True)
    ends: tuple[float, float] | None = field(kw_only=True)

    @property
    def places(self) -> int:
        """Places a frame has: bins, or values of the dtype."""
        return self.bins or 1 << 8 * self.info.dtype.itemsize

    @property
    def extent(self) -> Shape:
        """Frames along each of the leading axes."""
        return self.info.domain.shape[: self.leading]

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, pa.RecordBatch]:
        """Return the places of each frame of the core that have voxels, and with bins the ends they lie between."""
        import pyarrow as pa

        core = block.core
        ends = self.ends if self.ends is not None else states.get("range")
        first = [a - o for a, o in zip(core.start[: self.leading], self.info.domain.start, strict=False)]
        keys, counts = [], []
        data = inputs["input"].crop(core)
        for place, frame in zip(np.ndindex(core.shape[: self.leading]), frames_of(data, self.leading), strict=True):
            number = (
                np.ravel_multi_index([p + f for p, f in zip(place, first, strict=True)], self.extent) if place else 0
            )
            found = self._counts(frame, ends)
            used = np.flatnonzero(found)
            keys.append(int(number) * self.places + used)
            counts.append(found[used])
        columns = {"key": np.concatenate(keys).astype(np.int64), "count": np.concatenate(counts).astype(np.int64)}
        if self.bins is not None and ends is not None:
            columns |= {
                name: np.full(len(columns["key"]), end) for name, end in zip(("low", "high"), ends, strict=True)
            }
        return {"output": pa.RecordBatch.from_pydict(columns)}

    def _counts(self, frame: Array, ends: Any) -> Array:
        """Return the voxels at each place, int64; values beyond the range do not count."""
        counts = np.zeros(self.places, np.int64)
        for part in finite_slabs(frame):
            if self.bins is None:
                counts += np.bincount(order_key(part), minlength=counts.size)
            elif part.size:
                counts += _in_bins(part.astype(np.float64), edges_between(ends, self.bins))
        if self.bins is None and ends is not None:
            values = self._values(np.arange(self.places))
            counts[(values < ends[0]) | (values > ends[1])] = 0
        return counts

    def _values(self, places: Array) -> Array:
        """Return the values at places, int64."""
        return places + int(value_of_key(0, self.info.dtype))

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Yield the table: a row for each value of a frame that occurs, or for each bin of each frame."""
        merged = merged_by_key(rows, "key", _added, scratch)
        made = map(self._valued, merged) if self.bins is None else self._binned(merged, self.bins)
        batches = in_batches(made)
        first = next(batches, None)
        yield self._valued(_nothing()) if first is None else first
        yield from batches

    def _valued(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows of values."""
        import pyarrow as pa

        frames, places = np.divmod(batch["key"].to_numpy(), self.places)
        return pa.RecordBatch.from_pydict(
            {**self._where(frames), "value": self._values(places), "count": batch["count"].to_numpy()}
        )

    def _binned(self, merged: Iterator[pa.RecordBatch], bins: int) -> Iterator[pa.RecordBatch]:
        """Yield a row for each bin, frame by frame; bins without voxels too."""
        import pyarrow as pa

        batch = next(merged, None)
        ends: Any = self.ends
        if batch is not None and ends is None:
            ends = batch["low"].to_numpy()[0], batch["high"].to_numpy()[0]
        edges = edges_between(ends, bins)
        for frame in range(prod(self.extent)):
            counts = np.zeros(bins, np.int64)
            while batch is not None:
                keys = batch["key"].to_numpy() - frame * bins
                here = int(np.searchsorted(keys, bins))
                counts[keys[:here]] = batch["count"].to_numpy()[:here]
                batch = batch.slice(here) if here < len(keys) else next(merged, None)
                if here < len(keys):
                    break
            yield pa.RecordBatch.from_pydict(
                {**self._where(np.full(bins, frame)), "low": edges[:-1], "high": edges[1:], "count": counts}
            )

    def _where(self, frames: Array) -> dict[str, Array]:
        """Return the columns that tell frames apart: absolute positions along the leading axes."""
        places = np.unravel_index(frames, self.extent) if self.leading else ()
        axes = zip(self.info.axes, places, self.info.domain.start, strict=False)
        return {axis: (place + start).astype(np.int64) for axis, place, start in axes}


def edges_between(ends: tuple[Any, Any], bins: int) -> Array:
    """Return the ends of `bins` bins of one width, float64 (bins + 1), as numpy has them for float64; half a unit to both
    sides of a range of one value."""
    low, high = map(float, ends)
    if low == high:
        low, high = low - 0.5, high + 0.5
    if np.isfinite(high - low):
        return np.linspace(low, high, bins + 1)
    share = np.linspace(0, 1, bins + 1)
    return np.asarray(low * (1 - share) + high * share)


def _in_bins(values: Array, edges: Array) -> Array:
    """Return how many float64 `values` lie in each bin. It has its lower edge, the last one its upper edge too, and of bins
    between equal edges, which are narrower than float64 tells, the last one has all."""
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    bins = len(edges) - 1
    places = np.minimum(np.searchsorted(edges, inside, side="right") - 1, bins - 1)
    return np.bincount(places, minlength=bins)


def _added(table: pa.Table) -> pa.RecordBatch:
    """Return one row for each key, ascending, with the sum of its counts; the ends are those of every row."""
    import pyarrow as pa

    keys, inverse = np.unique(table["key"].to_numpy(), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, inverse, table["count"].to_numpy())
    ends = {
        name: np.full(len(keys), table[name].to_numpy()[0]) for name in ("low", "high") if name in table.column_names
    }
    return pa.RecordBatch.from_pydict({"key": keys, "count": counts, **ends})


def _nothing() -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pydict({"key": np.empty(0, np.int64), "count": np.empty(0, np.int64)})

"""What is known of objects from some of their voxels, a row each; rows of the same label can be added up in any order.

The voxels of a block are looked at as *runs*: neighbours along the last axis with one label. There are far fewer of them
than voxels in anything but noise, and every sum over a run is one call of numpy over all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.exact_sums import SLAB, Limbs, carried, moments
from ndbatch.steps.value_counts import ValueCounts, tally

if TYPE_CHECKING:
    import pyarrow as pa

_MERGES: Mapping[str, np.ufunc] = {
    "voxels": np.add,
    "finite": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "low": np.minimum,
    "high": np.maximum,
}


@dataclass(frozen=True)
class ObjectRows:
    """Partial results, a row for each of `label` (integers, ascending and unique after `combined`).

    `columns`: `voxels`; `min.A` and `max.A`, the half-open bounds along axis A in absolute voxels; with an image `finite`
    (voxels that are neither NaN nor infinite), `low` and `high` (over these). `sums`: those of the voxel positions by
    axis, and `intensity` and `squares`. `pairs`: the image's values, where percentiles are wanted.
    """

    label: Array
    columns: Mapping[str, Array]
    sums: Mapping[str, Limbs]
    pairs: ValueCounts | None = None

    def to_batch(self) -> pa.RecordBatch:
        """Return the rows as Arrow: labels of 64 bits, `sum.NAME@K` for limb K of a sum, lists for the pairs."""
        import pyarrow as pa

        made: dict[str, Any] = {"label": self.label.astype(wide_label(self.label.dtype), copy=False), **self.columns}
        made |= {f"sum.{name}@{k}": digits for name, limbs in self.sums.items() for k, digits in limbs.items()}
        if self.pairs is not None:
            offsets = self.pairs.offsets.astype(np.int32)
            made["values"] = pa.ListArray.from_arrays(offsets, self.pairs.values)
            made["counts"] = pa.ListArray.from_arrays(offsets, self.pairs.counts)
        return pa.RecordBatch.from_pydict(made)

    @staticmethod
    def of_table(table: pa.Table | pa.RecordBatch) -> ObjectRows:
        """Return the rows of `to_batch`, or of several of them; a limb that some of them lack is 0 there."""
        sums: dict[str, Limbs] = {}
        columns: dict[str, Array] = {}
        for name in table.column_names:
            if name.startswith("sum."):
                what, _, k = name[4:].rpartition("@")
                sums.setdefault(what, {})[int(k)] = table[name].fill_null(0).to_numpy()
            elif name not in ("label", "values", "counts"):
                columns[name] = table[name].to_numpy()
        pairs = _pairs(table["values"], table["counts"]) if "values" in table.column_names else None
        return ObjectRows(table["label"].to_numpy(), columns, sums, pairs)


def wide_label(dtype: np.dtype[Any]) -> type[np.generic]:
    """Return the type of 64 bits that holds labels of `dtype`: uint64, or int64 where they have a sign."""
    return np.int64 if dtype.kind == "i" else np.uint64


def _pairs(values: Any, counts: Any) -> ValueCounts:
    """Return the pairs of two list columns."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values, counts = (pa.concat_arrays(column.chunks) for column in (values, counts))
    offsets = values.offsets.to_numpy().astype(np.int64)
    flat = [column.flatten().to_numpy(zero_copy_only=False) for column in (values, counts)]
    return ValueCounts(flat[0], flat[1], offsets - offsets[0])


def combined(parts: Sequence[ObjectRows]) -> ObjectRows:
    """Return one row for each label in `parts` (at least one, all with the same columns), ascending."""
    label = np.concatenate([part.label for part in parts])
    order = np.argsort(label)
    ordered = label[order]
    fresh = np.ones(len(label), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = np.flatnonzero(fresh)
    columns = {
        name: _MERGES[name.partition(".")[0]].reduceat(
            np.concatenate([part.columns[name] for part in parts])[order], starts
        )
        for name in parts[0].columns
    }
    sums = {
        name: _added([(part.sums[name], len(part.label)) for part in parts], order, starts) for name in parts[0].sums
    }
    pairs = None
    if parts[0].pairs is not None:
        rank = np.empty(len(label), np.int64)
        rank[order] = np.cumsum(fresh) - 1
        pairs = _pooled([part.pairs for part in parts if part.pairs is not None], rank, len(starts))
    return ObjectRows(ordered[starts], columns, sums, pairs)


def _added(parts: Sequence[tuple[Limbs, int]], order: Array, starts: Array) -> Limbs:
    """Return the sums of groups of rows: limbs and number of rows of each part, rows in `order`, groups at `starts`."""
    used = sorted({k for limbs, _ in parts for k in limbs})
    total = {}
    for k in used:
        digits = [limbs[k] if k in limbs else np.zeros(count, np.int64) for limbs, count in parts]
        total[k] = np.add.reduceat(np.concatenate(digits)[order], starts)
    return carried(total)


def _pooled(parts: Sequence[ValueCounts], rank: Array, groups: int) -> ValueCounts:
    """Return the pairs of groups of rows; `rank` is the group of each row of all parts in turn."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    values, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "counts"))
    return tally(np.repeat(rank, lengths), values, groups, counts)


def rows_of_block(labels: Array, image: Array | None, box: Box, axes: str, pairs: bool) -> ObjectRows | None:
    """Return the rows of all objects (labels but 0) in `labels`, the voxels of `box`; None where there are none.

    `labels` are bool or integers, `image` any real dtype, of the same shape; axes are C-order and named by `axes`. With
    `pairs` the image's values are kept. Beside contiguous copies of its arguments this needs memory for `SLAB` voxels and
    for the rows.
    """
    flat = np.ascontiguousarray(labels).reshape(-1)
    if flat.dtype.kind == "b":
        flat = flat.view(np.uint8)
    values = None if image is None else np.ascontiguousarray(image).reshape(-1)
    gathered: list[ObjectRows] = []
    size = done = 0
    for begin in range(0, flat.size, SLAB):
        slab = slice(begin, min(begin + SLAB, flat.size))
        rows = _of_slab(flat[slab], None if values is None else values[slab], begin, box, axes, pairs)
        if rows is None:
            continue
        gathered.append(rows)
        size += _weight(rows)
        if size > 2 * done + 4 * SLAB:
            gathered = [combined(gathered)]
            size = done = _weight(gathered[0])
    return combined(gathered) if gathered else None


def _weight(rows: ObjectRows) -> int:
    """Return how many rows and pairs are held."""
    return len(rows.label) + (0 if rows.pairs is None else len(rows.pairs.values))


def _of_slab(labels: Array, image: Array | None, begin: int, box: Box, axes: str, pairs: bool) -> ObjectRows | None:
    """Return the rows of the voxels at `begin` and after it in the C-order of `box`; None where all are background."""
    cut = np.ones(len(labels), bool)
    np.not_equal(labels[1:], labels[:-1], out=cut[1:])
    width = box.shape[-1]
    cut[-begin % width :: width] = True
    starts = np.flatnonzero(cut)
    found = labels[starts]
    kept = np.flatnonzero(found)
    if len(kept) == 0:
        return None
    lengths = np.diff(starts, append=len(labels))
    columns, sums = _places(starts[kept] + begin, lengths[kept], box, axes)
    if image is not None:
        image, finite = _finite(image)
        of_image, moments_of_image = _intensities(image, finite, starts, kept, lengths)
        columns |= of_image
        sums |= moments_of_image
    rows = combined([ObjectRows(found[kept], columns, sums)])
    if image is None or not pairs:
        return rows
    owner = np.full(len(starts), -1, np.int64)
    owner[kept] = np.searchsorted(rows.label, found[kept])
    owners = np.repeat(owner, lengths)
    inside = owners >= 0 if finite is None else (owners >= 0) & finite
    if not inside.all():
        owners, image = owners[inside], image[inside]
    return ObjectRows(rows.label, rows.columns, rows.sums, tally(owners, image, len(rows.label)))


def _places(first: Array, lengths: Array, box: Box, axes: str) -> tuple[dict[str, Array], dict[str, Limbs]]:
    """Return bounds and position sums of runs of `lengths` voxels from the C-order positions `first` in `box` on."""
    columns: dict[str, Array] = {"voxels": lengths}
    sums: dict[str, Limbs] = {}
    rest = first
    for axis in reversed(range(box.ndim)):
        rest, place = np.divmod(rest, box.shape[axis])
        place += box.start[axis]
        last = axis == box.ndim - 1
        columns[f"min.{axes[axis]}"] = place
        columns[f"max.{axes[axis]}"] = place + (lengths if last else 1)
        total = lengths * place
        # Below 2**62 over a slab, because positions are below 2**44.
        sums[axes[axis]] = {0: total + lengths * (lengths - 1) // 2 if last else total}
    return columns, sums


def _finite(image: Array) -> tuple[Array, Array | None]:
    """Return the values as they are measured, and which of them count, None for all.

    Bits that make equal values differ (negative zeros) are removed; half precision and bool are widened.
    """
    if image.dtype.kind == "b":
        return image.view(np.uint8), None
    if image.dtype.kind != "f":
        return image, None
    values = image.astype(np.float32 if image.dtype.itemsize < 4 else image.dtype) + 0.0
    finite = np.isfinite(values)
    return (values, None) if finite.all() else (np.where(finite, values, 0), finite)


def _intensities(
    image: Array, finite: Array | None, starts: Array, kept: Array, lengths: Array
) -> tuple[dict[str, Array], dict[str, Limbs]]:
    """Return columns and sums of the image over the runs `kept` of those that begin at `starts`."""
    low = high = image
    columns: dict[str, Array] = {}
    if image.dtype.kind == "f":
        columns["finite"] = lengths[kept]
        if finite is not None:
            columns["finite"] = np.add.reduceat(finite, starts, dtype=np.int64)[kept]
            low, high = (np.where(finite, image, image.dtype.type(bound)) for bound in (np.inf, -np.inf))
    columns["low"] = np.minimum.reduceat(low, starts)[kept]
    columns["high"] = np.maximum.reduceat(high, starts)[kept]
    total, squares = ({k: digits[kept] for k, digits in limbs.items()} for limbs in moments(image, starts))
    return columns, {"intensity": total, "squares": squares}

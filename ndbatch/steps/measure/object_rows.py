"""What is known of objects from some of their voxels, a row each; rows of the same label can be added up in any order.

The voxels of a block are looked at as *runs*: neighbours along the last axis with one label. There are far fewer of them
than voxels in anything but noise, and every sum over a run is one call of numpy over all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.measure.exact_sums import SLAB, Limbs, carried, moments
from ndbatch.steps.measure.object_shapes import products
from ndbatch.steps.measure.value_counts import ValueCounts, tally

if TYPE_CHECKING:
    import pyarrow as pa

_MERGES: Mapping[str, np.ufunc] = {
    "voxels": np.add,
    "finite": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "low": np.minimum,
    "high": np.maximum,
    "crossings": np.add,
    "faces": np.add,
}


@dataclass(frozen=True)
class ObjectRows:
    """Partial results, a row for each of `label` (integers, ascending and unique after `combined`).

    `columns`: `voxels`; `min.A` and `max.A`, the half-open bounds along axis A in absolute voxels; with an image `finite`
    (voxels that are neither NaN nor infinite), `low` and `high` (over these); `crossings.K` and `faces.A`, where surfaces
    and neighbours are wanted (`object_shapes`). `sums`: those of the voxel positions by axis, of their products `B.A`, and
    `intensity` and `squares`. `lists`: how often each `values` of the image, each of the `neighbours`, each of the `zones`
    occurs, where that is wanted.
    """

    label: Array
    columns: Mapping[str, Array]
    sums: Mapping[str, Limbs]
    lists: Mapping[str, ValueCounts] = field(default_factory=dict)

    def to_batch(self) -> pa.RecordBatch:
        """Return the rows as Arrow: labels of 64 bits, `sum.NAME@K` for limb K of a sum, two lists for each of `lists`."""
        import pyarrow as pa

        made: dict[str, Any] = {"label": self.label.astype(wide_label(self.label.dtype), copy=False), **self.columns}
        made |= {f"sum.{name}@{k}": digits for name, limbs in self.sums.items() for k, digits in limbs.items()}
        for name, pairs in self.lists.items():
            offsets = pairs.offsets.astype(np.int32)
            made[f"list.{name}"] = pa.ListArray.from_arrays(offsets, pairs.values)
            made[f"count.{name}"] = pa.ListArray.from_arrays(offsets, pairs.counts)
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
            elif name != "label" and not name.startswith(("list.", "count.")):
                columns[name] = table[name].to_numpy()
        named = [name[5:] for name in table.column_names if name.startswith("list.")]
        lists = {name: _pairs(table[f"list.{name}"], table[f"count.{name}"]) for name in named}
        return ObjectRows(table["label"].to_numpy(), columns, sums, lists)


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
    rank = np.empty(len(label) if parts[0].lists else 0, np.int64)
    if parts[0].lists:
        rank[order] = np.cumsum(fresh) - 1
    lists = {name: _pooled([part.lists[name] for part in parts], rank, len(starts)) for name in parts[0].lists}
    return ObjectRows(ordered[starts], columns, sums, lists)


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


@dataclass(frozen=True)
class Wanted:
    """What is kept of objects beside size, place and sums of intensities."""

    values: bool = False
    """Every value of the image, for percentiles."""
    products: str = ""
    """Axes whose positions' products are summed, for the shape."""


def rows_of_block(
    labels: Array, image: Array | None, box: Box, axes: str, wanted: Wanted = Wanted(), zones: Array | None = None
) -> ObjectRows | None:
    """Return the rows of all objects (labels but 0) in `labels`, the voxels of `box`; None where there are none.

    `labels` are bool or integers, `image` any real dtype, `zones` integers, of the same shape; axes are C-order and named by
    `axes`. Beside contiguous copies of its arguments this needs memory for `SLAB` voxels and
    for the rows.
    """
    flat = np.ascontiguousarray(labels).reshape(-1)
    if flat.dtype.kind == "b":
        flat = flat.view(np.uint8)
    values = None if image is None else np.ascontiguousarray(image).reshape(-1)
    places = None if zones is None else np.ascontiguousarray(zones).reshape(-1)
    gathered: list[ObjectRows] = []
    size = done = 0
    for begin in range(0, flat.size, SLAB):
        slab = slice(begin, min(begin + SLAB, flat.size))
        of_image = None if values is None else values[slab]
        of_zones = None if places is None else places[slab]
        rows = _of_slab(flat[slab], of_image, of_zones, begin, box, axes, wanted)
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
    return len(rows.label) + sum(len(pairs.values) for pairs in rows.lists.values())


def _of_slab(
    labels: Array, image: Array | None, zones: Array | None, begin: int, box: Box, axes: str, wanted: Wanted
) -> ObjectRows | None:
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
    columns, sums = _places(starts[kept] + begin, lengths[kept], box, axes, wanted.products)
    finite = None
    if image is not None:
        image, finite = _finite(image)
        of_image, moments_of_image = _intensities(image, finite, starts, kept, lengths)
        columns |= of_image
        sums |= moments_of_image
    rows = combined([ObjectRows(found[kept], columns, sums)])
    listed = {"values": (image, finite)} if wanted.values and image is not None else {}
    listed |= {"zones": (zones, None)} if zones is not None else {}
    if not listed:
        return rows
    owner = np.full(len(starts), -1, np.int64)
    owner[kept] = np.searchsorted(rows.label, found[kept])
    owners = np.repeat(owner, lengths)
    lists = {name: _listed(owners, *what, len(rows.label)) for name, what in listed.items()}
    return replace(rows, lists=lists)


def _listed(owners: Array, values: Array, valid: Array | None, groups: int) -> ValueCounts:
    """Return the values of objects; `owners` is the object of each voxel, -1 for none."""
    inside = owners >= 0 if valid is None else (owners >= 0) & valid
    return tally(owners, values, groups) if inside.all() else tally(owners[inside], values[inside], groups)


def _places(
    first: Array, lengths: Array, box: Box, axes: str, squared: str
) -> tuple[dict[str, Array], dict[str, Limbs]]:
    """Return bounds and position sums, and for the axes `squared` sums of products of positions, of runs of `lengths` voxels
    from the C-order positions `first` in `box` on."""
    columns: dict[str, Array] = {"voxels": lengths}
    sums: dict[str, Limbs] = {}
    starts: dict[str, Array] = {}
    rest = first
    for axis in reversed(range(box.ndim)):
        rest, place = np.divmod(rest, box.shape[axis])
        place += box.start[axis]
        starts[axes[axis]] = place
        last = axis == box.ndim - 1
        columns[f"min.{axes[axis]}"] = place
        columns[f"max.{axes[axis]}"] = place + (lengths if last else 1)
        total = lengths * place
        # Below 2**62 over a slab, because positions are below 2**44.
        sums[axes[axis]] = {0: total + lengths * (lengths - 1) // 2 if last else total}
    if squared:
        sums |= products(lengths, {axis: starts[axis] for axis in squared})
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

"""The merged table of objects: partial rows of one label become one row. Names follow scikit-image's where they fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo
from ndbatch.steps.key_ranges import groups_of
from ndbatch.steps.sums import mean_and_deviation

if TYPE_CHECKING:
    import pyarrow as pa


def merged(part: pa.Table, info: ArrayInfo, percentiles: tuple[float, ...]) -> pa.RecordBatch:
    """Return one row for each label of `part`, sorted by label.

    Columns: label, voxels, volume_um3 (with a voxel size), the centroid in absolute voxels under the axes' names and in
    micrometres as `z_um`, the half-open bounding box `bbox_min_z` .. `bbox_max_z`, touches_border (of the volume),
    and with an image intensity_mean, intensity_min, intensity_max, intensity_std (population), intensity_p50 ...
    """
    import pyarrow as pa

    data = {name: part.column(name).combine_chunks() for name in part.column_names}
    keys = data["label"].to_numpy()
    order, starts = groups_of(keys)
    columns: dict[str, Any] = {"label": keys[order][starts]}
    columns |= _shape(data, order, starts, info)
    if "sum" in data:
        columns |= _intensity(data, order, starts, columns["voxels"])
    if percentiles:
        columns |= _percentiles(data, order, starts, percentiles)
    return pa.RecordBatch.from_pydict(columns)


def _shape(data: dict[str, Any], order: Array, starts: Array, info: ArrayInfo) -> dict[str, Array]:
    def reduced(name: str, how: np.ufunc) -> Array:
        result: Array = how.reduceat(data[name].to_numpy()[order], starts)
        return result

    voxels = reduced("voxels", np.add)
    columns: dict[str, Array] = {"voxels": voxels}
    size = info.voxel_size
    if size is not None:
        columns["volume_um3" if info.ndim == 3 else "area_um2"] = voxels * math.prod(size)
    centres = [reduced(f"sum{i}", np.add) / voxels for i in range(info.ndim)]
    columns |= dict(zip(info.axes, centres, strict=True))
    if size is not None:
        columns |= {f"{axis}_um": c * s for axis, c, s in zip(info.axes, centres, size, strict=True)}
    border = np.zeros(len(starts), bool)
    for place, axis in enumerate(info.axes):
        low, high = reduced(f"min{place}", np.minimum), reduced(f"max{place}", np.maximum)
        columns |= {f"bbox_min_{axis}": low, f"bbox_max_{axis}": high}
        border |= (low == info.domain.start[place]) | (high == info.domain.stop[place])
    columns["touches_border"] = border
    return columns


def _intensity(data: dict[str, Any], order: Array, starts: Array, voxels: Array) -> dict[str, Array]:
    sums, squares = _joined(data["sum"], order, starts), _joined(data["squares"], order, starts)
    both = [mean_and_deviation(n, s, q) for n, s, q in zip(voxels.tolist(), sums, squares, strict=True)]
    return {
        "intensity_mean": np.array([mean for mean, _ in both], np.float64),
        "intensity_min": np.minimum.reduceat(data["low"].to_numpy()[order], starts),
        "intensity_max": np.maximum.reduceat(data["high"].to_numpy()[order], starts),
        "intensity_std": np.array([deviation for _, deviation in both], np.float64),
    }


def _joined(column: Any, order: Array, starts: Array) -> list[list[float]]:
    """Return the lists of `column`, those of one label joined."""
    import pyarrow as pa

    taken = column.take(pa.array(order))
    offsets = taken.offsets.to_numpy()
    flat = taken.values.to_numpy(zero_copy_only=False)
    ends = np.r_[starts[1:], len(order)]
    return [flat[offsets[a] : offsets[b]].tolist() for a, b in zip(starts, ends, strict=True)]


def _percentiles(data: dict[str, Any], order: Array, starts: Array, wanted: tuple[float, ...]) -> dict[str, Array]:
    import pyarrow as pa

    values, counts = (data[name].take(pa.array(order)) for name in ("values", "counts"))
    offsets = values.offsets.to_numpy()
    all_values, all_counts = values.values.to_numpy(zero_copy_only=False), counts.values.to_numpy(zero_copy_only=False)
    ends = np.r_[starts[1:], len(order)]
    found = np.empty((len(wanted), len(starts)))
    for row, (a, b) in enumerate(zip(starts, ends, strict=True)):
        span = slice(offsets[a], offsets[b])
        found[:, row] = weighted_percentiles(all_values[span], all_counts[span], wanted)
    return {f"intensity_p{p:g}": found[place] for place, p in enumerate(wanted)}


def weighted_percentiles(values: Array, counts: Array, wanted: tuple[float, ...]) -> Array:
    """Return percentiles of `values`, each of which stands for `counts` equal ones: numpy's `linear` definition."""
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)
    upto = np.cumsum(counts[order])
    places = np.asarray(wanted, np.float64) / 100 * (upto[-1] - 1)
    below = np.floor(places)
    low = ordered[np.searchsorted(upto, below, side="right")]
    high = ordered[np.searchsorted(upto, np.minimum(below + 1, upto[-1] - 1), side="right")]
    result: Array = low + (high - low) * (places - below)
    return result

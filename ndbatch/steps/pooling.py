"""Pooling: windows of voxels to one voxel each, the arithmetic of pyramids and projections; by tensorstore.

Windows are counted from absolute 0: voxel j of the result is made of the voxels from j * factor up to (j + 1) * factor that
there are. Those at the ends of an array may be cut off; what is missing does not count. Every window is computed by
itself, so that no result depends on how the array is cut into boxes.

Means of integers and bool are exact, halves rounded to the even number (a half of bool is False); floating point is summed
in float64. The median of an even number of values is the lower one of the two in the middle, so that it is a value that
occurs. The mode is the value that occurs most often; of several the smallest, but 0, the background, only where nothing
else occurs as often: thin objects stay connected longer. stride takes the first voxel there is of a window.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.pairwise import mean_of_pairs, mode_of_pairs, pools

Pooling = Literal["mean", "mode", "median", "min", "max", "stride"]
"""How a window becomes one voxel."""

SLAB = 1 << 20
"""Bytes pooled at a time."""


def pool(patch: Patch, box: Box, factors: Shape, method: Pooling) -> Array:
    """Return the voxels of `box` (coarse, absolute): each is made of the `factors` voxels of `patch` below it.

    `patch` holds all voxels there are of the windows. The result is C-order and has the dtype of `patch`.
    """
    result = np.empty(box.shape, patch.data.dtype)
    ends = zip(box.start, box.stop, factors, patch.box.start, patch.box.stop, strict=True)
    for runs in itertools.product(*(_runs(*axis) for axis in ends)):
        out = tuple(slice(c.start - a, c.stop - a) for (_, c, _), a in zip(runs, box.start, strict=True))
        source = tuple(slice(f.start - a, f.stop - a) for (f, _, _), a in zip(runs, patch.box.start, strict=True))
        _fill(result[out], patch.data[source], tuple(width for _, _, width in runs), method)
    return result


def _fill(result: Array, data: Array, widths: Shape, method: Pooling) -> None:
    """Pool `data` into `result`, as much at a time as stays in the processor's cache, cut along the first axes."""
    axis = next((i for i, n in enumerate(result.shape[:-1]) if n > 1), None)
    if data.nbytes <= SLAB or axis is None:
        _whole_windows(data, widths, method, result)
        return
    size, width = result.shape[axis], widths[axis]
    depth, before = max(1, SLAB * size // data.nbytes), (slice(None),) * axis
    for first in range(0, size, depth):
        part = data[*before, first * width : (first + depth) * width]
        _fill(result[*before, first : first + depth], part, widths, method)


def _runs(start: int, stop: int, factor: int, first: int, end: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield runs of windows of one width along an axis: the fine voxels, the coarse voxels, and the width.

    Only the first and the last window of an array (`first` up to `end`) can be narrower than `factor`.
    """
    cuts = sorted({start, stop, *(j for j in (-(-first // factor), end // factor) if start < j < stop)})
    for a, b in itertools.pairwise(cuts):
        low, high = max(a * factor, first), min(b * factor, end)
        yield slice(low, high), slice(a, b), (high - low) // (b - a)


def _whole_windows(data: Array, widths: Shape, method: Pooling, out: Array) -> None:
    """Write one voxel for each `widths` voxels of `data`, whose shape is a whole number of them, to `out`."""
    if pools(data.dtype, widths, method) and data.strides[-1] == data.itemsize:
        (mode_of_pairs if method == "mode" else mean_of_pairs)(data, widths, out)
    elif method == "mode" and data.dtype.kind == "u":
        # One less than 0 is the largest number, which loses every tie.
        one = data.dtype.type(1)
        np.add(_downsampled(np.subtract(data, one), widths, method), one, out=out)
    elif method == "mean" and data.dtype.kind == "f":
        out[...] = _downsampled(data.astype(np.float64), widths, method)
    else:
        out[...] = _downsampled(data, widths, method)


def _downsampled(data: Array, widths: Shape, method: Pooling) -> Array:
    import tensorstore as ts

    # Only whole windows: tensorstore 0.1.86 gets a window wrong that is cut off at both ends.
    source = ts.array(np.ascontiguousarray(data))
    return np.asarray(ts.downsample(source, list(widths), method).read(order="C").result())

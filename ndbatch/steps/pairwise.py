"""Pooling of pairs: windows of one or two voxels along each axis, in numpy, several times faster than in general.

Most pyramids halve their axes. The mean of such a window is a few sums of whole rows, and its mode needs no counting where
all its voxels are equal, which in labels is nearly everywhere. The arithmetic is that of `ndbatch.steps.pooling`; measured
on 2 x 2 x 2 windows in one thread, in ns a voxel: the mean of uint8 .24 (tensorstore 1.3), the mode of uint64 .9 where
windows are of one label, 2.5 where a tenth of the voxels is noise, 8 to 14 in noise alone (tensorstore 7 to 13 in all).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndbatch.geometry import Shape
from ndbatch.remotes.base import Array

_SUMS: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.uint8): np.dtype(np.uint16),
    np.dtype(np.uint16): np.dtype(np.uint32),
}
"""dtypes whose means are made here, and one twice as wide, which holds two voxels, or a sum."""


def pools(dtype: np.dtype[Any], widths: Shape, method: str) -> bool:
    """Return whether windows of `widths` voxels of `dtype` (native byte order) can be pooled here by `method`."""
    if not set(widths) <= {1, 2} or 2 not in widths:
        return False
    if method == "mode":
        return dtype.kind == "u"
    # A sum of more than 256 voxels would not fit.
    return method == "mean" and dtype in _SUMS and sum(w == 2 for w in widths) <= 8


def mean_of_pairs(data: Array, widths: Shape, out: Array) -> None:
    """Write the means of windows of `widths` voxels of `data` to `out`, halves rounded to the even number.

    `data` is uint8 or uint16 with a contiguous last axis, a whole number of windows along each axis; `out` has one voxel
    for each window, and the same dtype.
    """
    total = _sum_of_last(data, widths[-1])
    for axis, width in enumerate(widths[:-1]):
        if width == 2:
            first, second = _halves(total, axis)
            total = np.add(first, second)
    bits = sum(w == 2 for w in widths)
    odd = total >> bits
    odd &= 1
    # Half the window less one, and one more where the quotient is odd: halves go up to the even number, or stay.
    odd += (1 << bits - 1) - 1
    total += odd
    total >>= bits
    np.copyto(out, total, casting="unsafe")


def mode_of_pairs(data: Array, widths: Shape, out: Array) -> None:
    """Write the value that is most frequent in each window of `widths` voxels of `data` (of several the smallest, 0 last).

    `data` is of unsigned integers, a whole number of windows along each axis; `out` has one voxel for each window, and the
    same dtype.
    """
    corner, same = data, None
    for axis, width in enumerate(widths):
        if width == 2:
            first, second = _halves(corner, axis)
            equal = first == second
            if same is not None:
                equal &= _both(same, axis)
            corner, same = first, equal
    np.copyto(out, corner)
    if same is None or same.all():
        return
    mixed = np.nonzero(~same)
    starts = [index if width == 1 else index * 2 for index, width in zip(mixed, widths, strict=True)]
    corners = np.ndindex(*widths)
    values = np.stack([data[tuple(s + c for s, c in zip(starts, at, strict=True))] for at in corners])
    out[mixed] = _mode(values)


def _mode(values: Array) -> Array:
    """Return the most frequent value of each column of `values` (unsigned; windows x voxels)."""
    one = values.dtype.type(1)
    values = np.subtract(values, one)  # 0 becomes the largest number, which loses every tie
    counts = np.zeros(values.shape, np.uint8)
    equal = np.empty(values.shape[1:], bool)
    for i in range(len(values)):
        for j in range(i):
            np.equal(values[i], values[j], out=equal)
            counts[i] += equal
            counts[j] += equal
    best: Array = values[0].copy()
    most = counts[0]
    for value, count in zip(values[1:], counts[1:], strict=True):
        better = count == most
        better &= value < best
        better |= count > most
        np.copyto(best, value, where=better)
        np.copyto(most, count, where=better)
    best += one
    return best


def _sum_of_last(data: Array, width: int) -> Array:
    """Return sums of `width` voxels along the last axis, in numbers twice as wide.

    Two neighbours are one number of that width, its lower and its upper half; which is which does not matter to a sum.
    """
    wide, bits = _SUMS[data.dtype], 8 * data.itemsize
    if width == 1:
        return data.astype(wide)
    pairs: Array = data.view(wide)
    total: Array = pairs & wide.type((1 << bits) - 1)
    total += pairs >> bits
    return total


def _both(same: Array, axis: int) -> Array:
    """Return whether both of each pair along `axis` are true."""
    if axis == same.ndim - 1:
        return np.asarray(same.view(np.uint16) == 0x0101)  # a fifth of the time that every other byte takes
    first, second = _halves(same, axis)
    return np.logical_and(first, second)


def _halves(data: Array, axis: int) -> tuple[Array, Array]:
    """Return the first and the second voxel of each pair along `axis`, as views."""
    before = (slice(None),) * axis
    return data[*before, 0::2], data[*before, 1::2]

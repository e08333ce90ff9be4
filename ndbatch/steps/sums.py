"""Exact sums by label, as short lists of floats that add up exactly, in any order and any grouping.

A float64 is an integer mantissa times a power of two. Voxels are grouped by label and exponent, their mantissas cut into
limbs so small that float64 counts them without rounding, and each group's sum is one float: exact. The lists of two
blocks are simply joined; `math.fsum` (Shewchuk 1997, correctly rounded) adds the joined list up. So a sum is the same to
the last bit for every way of cutting the volume into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ndbatch.remotes.base import Array

Pieces = list[list[float]]
"""For each label, floats whose exact sum is the label's sum."""

EXACT_BITS = 53
"""Integers up to 2**53 are exact in float64."""


def exact_sums(index: Array, values: Array, count: int) -> Pieces:
    """Return the sums of `values` (n numbers, finite) for each of `count` labels; `index` (n integers) tells the label.

    Integers above 2**53 are rounded to float64 one by one before they are added.
    """
    if values.dtype.kind in "bui" and values.dtype.itemsize <= 4:
        return _of_integers(index, values.astype(np.int64), count)
    return _of_floats(index, values.astype(np.float64), count)


def exact_square_sums(index: Array, values: Array, count: int) -> Pieces:
    """Return the sums of the squares of `values`; squares are float64 one by one, exact for 8, 16 and 32 bit types."""
    if values.dtype.kind in "bui" and values.dtype.itemsize <= 4:
        wide = values.astype(np.int64)
        return _of_integers(index, (wide * wide).astype(np.uint64), count)
    wide_float = values.astype(np.float64)
    return _of_floats(index, wide_float * wide_float, count)


def _limb_bits(n: int) -> int:
    """Return how many bits a limb may have so that n of them add up below 2**53."""
    return EXACT_BITS - max(1, int(n).bit_length())


def _of_integers(index: Array, values: Array, count: int) -> Pieces:
    sign = values < 0 if values.dtype.kind == "i" else None
    magnitude = np.abs(values).astype(np.uint64) if sign is not None else values
    bits = _limb_bits(len(values))
    largest = int(magnitude.max()).bit_length() if len(magnitude) else 0
    pieces: Pieces = [[] for _ in range(count)]
    for shift in range(0, max(1, largest), bits):
        limb = ((magnitude >> np.uint64(shift)) & np.uint64((1 << bits) - 1)).astype(np.float64)
        if sign is not None and sign.any():
            limb[sign] *= -1
        sums = np.bincount(index, limb, count)
        for label in np.flatnonzero(sums).tolist():
            pieces[label].append(math.ldexp(float(sums[label]), shift))
    return pieces


def _of_floats(index: Array, values: Array, count: int) -> Pieces:
    pieces: Pieces = [[] for _ in range(count)]
    if not len(values):
        return pieces
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(mantissa, EXACT_BITS).astype(np.int64)
    low = int(exponent.min())
    span = int(exponent.max()) - low + 1
    keys = index.astype(np.int64) * span + (exponent - low)
    places, group = np.unique(keys, return_inverse=True)
    bits = _limb_bits(len(values))
    magnitude, sign = np.abs(whole), np.where(whole < 0, -1.0, 1.0)
    for shift in range(0, EXACT_BITS, bits):
        limb = ((magnitude >> shift) & ((1 << bits) - 1)) * sign
        sums = np.bincount(group, limb, len(places))
        for place in np.flatnonzero(sums).tolist():
            label, power = divmod(int(places[place]), span)
            pieces[label].append(math.ldexp(float(sums[place]), shift + power + low - EXACT_BITS))
    return pieces


def mean_and_deviation(count: int, sums: Sequence[float], squares: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the population standard deviation of `count` values, each rounded once where they are integers.

    `sums` and `squares` are joined pieces. Where all are whole numbers the variance is taken in exact integers.
    """
    total = math.fsum(sums)
    if all(s.is_integer() for s in sums) and all(s.is_integer() for s in squares):
        first, second = sum(int(s) for s in sums), sum(int(s) for s in squares)
        return first / count, math.sqrt((second * count - first * first) / (count * count))
    mean = total / count
    variance = math.fsum([math.fsum(squares) / count, -mean * mean])
    return mean, math.sqrt(max(0.0, variance))

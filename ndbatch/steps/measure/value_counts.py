"""How often each value occurs in each group: a compact form of all values of an object, from which any percentile follows.

Groups are numbered from 0. The pairs of one group stand together, values ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndbatch.remotes.base import Array


@dataclass(frozen=True)
class ValueCounts:
    """Pairs of `values` (any real dtype, finite, no negative zero) and `counts` (int64); those of group g are
    `offsets[g]` to `offsets[g + 1]` (int64, one more than groups)."""

    values: Array
    counts: Array
    offsets: Array

    def owners(self) -> Array:
        """Return the group of every pair; int64."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def percentiles(self, percents: Sequence[float]) -> list[Array]:
        """Return, for each of `percents`, the percentile of every group, float64; NaN where a group is empty.

        As numpy.percentile's default, linear: at (n - 1) * percent / 100 among the sorted values, in between by linear
        interpolation. The values themselves are exact up to the 53 bits of float64.
        """
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        before = ends[self.offsets[:-1]]
        number = ends[self.offsets[1:]] - before
        full = number > 0
        result = []
        for percent in percents:
            place = (number[full] - 1) * (percent / 100)
            low = np.floor(place).astype(np.int64)
            high = np.minimum(low + 1, number[full] - 1)
            a, b = (
                self.values[np.searchsorted(ends[1:], before[full] + rank, side="right")].astype(np.float64)
                for rank in (low, high)
            )
            share = place - low
            # numpy counts from the nearer of the two, which keeps equal values equal.
            with np.errstate(over="ignore", invalid="ignore"):
                step = b - a
                between = np.where(share < 0.5, a + step * share, b - step * (1 - share))
                wide = ~np.isfinite(step)
                between[wide] = a[wide] * (1 - share[wide]) + b[wide] * share[wide]
            found = np.full(len(number), np.nan)
            found[full] = between
            result.append(found)
        return result


def tally(owners: Array, values: Array, groups: int, counts: Array | None = None) -> ValueCounts:
    """Return the pairs of `groups` groups, from `values` and their groups (`owners`, integers), in any order.

    `counts` (int64) says how often each value counts; once each if not given.
    """
    if len(values) == 0:
        return ValueCounts(values, np.empty(0, np.int64), np.zeros(groups + 1, np.int64))
    if counts is None and values.dtype.kind in "ui":
        low = int(values.min())
        span = int(values.max()) - low + 1
        if groups * span <= 4 * len(values) + 65536:
            return _in_bins(owners, values, groups, low, span)
    narrow = values.dtype.itemsize <= 4
    if narrow and counts is None:
        keys = np.sort(_keys(owners, values))
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        owners, values = _of_keys(keys[starts], values.dtype)
        return ValueCounts(values, np.diff(starts, append=len(keys)), _offsets(owners, groups))
    # What is merged is sorted in long stretches already, which a stable sort makes use of.
    order = np.argsort(_keys(owners, values), kind="stable") if narrow else np.lexsort((values, owners))
    owners, values = owners[order], values[order]
    starts = np.flatnonzero(np.r_[True, (owners[1:] != owners[:-1]) | (values[1:] != values[:-1])])
    total = np.diff(starts, append=len(values)) if counts is None else np.add.reduceat(counts[order], starts)
    return ValueCounts(values[starts], total, _offsets(owners[starts], groups))


def _in_bins(owners: Array, values: Array, groups: int, low: int, span: int) -> ValueCounts:
    """Count in one bin for each group and value: quicker than sorting where few bins are empty."""
    keys = owners.astype(np.int64) * span
    keys += values.astype(np.int64) - low if values.dtype != np.uint64 else (values - values.dtype.type(low)).view("i8")
    bins = np.bincount(keys, minlength=groups * span)
    used = np.flatnonzero(bins)
    found = (used % span).astype(values.dtype) + values.dtype.type(low)
    return ValueCounts(found.astype(values.dtype, copy=False), bins[used], _offsets(used // span, groups))


def _keys(owners: Array, values: Array) -> Array:
    """Return int64 that sort by group, then value; values have at most 32 bits, groups are below 2**31."""
    bits = 8 * values.dtype.itemsize
    keys: Array = values.view(f"u{values.dtype.itemsize}").astype(np.int64)
    sign = 1 << (bits - 1)
    if values.dtype.kind == "i":
        keys ^= sign
    elif values.dtype.kind == "f":
        # Bits of floating point numbers sort as integers once those of negative ones are turned over.
        keys ^= np.where(keys & sign, (1 << bits) - 1, sign)
    keys |= owners.astype(np.int64, copy=False) << bits
    return keys


def _of_keys(keys: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return groups and values of `_keys`."""
    bits = 8 * dtype.itemsize
    sign = 1 << (bits - 1)
    raw = keys & ((1 << bits) - 1)
    if dtype.kind == "i":
        raw ^= sign
    elif dtype.kind == "f":
        raw ^= np.where(raw & sign, sign, (1 << bits) - 1)
    return keys >> bits, raw.astype(f"u{dtype.itemsize}").view(dtype)


def _offsets(owners: Array, groups: int) -> Array:
    return np.searchsorted(owners, np.arange(groups + 1)).astype(np.int64)

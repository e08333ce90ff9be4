"""Arrays in memory whose lines along the outer axes do not meet in the processor's cache.

Voxels of such a line lie a row or a plane apart. Where that is a multiple of 4096 bytes, as with rows of 512 voxels, they all
fall into the same few sets of the cache and push each other out: scipy's filters along z and y then take 1.5 times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ndbatch.remotes.base import Array

PAGE = 4096
"""Bytes after which addresses fall into the same sets of a first-level cache."""
GAP = 64
"""Bytes between two rows: a line of the cache."""


def spread(shape: Sequence[int], dtype: np.dtype[Any] | type) -> Array:
    """Return an array, not initialised, of any number of axes whose rows (along the last) have a gap of `GAP` bytes between."""
    *outer, row = shape
    gap = GAP // np.dtype(dtype).itemsize
    return np.empty((*outer, row + gap), dtype)[..., :row]


def spread_out(data: Array) -> Array:
    """Return `data` itself, or a copy with gaps where a step along an outer axis is a multiple of `PAGE` bytes."""
    if not any(stride % PAGE == 0 for stride in data.strides[:-1]):
        return data
    copy = spread(data.shape, data.dtype)
    copy[...] = data
    return copy

"""The chunk a new array gets where nobody names one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ndbatch.geometry import Shape

EDGE = 64
"""Extent that a chunk starts from along each of z, y and x."""
MINIMUM_BYTES = 512 * 1024
"""A chunk is made larger while it holds less than this, not compressed; so it ends between 0.5 and 2 MiB."""


def default_chunks(shape: Sequence[int], dtype: Any, axes: str) -> Shape:
    """Return a chunk for an array of `shape` (C-order, `axes`): 64 voxels an axis of z, y, x, and 1 along t and c.

    While it holds less than 0.5 MiB its shortest extent is doubled, x first, where the array is longer than that: so
    8-bit volumes get (64, 128, 128), thin and two-dimensional ones wide chunks. An extent is a power of two or the
    whole axis, so that the chunks of volumes of several dtypes line up.
    """
    chunk = [1 if axis in "tc" else max(1, min(EDGE, n)) for axis, n in zip(axes, shape, strict=True)]
    itemsize = np.dtype(dtype).itemsize
    while math.prod(chunk) * itemsize < MINIMUM_BYTES:
        growing = [i for i, axis in enumerate(axes) if axis not in "tc" and chunk[i] < shape[i]]
        if not growing:
            break
        shortest = min(reversed(growing), key=lambda i: chunk[i])
        chunk[shortest] = min(2 * chunk[shortest], shape[shortest])
    return tuple(chunk)

"""Functions of one voxel's value, done quickly: by a table where there are few values, else some voxels at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ndbatch.casting import cast
from ndbatch.errors import StepError
from ndbatch.remotes.base import Array

SLAB = 1 << 16
"""Voxels that are computed together: what is in between, in float64, stays in the cache."""

Function = Callable[[Array], Array]
"""From float64 values to float64 values, elementwise; what it is given may be overwritten."""


def pointwise(values: Array, function: Function, out: Array, where: str) -> None:
    """Put `function` of `values` (any shape, bool, integers or floating point) into `out` (the same shape, C-order).

    What does not fit the dtype of `out` raises StepError, as `cast` tells it; `where` names the array. A table of all
    values of 8 or 16 bits is used where there are more voxels than values: the bits are the same either way.
    """
    if values.dtype.kind in "bui" and values.dtype.itemsize <= 2 and values.size > 1 << (8 * values.dtype.itemsize):
        table = _table(values.dtype, function, out.dtype, where)
        if table is not None:
            keys = values.view(f"u{values.dtype.itemsize}")
            for source, target in zip(keys, out, strict=True) if values.ndim > 1 else ((keys, out),):
                # The mode spares a buffer; keys are never out of range.
                np.take(table, source, out=target, mode="clip")
            return
    flat, made = np.ascontiguousarray(values).reshape(-1), out.reshape(-1)
    for begin in range(0, flat.size, SLAB):
        part = function(flat[begin : begin + SLAB].astype(np.float64))
        made[begin : begin + SLAB] = cast(part, out.dtype, where)


def _table(dtype: np.dtype[Any], function: Function, made: np.dtype[Any], where: str) -> Array | None:
    """Return the results for every value of `dtype`, by its bits; None where one does not fit, which need not occur."""
    every: Array = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(
        np.uint8 if dtype.kind == "b" else dtype
    )
    try:
        return cast(function(every.astype(np.float64)), made, where)
    except StepError:
        return None

"""Ids of labels: which there are, and other ones in their place; any integers, 64-bit ones exactly."""

from __future__ import annotations

import numpy as np

from ndbatch.remotes.base import Array

SLAB = 1 << 20
"""Voxels looked at together."""


def distinct(labels: Array) -> Array:
    """Return the values in `labels` (any shape), each once, ascending, of its dtype; 0 too where it is there.

    Works on runs of equal labels, of which there are far fewer than voxels in anything but noise.
    """
    flat = labels.reshape(-1)
    found = np.empty(0, labels.dtype)
    for begin in range(0, flat.size, SLAB):
        slab = flat[begin : begin + SLAB]
        runs = slab[1:][slab[1:] != slab[:-1]]
        found = np.unique(np.concatenate([found, slab[:1], runs]))
    return found


def replaced(labels: Array, ids: Array, values: Array) -> Array:
    """Return `values[i]` wherever `labels` is `ids[i]`: the shape of `labels`, the dtype of `values`, C-order, owned.

    `ids` are `distinct(labels)`, or more; ascending, of the dtype of `labels`.
    """
    if labels.dtype.kind == "b":
        labels, ids = labels.view(np.uint8), ids.view(np.uint8)
    largest, smallest = (int(ids[-1]), int(ids[0])) if len(ids) else (0, 0)
    if smallest >= 0 and largest <= max(65535, labels.size // 8):
        table = np.zeros(largest + 1, values.dtype)
        table[ids] = values
        result = np.empty(labels.shape, values.dtype)
        # The mode spares a buffer; labels are never out of range.
        np.take(table, labels, out=result, mode="clip")
        return result
    import fastremap

    wide = np.result_type(labels.dtype, values.dtype)
    if wide.kind not in "ui":
        # Signed and unsigned of 64 bits: numbers are replaced by their places, which both hold.
        places = np.arange(len(ids)).astype(labels.dtype)
        found: Array = values[replaced(labels, ids, places)]
        return found
    flat = np.array(labels, wide, order="C").reshape(-1)
    fastremap.remap_from_array_kv(flat, ids.astype(wide), values.astype(wide), in_place=True)
    return flat.reshape(labels.shape).astype(values.dtype, copy=False)

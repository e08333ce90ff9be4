"""DVID's compressed label block: one block of uint64 labels as a table of labels and indices for each sub-block of 8 voxels.

The layout (little-endian; DVID source, `datatype/common/labels/compressed.go`): the grid of sub-blocks as three uint32 gx, gy,
gz; N, the number of labels, uint32; N labels, uint64; and there it ends if N is 1. Then for each sub-block, x fastest, the
number of labels in it, uint16; the indices of all sub-blocks into the table, uint32; and the voxels of all sub-blocks as
indices into those of their sub-block, packed in as few bits as hold them, the most significant first.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import Corrupt
from ndbatch.geometry import Shape

EDGE = 8
"""Voxels along each axis of a sub-block."""
VOXELS = EDGE**3
SMALLEST, LARGEST = 2, 128
"""Sub-blocks along an axis that the format allows."""
BITS = np.array([0, 0, *(int(n - 1).bit_length() for n in range(2, VOXELS + 1))], np.int64)
"""Bits of a voxel in a sub-block of so many labels."""
GZIP_LEVEL = 1
"""Packed blocks hardly get smaller with more effort, and it is spent on every block that is written."""

Labels = NDArray[np.uint64]


def encode(block: Labels) -> bytes:
    """Return one block (z, y, x), uint64, extents multiples of 8 from 16 to 1024, as a label block, not compressed further.

    Tables are in ascending order. Raises Corrupt for extents that the format does not have.
    """
    if any(n % EDGE or not SMALLEST <= n // EDGE <= LARGEST for n in block.shape):
        raise Corrupt(f"a label block of {block.shape} voxels: its extents must be multiples of 8 from 16 to 1024")
    gz, gy, gx = (n // EDGE for n in block.shape)
    labels, codes = np.unique(block, return_inverse=True)
    head = np.array([gx, gy, gz, len(labels)], "<u4").tobytes() + labels.astype("<u8").tobytes()
    if len(labels) == 1:
        return head
    rows = codes.reshape(gz, EDGE, gy, EDGE, gx, EDGE).transpose(0, 2, 4, 1, 3, 5).reshape(-1, VOXELS)
    rows = rows.astype(np.uint16 if len(labels) < 2**16 else np.uint32)  # short keys are sorted by radix
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    first = np.ones(rows.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    values = np.empty(rows.shape, np.uint16)
    np.put_along_axis(values, order, (np.cumsum(first, axis=1, dtype=np.uint16) - 1).astype(np.uint16), axis=1)
    counts = first.sum(axis=1)
    return b"".join(
        (head, counts.astype("<u2").tobytes(), ordered[first].astype("<u4").tobytes(), _packed(values, BITS[counts]))
    )


def decode(payload: bytes) -> Labels:
    """Return the voxels (z, y, x), uint64, of a label block. Raises Corrupt for bytes that are none, to the last one."""
    if len(payload) < 24:
        raise Corrupt(f"a label block of {len(payload)} bytes is cut short")
    gx, gy, gz, known = (int(n) for n in np.frombuffer(payload, "<u4", 4))
    if not all(SMALLEST <= n <= LARGEST for n in (gx, gy, gz)) or known < 1:
        raise Corrupt(f"a label block with a grid of {gx} x {gy} x {gz} sub-blocks and {known} labels")
    shape = (gz * EDGE, gy * EDGE, gx * EDGE)
    labels = _part(payload, 16, "<u8", known)
    position = 16 + 8 * known
    if known == 1:
        _require_end(payload, position)
        return np.full(shape, labels[0], np.uint64)
    counts = _part(payload, position, "<u2", gx * gy * gz).astype(np.int64)
    position += 2 * len(counts)
    if counts.max() > VOXELS:
        raise Corrupt(f"a label block with {counts.max()} labels in a sub-block of {VOXELS} voxels")
    indices = _part(payload, position, "<u4", int(counts.sum()))
    position += 4 * len(indices)
    if len(indices) and indices.max() >= known:
        raise Corrupt(f"a label block that names label {indices.max()} of {known}")
    bits = BITS[counts]
    packed = _part(payload, position, "u1", int(bits.sum()) * VOXELS // 8)
    _require_end(payload, position + len(packed))
    rows = _unpacked(labels[indices].astype(np.uint64), counts, bits, packed)
    return rows.reshape(gz, gy, gx, EDGE, EDGE, EDGE).transpose(0, 3, 1, 4, 2, 5).reshape(shape)


def compress(block: Labels) -> bytes:
    """Return one block (z, y, x), uint64, as it travels: a label block in gzip."""
    return gzip.compress(encode(block), GZIP_LEVEL, mtime=0)


def decompress(payload: bytes, shape: Shape) -> Labels:
    """Return the voxels of a gzipped label block, which must have `shape` (z, y, x). Raises Corrupt."""
    most = 24 + 8 * int(np.prod(shape)) * 2 + 65536  # the largest block there can be of so many voxels
    opener = zlib.decompressobj(wbits=31)
    try:
        plain = opener.decompress(payload, most)
    except zlib.error as error:
        raise Corrupt(f"a label block is not gzip ({error})") from None
    if not opener.eof or opener.unused_data:
        raise Corrupt("a label block in gzip is cut short, or longer than a block can be")
    block = decode(plain)
    if block.shape != tuple(shape):
        raise Corrupt(f"a label block of {block.shape} voxels where blocks have {tuple(shape)}")
    return block


def _packed(values: NDArray[np.uint16], bits: NDArray[np.int64]) -> bytes:
    """Return rows of 512 values, each in the bits of its row."""
    sizes = bits * VOXELS // 8
    starts = np.cumsum(sizes) - sizes
    result = np.empty(int(sizes.sum()), np.uint8)
    for width in np.unique(bits[bits > 0]):
        chosen = np.flatnonzero(bits == width)
        shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
        single = ((values[chosen][:, :, None] >> shifts) & 1).astype(np.uint8)
        places = starts[chosen][:, None] + np.arange(VOXELS // 8 * width)
        result[places] = np.packbits(single.reshape(len(chosen), -1), axis=1)
    return result.tobytes()


def _unpacked(entries: Labels, counts: NDArray[np.int64], bits: NDArray[np.int64], packed: NDArray[np.uint8]) -> Labels:
    """Return rows of 512 labels; `entries` are the labels of all sub-blocks, one table after the other."""
    tables = np.cumsum(counts) - counts
    starts = np.cumsum(bits * (VOXELS // 8)) - bits * (VOXELS // 8)
    rows = np.zeros((len(counts), VOXELS), np.uint64)
    single = counts == 1
    rows[single] = entries[tables[single]][:, None]
    for width in np.unique(bits[bits > 0]):
        chosen = np.flatnonzero(bits == width)
        bytes_of = packed[starts[chosen][:, None] + np.arange(VOXELS // 8 * width)]
        flags = np.unpackbits(bytes_of, axis=1).reshape(len(chosen), VOXELS, width)
        values = np.zeros((len(chosen), VOXELS), np.int64)
        for place in range(width):
            values = (values << 1) | flags[:, :, place]
        if (values.max(axis=1) >= counts[chosen]).any():
            raise Corrupt("a label block with a voxel beyond the labels of its sub-block")
        rows[chosen] = entries[tables[chosen][:, None] + values]
    return rows


def _part(payload: bytes, position: int, dtype: str, count: int) -> NDArray[Any]:
    """Return `count` numbers from `position`, wherever they lie. Corrupt where the bytes end before."""
    if position + count * np.dtype(dtype).itemsize > len(payload):
        raise Corrupt(f"a label block of {len(payload)} bytes is cut short")
    return np.frombuffer(payload, dtype, count, position)


def _require_end(payload: bytes, position: int) -> None:
    if position != len(payload):
        raise Corrupt(f"a label block with {len(payload) - position} bytes after its end")

"""Voxels on the wire of BOSS: one Blosc frame of the raw bytes, C-order, little-endian; neither shape nor dtype is inside.

The frame begins with 16 bytes (Blosc 1 chunk format): version, codec version, flags and typesize, one byte each, then the
bytes unpacked, of a block, and of the whole frame, uint32 little-endian each. Any codec, shuffle and typesize may be met.
Pickled frames (`application/blosc-python`) are neither sent nor taken.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, missing_extra
from ndbatch.geometry import Shape
from ndbatch.remotes.base import Array

BLOSC = "application/blosc"
HEADER = struct.Struct("<BBBBIII")
LARGEST = 2**31 - 17
"""Most bytes that one frame holds."""


def encode(data: Array, codec: bytes = b"zstd") -> bytes:
    """Return `data` (C-order, any unsigned type) as one frame, a byte shuffle before the codec (zstd, lz4).

    Of a micrograph zstd leaves three quarters, for seven times the time that lz4 takes at either end to leave it as it is; of
    labels 1/200 for three times the time. So lz4 is for services of the same machine.

    The typesize is that of a voxel in bytes: with its width in bits, as other clients send it, the shuffle finds nothing in
    ids of 64 bits, and a sparse block of labels becomes four times as large.
    """
    blosc = _blosc()
    raw = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1)
    packed: bytes = blosc.compress(raw, codec, 1, blosc.SHUFFLE)
    return packed


def decode(body: bytes, shape: Shape, dtype: np.dtype[Any], where: str) -> Array:
    """Return the voxels of a frame, C-order, native byte order, owned by the caller.

    Raises Corrupt, which names `where`, for anything but one whole frame of `shape` and `dtype`.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(body) < HEADER.size:
        raise Corrupt(f"{where}: {len(body)} bytes are no Blosc frame", url=where)
    version, _, _, _, unpacked, _, packed = HEADER.unpack_from(body)
    if version not in (1, 2) or packed != len(body):
        raise Corrupt(f"{where}: a Blosc frame of {packed} bytes was due and {len(body)} came", url=where)
    if unpacked != size:
        raise Corrupt(f"{where}: a frame of {unpacked} bytes for {dtype} {shape}, which takes {size}", url=where)
    result = np.empty(shape, dtype.newbyteorder("<"))
    try:
        _blosc().decompress(body, result.reshape(-1).view(np.uint8))
    except (RuntimeError, ValueError) as error:
        raise Corrupt(f"{where}: the Blosc frame cannot be unpacked ({error})", url=where) from None
    return result.astype(dtype.newbyteorder("="), copy=False)


def _blosc() -> Any:
    try:
        from numcodecs import blosc
    except ImportError:
        raise missing_extra("numcodecs", "services", "BOSS") from None
    return blosc

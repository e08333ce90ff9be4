"""Streams of blocks: records of `int32 bx, by, bz` (block coordinates), `int32` length, and so many bytes, little-endian."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ndbatch.errors import Corrupt
from ndbatch.geometry import Shape

HEAD = struct.Struct("<iiii")


def pack(records: Iterable[tuple[Shape, bytes]]) -> bytes:
    """Return records as they travel; a record is the place of its block (z, y, x, in blocks) and its bytes."""
    parts = []
    for (z, y, x), payload in records:
        parts += [HEAD.pack(x, y, z, len(payload)), payload]
    return b"".join(parts)


def unpack(body: bytes, where: str) -> Iterator[tuple[Shape, bytes]]:
    """Yield place (z, y, x, in blocks) and bytes of each record of a whole body.

    A server that fails while it streams has answered 200 already and adds its words to the body, or cuts it: whatever does
    not end with the last record is Corrupt, and names `where` it came from.
    """
    position = 0
    while position < len(body):
        if position + HEAD.size > len(body):
            raise Corrupt(f"{where}: the stream of blocks is cut short: {body[position:][:100]!r}", url=where)
        x, y, z, size = HEAD.unpack_from(body, position)
        position += HEAD.size
        if size < 0 or position + size > len(body):
            words = body[position - HEAD.size :][:200]
            raise Corrupt(f"{where}: the stream of blocks does not end with a block: {words!r}", url=where)
        yield (z, y, x), body[position : position + size]
        position += size

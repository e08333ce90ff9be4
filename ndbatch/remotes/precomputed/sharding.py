"""Shards of precomputed volumes (neuroglancer_uint64_sharded_v1): their parameters from a shape of voxels, and back.

A chunk's number is the compressed Morton code of its place in the grid: bits of x, y, z in turn, the lowest first, each
axis only as long as the grid needs it. Without hashing, the chunks of one shard share all bits but the lowest; so a shard
is a box whose extents are chunks times powers of two. Sequences follow x, y, z.
Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ndbatch.errors import PlanError

SHARDED = "neuroglancer_uint64_sharded_v1"
COMPRESSED = ("jpeg", "png", "jxl")
"""Encodings that gzip makes no smaller."""
MINISHARD_CHUNKS = 9
"""Bits of a chunk's number that count inside a minishard: up to 512 entries are read to find one chunk."""


def bits(grid: Sequence[int]) -> tuple[int, ...]:
    """Return how many bits the place of a chunk has along each axis of a grid of `grid` chunks."""
    return tuple((n - 1).bit_length() for n in grid)


def turns(grid: Sequence[int]) -> Iterator[int]:
    """Yield the axis of every bit of a chunk's number, the lowest first."""
    wanted = bits(grid)
    for place in range(max(wanted, default=0)):
        yield from (axis for axis, n in enumerate(wanted) if place < n)


def chunk_number(place: Sequence[int], grid: Sequence[int]) -> int:
    """Return the compressed Morton code of the chunk at `place`."""
    left, number = list(place), 0
    for position, axis in enumerate(turns(grid)):
        number |= (left[axis] & 1) << position
        left[axis] >>= 1
    return number


def sharding(
    size: Sequence[int], chunk: Sequence[int], shards: Sequence[int], encoding: str, url: str
) -> tuple[dict[str, Any], list[int] | None]:
    """Return the parameters of shards of `shards` voxels, and those voxels where the parameters alone do not tell them.

    Extents beyond the volume count as its end. Raises PlanError, naming the nearest shape that fits, where the format
    cannot make shards of that shape.
    """
    grid = tuple(-(-n // c) for n, c in zip(size, chunk, strict=True))
    wanted = tuple(min(-(-s // c), g) for s, c, g in zip(shards, chunk, grid, strict=True))
    count, box = 0, [1, 1, 1]
    for axis in turns(grid):
        if box[axis] >= wanted[axis]:
            break
        box[axis] *= 2
        count += 1
    whole = all(s % c == 0 for s, c in zip(shards, chunk, strict=True))
    if not whole or tuple(min(b, g) for b, g in zip(box, grid, strict=True)) != wanted:
        fits = ", ".join(f"{axis}: {b * c}" for axis, b, c in zip("xyz", box, chunk, strict=True))
        raise PlanError(
            f"{url}: shards of {', '.join(f'{a}: {s}' for a, s in zip('xyz', shards, strict=True))} are not those of "
            f"precomputed, which double along x, y, z in turn from chunks of {', '.join(map(str, chunk))}; use shards: "
            f"{{{fits}}}"
        )
    inside = min(count, MINISHARD_CHUNKS)
    told = [b * c for b, c in zip(box, chunk, strict=True)]
    return {
        "@type": SHARDED,
        "hash": "identity",
        "preshift_bits": inside,
        "minishard_bits": count - inside,
        "shard_bits": sum(bits(grid)) - count,
        "minishard_index_encoding": "gzip",
        "data_encoding": "raw" if encoding in COMPRESSED else "gzip",
    }, (None if told == list(shards) else list(shards))


def shard_shape(
    grid: Sequence[int], chunk: Sequence[int], parameters: Mapping[str, Any] | None, own: Any
) -> tuple[int, ...] | None:
    """Return the voxels of a shard along x, y, z; None where there are no shards, or hashing scatters their chunks.

    `own` is what ndbatch noted beside the parameters: extents that go beyond the volume.
    """
    if not parameters or parameters.get("hash") != "identity":
        return None
    count = int(parameters.get("preshift_bits", 0)) + int(parameters.get("minishard_bits", 0))
    box = [1, 1, 1]
    for _, axis in zip(range(count), turns(grid), strict=False):
        box[axis] *= 2
    told = own.get("shards") if isinstance(own, Mapping) else None
    if told and all(min(t // c, g) == min(b, g) for t, c, g, b in zip(told, chunk, grid, box, strict=True)):
        return tuple(int(t) for t in told)
    return tuple(b * c for b, c in zip(box, chunk, strict=True))

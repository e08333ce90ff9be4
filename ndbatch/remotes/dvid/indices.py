"""Label indices as DVID sends them: protocol buffers of the voxels of each supervoxel in each block.

    SVCount    { map<uint64, uint32> counts = 1 }
    LabelIndex { map<uint64, SVCount> blocks = 1; uint64 label = 2; uint64 last_mutid = 3 ... }
    LabelIndices { repeated LabelIndex indices = 1 }
    MappingOps { repeated MappingOp { uint64 mutid = 1; uint64 mapped = 2; repeated uint64 original = 3 } = 1 }

A block is numbered by 21 bits each for z, y and x, sign and magnitude. The messages are few and small, so they are read and
written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ndbatch.errors import Corrupt
from ndbatch.geometry import Shape
from ndbatch.remotes.dvid.service import Place

NEGATIVE = 1 << 20
Counts = Mapping[Shape, Mapping[int, int]]
"""Voxels of each supervoxel, by block (z, y, x)."""


def block_key(place: Shape) -> int:
    """Return the number of a block (z, y, x)."""
    z, y, x = (abs(n) | (NEGATIVE if n < 0 else 0) for n in place)
    return z << 42 | y << 21 | x


def block_place(key: int) -> Shape:
    """Return the block (z, y, x) of a number."""
    fields = (key >> 42 & 0x1FFFFF, key >> 21 & 0x1FFFFF, key & 0x1FFFFF)
    return tuple(-(n & (NEGATIVE - 1)) if n & NEGATIVE else n for n in fields)


def encode_index(label: int, blocks: Counts) -> bytes:
    """Return the LabelIndex of a body."""
    entries = b""
    for place, counts in blocks.items():
        inner = b"".join(_chunk(1, _number(1, sv) + _number(2, n)) for sv, n in counts.items())
        entries += _chunk(1, _number(1, block_key(place)) + _chunk(2, inner))
    return entries + _number(2, label)


def encode_indices(indices: Mapping[int, Counts]) -> bytes:
    """Return LabelIndices: the blocks of several bodies."""
    return b"".join(_chunk(1, encode_index(label, blocks)) for label, blocks in indices.items())


def decode_index(body: bytes) -> tuple[int, dict[Shape, dict[int, int]]]:
    """Return label and blocks of a LabelIndex. Corrupt for bytes that are none."""
    label, blocks = 0, {}
    for field, value in _fields(body):
        if field == 2 and isinstance(value, int):
            label = value
        elif field == 1 and isinstance(value, bytes):
            key, inner = _entry(value)
            blocks[block_place(key)] = {} if isinstance(inner, int) else _svcount(inner)
    return label, blocks


def decode_indices(body: bytes) -> dict[int, dict[Shape, dict[int, int]]]:
    """Return the blocks of each label of LabelIndices. Corrupt."""
    return dict(decode_index(value) for field, value in _fields(body) if field == 1 and isinstance(value, bytes))


def encode_mappings(bodies: Mapping[int, list[int]], mutation: int = 0) -> bytes:
    """Return MappingOps: the supervoxels that are mapped to each body."""
    return b"".join(
        _chunk(1, _number(1, mutation) + _number(2, body) + _chunk(3, b"".join(map(_varint, supervoxels))))
        for body, supervoxels in bodies.items()
    )


def decode_mappings(body: bytes) -> dict[int, int]:
    """Return the body of each supervoxel of MappingOps. Corrupt."""
    found: dict[int, int] = {}
    for field, value in _fields(body):
        if field != 1 or isinstance(value, int):
            continue
        mapped, originals = 0, list[int]()
        for name, inner in _fields(value):
            if name == 2 and isinstance(inner, int):
                mapped = inner
            elif name == 3:
                originals += [inner] if isinstance(inner, int) else list(_numbers(inner))
        found.update(dict.fromkeys(originals, mapped))
    return found


def index_of(place: Place, label: int) -> dict[Shape, dict[int, int]]:
    """Return the voxels of each supervoxel of a body, by block (z, y, x). NotFound where the body is not there."""
    return decode_index(place.get(f"/index/{int(label)}").body)[1]


def set_indices(place: Place, indices: Mapping[int, Counts]) -> None:
    """Put indices in place of those of their labels, as after `ingest-supervoxels`; empty blocks remove one."""
    place.require_open()
    place.post("/indices", encode_indices(indices))


def set_mappings(place: Place, bodies: Mapping[int, list[int]]) -> None:
    """Have supervoxels belong to bodies, as after `ingest-supervoxels`."""
    place.require_open()
    place.post("/mappings", encode_mappings(bodies))


def _svcount(body: bytes) -> dict[int, int]:
    pairs = (_entry(value) for field, value in _fields(body) if field == 1 and isinstance(value, bytes))
    return {sv: n for sv, n in pairs if isinstance(n, int)}


def _entry(body: bytes) -> tuple[int, int | bytes]:
    """Return key and value of one entry of a map; what is left out is 0."""
    found = dict(_fields(body))
    key = found.get(1, 0)
    if not isinstance(key, int):
        raise Corrupt("a label index has a key that is no number")
    return key, found.get(2, 0)


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field: whole numbers, or bytes."""
    position = 0
    while position < len(body):
        head, position = _read(body, position)
        kind = head & 7
        value: int | bytes
        if kind == 0:
            value, position = _read(body, position)
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, position = _read(body, position)
            if position + size > len(body):
                raise Corrupt("a protocol buffer is cut short")
            value, position = body[position : position + size], position + size
        else:
            raise Corrupt(f"a protocol buffer has a field of the unknown kind {kind}")
        yield head >> 3, value


def _numbers(body: bytes) -> Iterator[int]:
    position = 0
    while position < len(body):
        value, position = _read(body, position)
        yield value


def _read(body: bytes, position: int) -> tuple[int, int]:
    """Return the number that begins at a position, 7 bits a byte, the lowest first; and where it ends."""
    value = shift = 0
    while position < len(body) and shift < 70:
        byte = body[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise Corrupt("a protocol buffer has a number that does not end")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _chunk(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body

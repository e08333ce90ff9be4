"""DVID's compressed label blocks: known bytes, round trips, and bytes that are no block."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndbatch.errors import Corrupt
from ndbatch.remotes.dvid.label_blocks import Labels, compress, decode, decompress, encode
from ndbatch.remotes.dvid.streams import pack, unpack

SOLID = "080000000800000008000000010000002a00000000000000"


def striped() -> Labels:
    """Return 64^3 labels: five of them in the lower half, 0 in the upper."""
    z, y, x = np.ogrid[:64, :64, :64]
    return np.where(z < 32, 1 + (x + 3 * y + 7 * z) % 5, 0).astype(np.uint64)


def test_a_solid_block() -> None:
    block = np.full((64, 64, 64), 42, np.uint64)
    assert encode(block).hex() == SOLID
    assert np.array_equal(decode(bytes.fromhex(SOLID)), block)


def test_a_block_of_two_labels() -> None:
    block = np.full((16, 16, 16), 5, np.uint64)
    block[0, 0, 1] = 2**40 + 7
    known = bytes.fromhex(
        "02000000" * 4 + "05000000000000000700000000010000" + "0200" + "0100" * 7 + "0000000001000000" + "00000000" * 7
    )
    known += b"\x40" + bytes(63)
    assert len(known) == 148
    assert encode(block) == known
    assert np.array_equal(decode(known), block)


def test_a_block_whose_checksum_is_known() -> None:
    block = striped()
    assert zlib.crc32(block.tobytes()) == 0xAA8DAB57
    packed = encode(block)
    assert (len(packed), zlib.crc32(packed)) == (56384, 0x077C2EBD)
    assert np.array_equal(decode(packed), block)


def test_tables_in_any_order_with_entries_that_nothing_uses() -> None:
    """Other encoders order their tables otherwise, repeat labels, and say "no label" for sub-blocks of zeros."""
    labels = np.array([9, 9, 0, 7], "<u8").tobytes()  # 9 twice; 0 never used
    counts = np.array([2, 0, 1, 0, 0, 0, 0, 0], "<u2").tobytes()
    indices = np.array([3, 1, 0], "<u4").tobytes()
    values = bytes([0b10000000]) + bytes(63)
    block = decode(np.array([2, 2, 2, 4], "<u4").tobytes() + labels + counts + indices + values)
    wanted = np.zeros((16, 16, 16), np.uint64)
    wanted[:8, :8, :8] = 7
    wanted[0, 0, 0] = 9
    wanted[:8, 8:, :8] = 9
    assert np.array_equal(block, wanted)


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(*[st.integers(2, 4)] * 3),
    distinct=st.integers(1, 700),
    seed=st.integers(0, 2**32),
    patchy=st.booleans(),
)
def test_round_trips(grid: tuple[int, int, int], distinct: int, seed: int, patchy: bool) -> None:
    """Few and many labels, of all 64 bits, in patches and scattered: every width of voxel from 0 to 9 bits."""
    random = np.random.default_rng(seed)
    table = random.integers(0, 2**64, distinct, np.uint64)
    shape = tuple(8 * n for n in grid)
    if patchy:
        table = np.sort(table)
    choice = random.integers(0, distinct, shape)
    if patchy:
        choice[: shape[0] // 2] = choice[0, 0, 0]
    block = table[choice]
    assert np.array_equal(decode(encode(block)), block)
    assert np.array_equal(decompress(compress(block), shape), block)


def test_every_voxel_its_own_label() -> None:
    block = np.arange(2**40, 2**40 + 32**3, dtype=np.uint64).reshape(32, 32, 32)
    assert np.array_equal(decode(encode(block)), block)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 4000), value=st.integers(0, 255), cut=st.integers(0, 4000))
def test_damaged_bytes_are_an_error_or_a_block(place: int, value: int, cut: int) -> None:
    """Whatever bytes come, nothing but Corrupt is raised, and a cut block is never taken for a whole one."""
    whole = encode(striped()[16:48, :32, :32])
    damaged = bytearray(whole)
    damaged[place % len(whole)] = value
    with contextlib.suppress(Corrupt):
        assert decode(bytes(damaged)).dtype == np.uint64
    with pytest.raises(Corrupt):
        decode(whole[: cut % len(whole)])


def test_what_is_no_block() -> None:
    whole = encode(striped())
    for broken in (b"", whole + b"\0", bytes.fromhex(SOLID) + b"\0", bytes(24), whole[:100]):
        with pytest.raises(Corrupt):
            decode(broken)
    with pytest.raises(Corrupt, match="multiples of 8"):
        encode(np.zeros((12, 16, 16), np.uint64))
    packed = compress(striped())
    for broken in (b"", b"not gzip", packed[:-3], packed + b"x", gzip.compress(bytes(2**24))):
        with pytest.raises(Corrupt):
            decompress(broken, (64, 64, 64))
    with pytest.raises(Corrupt, match="where blocks have"):
        decompress(packed, (32, 32, 32))


def test_streams_of_blocks() -> None:
    """Block coordinates travel x first and may be negative; what follows the last record is an error of the server."""
    records = [((-1, 2, 3), b"abc"), ((0, 0, 0), b"")]
    body = pack(records)
    assert body == bytes.fromhex("0300000002000000ffffffff03000000") + b"abc" + bytes(16)
    assert list(unpack(body, "here")) == records
    for broken in (body[:-1], body + b"ERROR: disk", body[:18]):
        with pytest.raises(Corrupt, match="here"):
            list(unpack(broken, "here"))

"""Payloads: named arrays or table rows as compressed bytes, for the journal. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.remotes.base import Array

if TYPE_CHECKING:
    import pyarrow as pa


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Return `arrays` as bytes: a JSON line of names, dtypes and shapes, then the buffers, zstd-compressed."""
    import pyarrow as pa

    head = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    body = b"".join([json.dumps(head).encode(), b"\n", *(np.ascontiguousarray(a).tobytes() for a in arrays.values())])
    packed = pa.Codec("zstd", compression_level=1).compress(body, asbytes=True)
    return len(body).to_bytes(8, "little") + bytes(packed)


def unpack(payload: bytes) -> dict[str, Array]:
    """Return the arrays of `pack`; they are read-only views of one buffer."""
    import pyarrow as pa

    size = int.from_bytes(payload[:8], "little")
    body = bytes(pa.Codec("zstd").decompress(payload[8:], decompressed_size=size, asbytes=True))
    start = body.index(b"\n") + 1
    result: dict[str, Array] = {}
    for name, (dtype, shape) in json.loads(body[: start - 1]).items():
        count = int(np.prod(shape, dtype=np.int64))
        result[name] = np.frombuffer(body, dtype, count, start).reshape(shape)
        start += count * np.dtype(dtype).itemsize
    return result


def pack_rows(rows: pa.RecordBatch) -> bytes:
    """Return table rows as one Arrow IPC stream, zstd-compressed."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue())


def unpack_rows(payload: bytes) -> pa.RecordBatch:
    """Return the rows of `pack_rows`."""
    import pyarrow as pa

    with pa.ipc.open_stream(payload) as reader:
        return reader.read_next_batch()

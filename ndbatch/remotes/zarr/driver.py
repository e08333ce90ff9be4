"""Zarr arrays through tensorstore: opening one, and the metadata of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ndbatch.remotes.address import Address
from ndbatch.remotes.base import ArraySpec
from ndbatch.remotes.places.keyvalue import KeyValue
from ndbatch.remotes.places.tensor import FAILURES, context, require_no_fork, translated


def open_array(path: KeyValue, zarr_format: int, address: Address) -> Any:
    """Return the tensorstore of the array at `path`, whose JSON metadata it reads.

    `?missing=error` in the address makes a missing chunk an error instead of the fill value.
    """
    import tensorstore

    require_no_fork(address)
    spec = {
        "driver": "zarr3" if zarr_format == 3 else "zarr",
        "kvstore": path.spec(),
        "fill_missing_data_reads": address.option("missing") != "error",
    }
    try:
        return tensorstore.open(spec, context=context(), open=True).result()
    except FAILURES as error:
        raise translated(error, address, "its metadata") from None


def array_metadata(spec: ArraySpec, zarr_format: int) -> dict[str, Any]:
    """Return the metadata of a new array: blosc (zstd 1, byte shuffle by item size), in shards where `spec` has them.

    Measured on EM and fluorescence, zstd level 1 stores within 2 % of level 3 and encodes 1.5 to 5 times faster; labels
    shrink some hundredfold at both.
    Chunks are nested by `/`, as OME-Zarr wants them. Format: https://zarr-specs.readthedocs.io.
    """
    if zarr_format == 2:
        return {
            "shape": list(spec.shape),
            "chunks": list(spec.chunks),
            "dtype": spec.dtype.newbyteorder("<").str,
            "compressor": {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0},
            "fill_value": False if spec.dtype.kind == "b" else 0,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }
    blosc = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": spec.dtype.itemsize, "blocksize": 0}
    raw = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs: list[dict[str, Any]] = [raw, {"name": "blosc", "configuration": blosc}]
    if spec.shards:
        inner = {"chunk_shape": list(spec.chunks), "codecs": codecs, "index_codecs": [raw, {"name": "crc32c"}]}
        codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
    return {
        "shape": list(spec.shape),
        "data_type": spec.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.write_unit)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": False if spec.dtype.kind == "b" else 0,
        "codecs": codecs,
        "dimension_names": list(spec.axes),
    }


def codecs(metadata: Mapping[str, Any]) -> str:
    """Return what packs the chunks of an array, from its metadata: `bytes, blosc zstd`; in a shard, what packs its chunks."""
    steps = metadata.get("codecs") or [*(metadata.get("filters") or []), metadata.get("compressor") or {"id": "raw"}]
    named = []
    for step in steps:
        settings = step.get("configuration", step)
        if "codecs" in settings:
            return codecs(settings)
        named.append(" ".join(filter(None, (step.get("name") or step.get("id"), settings.get("cname")))))
    return ", ".join(named)

"""Chunks of the precomputed format to bytes and back: raw here, compressed_segmentation, jpeg and png by tensorstore.

tensorstore knows these encodings as parts of a layer only, so a layer of one chunk is kept in memory for the moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.remotes.precomputed.info import VOLUME_TYPE


def encode(encoding: Mapping[str, Any], data: Array) -> bytes:
    """Return the bytes of a chunk, `data` of axes c, z, y, x; `encoding` is what a scale of `info` says of it."""
    if encoding["encoding"] == "raw":
        return np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()
    objects, name, layer = _layer(encoding, data.shape, data.dtype)
    layer.write(data.transpose()).result()
    return bytes(objects[name])


def decode(encoding: Mapping[str, Any], data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a chunk of `shape`, c, z, y, x, from its bytes; PlanError where they are not such a chunk."""
    if encoding["encoding"] == "raw":
        expected = prod(shape) * dtype.itemsize
        if len(data) != expected:
            raise PlanError(
                f"the body has {len(data)} bytes; a raw chunk of {dtype} {shape} (c, z, y, x) has {expected}"
            )
        return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)
    objects, name, layer = _layer(encoding, shape, dtype)
    objects[name] = data
    try:
        return np.ascontiguousarray(layer.read().result().transpose())
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise PlanError(f"the body is no {encoding['encoding']} chunk of {dtype} {shape}: {said}") from None


def _layer(encoding: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, str, Any]:
    """Return the objects of a layer of one chunk, the name of the chunk's object, and the layer (axes x, y, z, c)."""
    import tensorstore

    private = tensorstore.Context()
    base = {"driver": "memory", "path": "layer/"}
    size = list(shape[:0:-1])
    scale = {"key": "scale", "size": size, "resolution": [1, 1, 1], "chunk_sizes": [size], "voxel_offset": [0, 0, 0]}
    kind = "segmentation" if encoding["encoding"] == "compressed_segmentation" else "image"
    document = {"@type": VOLUME_TYPE, "type": kind, "data_type": dtype.name, "num_channels": shape[0]}
    objects = tensorstore.KvStore.open(base, context=private).result()
    objects["info"] = json.dumps({**document, "scales": [{**encoding, **scale}]})
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": base,
        "scale_index": 0,
        "store_data_equal_to_fill_value": True,  # else a chunk of zeros would be no object, and readers stop at a missing one
    }
    layer = tensorstore.open(spec, context=private, open=True).result()
    return objects, "scale/" + "_".join(f"0-{n}" for n in size), layer

"""Encodings of precomputed chunks: what each can hold, its parameters in `info`, and the codecs of cloud-volume.

raw, jpeg, png and compressed_segmentation belong to the format; the others are cloud-volume's (extra `precomputed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, MissingExtra, PlanError, missing_extra
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Kind

TENSORSTORE = ("raw", "jpeg", "png", "compressed_segmentation")
"""Encodings that tensorstore knows."""
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
ENCODINGS: Mapping[str, tuple[str, ...]] = {
    "raw": ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"),
    "jpeg": ("uint8",),
    "png": ("uint8", "uint16"),
    "compressed_segmentation": ("uint32", "uint64"),
    "compresso": UNSIGNED,
    "crackle": UNSIGNED,
    "fpzip": ("float32",),
    "kempressed": ("float32",),
    "zfpc": ("float32",),
    "jxl": ("uint8",),
}
"""Types of voxel that each encoding takes."""
READ_ONLY = ("kempressed", "zfpc")
"""Encodings that are not written: the first is superseded and loses digits, the second needs a package that breaks zarr."""
PACKAGES = {
    "compresso": "compresso",
    "crackle": "crackle-codec",
    "fpzip": "fpzip",
    "kempressed": "fpzip",
    "jxl": "imagecodecs",
}
CHANNELS: Mapping[str, tuple[int, ...]] = {
    "jpeg": (1, 3),
    "png": (1, 2, 3, 4),
    "compresso": (1,),
    "crackle": (1,),
    "jxl": (1, 3),
}
"""Numbers of channels that an encoding takes, where it does not take any."""
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "jpeg": ("jpeg_quality",),
    "png": ("png_level",),
    "compressed_segmentation": ("compressed_segmentation_block_size",),
}
"""Keys of a scale that belong to its encoding."""
BLOCK_SIZE = (8, 8, 8)
"""Block of compressed_segmentation that every reader knows."""


def encoding_of(address: Address, spec: ArraySpec, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the encoding of a new scale and its parameters, as they stand in `info`.

    `like` is the scale before it, whose encoding it takes where the address says none. PlanError for options that do not
    fit the encoding.
    """
    lossless = "raw"
    if spec.kind is Kind.LABELS and spec.dtype.name in ENCODINGS["compressed_segmentation"]:
        lossless = "compressed_segmentation"
    name = address.option("encoding") or (str(like["encoding"]) if like else lossless)
    if name not in ENCODINGS:
        raise PlanError(f"{address.url}: encoding={name} is not known; use one of {', '.join(ENCODINGS)}")
    if name in READ_ONLY:
        raise PlanError(f"{address.url}: the encoding {name} is read, not written; use encoding=fpzip or raw")
    result: dict[str, Any] = {"encoding": name}
    if like and like["encoding"] == name:
        result |= {key: like[key] for key in PARAMETERS.get(name, ()) if key in like}
    elif name == "compressed_segmentation":
        result["compressed_segmentation_block_size"] = list(BLOCK_SIZE)
    for option, owner, lowest, highest in (("jpeg_quality", "jpeg", 1, 100), ("png_level", "png", 0, 9)):
        if address.option(option):
            _require_owner(option, owner, name, address)
            result[option] = address.count(option)
            if not lowest <= result[option] <= highest:
                raise PlanError(f"{address.url}: {option} is from {lowest} to {highest}", option=option)
    if address.option("block_size"):
        _require_owner("block_size", "compressed_segmentation", name, address)
        result["compressed_segmentation_block_size"] = _block_size(address)
    return result


def _require_owner(option: str, owner: str, name: str, address: Address) -> None:
    if name != owner:
        raise PlanError(f"{address.url}: {option} belongs to encoding={owner}, not to {name}", option=option)


def _block_size(address: Address) -> list[int]:
    """Return the block of compressed_segmentation along x, y, z from `block_size=z,y,x`, or one number for all."""
    parts = address.option("block_size").split(",")
    if len(parts) not in (1, 3) or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise PlanError(f"{address.url}: block_size is one number, or three along z, y, x, such as 8,8,8")
    return [int(part) for part in reversed(parts * (3 // len(parts)))]


def require_encoding(name: str, spec: ArraySpec, url: str) -> None:
    """Raise PlanError where the encoding cannot hold `spec`; MissingExtra where its package is not installed."""
    if spec.dtype.name not in ENCODINGS[name]:
        fits = [other for other, types in ENCODINGS.items() if spec.dtype.name in types]
        raise PlanError(
            f"{url}: the encoding {name} holds {', '.join(ENCODINGS[name])}, not {spec.dtype}; use encoding="
            f"{' or '.join(fits)}"
        )
    channels = spec.shape[spec.axes.index("c")] if "c" in spec.axes else 1
    if channels not in CHANNELS.get(name, (channels,)):
        raise PlanError(
            f"{url}: the encoding {name} holds {' or '.join(map(str, CHANNELS[name]))} channels, not {channels}; use raw"
        )
    if name == "png" and spec.dtype.name == "uint16" and channels > 1:
        raise PlanError(f"{url}: the encoding png holds one channel of uint16, not {channels}; use raw")
    if name not in TENSORSTORE:
        if spec.shards is not None:
            raise PlanError(f"{url}: shards of {name} cannot be written; leave shards out, or use another encoding")
        codecs(name)


def codecs(name: str) -> Any:
    """Return the module that encodes and decodes `name`; MissingExtra tells what to install."""
    try:
        from cloudvolume import chunks
    except ImportError:
        raise missing_extra("cloud-volume", "precomputed", f"the encoding {name} of precomputed volumes") from None
    package = chunks.NEEDS_INSTALL.get(name)
    if package and name in PACKAGES:
        raise missing_extra(PACKAGES[name], "precomputed", f"the encoding {name} of precomputed volumes")
    if package:
        command = f"pip install {package}"
        raise MissingExtra(
            f"the encoding {name} of precomputed volumes needs the package {package}: {command}",
            package=package,
            command=command,
        )
    return chunks


def decode(name: str, data: bytes, shape: Sequence[int], dtype: np.dtype[Any], where: str, url: str) -> Array:
    """Return a chunk, x, y, z, c of `shape`, from its bytes; Corrupt where they are not such a chunk."""
    try:
        if name == "raw":
            found = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape, order="F")
        else:
            found = codecs(name).decode(data, name, shape=tuple(shape), dtype=dtype)
            found = np.asarray(found).reshape(shape, order="F")
    except MissingExtra:
        raise
    except Exception as error:  # every codec has errors of its own
        raise Corrupt(f"{url}: the chunk {where} is damaged: {error}", url=url) from None
    if found.dtype.newbyteorder("=") != dtype:
        raise Corrupt(f"{url}: the chunk {where} holds {found.dtype}, its info file says {dtype}", url=url)
    return found


def encode(name: str, data: Array) -> bytes:
    """Return the bytes of a chunk, x, y, z, c."""
    if name == "raw":
        return data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    # jxl is told to lose nothing: level 100 of cloud-volume's scale.
    parameters = {"level": 100} if name == "jxl" else {}
    return bytes(codecs(name).encode(np.asfortranarray(data), name, compression_params=parameters))

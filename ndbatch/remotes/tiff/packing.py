"""Writing TIFF: a raw file in one piece, and the compressed, tiled one that is made of it.

Tiles are 256 x 256 or the whole of a smaller page. Images are predicted along rows before they are packed, as microscopes'
noise allows; labels are not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import PlanError, missing_extra
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec
from ndbatch.remotes.files.flat import write_region
from ndbatch.remotes.files.paths import require_room
from ndbatch.remotes.tiff.metadata import OME_TYPES, write_metadata

LARGEST_CLASSIC = 2**32 - 2**25
"""Bytes beyond which a new file is a BigTIFF: offsets of classic TIFF have 32 bits."""
COMPRESSIONS = ("none", "zlib", "lzma", "lzw", "zstd")
"""What `compression` may be; the last two need imagecodecs."""
TILE = 256


def require_compression(address: Address) -> str:
    """Return the compression that the address asks for. PlanError for an unknown one, MissingExtra without its codec."""
    asked = address.option("compression", "none")
    if asked not in COMPRESSIONS:
        raise PlanError(
            f"{address.url}: compression={asked} is not written; use one of {', '.join(COMPRESSIONS)}",
            option="compression",
        )
    if asked in ("lzw", "zstd"):
        try:
            import imagecodecs  # noqa: F401
        except ImportError:
            raise missing_extra("imagecodecs", "tiff", f"{address.url}: {asked} compression") from None
    return asked


def create_raw(path: Path, spec: ArraySpec, address: Address) -> None:
    """Make a file of zeros at `path`, stored in one piece, whose description names `address`. Raises OSError."""
    import tifffile

    aside = path.with_name(f".{path.name.removeprefix('.')}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path, spec.nbytes, address)
    tifffile.imwrite(
        aside,
        shape=spec.shape,
        dtype=spec.dtype,
        ome=spec.dtype.name in OME_TYPES,
        bigtiff=spec.nbytes > LARGEST_CLASSIC,
        byteorder="<",
        photometric="minisblack",
        software="ndbatch",
        metadata=write_metadata(spec, Path(address.path).name.removeprefix(".partial-")),
    )
    os.replace(aside, path)


def pack(working: Path, address: Address) -> None:
    """Make the compressed file of `address` from the raw one, page by page. Raises OSError."""
    import tifffile

    target, compression = Path(address.path), address.option("compression")
    aside = target.with_name(f".{target.name.removeprefix('.')}.new")
    with tifffile.TiffFile(working, _multifile=False) as raw:
        series = raw.series[0]
        shape, page = tuple(series.shape), raw.pages.first
        tile = tuple(min(TILE, -(-n // 16) * 16) for n in shape[-2:])
        voxels = np.memmap(
            working, page.dtype.newbyteorder("<"), "r", series.dataoffset, (math.prod(shape[:-2]), *shape[-2:])
        )
        predicted = (
            page.dtype.kind in "iu" and page.dtype.itemsize <= 4 and '"kind": "labels"' not in _plain(page.description)
        )
        tifffile.imwrite(
            aside,
            data=_tiles(voxels, tile),
            shape=shape,
            dtype=page.dtype,
            tile=tile,
            compression=compression,
            predictor=predicted,
            bigtiff=series.nbytes > LARGEST_CLASSIC,
            byteorder="<",
            photometric="minisblack",
            software="ndbatch",
            description=page.description.encode(),
            metadata=None,
            maxworkers=1,
        )
        del voxels
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, target)


def unpack(working: Path, volume: Any, spec: ArraySpec, address: Address) -> None:
    """Make the raw file of a packed volume that ndbatch wrote, plane by plane. Raises OSError."""
    import tifffile

    aside = working.with_name(f"{working.name}.partly")
    create_raw(aside, spec, address)
    with tifffile.TiffFile(aside, _multifile=False) as raw:
        start, dtype = int(raw.series[0].dataoffset), raw.pages.first.dtype.newbyteorder("<")
    for place in np.ndindex(*spec.shape[:-2]):
        region = (*(slice(p, p + 1) for p in place), slice(0, spec.shape[-2]), slice(0, spec.shape[-1]))
        write_region(str(aside), start, spec.shape, dtype, region, volume.read(region), sync=False)
    os.replace(aside, working)


def _plain(description: str) -> str:
    return description.replace("&quot;", '"')


def _tiles(pages: Array, tile: tuple[int, ...]) -> Iterator[Array]:
    """Yield the tiles of all pages in the file's order, those at the edges filled up with zeros."""
    rows, columns = tile
    for page in pages:
        for y in range(0, page.shape[0], rows):
            for x in range(0, page.shape[1], columns):
                part = page[y : y + rows, x : x + columns]
                whole = np.zeros(tile, page.dtype)
                whole[: part.shape[0], : part.shape[1]] = part
                yield whole

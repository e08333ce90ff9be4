"""Opening and creating volumes as a user does: by URL, with what a file does not know itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Shape
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import ArraySpec, Kind, Volume
from ndbatch.remotes.registry import open_volume, store_class
from ndbatch.units import Length, micrometres

CHUNK_BYTES = 2**20
"""A chunk holds about this much, not compressed: few enough files, small enough reads."""


def open(
    url: str | Mapping[str, Any],
    *,
    base: Path | None = None,
    level: int | None = None,
    voxel_size: Mapping[str, Length] | None = None,
    axes: str | None = None,
    offset: Mapping[str, int] | None = None,
    kind: str | None = None,
) -> Volume:
    """Open a volume with one small metadata read and no voxels.

    `url` is a path (`image.tif`, `seg.h5::/seg`, `labels.zarr`), a URL with a scheme, or a mapping with `url` and the other
    parameters. `voxel_size` gives a length for each named axis (`{"z": "0.29 um"}`; plain numbers are micrometres), `axes`
    renames the axes as stored, `offset` places the first voxel, `kind` is image, labels or probability. Relative paths
    are taken from `base`. Raises PlanError, NotFound, Denied or Corrupt.
    """
    if isinstance(url, Mapping):
        said = {k: v for k, v in {"level": level, "voxel_size": voxel_size, "axes": axes}.items() if v is not None}
        return open(base=base, **{**dict(url), **said})
    address = parse(url, base)
    if level is not None:
        address = address.with_options(level=str(level))
    volume = open_volume(address)
    changes: dict[str, Any] = {}
    if axes is not None:
        changes["axes"] = _axes(axes, volume)
    names = changes.get("axes", volume.axes)
    if voxel_size is not None:
        changes["voxel_size"] = named_size(voxel_size, names, volume.voxel_size, volume.url)
    if offset is not None:
        changes["offset"] = tuple(int(offset.get(axis, o)) for axis, o in zip(names, volume.offset, strict=True))
    if kind is not None:
        changes["kind"] = Kind(kind)
    return volume.override(**changes) if changes else volume


def create(
    url: str,
    *,
    like: Volume | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    axes: str | None = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    voxel_size: Mapping[str, Length] | Sequence[float] | None = None,
    offset: Sequence[int] | None = None,
    kind: str | None = None,
    overwrite: bool = False,
    base: Path | None = None,
) -> Volume:
    """Create an empty volume (all zero) and return it.

    What is not given is taken from `like`, then from defaults. Sequences are C-order, as `axes`; `voxel_size` is in
    micrometres where it is plain numbers. Raises Conflict where something is there, unless `overwrite`.
    """
    source = like.spec if like is not None else None
    shape = tuple(shape) if shape is not None else (source.shape if source else ())
    if not shape:
        raise PlanError(f"create {url}: give shape=, or like= another volume")
    axes = axes or (source.axes if source and source.ndim == len(shape) else "tczyx"[-len(shape) :])
    kind = kind or (str(source.kind) if source else "image")
    dtype = np.dtype(dtype if dtype is not None else (source.dtype if source else "uint8"))
    size = source.voxel_size if source else None
    if isinstance(voxel_size, Mapping):
        size = named_size(voxel_size, axes, size, url)
    elif voxel_size is not None:
        size = tuple(float(s) for s in voxel_size)
    spec = ArraySpec(
        shape=shape,
        dtype=dtype,
        axes=axes,
        chunks=tuple(chunks) if chunks else default_chunks(shape, dtype, axes),
        shards=tuple(shards) if shards else None,
        offset=tuple(offset) if offset is not None else (source.offset if source else ()),
        voxel_size=size,
        kind=Kind(kind),
    )
    address = parse(url, base)
    store = store_class(address.scheme)
    if overwrite:
        store.delete(address)
    return store.create(address, spec)


def named_size(
    sizes: Mapping[str, Length], axes: str, known: tuple[float, ...] | None, where: str
) -> tuple[float, ...]:
    """Return lengths given by axis name in micrometres, in the order of `axes`; t and c are 1. PlanError for gaps."""
    unknown = [axis for axis in sizes if axis not in axes]
    if unknown:
        raise PlanError(f"{where}: voxel_size names the axis {unknown[0]!r}; the volume's axes are {', '.join(axes)}")
    result = []
    for place, axis in enumerate(axes):
        if axis in sizes:
            value = sizes[axis]
            result.append(micrometres(value) if isinstance(value, str) else float(value))
        elif axis in "tc":
            result.append(1.0)
        elif known is not None:
            result.append(known[place])
        else:
            raise PlanError(f"{where}: voxel_size says nothing of the axis {axis}; name every one of {', '.join(axes)}")
        if not result[-1] > 0:
            raise PlanError(f"{where}: voxel_size.{axis} is {result[-1]:g}; it must be above 0")
    return tuple(result)


def default_chunks(shape: Sequence[int], dtype: Any, axes: str) -> Shape:
    """Return a chunk of about 1 MiB: the same extent along each spatial axis, a power of two, one along t and c."""
    spatial = [axis for axis in axes if axis not in "tc"]
    voxels = CHUNK_BYTES / np.dtype(dtype).itemsize
    edge = 1 << round(math.log2(voxels) / max(1, len(spatial)))
    return tuple(1 if axis in "tc" else max(1, min(edge, n)) for axis, n in zip(axes, shape, strict=True))


def _axes(axes: str, volume: Volume) -> str:
    if len(axes) != volume.ndim or len(set(axes)) != len(axes) or set(axes) - set("tczyx"):
        raise PlanError(
            f"{volume.url}: axes: {axes!r} does not name the {volume.ndim} axes of an array of shape {volume.shape}; write each "
            "of them once, as stored, from t, c, z, y, x"
        )
    return axes

"""Opening and creating volumes as a user does: by URL, with what a file does not know itself."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import PlanError, RemoteError
from ndbatch.geometry import Shape
from ndbatch.importing import about_to_act
from ndbatch.remotes.address import Address, Token, parse
from ndbatch.remotes.base import ArraySpec, Kind, Volume
from ndbatch.remotes.chunking import default_chunks
from ndbatch.remotes.registry import check_created, store_class
from ndbatch.remotes.views.options import OPTIONS as VIEW_OPTIONS
from ndbatch.remotes.views.options import split, view
from ndbatch.units import Length, micrometres

__all__ = ["create", "default_chunks", "named_size", "open"]

Named = Mapping[str, int] | Sequence[int]
"""One number an axis: by axis name, or in the order of the axes."""


def open(
    url: str | os.PathLike[str] | Mapping[str, Any] | Address,
    *,
    base: Path | None = None,
    level: int | None = None,
    voxel_size: Mapping[str, Length] | Sequence[float] | None = None,
    axes: str | None = None,
    offset: Named | None = None,
    kind: str | None = None,
    t: int | None = None,
    c: int | str | None = None,
    transpose: str | None = None,
    flip: str | Sequence[str] | None = None,
    crop: Mapping[str, Sequence[Length]] | None = None,
    pad: Mapping[str, int | Sequence[int]] | None = None,
    translate: Mapping[str, Length] | None = None,
    resample: str | None = None,
    like: Volume | None = None,
    grid: Mapping[str, Length | Sequence[Length]] | None = None,
    dtype: str | None = None,
    fill: float | None = None,
    token: Token | None = None,
) -> Volume:
    """Open a volume with one small metadata read and no voxels.

    `url` is a path (`image.tif`, `seg.h5::/seg`, `labels.zarr`), a URL with a scheme, or a mapping with `url` and any of the
    other parameters. They say what a file does not know itself, or knows wrongly: `level` the resolution, 0 the finest;
    `voxel_size` a length for each named axis (`{"z": "0.29 um"}`; plain numbers are micrometres); `axes` the names of
    the axes in the order they are stored; `offset` the absolute position of the first voxel; `kind` image, labels or
    probability. Relative paths are taken from `base`, the current folder if not given.

    The others make a view, which copies nothing: `t` and `c` take a place along these axes (a channel by its name too),
    which go away; `transpose="zxy"` names the axes that become z, y, x; `flip="z"` runs backwards; `crop` keeps and `pad`
    adds voxels ({"z": (0, 64)}); `translate` moves; `resample` ("nearest", "linear") puts the volume on the voxels of the
    volume `like`, or of `grid` ({"z": "1 um", ...}, or (start, stop, size)); `dtype` casts, with a check; `fill` is the
    value of voxels that were added. They may stand in the address too (`?t=0&flip=z`) and are applied in this order.
    `token` tells a service who asks.

    Raises PlanError for a parameter that does not fit, NotFound, Denied or Corrupt for the volume.
    """
    told = {name: value for name, value in locals().items() if name not in ("url", "base") and value is not None}
    if isinstance(url, Mapping):
        return _open_mapping({**url, **told}, base)
    return _open_told(url if isinstance(url, Address) else parse(os.fspath(url), base or Path.cwd()), told)


def _open_told(address: Address, told: Mapping[str, Any]) -> Volume:
    """Open what is stored, correct it by what was told of it, and lay the view over it."""
    address, wanted = split(address)
    if "level" in told:
        address = address.with_options(level=str(told["level"]))
    volume = _open_with_axes(address.with_token(told["token"]) if "token" in told else address, told.get("axes"))
    changes: dict[str, Any] = {}
    if "voxel_size" in told:
        changes["voxel_size"] = _size(told["voxel_size"], volume.axes, volume.voxel_size, volume.url)
    if "offset" in told:
        changes["offset"] = _along(told["offset"], volume.axes, volume.offset, f"{volume.url}: offset")
    if "kind" in told:
        changes["kind"] = _kind(told["kind"], volume.url)
    volume = volume.override(**changes) if changes else volume
    wanted |= {name: value for name, value in told.items() if name in VIEW_OPTIONS}
    return view(volume, {**wanted, "grid": told["like"].spec} if "like" in told else wanted)


def _open_mapping(entry: Mapping[str, Any], base: Path | None) -> Volume:
    """Open `{url: ..., voxel_size: ...}`; PlanError for a key that `open` has no parameter for."""
    known = [name for name in inspect.signature(open).parameters if name != "base"]
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise PlanError(f"unknown key {key!r} of a volume; {hint}")
    if "url" not in entry:
        raise PlanError("a volume given as a mapping needs the key url, such as {url: image.tif}")
    return open(base=base, **entry)


def _open_with_axes(address: Address, axes: str | None) -> Volume:
    """Open a volume whose axes are stored in the order `axes`: it becomes a part of the address.

    Naming the axes as ndbatch already sees them changes nothing: a volume may be opened again with its own facts.
    """
    volume = store_class(address.scheme).open(address)
    if axes is None or axes == volume.axes:
        return volume
    volume.close()
    return store_class(address.scheme).open(address.with_options(axes=axes))


def create(
    url: str | os.PathLike[str] | Address,
    *,
    like: Volume | None = None,
    shape: Named | None = None,
    dtype: Any = None,
    axes: str | None = None,
    chunks: Named | None = None,
    shards: Named | None = None,
    voxel_size: Mapping[str, Length] | Sequence[float] | None = None,
    offset: Named | None = None,
    kind: str | None = None,
    overwrite: bool = False,
    base: Path | None = None,
    token: Token | None = None,
) -> Volume:
    """Create an empty volume (all voxels 0) at `url` and return it.

    What is not given is taken from `like` (its chunks only where the format is the same), then from defaults: axes
    (t, c, z, y, x) from the right, uint8, `default_chunks`, an image. Shapes are C-order, as `axes`, or by axis name;
    `voxel_size` holds lengths by axis name (`{"z": "0.29 um"}`) or micrometres. With `overwrite` a volume that is there
    is removed first. An address with `?level=1` appends a level to the pyramid there (`shape` and `offset` in voxels of that
    level). `token` tells a service who asks. Raises PlanError for what the format cannot hold, Conflict where something is
    there, Denied.
    """
    about_to_act("creates a volume")
    address = url if isinstance(url, Address) else parse(os.fspath(url), base or Path.cwd())
    address = address if token is None else address.with_token(token)
    store = store_class(address.scheme)
    spec = _spec_of(address.url, address.scheme, like, shape, dtype, axes, chunks, shards, voxel_size, offset, kind)
    check_created(address, spec)
    if overwrite:
        store.delete(address)
    return store.create(address, spec)


def _spec_of(
    url: str,
    scheme: str,
    like: Volume | None,
    shape: Named | None,
    dtype: Any,
    axes: str | None,
    chunks: Named | None,
    shards: Named | None,
    voxel_size: Mapping[str, Length] | Sequence[float] | None,
    offset: Named | None,
    kind: str | None,
) -> ArraySpec:
    """Return the spec of a volume to be created: what is given, then what `like` has, then defaults."""
    source = like.spec if like is not None else None
    known_shape = source.shape if source else None
    if shape is None and known_shape is None:
        raise PlanError(f"create {url}: give shape=, or like= another volume")
    ndim = len(shape if shape is not None else known_shape or ())
    names = axes or (source.axes if source and source.ndim == ndim else "tczyx"[-ndim:])
    like_fits = source is not None and source.axes == names
    spec_shape = _along(shape, names, None, "shape") if shape is not None else tuple(known_shape or ())
    voxel_type = _dtype(dtype if dtype is not None else (source.dtype if source else "uint8"))
    spec_chunks = default_chunks(spec_shape, voxel_type, names)
    if source is not None and like_fits and like is not None and like.scheme == scheme:
        spec_chunks = source.chunks
    size = source.voxel_size if source and like_fits else None
    try:
        return ArraySpec(
            shape=_positive(spec_shape, "shape"),
            dtype=voxel_type,
            axes=_checked_axes(names, ndim),
            chunks=_positive(_along(chunks, names, spec_chunks, "chunks"), "chunks"),
            shards=_positive(_along(shards, names, spec_chunks, "shards"), "shards") if shards is not None else None,
            offset=_along(offset, names, source.offset if source and like_fits else (0,) * ndim, "offset"),
            voxel_size=_size(voxel_size, names, size, url) if voxel_size is not None else size,
            kind=_kind(kind, url) if kind else (source.kind if source else Kind.IMAGE),
        )
    except RemoteError as error:
        raise PlanError(f"create {url}: {error}") from None


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
    return _above_zero(result, axes, where)


def _size(
    given: Mapping[str, Length] | Sequence[float], axes: str, known: tuple[float, ...] | None, where: str
) -> tuple[float, ...]:
    if isinstance(given, Mapping):
        return named_size(given, axes, known, where)
    if isinstance(given, str) or len(given) != len(axes):
        raise PlanError(f"{where}: voxel_size {given!r} is not one number for each of {', '.join(axes)}")
    return _above_zero([float(value) for value in given], axes, where)


def _above_zero(sizes: Sequence[float], axes: str, where: str) -> tuple[float, ...]:
    for axis, size in zip(axes, sizes, strict=True):
        if not (size > 0 and math.isfinite(size)):
            raise PlanError(f"{where}: voxel_size.{axis} is {size:g}; it must be a length above 0")
    return tuple(sizes)


def _along(given: Named | None, axes: str, known: Sequence[int] | None, what: str) -> Shape:
    """Return one integer an axis, in the order of `axes`; axes that a mapping does not name keep what is known."""
    if given is None:
        return tuple(known or ())
    if isinstance(given, Mapping):
        unknown = [axis for axis in given if axis not in axes]
        missing = [axis for axis in axes if axis not in given] if known is None else []
        if unknown or missing:
            wrong = f"names the axis {unknown[0]!r}" if unknown else f"says nothing of the axis {missing[0]}"
            raise PlanError(f"{what} {wrong}; the volume's axes are {', '.join(axes)}")
        given = [given.get(axis, n) for axis, n in zip(axes, known or [0] * len(axes), strict=True)]
    if len(given) != len(axes):
        raise PlanError(f"{what} {tuple(given)} is not one number for each of {', '.join(axes)}")
    try:
        return tuple(value.__index__() for value in given)
    except (TypeError, AttributeError):
        raise PlanError(f"{what} {tuple(given)} must be whole numbers") from None


def _positive(extents: Shape, what: str) -> Shape:
    if any(n < 1 for n in extents):
        raise PlanError(f"{what} {extents} has an extent below 1")
    return extents


def _checked_axes(axes: str, ndim: int) -> str:
    order = [("tczyx").find(axis) for axis in axes]
    if len(axes) != ndim or -1 in order or sorted(set(order)) != order:
        raise PlanError(
            f"axes {axes!r} do not name {ndim} axes; write each of t, c, z, y, x at most once, in this order"
        )
    return axes


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        native: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
        return native
    except TypeError:
        raise PlanError(f"{dtype!r} is not a type of voxel; use uint8, uint16, uint32, uint64, float32 ...") from None


def _kind(kind: str, where: str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise PlanError(f"{where}: kind {kind!r} is not one of {', '.join(Kind)}") from None

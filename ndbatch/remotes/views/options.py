"""The options that make a view of any volume: as text in an address, as values in YAML and Python.

`image.zarr?t=0&c=DAPI&flip=z&crop=z:0:64,y:10 um:20 um`. They are applied in the order of `OPTIONS`, whatever order they
are written in: a place along t and c is taken; spatial axes are transposed, then flipped; a box is cut out and padded;
the result is translated, laid on another grid, cast. Positions in each of them are those that the one before left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndbatch.casting import FLOATS, INTEGERS, cast
from ndbatch.errors import NdbatchError, PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import ArraySpec, Kind, Volume
from ndbatch.remotes.views.resampling import Resample, over_same_space
from ndbatch.remotes.views.view import SPATIAL, Cast, Crop, Flip, Geometry, Pad, Select, Translate, Transpose, View
from ndbatch.units import has_unit, in_voxels, micrometres

OPTIONS = (
    "t", "c", "transpose", "flip", "crop", "pad", "translate", "resample", "dtype", "fill", "grid",
)  # fmt: skip
"""Options of a view, in the order they are applied; `fill` belongs to pad and resample, `grid` to resample."""
METHODS = ("nearest", "linear")


def split(address: Address) -> tuple[Address, dict[str, str]]:
    """Return the address of the stored volume, and the options of an address that are those of a view."""
    options = dict(address.options)
    wanted = {name: options.pop(name) for name in OPTIONS if name in options}
    return (replace(address, options=tuple(options.items())), wanted) if wanted else (address, wanted)


def view(volume: Volume, wanted: Mapping[str, Any]) -> Volume:
    """Return `volume` seen as `wanted` says; `volume` itself where that is nothing.

    Values are text, as in an address, or what YAML and Python have for it: `t`, `c` a number (`c` a name too); `transpose`
    the source's spatial axes that become z, y, x, such as "zxy"; `flip` axes; `crop` and `pad` a pair for each named
    axis; `translate` a number for each; `resample` nearest or linear onto `grid`, which is the ArraySpec of another volume,
    or for each spatial axis a voxel size (micrometres, or text with a unit) or (start, stop, voxel size); `dtype` a type
    of voxel; `fill` the value of voxels that pad and resample add, 0 if not given. Raises PlanError for what does not fit.
    """
    wanted = {name: value for name, value in wanted.items() if value is not None}
    unknown = [name for name in wanted if name not in OPTIONS]
    if unknown:
        raise PlanError(f"{volume.url}: {unknown[0]!r} is no option of a view; there are {', '.join(OPTIONS)}")
    for name, owners in (("fill", ("pad", "resample")), ("grid", ("resample",))):
        if name in wanted and not any(owner in wanted for owner in owners):
            raise PlanError(f"{volume.url}: {name} goes with {' or '.join(owners)}, which is not given")
    address = volume.address.with_options(**{name: _text(value) for name, value in wanted.items()})
    seen = volume
    for name in OPTIONS:
        if name in wanted and name in _MAKERS:
            geometry = _MAKERS[name](seen, wanted[name], wanted)
            seen = View(seen, geometry, address)
    return seen


def _select(axis: str) -> Callable[[Volume, Any, Mapping[str, Any]], Geometry]:
    def make(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
        if axis not in source.axes:
            raise PlanError(
                f"{source.url}: {axis}={value} selects along an axis that the volume lacks ({_axes(source)})"
            )
        at = source.axes.index(axis)
        low, high = source.domain.start[at], source.domain.stop[at]
        text = str(value)
        if axis == "c" and text in source.channels:
            return Select(axis, low + source.channels.index(text))
        if not text.lstrip("-").isdigit() or not low <= int(text) < high:
            named = f", or a name: {', '.join(source.channels)}" if axis == "c" and source.channels else ""
            raise PlanError(
                f"{source.url}: {axis}={value} is not there; write a number from {low} to {high - 1}{named}"
            )
        return Select(axis, int(text))

    return make


def _transpose(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    spatial = [axis for axis in source.axes if axis in SPATIAL]
    order = "".join(value) if not isinstance(value, str) else value.replace(",", "")
    if sorted(order) != sorted(spatial):
        raise PlanError(
            f"{source.url}: transpose={order} must name each of {', '.join(spatial)} once: the axes that become "
            f"{', '.join(spatial)}"
        )
    turned = iter(order)
    return Transpose(tuple(source.axes.index(next(turned) if axis in SPATIAL else axis) for axis in source.axes))


def _flip(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    for name in names:
        if name not in SPATIAL or name not in source.axes:
            spatial = ", ".join(axis for axis in source.axes if axis in SPATIAL)
            raise PlanError(f"{source.url}: flip: {name!r} is not one of {spatial}")
    return Flip(tuple(axis in names for axis in source.axes))


def _crop(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    start, stop = list(source.domain.start), list(source.domain.stop)
    for at, ends in _named(source, value, "crop", 2).items():
        low, high = (_position(source, end, at, "crop") for end in ends)
        if not start[at] <= low < high <= stop[at]:
            raise PlanError(
                f"{source.url}: crop {source.axes[at]}: [{low}, {high}) is not inside the volume, which is "
                f"[{start[at]}, {stop[at]}); pad adds voxels around it"
            )
        start[at], stop[at] = low, high
    return Crop(Box(tuple(start), tuple(stop)))


def _pad(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    before, after = [0] * source.ndim, [0] * source.ndim
    for at, ends in _named(source, value, "pad", 2).items():
        before[at], after[at] = (_position(source, end, at, "pad") for end in ends)
        if source.axes[at] not in SPATIAL or min(before[at], after[at]) < 0:
            raise PlanError(
                f"{source.url}: pad adds 0 or more voxels along z, y, x; {source.axes[at]}: {ends} is not that"
            )
    return Pad(tuple(before), tuple(after), _fill(source, wanted))


def _translate(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    by = [0] * source.ndim
    for at, (shift,) in _named(source, value, "translate", 1).items():
        by[at] = _position(source, shift, at, "translate")
    return Translate(tuple(by))


def _cast(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    known = ("bool", *INTEGERS, *FLOATS)
    if str(value) not in known:
        raise PlanError(f"{source.url}: dtype={value} is not a type of voxel; use one of {', '.join(known)}")
    return Cast(str(value))


def _resample(source: Volume, value: Any, wanted: Mapping[str, Any]) -> Geometry:
    """Return the sampling onto the grid; PlanError where either voxel size is unknown or the method does not fit."""
    if value not in METHODS:
        raise PlanError(f"{source.url}: resample={value} is not known; use {' or '.join(METHODS)}")
    lossy = source.kind is Kind.LABELS or source.dtype.kind == "b" or source.dtype.name in ("int64", "uint64")
    if value == "linear" and lossy:
        what = "labels" if source.kind is Kind.LABELS else str(source.dtype)
        raise PlanError(f"{source.url}: {what} cannot be interpolated without loss; write resample: nearest")
    if source.voxel_size is None:
        raise PlanError(f"{source.url}: resample needs the voxel size, which the volume does not tell; add voxel_size")
    if "grid" not in wanted:
        raise PlanError(
            f"{source.url}: resample={value} says nothing of the voxels to make; add grid: {{z: 1 um, y: 1 um, x: 1 um}}, "
            "or like: another input"
        )
    domain, size = _grid(source, wanted["grid"])
    return Resample(value, domain, size, _fill(source, wanted))


def _grid(source: Volume, value: Any) -> tuple[Box, tuple[float, ...]]:
    """Return the box and the voxel size of a grid, with t and c as they are in the source."""
    assert source.voxel_size is not None
    entries = _named(source, _entries(value, source) if isinstance(value, ArraySpec) else value, "grid", 0)
    missing = [axis for at, axis in enumerate(source.axes) if axis in SPATIAL and at not in entries]
    if missing or any(source.axes[at] not in SPATIAL for at in entries):
        raise PlanError(
            f"{source.url}: grid must name z, y, x as the volume has them, and no others; it says {_text(value)}"
        )
    size = list(source.voxel_size)
    for at, entry in entries.items():
        size[at] = _size(source, entry[-1])
    covering = over_same_space(source.spec, tuple(size))
    start, stop = list(covering.start), list(covering.stop)
    for at, entry in entries.items():
        if len(entry) == 3:
            start[at], stop[at] = (_whole(source, end, "grid") for end in entry[:2])
        if len(entry) not in (1, 3) or start[at] >= stop[at]:
            raise PlanError(
                f"{source.url}: grid: {source.axes[at]}: {_text(list(entry))} is neither a voxel size nor start, stop, voxel size"
            )
    return Box(tuple(start), tuple(stop)), tuple(size)


def _entries(spec: ArraySpec, source: Volume) -> dict[str, Any]:
    """Return the grid of another volume, by the names of its spatial axes."""
    if spec.voxel_size is None:
        raise PlanError(f"{source.url}: the volume to resample like has no voxel size; add voxel_size to it")
    rows = zip(spec.axes, spec.domain.start, spec.domain.stop, spec.voxel_size, strict=True)
    return {axis: (start, stop, size) for axis, start, stop, size in rows if axis in SPATIAL}


def _named(source: Volume, value: Any, what: str, count: int) -> dict[int, tuple[Any, ...]]:
    """Return values by the place of the axis they name: `z:0:64,y:0:10` or a mapping; `count` values each, 0 for any.

    One value where two are due is taken twice.
    """
    if isinstance(value, str):
        parts = [part.split(":") for part in value.split(",")]
        value = {part[0].strip(): tuple(text.strip() for text in part[1:]) for part in parts}
    if not isinstance(value, Mapping):
        raise PlanError(
            f"{source.url}: {what} {value!r} names no axes; write such as {what}: {{z: ...}}, or {what}=z:..."
        )
    found: dict[int, tuple[Any, ...]] = {}
    for axis, given in value.items():
        if len(str(axis)) != 1 or axis not in source.axes:
            raise PlanError(f"{source.url}: {what} names {axis!r}; the volume's axes are {_axes(source)}")
        entry = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
        entry = entry * 2 if count == 2 and what == "pad" and len(entry) == 1 else entry
        if not entry or (count and len(entry) != count):
            raise PlanError(f"{source.url}: {what} {axis}: {_text(given)} is not {count} numbers")
        found[source.axes.index(axis)] = entry
    return found


def _position(source: Volume, value: Any, at: int, what: str) -> int:
    """Return a position along the axis in place `at`, given in voxels or as a length."""
    if has_unit(value):
        voxels = in_voxels(value, source.voxel_size, source.ndim, f"{source.url}: {what}")
        return round(voxels[at])
    return _whole(source, value, what)


def _whole(source: Volume, value: Any, what: str) -> int:
    try:
        if isinstance(value, bool) or float(value) != int(value):
            raise ValueError
    except (TypeError, ValueError):
        raise PlanError(f"{source.url}: {what}: {value} is not a whole number of voxels") from None
    return int(value)


def _size(source: Volume, value: Any) -> float:
    try:
        size = micrometres(value) if has_unit(value) else float(value)
    except (TypeError, ValueError):
        size = 0.0
    if not 0 < size < float("inf"):
        raise PlanError(f"{source.url}: grid: {value} is not a voxel size above 0, such as 0.5 um")
    return size


def _fill(source: Volume, wanted: Mapping[str, Any]) -> float:
    """Return the value of added voxels; PlanError where the volume's type does not hold it."""
    value = wanted.get("fill", 0)
    try:
        number = float(value)
        if number != 0:
            held = cast(np.array([number]), source.dtype, f"{source.url}: fill")
            if source.dtype.kind != "f" and float(held[0]) != number:
                raise ValueError
    except NdbatchError as error:
        raise PlanError(error.message) from None
    except (TypeError, ValueError):
        raise PlanError(f"{source.url}: fill={value} is not a value of {source.dtype}") from None
    return number


def _axes(volume: Volume) -> str:
    return ", ".join(volume.axes)


def _text(value: Any) -> str:
    """Return the text of an option's value, as it stands in an address; `view` takes it for the same value."""
    if isinstance(value, ArraySpec):
        if value.voxel_size is None:
            return "?"
        rows = zip(value.axes, value.domain.start, value.domain.stop, value.voxel_size, strict=True)
        return ",".join(f"{axis}:{a}:{b}:{s!r}" for axis, a, b, s in rows if axis in SPATIAL)
    if isinstance(value, Mapping):
        return ",".join(f"{axis}:{_text(entry).replace(',', ':')}" for axis, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(_text(entry) for entry in value)
    return repr(value) if isinstance(value, float) else str(value)


_MAKERS: Mapping[str, Callable[[Volume, Any, Mapping[str, Any]], Geometry]] = {
    "t": _select("t"),
    "c": _select("c"),
    "transpose": _transpose,
    "flip": _flip,
    "crop": _crop,
    "pad": _pad,
    "translate": _translate,
    "resample": _resample,
    "dtype": _cast,
}

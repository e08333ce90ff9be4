"""Two-dimensional looks at a volume: a slice or a projection, read in tiles, never larger than a screen can show.

A `Window` says what will be read before anything is; memory stays below a few hundred MB whatever the volume holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid
from ndbatch.remotes.base import Array, ArraySpec, Kind

TILE_VOXELS = 2**24
"""Voxels held at a time while reading, where the stored chunks allow."""

Projection = Literal["max", "mean"]


@dataclass(frozen=True)
class Limits:
    """How much one picture may show and read."""

    pixels: int = 2048
    """Most pixels along each side."""
    voxels: int = 2**28
    """Most voxels read; a larger request shows the middle of the volume."""


SCREEN = Limits()
"""What a single picture on a screen may show and read."""


class Readable(Protocol):
    """What pictures need of a volume: its spec, and voxels by box."""

    @property
    def spec(self) -> ArraySpec:
        """What the array is, without its voxels."""
        ...

    def read(self, box: Box) -> Array:
        """Return the voxels of `box`, absolute coordinates."""
        ...


@dataclass(frozen=True)
class Held:
    """An array in memory as a readable volume; `start` is the absolute position of its first voxel."""

    array: Array
    spec: ArraySpec

    @staticmethod
    def of(
        array: Array,
        box: Box,
        axes: str = "zyx",
        voxel_size: tuple[float, ...] | None = None,
        kind: Kind = Kind.IMAGE,
    ) -> Held:
        """Return `array` (C-order, `axes`), which lies at `box`; `voxel_size` in micrometres along each axis."""
        spec = ArraySpec(array.shape, array.dtype, axes, array.shape, None, box.start, voxel_size, kind)
        return Held(array, spec)

    def read(self, box: Box) -> Array:
        """Return the view of `box`."""
        return self.array[box.slices(self.spec.offset)]


@dataclass(frozen=True)
class Window:
    """What a picture shows: `box` in absolute voxels, every `stride`-th voxel of it along rows and columns.

    `depth`, `rows` and `columns` are axis numbers; `depth` is None where the volume has no such axis (2-D data).
    """

    box: Box
    depth: int | None
    rows: int
    columns: int
    stride: int
    words: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the plane."""
        shape = self.box.shape
        return -(-shape[self.rows] // self.stride), -(-shape[self.columns] // self.stride)


def window(
    spec: ArraySpec,
    axis: str = "z",
    position: int | Mapping[str, int] | None = None,
    project: Projection | None = None,
    region: Box | None = None,
    limits: Limits = SCREEN,
) -> Window:
    """Return what a slice across `axis` shows.

    `position` is the absolute voxel along `axis` (the middle if not given), or positions by axis name where there are
    channels or times. `project` takes the maximum or mean along `axis` instead. `region` limits the look. Raises PlanError for an
    axis or a position that the volume does not have.
    """
    region = spec.domain if region is None else region.intersect(spec.domain)
    at = _positions(spec, axis, position, region)
    plane = [spec.axes.index(n) for n in spec.axes if n in "zyx" and n != axis][-2:]
    if len(plane) < 2 or (axis not in spec.axes and axis != "z"):
        raise PlanError(f"axis {axis!r}: a slice across it is not possible; the volume has the axes {spec.axes}")
    depth = spec.axes.index(axis) if axis in spec.axes else None
    start, stop = list(region.start), list(region.stop)
    for number, name in enumerate(spec.axes):
        if number not in plane and not (project and number == depth):
            start[number], stop[number] = at[name], at[name] + 1
    box, stride, limited = _limited(Box(tuple(start), tuple(stop)), depth, (plane[0], plane[1]), limits)
    words = _words(spec, box, axis, depth, project)
    if limited:
        words += f", the middle {box.shape[plane[0]]:,} x {box.shape[plane[1]]:,} voxels"
    if stride > 1:
        words += f", one voxel in {stride} along both sides"
    return Window(box, depth, plane[0], plane[1], stride, words)


def gather(volume: Readable, view: Window, project: Projection | None = None) -> Array:
    """Return the plane of `view` as (rows, columns): the volume's dtype, or float64 for a mean; zero outside the volume."""
    mean = project == "mean"
    plane = np.zeros(view.shape, np.float64 if mean else volume.spec.dtype)
    inside = view.box.intersect(volume.spec.domain)
    first: set[tuple[int, int]] = set()
    for tile in _tiles(volume.spec, inside):
        rows, columns = (_every(tile, view, axis) for axis in (view.rows, view.columns))
        if rows is None or columns is None:
            continue
        data = np.moveaxis(volume.read(tile), (view.rows, view.columns), (-2, -1))
        data = data.reshape(-1, *data.shape[-2:])[:, rows[1], columns[1]]
        target = plane[rows[0], columns[0]]
        if mean:
            target += data.sum(axis=0, dtype=np.float64)
        elif (key := (rows[0].start, columns[0].start)) in first:
            np.maximum(target, data.max(axis=0), out=target)
        else:
            first.add(key)
            target[...] = data.max(axis=0)
    return plane / max(1, inside.shape[view.depth]) if mean and view.depth is not None else plane


def pixel_size(spec: ArraySpec, view: Window) -> tuple[float, float] | None:
    """Return micrometres a pixel along rows and columns, or None where the voxel size is not known."""
    if spec.voxel_size is None:
        return None
    return spec.voxel_size[view.rows] * view.stride, spec.voxel_size[view.columns] * view.stride


def _positions(spec: ArraySpec, axis: str, position: int | Mapping[str, int] | None, region: Box) -> dict[str, int]:
    """Return a voxel on every axis: the middle of the spatial ones and the first of the others where none is given."""
    given = dict(position) if isinstance(position, Mapping) else {} if position is None else {axis: position}
    unknown = [name for name in given if name not in spec.axes and not (name == "z" and given[name] == 0)]
    if unknown:
        raise PlanError(f"position on axis {unknown[0]!r}: the volume has the axes {spec.axes}")
    at = {}
    for name, low, high in zip(spec.axes, region.start, region.stop, strict=True):
        at[name] = given.get(name, (low + high) // 2 if name in "zyx" else low)
        if not low <= at[name] < high:
            raise PlanError(f"position {name} = {at[name]} is outside; {name} goes from {low} to {high - 1}")
    return at


def _limited(box: Box, depth: int | None, plane: tuple[int, int], limits: Limits) -> tuple[Box, int, bool]:
    """Return the box to read, the stride within it, and whether the plane was cut to its middle."""
    sides = [box.shape[axis] for axis in plane]
    deep = box.shape[depth] if depth is not None else 1
    if math.prod(sides) * deep <= limits.voxels:
        return box, max(1, math.ceil(max(sides) / limits.pixels)), False
    most = dict.fromkeys(plane, limits.pixels)
    if depth is not None:
        most[depth] = max(1, limits.voxels // math.prod(min(side, limits.pixels) for side in sides))
    start, stop = list(box.start), list(box.stop)
    for axis, limit in most.items():
        spare = max(0, box.shape[axis] - limit)
        start[axis] += spare // 2
        stop[axis] = start[axis] + box.shape[axis] - spare
    return Box(tuple(start), tuple(stop)), 1, any(side > limits.pixels for side in sides)


def _words(spec: ArraySpec, box: Box, axis: str, depth: int | None, project: Projection | None) -> str:
    """Return where the picture was taken, such as `t = 0, z = 30 (8.7 um)` or `maximum over z = 0 to 59`."""
    stack = "".join(f"{name} = {box.start[i]}, " for i, name in enumerate(spec.axes) if name in "tc" and i != depth)
    if depth is None:
        return f"{stack}whole plane"
    low, high = box.start[depth], box.stop[depth] - 1
    if project:
        return f"{stack}{'maximum' if project == 'max' else 'mean'} over {axis} = {low} to {high}"
    size = spec.voxel_size
    return f"{stack}{axis} = {low}" + (f" ({low * size[depth]:.4g} µm)" if size is not None else "")


def _tiles(spec: ArraySpec, box: Box) -> Iterator[Box]:
    """Yield boxes that cover `box`: whole chunks together where they are small, parts of one where it is huge."""
    if box.empty:
        return
    tile = [min(chunk, n) for chunk, n in zip(spec.chunks, box.shape, strict=True)]
    while math.prod(tile) > 4 * TILE_VOXELS:
        largest = tile.index(max(tile))
        tile[largest] = -(-tile[largest] // 2)
    for axis in reversed(range(box.ndim)):
        while tile[axis] < box.shape[axis] and 2 * math.prod(tile) <= TILE_VOXELS:
            tile[axis] *= 2
    for block in Grid.over(box, tile, spec.offset):
        yield block.core


def _every(tile: Box, view: Window, axis: int) -> tuple[slice, slice] | None:
    """Return the pixels of `tile` along `axis` in the plane and in the tile; None where the stride skips it."""
    low, high = tile.start[axis] - view.box.start[axis], tile.stop[axis] - view.box.start[axis]
    first, last = -(-low // view.stride), -(-high // view.stride)
    if first == last:
        return None
    return slice(first, last), slice(first * view.stride - low, None, view.stride)


def contrast_of(planes: Sequence[Array], low: float = 1.0, high: float = 99.5) -> tuple[float, float]:
    """Return the percentiles `low` and `high` of all finite values in `planes` together; (0, 0) where there are none."""
    finite = [plane[np.isfinite(plane)].astype(np.float32).ravel() for plane in planes]
    values = np.concatenate(finite) if finite else np.empty(0, np.float32)
    if not values.size:
        return 0.0, 0.0
    bottom, top = np.percentile(values, (low, high))
    return (float(bottom), float(top)) if top > bottom else (float(values.min()), float(values.max()))


def levels_of_grey(plane: Array, contrast: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Return `plane` scaled so that the values `contrast` become 0 and 1 (`contrast_of` if not given), 0 if equal."""
    bottom, top = contrast_of([plane]) if contrast is None else contrast
    if top <= bottom:
        return np.zeros(plane.shape, np.float32)
    values = np.nan_to_num(plane.astype(np.float32), nan=bottom, posinf=top, neginf=bottom)
    scaled: NDArray[np.float32] = np.clip((values - bottom) / (top - bottom), 0, 1)
    return scaled

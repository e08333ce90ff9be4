"""Statistics of frames: of every time and channel by itself, or of every slice of those.

The first `leading` axes of a box tell its frames apart; the axes after them are a frame's voxels. Blocks come in C-order,
so those that share their frames come one after another, and the driver holds what is counted for a row of frames at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Pass, Patch, State
from ndbatch.steps.measure.exact_sums import SLAB, Limbs, carried, deviations, moments, quotients
from ndbatch.steps.payload import pack, unpack

Per = Literal["volume", "slice"]
"""What is looked at by itself: each volume (one of each time and channel), or each of its slices along z."""


def leading_axes(info: ArrayInfo, per: Per) -> int:
    """Return how many of the first axes of `info` tell frames apart: t and c, and z where it is done by slice."""
    return sum(axis in ("tcz" if per == "slice" else "tc") for axis in info.axes)


def frames_of(core: Array, leading: int) -> Iterator[Array]:
    """Yield the frames of an array in C-order, as views."""
    for place in np.ndindex(core.shape[:leading]):
        yield core[place]


def finite_slabs(frame: Array, size: int = SLAB) -> Iterator[Array]:
    """Yield the finite voxels of a frame, at most `size` at a time, one axis."""
    flat = np.ascontiguousarray(frame).reshape(-1)
    for begin in range(0, flat.size, size):
        part = flat[begin : begin + size]
        yield part[np.isfinite(part)] if part.dtype.kind == "f" else part


def rows_of_blocks(
    payloads: Iterable[tuple[Block, bytes]], leading: int
) -> Iterator[tuple[Box, Iterator[Mapping[str, Array]]]]:
    """Yield, for blocks that share their frames, the box of these frames along the leading axes and their payloads."""

    def frames(item: tuple[Block, bytes]) -> Box:
        core = item[0].core
        return Box(core.start[:leading], core.stop[:leading])

    for box, group in groupby(payloads, frames):
        yield box, (unpack(payload) for _, payload in group)


class FrameValues(State):
    """Values of frames by name: arrays of the grid's leading extents, and more axes after them where a frame has several.

    A block gets those of its own frames; a box that reaches beyond the region gets, there, those of the nearest frame.
    """

    def __init__(self, bounds: Box, leading: int, values: Mapping[str, Array], told: bool = True) -> None:
        self._start, self._extent, self._values, self._told = bounds.start, bounds.shape[:leading], values, told

    def select(self, block: Block, box: Box) -> dict[str, Any]:
        """Return, by name, an array of the leading extents of `box`; a plain number where there is one frame and axis 0
        of the box belongs to it."""
        sides = zip(box.start, box.stop, self._start, self._extent, strict=False)
        index = np.ix_(*(np.clip(np.arange(a, b) - o, 0, n - 1) for a, b, o, n in sides))
        chosen = {name: array[index] for name, array in self._values.items()}
        return {name: array.item() if array.ndim == 0 else array for name, array in chosen.items()}

    def facts(self) -> dict[str, Any]:
        """Return the value where there is one frame, the smallest and the largest where there are several."""
        result: dict[str, Any] = {}
        for name, array in self._values.items() if self._told else ():
            if array.size == 1:
                result[name] = float(array.reshape(-1)[0])
            else:
                result |= {f"smallest {name}": float(np.nanmin(array)), f"largest {name}": float(np.nanmax(array))}
        return result


def require_some_finite(values: Array, what: str) -> None:
    """Raise PlanError where the values of all frames are NaN: no voxel of the image is finite."""
    if np.isnan(values).all():
        raise PlanError(f"{what}: no voxel of the image is finite, so there is nothing to measure; look at the input")


@dataclass(frozen=True)
class FrameRange(Pass):
    """Finds `low` and `high`, the smallest and largest finite value of every frame, float64; NaN where none is finite."""

    name: str
    halo: Shape
    leading: int
    what: str

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the range of each frame's voxels in the block."""
        ends = []
        for frame in frames_of(inputs["input"].crop(block.core), self.leading):
            found = [(float(part.min()), float(part.max())) for part in finite_slabs(frame) if part.size]
            ends.append((min(a for a, _ in found), max(b for _, b in found)) if found else (np.nan, np.nan))
        return pack({"ends": np.array(ends)})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> FrameValues:
        """Return the ranges; PlanError where no voxel is finite."""
        bounds = grid.bounds
        low, high = (np.full(bounds.shape[: self.leading], np.nan) for _ in range(2))
        for box, told in rows_of_blocks(payloads, self.leading):
            at = box.slices(bounds.start[: self.leading])
            for ends in (part["ends"].reshape(*box.shape, 2) for part in told):
                low[at], high[at] = np.fmin(low[at], ends[..., 0]), np.fmax(high[at], ends[..., 1])
        require_some_finite(low, self.what)
        return FrameValues(bounds, self.leading, {"low": low, "high": high})


@dataclass(frozen=True)
class FrameMoments(Pass):
    """Finds `mean` and `deviation` (population) of the finite voxels of every frame, float64, each rounded once from exact
    sums, so that no grouping of voxels changes a bit; NaN where none is finite."""

    name: str
    halo: Shape
    leading: int
    what: str

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return counts, sums and sums of squares of each frame's voxels in the block."""
        core = inputs["input"].crop(block.core)
        values = core.view(np.uint8) if core.dtype.kind == "b" else core
        count = prod(core.shape[: self.leading])
        counts = np.zeros(count, np.int64)
        both: tuple[Limbs, Limbs] = ({}, {})
        for number, frame in enumerate(frames_of(values, self.leading)):
            for part in finite_slabs(frame):
                if part.size:
                    counts[number] += part.size
                    for sums, more in zip(both, moments(part, np.zeros(1, np.intp)), strict=True):
                        for k, digits in more.items():
                            sums.setdefault(k, np.zeros(count, np.int64))[number] += digits[0]
        told = {f"{letter}{k}": d for letter, sums in zip("sq", both, strict=True) for k, d in _carried(sums, count)}
        return pack({"counts": counts, **told})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> FrameValues:
        """Return mean and deviation; PlanError where no voxel is finite."""
        bounds = grid.bounds
        mean, deviation = (np.full(bounds.shape[: self.leading], np.nan) for _ in range(2))
        for box, told in rows_of_blocks(payloads, self.leading):
            counts = np.zeros(prod(box.shape), np.int64)
            both: dict[str, Limbs] = {"s": {}, "q": {}}
            for part in told:
                counts += part["counts"]
                for name, digits in part.items():
                    if name != "counts":
                        sums, k = both[name[0]], int(name[1:])
                        sums[k] = sums[k] + digits if k in sums else digits
                both = {letter: dict(_carried(sums, len(counts))) for letter, sums in both.items()}
            at = box.slices(bounds.start[: self.leading])
            mean[at] = quotients(both["s"], counts).reshape(box.shape)
            deviation[at] = deviations(both["s"], both["q"], counts).reshape(box.shape)
        require_some_finite(mean, self.what)
        return FrameValues(bounds, self.leading, {"mean": mean, "deviation": deviation})


def _carried(sums: Limbs, count: int) -> Iterable[tuple[int, Array]]:
    return carried(sums or {0: np.zeros(count, np.int64)}).items()

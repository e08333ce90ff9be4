"""`expand_labels`: labels grow into the background by a distance, without touching one another.

    - expand_labels: {input: nuclei, output: cells, distance: 3 um}
    - expand_labels: {input: nuclei, output: cells, distance: 8, per: slice}

A voxel of the background takes the label of the nearest labelled voxel within the distance (Euclidean, between centres, in
physical units where the voxels are not cubes); of several equally near ones the smallest id. As scikit-image's
`expand_labels`, but for its ties, which are arbitrary. Times and channels never mix.

Distance squared and id are one 64-bit number, the distance in the upper half, and the nearest is the smallest of these
numbers: found along one axis after the other (Saito and Toriwaki 1994), with integers, so that neither blocks nor rounding
decide anything. Voxel sides enter as the smallest whole numbers that have their ratio, where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.relabel.ids import distinct, replaced
from ndbatch.steps.statistics.frames import Per, leading_axes
from ndbatch.steps.unary import Unary
from ndbatch.units import Length

FAR = np.uint64(1 << 62)
"""The number of the background; sums of it and of all that is added stay below 2^64."""
LARGEST = 1 << 29
"""The largest square of a distance, in its own units: three of them and `FAR` fit into 32 bits."""
SLAB = 1 << 15
"""Voxels that are compared together while a line is gone through: they stay in the cache."""


class ExpandLabels(Unary):
    """Grow labels into the background by a distance; they stop where they meet."""

    kind: ClassVar[str] = "expand_labels"

    input: str
    """Labels, integers; 0 is background."""
    output: str
    """The name of the result: the labels' dtype unless the output asks for another."""
    distance: Annotated[Length, Field(examples=["3 um"])]
    """How far labels grow: a length, or voxels of the finest axis. Blocks are read with so much context."""
    per: Per = "volume"
    """slice: within each slice along z."""

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is the distance.

        Raises PlanError for an input that is not of integers, and for a distance that reaches no neighbouring voxel or has
        a unit where the volume has no voxel size.
        """
        info = inputs["input"]
        self.require_labels(info)
        leading = leading_axes(info, self.per)
        voxels = spatial_voxels(self.distance, info, "expand_labels: distance")
        far = (0.0,) * leading + voxels[leading:]
        reach = tuple(int(n + 1e-9) for n in far)
        if not any(reach):
            raise PlanError(
                f"expand_labels: distance {self.distance} reaches no neighbouring voxel, which changes nothing; make it larger"
            )
        made = replace(info, dtype=dtypes.get("output", info.dtype), kind=Kind.LABELS)
        return _Expanding(
            arrays={"output": made},
            halo=reach,
            # Measured: two arrays of 64-bit numbers, and numbers of wide ids; the result before it is cast.
            working_bytes=18.0 + 3 * info.dtype.itemsize,
            metric=Metric.of(far),
            name=self.output,
        )


@dataclass(frozen=True)
class Metric:
    """Squares of distances as whole numbers: `costs[axis][k]` for k voxels along an axis; `limit` the largest that counts."""

    costs: tuple[tuple[int, ...], ...]
    limit: int

    @staticmethod
    def of(far: tuple[float, ...]) -> Metric:
        """Return the metric in which `far` voxels along each axis are one and the same distance; 0 where an axis is not
        mixed along."""
        reach = [int(n + 1e-9) for n in far]
        finest = max(far)
        squares = [(finest / n) ** 2 if n else 0.0 for n in far]
        unit = _unit(squares, finest**2)
        costs = tuple(tuple(round(k * k * s * unit) for k in range(r + 1)) for r, s in zip(reach, squares, strict=True))
        # A distance on the limit belongs to it, however its square was rounded.
        return Metric(costs, math.floor(finest**2 * unit * (1 + 1e-9) + (0 if _whole(unit) else len(far))))


def _whole(number: float) -> bool:
    return abs(number - round(number)) <= 1e-9 * max(1.0, number)


def _unit(squares: list[float], limit: float) -> float:
    """Return what makes whole numbers of `squares` (of the voxels' sides, the finest 1), `limit` at most `LARGEST`."""
    for unit in range(1, 10001):
        if unit * limit <= LARGEST and all(_whole(unit * s) for s in squares):
            return float(unit)
    return LARGEST * (1 - 1e-6) / limit


@dataclass(frozen=True)
class _Expanding(Operation):
    metric: Metric = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the labels of `box`, grown."""
        patch = inputs["input"]
        values = patch.data.view(f"u{patch.data.dtype.itemsize}")
        here = np.array(Patch(values, patch.box).crop(box))
        if values.any() and not here.all():
            small, ids = _numbered(values)
            keys = small.astype(np.uint64)
            keys[small == 0] = FAR
            for axis, costs in enumerate(self.metric.costs):
                keys = _nearest(keys, patch.box, box, axis, costs)
            near = (keys >> np.uint64(32)) <= np.uint64(self.metric.limit)
            found = (keys & np.uint64(0xFFFFFFFF))[near]
            here[near] = found if ids is None else ids[found]
        return {"output": cast(here.view(patch.data.dtype), self.arrays["output"].dtype, self.name)}


def _numbered(values: Array) -> tuple[Array, Array | None]:
    """Return labels that fit into 32 bits and sort as `values` do, and the ids they stand for; None if the ids themselves
    fit."""
    if values.dtype.itemsize <= 4 or int(values.max()) < 1 << 32:
        return values, None
    ids = distinct(values)
    ids = ids if ids[0] == 0 else np.concatenate([np.zeros(1, ids.dtype), ids])
    return replaced(values, ids, np.arange(len(ids), dtype=np.uint32)), ids


def _nearest(keys: Array, within: Box, box: Box, axis: int, costs: tuple[int, ...]) -> Array:
    """Return the smallest of `keys` along `axis`, each with the cost of its way, cut to `box` there.

    `keys` covers `within` along `axis` and those after it.
    """
    first = box.start[axis] - within.start[axis]
    shape = list(keys.shape)
    shape[axis] = box.shape[axis]
    result = np.empty(shape, keys.dtype)
    # Across another axis, so that a line is whole in every slab.
    across = 0 if axis else min(1, keys.ndim - 1)
    rows = max(1, SLAB * keys.shape[across] // keys.size) if across != axis else keys.shape[across]
    for begin in range(0, keys.shape[across], rows):
        part = [slice(None)] * keys.ndim
        if across != axis:
            part[across] = slice(begin, begin + rows)
        _nearest_along(np.moveaxis(keys[tuple(part)], axis, 0), np.moveaxis(result[tuple(part)], axis, 0), first, costs)
    return result


def _nearest_along(keys: Array, result: Array, first: int, costs: tuple[int, ...]) -> None:
    """Put into `result` the smallest numbers around those of `keys` from `first` on, along axis 0."""
    count = len(result)
    result[...] = keys[first : first + count]
    for k, cost in enumerate(costs[1:], 1):
        added = np.uint64(cost << 32)
        for shift in (first - k, first + k):
            low, high = max(0, -shift), min(count, len(keys) - shift)
            if low < high:
                np.minimum(result[low:high], keys[low + shift : high + shift] + added, out=result[low:high])

"""`downsample` and `project`: fewer, larger voxels, by pooling windows of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.pooling import Pooling, pool

Factor = Annotated[int, Field(ge=1)]
Factors = dict[Literal["t", "c", "z", "y", "x"], Factor]


class Downsample(Step):
    """Make a volume of fewer, larger voxels: an image by the mean, labels (which keep their ids) by the most frequent one.

    Give the output `pyramid: auto` to make further levels in the same run.
    """

    kind: ClassVar[str] = "downsample"

    input: str
    """The array."""
    output: str
    """The name of the coarser array."""
    factors: Annotated[Factors | Literal["auto"], Field(examples=[{"y": 2, "x": 2}])] = "auto"
    """Voxels to one along each named axis, 1 along the others. auto halves z, y and x, but first only those axes whose
    voxels are the shorter ones, until voxels are as near to cubes as can be."""
    method: Pooling | Literal["auto"] = "auto"
    """mean, mode (the value that occurs most; of several the smallest, 0 last), median (the lower one of two), min, max or
    stride (the first voxel). auto is mode for labels and mean for the others."""

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo, no passes. PlanError for axes that are not there, or nothing to do."""
        info = inputs["input"]
        factors = isotropic_factors(info) if self.factors == "auto" else named_factors(self.factors, info)
        return pooling(info, factors, chosen(self.method, info), dtypes.get("output"), self.output)


class Project(Step):
    """Look through a volume along one axis: the maximum, minimum, mean or median of each line of voxels.

    The axis stays, with one voxel as long as the whole region.
    """

    kind: ClassVar[str] = "project"

    input: str
    """The array."""
    output: str
    """The name of the projection."""
    axis: Literal["t", "c", "z", "y", "x"] = "z"
    """The axis to look along."""
    method: Literal["max", "min", "mean", "median"] = "max"
    """What becomes of a line of voxels."""

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo, no passes. PlanError where the axis is not there or begins below 0."""
        info = inputs["input"]
        place = _axis(self.axis, info)
        start, stop = info.domain.start[place], info.domain.stop[place]
        if start < 0:
            raise PlanError(f"axis {self.axis} begins at {start}; set the input's offset to 0 or more")
        factors = tuple(stop if i == place else 1 for i in range(info.ndim))
        operation = pooling(info, factors, chosen(self.method, info), dtypes.get("output"), self.output)
        if info.voxel_size is None:
            return operation
        # One voxel as long as the volume, whatever the window is counted from.
        size = tuple(s * (stop - start if i == place else 1) for i, s in enumerate(info.voxel_size))
        return replace(operation, arrays={"output": replace(operation.arrays["output"], voxel_size=size)})


def pooling(
    info: ArrayInfo, factors: Shape, method: Pooling, dtype: np.dtype[Any] | None = None, name: str = "output"
) -> Operation:
    """Return the operation that makes one voxel of `factors` of them."""
    domain = info.domain.coarsened(factors)
    size = None if info.voxel_size is None else tuple(s * f for s, f in zip(info.voxel_size, factors, strict=True))
    return Pooled(
        arrays={"output": replace(info, domain=domain, voxel_size=size, dtype=dtype or info.dtype)},
        scale=factors,
        method=method,
        name=name,
    )


@dataclass(frozen=True)
class Pooled(Operation):
    """Windows of voxels to one each."""

    method: Pooling = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the coarse voxels of `box`."""
        made = pool(inputs["input"], box, self.scale, self.method)
        return {"output": cast(made, self.arrays["output"].dtype, self.name)}


def chosen(method: Pooling | Literal["auto"], info: ArrayInfo) -> Pooling:
    """Return `method`, or what suits the kind of the array. PlanError for ids that would be reckoned with as numbers."""
    # Of a mask of 8 bits the mean is the share of a window that is inside.
    if info.kind is Kind.LABELS and info.dtype.itemsize > 1 and method in ("mean", "median"):
        raise PlanError(
            f"a {method} of labels is no label; use method: mode, or kind: image for the input if they are intensities"
        )
    if method != "auto":
        return method
    return "mode" if info.kind is Kind.LABELS else "mean"


def isotropic_factors(info: ArrayInfo) -> Shape:
    """Return 2 along the axes z, y, x whose voxels are not yet as long as the others, 1 along all others.

    An axis is left alone while its voxels are at least 1.5 times longer than the shortest; axes of one voxel always
    are. Without a voxel size, voxels count as cubes. PlanError where no axis is left.
    """
    space = [i for i, axis in enumerate(info.axes) if axis in "zyx" and info.domain.shape[i] > 1]
    if not space:
        raise PlanError("there is but one voxel along z, y and x: nothing is left to downsample")
    sizes = info.voxel_size or (1.0,) * info.ndim
    shortest = min(sizes[i] for i in space)
    return tuple(2 if i in space and sizes[i] < 1.5 * shortest else 1 for i in range(info.ndim))


def named_factors(factors: Mapping[Any, int], info: ArrayInfo) -> Shape:
    """Return factors given by axis name in the order of the axes, 1 where not named. PlanError where they do not fit."""
    for axis in factors:
        _axis(axis, info)
    result = tuple(factors.get(axis, 1) for axis in info.axes)
    if math.prod(result) == 1:
        raise PlanError("factors are 1 along every axis: there is nothing to do; write such as {y: 2, x: 2}")
    return result


def _axis(axis: str, info: ArrayInfo) -> int:
    if axis not in info.axes:
        raise PlanError(f"axis {axis!r}: the array's axes are {', '.join(info.axes)}")
    return info.axes.index(axis)

"""`background`: what is brighter than its surroundings, or the surroundings themselves.

    - background: {input: image, output: flat, method: opening, radius: 15 um}
    - background: {input: image, output: lamp, method: gaussian, radius: 100 um, keep: background}
    - background: {input: image, output: flat, method: rolling_ball, radius: 12, per: slice}

- *opening*: the largest of the smallest values (`extremes.py`): what fits into the element is foreground. Never brighter
  than the image. The quickest, a box above all.
- *rolling_ball*: `rolling_ball.py`; a ball below the surface that the intensities make; the background is as high as its
  top reaches. Its time grows with the ball's volume: use it by slice.
- *gaussian*: smoothed; *median*: of the voxels in a box, slow in 3-D.

Where the image is darker than its background the result is 0 if it is unsigned, else negative. What lies outside the volume
is not looked at (opening, rolling_ball) or mirrored (gaussian, median). Times and channels never mix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.background.rolling_ball import ball_top
from ndbatch.steps.base import ArrayInfo, Operation, Patch
from ndbatch.steps.extremes import Element, ElementShape, opened
from ndbatch.steps.filter import BoxKernel, GaussianKernel
from ndbatch.steps.morphology import element_of
from ndbatch.steps.statistics.frames import Per
from ndbatch.steps.unary import Unary
from ndbatch.units import Length


class Background(Unary):
    """Subtract the background of an image, or return it: by opening, rolling ball, Gaussian or median."""

    kind: ClassVar[str] = "background"

    input: str
    """The image."""
    output: str
    """The name of the result: the image's dtype unless the output asks for another."""
    method: Literal["opening", "rolling_ball", "gaussian", "median"] = "opening"
    """opening: what does not fit into the element. rolling_ball: as high as a ball reaches from below. gaussian: smoothed.
    median: of the voxels around."""
    radius: Annotated[Length, Field(examples=["15 um"])]
    """How far it looks (gaussian: the standard deviation); larger than the largest object. A length, or voxels of the
    finest axis."""
    shape: ElementShape = "box"
    """The element of the opening: box is quicker, ball shows no edges."""
    height: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How high the ball is in intensities (rolling_ball); its radius in voxels of the finest axis if not given."""
    per: Per = "volume"
    """slice: each slice along z by itself."""
    keep: Literal["foreground", "background"] = "foreground"
    """foreground: the image less its background. background: the background itself."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> Background:
        if self.height is not None and self.method != "rolling_ball":
            raise ValueError(f"height goes with method rolling_ball, not with {self.method}")
        if "shape" in self.model_fields_set and self.method != "opening":
            raise ValueError(f"shape goes with method opening, not with {self.method}")
        return self

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is what the method looks at: twice the radius for opening, four times
        for gaussian, else the radius.

        Raises PlanError for an image that is not of numbers, for 64-bit integers with any method but opening, and for a
        radius that reaches no neighbour or has a unit where the volume has no voxel size.
        """
        info = inputs["input"]
        self.require_numbers(info)
        if self.method != "opening" and info.dtype.kind in "ui" and info.dtype.itemsize == 8:
            raise PlanError(
                f"background: {self.input} is {info.dtype}, whose large values {self.method} would round; use method: opening, "
                "or put a copy step before it and set dtype: uint32 for its output"
            )
        estimate = self._estimate(info)
        own = np.dtype(np.uint8) if info.dtype.kind == "b" else info.dtype
        made = replace(info, dtype=dtypes.get("output", own), kind=Kind.IMAGE)
        return _Removing(
            arrays={"output": made},
            halo=estimate.halo,
            working_bytes=estimate.bytes_of(info.dtype) + made.dtype.itemsize + 8.0,
            estimate=estimate,
            keep=self.keep,
            name=self.output,
        )

    def _estimate(self, info: ArrayInfo) -> _Estimate:
        box = self.method == "median" or (self.method == "opening" and self.shape == "box")
        element = element_of(self.radius, "box" if box else "ball", self.per, info, self.kind)
        match self.method:
            case "opening":
                return _Opening(element)
            case "median":
                return _Smoothing(BoxKernel(element.reach, tophat=False))
            case "gaussian":
                return _Smoothing(GaussianKernel(element.radii, (), False, 4.0))
            case _:
                return _Ball(element, self.height or max(element.radii))


class _Estimate(ABC):
    """A way to find the background."""

    @property
    @abstractmethod
    def halo(self) -> Shape:
        """Voxels that it looks at around each."""

    @abstractmethod
    def run(self, patch: Patch, box: Box) -> Array:
        """Return the background of `box`."""

    @abstractmethod
    def bytes_of(self, dtype: np.dtype[Any]) -> float:
        """Return its peak memory for an image of `dtype`, bytes a voxel."""


@dataclass(frozen=True)
class _Opening(_Estimate):
    element: Element

    @property
    def halo(self) -> Shape:
        return tuple(2 * r for r in self.element.reach)

    def run(self, patch: Patch, box: Box) -> Array:
        return opened(patch, box, self.element)

    def bytes_of(self, dtype: np.dtype[Any]) -> float:
        return 4.5 * dtype.itemsize


@dataclass(frozen=True)
class _Smoothing(_Estimate):
    kernel: BoxKernel | GaussianKernel

    @property
    def halo(self) -> Shape:
        return self.kernel.halo

    def run(self, patch: Patch, box: Box) -> Array:
        if patch.data.dtype == np.float16:
            patch = Patch(patch.data.astype(np.float32), patch.box)
        return self.kernel.run(patch, box)

    def bytes_of(self, dtype: np.dtype[Any]) -> float:
        return (self.kernel.copies + 1) * max(4, dtype.itemsize)


@dataclass(frozen=True)
class _Ball(_Estimate):
    element: Element
    height: float

    @property
    def halo(self) -> Shape:
        return self.element.reach

    def run(self, patch: Patch, box: Box) -> Array:
        return ball_top(patch, box, self.element, self.height)

    def bytes_of(self, dtype: np.dtype[Any]) -> float:
        return dtype.itemsize + 8.0


@dataclass(frozen=True)
class _Removing(Operation):
    estimate: _Estimate = field(kw_only=True)
    keep: str = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the foreground or the background of `box`."""
        patch = inputs["input"]
        if patch.data.dtype.kind == "b":
            patch = Patch(patch.data.view(np.uint8), patch.box)
        below = self.estimate.run(patch, box)
        made = self.arrays["output"].dtype
        result = below if self.keep == "background" else above(patch.crop(box), below, made.kind == "u")
        return {"output": cast(result, made, self.name)}


def above(image: Array, below: Array, unsigned: bool) -> Array:
    """Return `image - below`, of one shape: unsigned where both are integers and it is nowhere negative or `unsigned` has
    negative ones become 0; else signed or floating point, wide enough."""
    if image.dtype == below.dtype and image.dtype.kind in "ui":
        less = image < below
        if unsigned or not less.any():
            # The difference of two numbers in order fits the unsigned dtype of their width, whatever the sign.
            bits = f"u{image.dtype.itemsize}"
            result: Array = image.view(bits) - np.minimum(below, image).view(bits)
            return result
        return image.astype(np.int64) - below
    result = image.astype(np.result_type(image.dtype, below.dtype, np.float32)) - below
    return np.maximum(result, 0, out=result) if unsigned else result

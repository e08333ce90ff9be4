"""`erode`, `dilate`, `open`, `close`: of images, masks and labels, the same in blocks as in the whole volume, to the bit.

    - erode: {input: mask, output: core, radius: 0.5 um}
    - dilate: {input: cells, output: grown, radius: 2, shape: box, per: slice}
    - open: {input: image, output: background, radius: 5 um}
    - close: {input: cells, output: smooth, radius: 1 um}

- *images* (grey): the smallest value within the element around each voxel (erode), the largest (dilate), the largest of the
  smallest (open), the smallest of the largest (close). A mask of 0 and 1 is an image of two values.
- *labels*: never overwrite one another. erode keeps what is surrounded by its own label alone; dilate grows into the
  background, and where several labels reach a voxel, the smallest id wins; open is erode, then what each label regains of
  itself; close is dilate, then erode, and what was labelled stays: labels that grow into one another hold back.

What lies outside the volume is not looked at. Times and channels never mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch
from ndbatch.steps.extremes import Element, ElementShape, extreme, opened
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.statistics.frames import Per
from ndbatch.steps.unary import Unary
from ndbatch.units import Length

Mode = Literal["grey", "binary", "labels"]


class Morphology(Unary):
    """What the four steps share: the element, and what the voxels mean."""

    input: str
    """The image, mask or labels."""
    output: str
    """The name of the result: the input's dtype (uint8 for mode binary) unless the output asks for another."""
    radius: Annotated[Length, Field(examples=["0.5 um"])]
    """How far the element reaches: a length such as 0.5 um, or voxels of the finest axis."""
    shape: ElementShape = "ball"
    """ball: all voxels within the radius (an ellipsoid where voxels are not cubes). box: quicker for large radii."""
    mode: Mode | None = None
    """grey: the values of an image. binary: everything but 0 is alike, the result is 0 or 1. labels: every label by itself,
    none overwrites another. If not given: labels for labels wider than 8 bits, else grey."""
    per: Per = "volume"
    """slice: the element is flat, each slice along z by itself."""

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is the element's reach, twice for open and close.

        Raises PlanError for an element of one voxel, for labels that are not integers, and for lengths with a unit where
        the volume has no voxel size.
        """
        info = inputs["input"]
        self.require_numbers(info)
        mode = self.mode or ("labels" if info.kind is Kind.LABELS and info.dtype.itemsize > 1 else "grey")
        if mode == "labels":
            self.require_labels(info)
        element = element_of(self.radius, self.shape, self.per, info, self.kind)
        twice = self.kind in ("open", "close")
        own = np.dtype(np.uint8) if mode == "binary" else info.dtype
        made = replace(info, dtype=dtypes.get("output", own), kind=info.kind if mode == "grey" else Kind.LABELS)
        return _Changing(
            arrays={"output": made},
            halo=tuple(r * (1 + twice) for r in element.reach),
            # Measured: a padded copy, a window and its half, the result before it is cast; labels keep two extremes.
            working_bytes=(6.0 if mode == "labels" else 4.5) * own.itemsize
            + (0 if made.dtype == own else made.dtype.itemsize + 8),
            element=element,
            mode=mode,
            action=self.kind,
            name=self.output,
        )


class Erode(Morphology):
    """Erode an image, a mask or labels: bright things, objects become smaller."""

    kind: ClassVar[str] = "erode"


class Dilate(Morphology):
    """Dilate an image, a mask or labels: bright things, objects become larger; labels never overwrite one another."""

    kind: ClassVar[str] = "dilate"


class Open(Morphology):
    """Open an image, a mask or labels: erode, then dilate; what the element does not fit into goes."""

    kind: ClassVar[str] = "open"


class Close(Morphology):
    """Close an image, a mask or labels: dilate, then erode; gaps that the element does not fit into are filled."""

    kind: ClassVar[str] = "close"


def element_of(radius: Length, shape: ElementShape, per: Per, info: ArrayInfo, what: str) -> Element:
    """Return the element of `radius` on the axes of `info`, flat along z for `per: slice`; PlanError where it is one
    voxel."""
    radii = spatial_voxels(radius, info, f"{what}: radius")
    flat = tuple(0.0 if per == "slice" and axis == "z" else r for axis, r in zip(info.axes, radii, strict=True))
    element = Element(flat, shape)
    if not any(element.reach):
        raise PlanError(f"{what}: radius {radius} reaches no neighbouring voxel, which changes nothing; make it larger")
    return element


@dataclass(frozen=True)
class _Changing(Operation):
    element: Element = field(kw_only=True)
    mode: Mode = field(kw_only=True)
    action: str = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the changed voxels of `box`."""
        patch = inputs["input"]
        if self.mode == "binary":
            patch = Patch(np.not_equal(patch.data, 0).view(np.uint8), patch.box)
        change = self._labels if self.mode == "labels" else self._values
        return {"output": cast(change(patch, box), self.arrays["output"].dtype, self.name)}

    def _values(self, patch: Patch, box: Box) -> Array:
        first = self.action in ("erode", "open")
        if self.action in ("erode", "dilate"):
            return extreme(patch, box, self.element, first)
        return opened(patch, box, self.element, first)

    def _labels(self, patch: Patch, box: Box) -> Array:
        """Return labels; 64-bit ones exactly. Negative ids come after all others, as their bits do."""
        plain = Patch(patch.data.view(f"u{patch.data.dtype.itemsize}"), patch.box)
        middle = box.grow(self.element.reach).intersect(patch.box)
        match self.action:
            case "erode":
                result = self._eroded(plain, box)
            case "dilate":
                result = self._dilated(plain, box)
            case "open":
                # What a label regains lies within itself, so that only one label is ever in reach.
                result = extreme(Patch(self._eroded(plain, middle), middle), box, self.element, False)
            case _:
                grown = Patch(self._dilated(plain, middle), middle)
                result = _kept(plain.crop(box), self._eroded(grown, box))
        return result.view(patch.data.dtype)

    def _eroded(self, patch: Patch, box: Box) -> Array:
        """Return labels where all around is of the same one, else 0."""
        result = extreme(patch, box, self.element, True)
        result[result != extreme(patch, box, self.element, False)] = 0
        return result

    def _dilated(self, patch: Patch, box: Box) -> Array:
        """Return labels, and in the background the smallest one in reach."""
        # One less, so that the background becomes the largest value.
        shifted = Patch(patch.data - patch.data.dtype.type(1), patch.box)
        result = extreme(shifted, box, self.element, True)
        result += result.dtype.type(1)
        return _kept(patch.crop(box), result)


def _kept(before: Array, after: Array) -> Array:
    """Return `after`, changed in place to `before` where that is not background."""
    np.copyto(after, before, where=before != 0)
    return after

"""`mask`: voxels kept or cleared by another volume, by boxes, by labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.casting import cast
from ndbatch.errors import NdbatchError, PlanError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.units import Length, in_voxels

Span = Annotated[tuple[Length, Length], Field(strict=False)]


class Mask(Step):
    """Keep or clear voxels by a mask, by labels, by boxes; the others become the fill value."""

    kind: ClassVar[str] = "mask"

    input: str
    """The array whose voxels are kept."""
    output: str
    """The name of the result; the dtype is the input's, unless the output asks for another."""
    mask: Annotated[str | None, Field(examples=["brain"])] = None
    """An array: its voxels other than 0 are inside, or those that have one of `labels`. A mask of another level is brought to
    the input's voxels with resample: nearest in inputs."""
    labels: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Values that are inside: of `mask` where there is one, else of the input itself."""
    boxes: Annotated[tuple[dict[str, Span], ...], Field(strict=False)] | None = None
    """Boxes that are inside too: named axes, each [start, stop) in voxels or lengths; whole axes if not named."""
    mode: Literal["keep", "clear"] = "keep"
    """keep: what is inside stays, the rest is filled. clear: what is inside is filled, the rest stays."""
    fill: float | int = 0
    """Value of the voxels that are not kept."""

    @model_validator(mode="after")
    def _something_is_inside(self) -> Mask:
        if self.mask is None and self.labels is None and not self.boxes:
            raise ValueError("nothing says what is inside: give mask, labels or boxes")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The arrays it reads."""
        return {"input": self.input} | ({} if self.mask is None else {"mask": self.mask})

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo, no passes.

        Raises PlanError for boxes on axes that are not there or with lengths that cannot be turned into voxels, labels of
        an array that is not of integers, and a fill value that the dtype does not hold.
        """
        info = inputs["input"]
        dtype = dtypes.get("output", info.dtype)
        marked = inputs.get("mask", info)
        if self.labels is not None and marked.dtype.kind not in "ui":
            raise PlanError(f"mask: {self.mask or self.input} is {marked.dtype}; labels are found in integers alone")
        return _Masking(
            arrays={"output": replace(info, dtype=dtype)},
            # Where the inside is, how the labels are looked up, and the input where its dtype changes.
            working_bytes=2.0
            + (0 if self.labels is None else 9 + marked.dtype.itemsize)
            + (0 if dtype == info.dtype else 9 + info.dtype.itemsize),
            step=self,
            boxes=tuple(_box(box, info) for box in self.boxes or ()),
            fill=_fill(self.fill, info.dtype),
        )


def _box(spans: Mapping[str, tuple[Length, Length]], info: ArrayInfo) -> Box:
    """Return a box in voxels, the whole domain along axes that are not named; parts outside the domain are left out."""
    start, stop = list(info.domain.start), list(info.domain.stop)
    for axis, ends in spans.items():
        if len(axis) != 1 or axis not in info.axes:
            raise PlanError(f"mask: a box names {axis!r}; the axes are {', '.join(info.axes)}")
        at = info.axes.index(axis)
        start[at], stop[at] = (_position(end, info, at) for end in ends)
        if start[at] >= stop[at]:
            raise PlanError(f"mask: the box {axis}: [{ends[0]}, {ends[1]}] is empty; write [start, stop)")
    return Box(tuple(start), tuple(stop))


def _position(value: Length, info: ArrayInfo, at: int) -> int:
    if isinstance(value, str):
        return round(in_voxels(value, info.voxel_size, info.ndim, "mask: boxes")[at])
    if value != int(value):
        raise PlanError(f"mask: boxes: {value} is not a whole voxel; write an integer, or a length such as 12 um")
    return int(value)


def _fill(value: float, dtype: np.dtype[Any]) -> Array:
    """Return the fill value in the input's dtype, a single voxel; PlanError where that does not hold it."""
    try:
        held = cast(np.array([value]), dtype, "mask: fill")
    except NdbatchError as error:
        raise PlanError(error.message) from None
    if dtype.kind in "ui" and int(held[0]) != value:
        raise PlanError(f"mask: fill: {value} is not a value of {dtype}")
    return held


@dataclass(frozen=True)
class _Masking(Operation):
    step: Mask = field(kw_only=True)
    boxes: tuple[Box, ...] = field(kw_only=True)
    fill: Array = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the input where it is kept and the fill value elsewhere."""
        data = inputs["input"].crop(box)
        kept = self._inside({role: patch.crop(box) for role, patch in inputs.items()}, box)
        if self.step.mode == "clear":
            kept = ~kept
        return {"output": cast(np.where(kept, data, self.fill[0]), self.arrays["output"].dtype, self.step.output)}

    def _inside(self, crops: Mapping[str, Array], box: Box) -> Array:
        """Return which voxels of `box` are inside."""
        marks, labels = crops.get("mask"), self.step.labels
        if labels is not None:
            marks = _among(crops["input"] if marks is None else marks, labels)
        inside = np.zeros(box.shape, bool) if marks is None else marks != 0
        for part in self.boxes:
            common = part.intersect(box)
            if not common.empty:
                inside[common.slices(box.start)] = True
        return inside


def _among(marks: Array, labels: tuple[int, ...]) -> Array:
    """Return where `marks` holds one of `labels`; labels beyond its dtype are nowhere."""
    info = np.iinfo(marks.dtype)
    wanted = np.array(sorted(label for label in set(labels) if info.min <= label <= info.max), marks.dtype)
    if not len(wanted):
        return np.zeros(marks.shape, bool)
    # A search among the sorted labels takes a place a voxel; numpy's isin would sort the voxels of wide labels.
    places = np.searchsorted(wanted, marks)
    places[places == len(wanted)] = 0
    found: Array = wanted[places] == marks
    return found

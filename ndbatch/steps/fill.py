"""`fill`: holes in objects, up to a size, the same in blocks as in the whole volume.

    - fill: {input: cells, output: solid, size: 5 um}
    - fill: {input: mask, output: solid, size: 40, per: slice}

A hole is a piece of background, connected by faces, that touches neither the volume's edge nor more than one object; it
takes its object's id. A hole is filled exactly if it is nowhere longer than `size` along any axis: whoever sees one of its
voxels sees all of it within a halo of that length, so that no block decides otherwise. Holes that several
objects share, and larger ones, stay. With `per: slice` each slice along z is filled by itself, and holes that are open above
and below are filled too. Times and channels never mix.

For one object the result is that of scipy.ndimage.binary_fill_holes where no hole is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch
from ndbatch.steps.components.labelling import Adjacency, label, relabel
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.statistics.frames import Per, leading_axes
from ndbatch.steps.unary import Unary
from ndbatch.units import Length


class Fill(Unary):
    """Fill the holes of objects that are no longer than a size; holes between several objects stay."""

    kind: ClassVar[str] = "fill"

    input: str
    """A mask or labels, integers; 0 is background."""
    output: str
    """The name of the result: the input's dtype unless the output asks for another."""
    size: Annotated[Length, Field(examples=["5 um"])]
    """The longest side of the box around a hole that is filled: a length, or voxels of the finest axis. Blocks are read
    with so much context."""
    per: Per = "volume"
    """slice: each slice along z by itself, so that a tube across slices is a hole in each."""

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is the size.

        Raises PlanError for an input that is no mask and no labels, and for a size below one voxel or with a unit where the
        volume has no voxel size.
        """
        info = inputs["input"]
        self.require_labels(info)
        leading = leading_axes(info, self.per)
        sides = spatial_voxels(self.size, info, "fill: size")
        size = tuple(int(n + 1e-9) if axis >= leading else 0 for axis, n in enumerate(sides))
        if not all(size[leading:]):
            raise PlanError(
                f"fill: size {self.size} is less than a voxel along {info.axes[size.index(0, leading)]}; make it larger, or "
                "use per: slice"
            )
        made = replace(info, dtype=dtypes.get("output", info.dtype), kind=Kind.LABELS)
        return _Filling(
            arrays={"output": made},
            halo=size,
            # Measured: mask and labels of the background, cc3d's own, the result before it is cast; up to a third of all voxels
            # can lie in holes.
            working_bytes=28.0 + info.dtype.itemsize,
            leading=leading,
            size=size,
            name=self.output,
        )


@dataclass(frozen=True)
class _Filling(Operation):
    leading: int = field(kw_only=True)
    size: Shape = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return `box` with its holes filled."""
        patch = inputs["input"]
        values = patch.data.view(f"u{patch.data.dtype.itemsize}")
        result = np.array(Patch(values, patch.box).crop(box))
        pieces, count = label(np.equal(values, 0, order="C").view(np.uint8), Adjacency(self.leading, 1, True))
        owner = self._owners(values, pieces, count)
        if owner.any():
            here = Patch(pieces, patch.box).crop(box)
            np.add(result, relabel(np.ascontiguousarray(here), owner), out=result)
        return {"output": cast(result.view(patch.data.dtype), self.arrays["output"].dtype, self.name)}

    def _owners(self, values: Array, pieces: Array, count: int) -> Array:
        """Return, for pieces of background 1 to `count`, the id that fills them, 0 where they stay.

        Pieces that reach the end of the patch are either at the volume's edge or longer than the size.
        """
        hole = np.ones(count + 1, bool)
        for axis in range(self.leading, values.ndim):
            for end in (0, -1):
                hole[pieces.take(end, axis)] = False
        hole[0] = False
        places = np.flatnonzero(hole[pieces.reshape(-1)]) if hole.any() else np.empty(0, np.intp)
        which = pieces.reshape(-1)[places]
        strides = np.cumprod([1, *values.shape[:0:-1]])[::-1]
        low, high = np.full(count + 1, np.iinfo(values.dtype).max, values.dtype), np.zeros(count + 1, values.dtype)
        for axis in range(self.leading, values.ndim):
            at = places // strides[axis] % values.shape[axis]
            hole &= _largest(at, which, count) + _largest(-at, which, count) < self.size[axis]
            for step in (-strides[axis], strides[axis]):
                beside = values.reshape(-1)[places + step]
                touched = beside != 0
                np.minimum.at(low, which[touched], beside[touched])
                np.maximum.at(high, which[touched], beside[touched])
        owner = np.where(hole & (low == high), high, 0)
        return owner[1:]


def _largest(values: Array, which: Array, count: int) -> Array:
    """Return the largest of `values` for each of the numbers 0 to `count` in `which`; int64, very low where there is none."""
    result = np.full(count + 1, -(2**62))
    np.maximum.at(result, which, values)
    return result

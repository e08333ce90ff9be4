"""`distance`: how far a voxel is from where its object ends, up to a limit.

    - distance: {input: mask, output: depth, limit: 20 um}
    - distance: {input: cells, output: depth, limit: 15, to: boundary, signed: true}

Euclidean, between the centres of voxels, in micrometres where the volume has a voxel size, else in voxels: 0 in the
background, and for a voxel of an object the distance to the nearest voxel of the background (or of anything else than its
own label, `to: boundary`). With `signed`, voxels of the background have minus the distance to the nearest object.

Nothing beyond `limit` is looked at: it is the halo, and what is farther away has the limit itself. Within it the numbers are
those of the whole volume, to the bit. What lies outside the volume is not looked at; `per: slice` measures in each slice.

Computed by the package edt (Silversmith, after Felzenszwalb and Huttenlocher 2012), one thread; float32.
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
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.statistics.frames import Per, frames_of, leading_axes
from ndbatch.steps.unary import Unary
from ndbatch.units import Length


class Distance(Unary):
    """Measure how far voxels are from the end of their object, exactly up to a limit; signed where asked for."""

    kind: ClassVar[str] = "distance"

    input: str
    """A mask or labels, integers; 0 is background."""
    output: str
    """The name of the distances: float32 unless the output asks for another dtype; micrometres, or voxels where the volume
    has no voxel size."""
    limit: Annotated[Length, Field(examples=["20 um"])]
    """The largest distance that is told apart; farther voxels have this one. A length, or voxels of the finest axis. Blocks
    are read with so much context."""
    to: Literal["background", "boundary"] = "background"
    """background: to the nearest voxel that is 0. boundary: to the nearest one that is not of the same label."""
    signed: bool = False
    """Whether voxels of the background have minus the distance to the nearest object, instead of 0."""
    per: Per = "volume"
    """slice: within each slice along z."""

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is the limit.

        Raises PlanError for an input that is no mask and no labels, for a limit below the shortest side of a voxel or with
        a unit where the volume has no voxel size, and for a signed result of an unsigned dtype.
        """
        info = inputs["input"]
        self.require_labels(info)
        made = replace(info, dtype=dtypes.get("output", np.dtype(np.float32)), kind=Kind.IMAGE)
        if self.signed and made.dtype.kind in "bu":
            raise PlanError(
                f"distance: {self.output} is {made.dtype}, which holds no negative distance; use a signed dtype"
            )
        leading = leading_axes(info, self.per)
        limit = spatial_voxels(self.limit, info, "distance: limit")[leading:]
        size = tuple(float(s) for s in info.voxel_size or (1.0,) * info.ndim)[leading:]
        if max(limit) < 1:
            raise PlanError(f"distance: limit {self.limit} is less than a voxel along every axis; make it larger")
        return _Measuring(
            arrays={"output": made},
            halo=(0,) * leading + tuple(int(n + 1e-9) for n in limit),
            # Measured: a mask, distances and a copy in which they are cut off; of the background too where signed.
            working_bytes=(14.0 if self.signed else 9.0) + (made.dtype.itemsize if made.dtype != np.float32 else 0),
            leading=leading,
            size=size,
            limit=float(limit[0] * size[0]),
            to=self.to,
            signed=self.signed,
            name=self.output,
        )


@dataclass(frozen=True)
class _Measuring(Operation):
    leading: int = field(kw_only=True)
    size: tuple[float, ...] = field(kw_only=True)
    limit: float = field(kw_only=True)
    to: str = field(kw_only=True)
    signed: bool = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the distances of `box`."""
        patch = inputs["input"]
        result = np.empty(box.shape, np.float32)
        inside = box.slices(patch.box.start)[self.leading :]
        for frame, out in zip(frames_of(patch.data, self.leading), frames_of(result, self.leading), strict=True):
            background = np.equal(frame, 0, order="C")
            objects = frame if self.to == "boundary" else ~background
            np.minimum(distances(objects, self.size)[inside], np.float32(self.limit), out=out)
            if self.signed:
                np.subtract(out, np.minimum(distances(background, self.size)[inside], np.float32(self.limit)), out=out)
        return {"output": cast(result, self.arrays["output"].dtype, self.name)}


def distances(objects: Array, size: tuple[float, ...]) -> Array:
    """Return float32: how far each voxel of `objects` (bool, integers; one to three axes, voxels of `size`) is from the
    nearest one of another value, 0 where it is 0 itself; infinite where there is none."""
    import edt

    # edt takes no array that it could not write into, though it does not.
    owned = np.require(objects, requirements=["C", "W"])
    found: Array = edt.edt(owned, anisotropy=size, black_border=False, parallel=1)
    return found

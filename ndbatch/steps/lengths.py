"""Lengths of step parameters in voxels: along z, y, x only; time and channels are never mixed."""

from __future__ import annotations

from ndbatch.errors import PlanError
from ndbatch.steps.base import ArrayInfo
from ndbatch.units import Length, in_voxels


def spatial_voxels(length: Length, info: ArrayInfo, what: str) -> tuple[float, ...]:
    """Return `length` in voxels along each axis of `info`, 0 along t and c.

    A plain number is voxels of the finest of the spatial axes. Raises PlanError for what is not a positive length, and for
    a unit where the volume has no voxel size; `what` names the parameter.
    """
    spatial = [axis not in "tc" for axis in info.axes]
    size = None
    if info.voxel_size is not None:
        size = [s for s, keep in zip(info.voxel_size, spatial, strict=True) if keep]
    voxels = iter(in_voxels(length, size, sum(spatial), what))
    result = tuple(next(voxels) if keep else 0.0 for keep in spatial)
    if not max(result) > 0:
        raise PlanError(f"{what}: {length} is not above 0")
    return result

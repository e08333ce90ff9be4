"""Geometry of a pyramid's levels: how much coarser each is, and where its voxels' centres lie.

Voxel i of a level that is coarser by the factor f covers the voxels f*i to f*i + f - 1 of level 0. Its corner is that of
voxel f*i, so its centre lies (f - 1) / 2 voxels of level 0 further on. Formats that give the place of the first voxel's
centre (OME-Zarr, COSEM's N5) need that half-voxel shift; those that give corners or factors do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ndbatch.errors import PlanError
from ndbatch.geometry import Shape
from ndbatch.remotes.base import ArraySpec


def require_level(finest: ArraySpec, spec: ArraySpec, level: int, levels: int, where: str) -> None:
    """Raise PlanError unless `spec` can be level `level` of a pyramid of `levels` levels whose level 0 is `finest`."""
    if level > levels:
        raise PlanError(f"{where}: level {level} needs level {level - 1} first; there are {levels} levels")
    for what in ("dtype", "axes"):
        ours, theirs = getattr(spec, what), getattr(finest, what)
        if ours != theirs:
            raise PlanError(f"{where}: level {level} has {what} {ours}, level 0 has {theirs}; all levels have the same")


def factors(finest: ArraySpec, spec: ArraySpec) -> tuple[float, ...]:
    """Return voxels of level 0 in one voxel of the level `spec`, axis by axis.

    From the voxel sizes where both are known; otherwise the smallest whole factor with which the extents of both agree,
    or the ratio of their extents where there is none.
    """
    if finest.voxel_size is not None and spec.voxel_size is not None:
        return tuple(_whole(b / a) for a, b in zip(finest.voxel_size, spec.voxel_size, strict=True))
    return tuple(
        _factor(a, n, b, m) for a, n, b, m in zip(finest.offset, finest.shape, spec.offset, spec.shape, strict=True)
    )


def centres(offset: Shape, factor: Sequence[float], rest: Sequence[float] = ()) -> tuple[float, ...]:
    """Return the place of the first voxel's centre, in voxels of level 0, whose voxel i has its centre at i + `rest`.

    `offset` is in voxels of the level, `factor` voxels of level 0 in one of the level.
    """
    rest = rest or (0.0,) * len(offset)
    return tuple(o * f + (f - 1) / 2 + r for o, f, r in zip(offset, factor, rest, strict=True))


def nearest_voxel(translation: Sequence[float], scale: Sequence[float]) -> Shape:
    """Return the place of a first voxel's centre in whole voxels of its level; half a voxel, as in pyramids, is none."""
    return tuple(math.ceil(t / s - 0.5 - 1e-6) for t, s in zip(translation, scale, strict=True))


def next_path(paths: Sequence[str]) -> str:
    """Return the path of the level after `paths`, named as they are: `0`, `1` -> `2`; `scale0/image` -> `scale1/image`."""
    match = re.fullmatch(r"(\D*)(\d+)(\D*)", paths[-1])
    if match and int(match[2]) == len(paths) - 1:
        return f"{match[1]}{len(paths)}{match[3]}"
    return next(name for name in (str(len(paths)), f"level{len(paths)}", f"ndbatch{len(paths)}") if name not in paths)


def _whole(ratio: float) -> float:
    """Return `ratio`, without the last bits that dividing two lengths leaves where it is a whole number."""
    return float(round(ratio)) if math.isclose(ratio, round(ratio), rel_tol=1e-6) else ratio


def _factor(start: int, extent: int, coarse_start: int, coarse_extent: int) -> float:
    for factor in range(max(1, extent // (coarse_extent + 1)), extent + 2):
        first, last = start // factor, -(-(start + extent) // factor)
        if (first, last - first) == (coarse_start, coarse_extent):
            return float(factor)
    return extent / coarse_extent

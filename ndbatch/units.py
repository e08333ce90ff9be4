"""Physical lengths: `12 um` and voxel sizes, as micrometres.

Lengths are metadata: the planner turns them into voxels once, and no kernel ever sees a unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ndbatch.errors import PlanError

MICROMETRES = {
    "pm": 1e-6, "picometer": 1e-6, "picometre": 1e-6,
    "angstrom": 1e-4, "å": 1e-4,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3,
    "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "dm": 1e5, "decimeter": 1e5, "decimetre": 1e5,
    "m": 1e6, "meter": 1e6, "metre": 1e6,
    "inch": 2.54e4, "foot": 3.048e5,
}  # fmt: skip
_LENGTH = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s]+)\s*")

Length = float | int | str
"""A number of voxels of the finest axis, or a number with a unit, such as `12 um`."""


def micrometres(text: str) -> float:
    """Return the length `text` (`0.29 um`, `290 nm`) in micrometres; PlanError if it is not a length."""
    match = _LENGTH.fullmatch(text)
    if match is None or match[2].lower() not in MICROMETRES:
        raise PlanError(f"{text!r} is not a length; write a number and a unit (nm, um, mm), such as 12 um")
    return float(match[1]) * MICROMETRES[match[2].lower()]


def has_unit(length: Length) -> bool:
    """Return whether `length` is given with a physical unit."""
    return isinstance(length, str) and _LENGTH.fullmatch(length) is not None


def in_voxels(length: Length, voxel_size: Sequence[float] | None, ndim: int, what: str = "length") -> tuple[float, ...]:
    """Return `length` in voxels along each axis.

    `voxel_size` is in micrometres, axis by axis, or None where the volume does not know it. A plain number is voxels of
    the finest axis, and is scaled to the others by the voxel size. Raises PlanError for a length with a unit without a
    voxel size, and for what is not a length.
    """
    if isinstance(length, str) and _LENGTH.fullmatch(length) is None:
        try:
            length = float(length)
        except ValueError:
            raise PlanError(f"{what}: {length!r} is not a length; write a number and a unit, such as 12 um") from None
    if isinstance(length, str):
        if voxel_size is None:
            raise PlanError(
                f"{what}: {length} cannot be turned into voxels because the volume has no voxel size; add "
                "voxel_size: {z: 0.5 um, y: 0.2 um, x: 0.2 um} to the input, or write a plain number of voxels"
            )
        return tuple(micrometres(length) / s for s in voxel_size)
    if not math.isfinite(length):
        raise PlanError(f"{what}: {length} is not a finite number")
    if voxel_size is None:
        return (float(length),) * ndim
    finest = min(voxel_size)
    return tuple(float(length) * finest / s for s in voxel_size)


def to_halo(length: Length, voxel_size: Sequence[float] | None, ndim: int, what: str = "halo") -> tuple[int, ...]:
    """Return `length` in whole voxels along each axis, rounded up; plain numbers are taken as they are on every axis."""
    if not isinstance(length, str):
        return (math.ceil(length),) * ndim
    return tuple(math.ceil(v - 1e-9) for v in in_voxels(length, voxel_size, ndim, what))

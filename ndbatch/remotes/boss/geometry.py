"""From the documents of a channel to an `ArraySpec` and back: coordinate frame, levels, dtype, kind.

The service counts x, y, z; a level counts its own voxels from absolute 0, so that voxel k of a level holds the voxels f k to
f (k + 1) of level 0, f being the factor along the axis. Frames whose first voxel is negative begin at 0 here: no request can
name the voxels before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, NotFound, PlanError, RemoteError
from ndbatch.geometry import Shape
from ndbatch.remotes.base import ArraySpec, Kind

AXES = "zyx"
CUBOID: Shape = (16, 512, 512)
"""Voxels that the service stores together, z, y, x."""
DTYPES = ("uint8", "uint16", "uint64")
TO_MICROMETRES = {"nanometers": 1e-3, "micrometers": 1.0, "millimeters": 1e3, "centimeters": 1e4}
UNKNOWN_SIZE = "The voxel size is not known."
"""Description of a frame whose voxel sizes mean nothing: the service requires some."""
PROBABILITY = "Probabilities."
"""Description of an image whose voxels are probabilities: the service has no word for them."""
Document = Mapping[str, Any]


def spec_of(
    channel: Document, experiment: Document, frame: Document, pyramid: Document, level: int, url: str
) -> ArraySpec:
    """Return the spec of a level, counted from the channel's base resolution.

    Axes are zyx, or tzyx where the experiment has more than one time sample. Raises NotFound for a level that is not there,
    RemoteError for types of voxel that the service cannot send, Corrupt for documents that make no sense.
    """
    try:
        levels, base = int(experiment["num_hierarchy_levels"]), int(channel["base_resolution"])
        times, dtype = int(experiment["num_time_samples"]), str(channel["datatype"])
        made = channel.get("downsample_status", pyramid.get("status")) == "DOWNSAMPLED"
        first, last, size = _domain(frame, experiment, pyramid, base + level)
        kind = Kind.LABELS if channel["type"] == "annotation" else Kind.IMAGE
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{url}: the service's documents lack a field or have a strange one ({error})", url=url) from None
    if dtype not in DTYPES:
        raise RemoteError(
            f"{url} is {dtype}, which the service keeps and cannot send; copy it to a channel of uint64 there", url=url
        )
    if level >= (levels if made else 1):
        there = f"levels 0 to {levels - 1}" if made and levels > 1 else "level 0 only"
        why = "" if made else f" ({channel.get('downsample_status')}); have the service make more with propagate()"
        raise NotFound(f"{url} has no level {level}; it has {there}{why}", url=url)
    several = times > 1
    known = frame.get("description") != UNKNOWN_SIZE
    if kind is Kind.IMAGE and channel.get("description") == PROBABILITY:
        kind = Kind.PROBABILITY
    head = (times,) if several else ()
    return ArraySpec(
        shape=(*head, *(b - a for a, b in zip(first, last, strict=True))),
        dtype=np.dtype(dtype),
        axes=f"t{AXES}" if several else AXES,
        chunks=(1, *CUBOID) if several else CUBOID,
        offset=(0, *first) if several else first,
        voxel_size=((1.0, *size) if several else size) if known else None,
        kind=kind,
        level=level,
        levels=levels if made else 1,
    )


def frame_document(spec: ArraySpec) -> dict[str, Any]:
    """Return the coordinate frame of a new volume, without its name: extents in voxels, sizes in nanometres."""
    place = [spec.axes.index(axis) for axis in AXES]
    sizes = spec.voxel_size or (1.0,) * spec.ndim
    facts: dict[str, Any] = {"description": "" if spec.voxel_size else UNKNOWN_SIZE, "voxel_unit": "nanometers"}
    for axis, at in zip(AXES, place, strict=True):
        facts[f"{axis}_start"], facts[f"{axis}_stop"] = spec.domain.start[at], spec.domain.stop[at]
        facts[f"{axis}_voxel_size"] = round(sizes[at] * 1e3, 6)
    return facts


def differences(frame: Document, wanted: Document) -> list[str]:
    """Return what two coordinate frames differ in, in words: `x_stop 512 instead of 1024`; sizes are compared as lengths."""
    found = []
    for name in (f"{axis}_{end}" for axis in AXES for end in ("start", "stop")):
        if int(frame[name]) != int(wanted[name]):
            found.append(f"{name} {frame[name]} instead of {wanted[name]}")
    scales = [TO_MICROMETRES[one["voxel_unit"]] for one in (frame, wanted)]
    for name in (f"{axis}_voxel_size" for axis in AXES):
        there, due = float(frame[name]) * scales[0], float(wanted[name]) * scales[1]
        if abs(there - due) > 1e-6 * due:
            found.append(f"{name} {there:g} um instead of {due:g} um")
    return found


def require_spec(spec: ArraySpec, url: str) -> None:
    """Raise PlanError for axes and positions that the service has no word for."""
    if spec.axes not in (AXES, f"t{AXES}"):
        raise PlanError(
            f"{url}: BOSS keeps volumes with the axes zyx or tzyx, not {spec.axes}; take one channel of them with ?c=0, "
            "and write the others to channels of their own"
        )
    if any(a < 0 for a in spec.offset):
        raise PlanError(f"{url}: BOSS cannot name positions below 0, and the volume begins at {spec.offset}; move it")
    if spec.axes[0] == "t" and spec.offset[0]:
        raise PlanError(
            f"{url}: times of BOSS are counted from 0, and the volume begins at t = {spec.offset[0]}; move it"
        )
    if spec.levels > 10:
        raise PlanError(f"{url}: BOSS has levels 0 to 9, and {spec.levels} are wanted; give a smaller number")


def _domain(
    frame: Document, experiment: Document, pyramid: Document, resolution: int
) -> tuple[Shape, Shape, tuple[float, ...]]:
    """Return first voxel, end and voxel size (micrometres) of a resolution, z, y, x."""
    scale = TO_MICROMETRES[frame["voxel_unit"]]
    first, last, size = [], [], []
    for axis in AXES:
        voxel = float(frame[f"{axis}_voxel_size"])
        halved = axis != "z" or experiment.get("hierarchy_method") == "isotropic"
        told = pyramid.get("voxel_size", {}).get(str(resolution))
        factor = round(float(told["xyz".index(axis)]) / voxel) if told else 2**resolution if halved else 1
        extent = pyramid.get("extent", {}).get(str(resolution))
        stop = int(extent["xyz".index(axis)]) if extent else -(-int(frame[f"{axis}_stop"]) // factor)
        first.append(max(0, int(frame[f"{axis}_start"])) // factor)
        last.append(stop)
        size.append(voxel * factor * scale)
        if stop <= first[-1]:
            raise ValueError(f"{axis} ends at {stop} and begins at {first[-1]}")
    return tuple(first), tuple(last), tuple(size)

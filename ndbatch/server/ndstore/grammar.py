"""The grammar of cutouts: `token/[channel,...]/service/level/x0,x1/y0,y1/z0,z1/[t0,t1/][options]`, and what it names.

Ranges are half-open, in voxels of the level, absolute. A time range counts only with the slash behind it, as at an ndstore: old
clients send one without, and rely on an answer without an axis of time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Kind
from ndbatch.server.calls import TooLarge
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.ndstore.tokens import channel_of, datatype, domain, scale_down, times_of

if TYPE_CHECKING:
    from ndbatch.server.service import Service

CUTOUTS = ("hdf5", "npz", "blosc", "raw", "zip", "jpeg")
PLANES = ("xy", "xz", "yz")
SERVICES = (*CUTOUTS, *PLANES, "id", "ids")
APPLICATIONS = re.compile("catmaid|tilecache|stats|ndgraph|overlay|synaptogram|viz|ingest|autoIngest")
ELSEWHERE = re.compile("tiff|diff|blaze|(xy|xz|yz)anno|mcfc|minproj|maxproj|exceptions|nii|swc|csv")
"""What an ndstore offers beside and this service does not; see docs/design/ndstore.md for what stands in for each."""
LIMIT = 2**31 - 2**17
"""Most bytes of voxels of one request."""
SPAN = re.compile(r"(\d{1,15}),(\d{1,15})", re.ASCII)
NUMBER = re.compile(r"\d{1,15}", re.ASCII)
BLANK = "0"
"""What stands for a channel of zeros."""


@dataclass(frozen=True)
class Cutout:
    """A part of some channels at a level: `box` is z, y, x; `times` the time points, None where none were named."""

    project: Project
    channels: tuple[Channel, ...]
    level: int
    box: Box
    times: tuple[int, int] | None = None
    near_isotropic: bool = False
    window: tuple[float, float] | None = None
    ids: tuple[int, ...] | None = field(default=None)
    """Labels that are kept, others become 0; None keeps all."""
    blank: tuple[int, ...] = ()
    """Places among the channels that the request named `0`: planes of zeros."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type under which the first channel is served."""
        return np.dtype(datatype(self.channels[0]))

    @property
    def shape(self) -> Shape:
        """Shape of one channel's voxels: t where times were named, z, y, x."""
        return self.box.shape if self.times is None else (self.times[1] - self.times[0], *self.box.shape)


def cutout(
    service: Service, project: Project, names: str, parts: Sequence[str], whole: bool, mixed: bool = False
) -> Cutout:
    """Return what the parts of a path after the service's name mean. `whole` says whether the path ended in a slash.

    Channels must be of one type unless they may be `mixed`.
    PlanError for ranges and levels that there are not, NotFound for channels, TooLarge.
    """
    if len(parts) < 4:
        raise PlanError("Illegal arguments: level/x0,x1/y0,y1/z0,z1/ are due")
    named = names.split(",")
    blank = tuple(place for place, name in enumerate(named) if place and name == BLANK)
    channels = tuple(channel_of(service, project, name) for i, name in enumerate(named) if i not in blank)
    if not mixed and len({datatype(channel) for channel in channels}) > 1:
        raise PlanError("channels of one cutout must have one type of voxel")
    level = level_of(project, parts[0])
    spans = [span(part) for part in parts[1:4]][::-1]
    rest = list(parts[4:])
    times = None
    if rest and SPAN.fullmatch(rest[0]):
        text = rest.pop(0)
        if rest or whole:
            times = span(text)
            first, last = times_of(service, channels[0])
            if not first <= times[0] < times[1] <= last:
                raise PlanError(f"Illegal time range {text}; the channel has {first},{last}")
    options = _options(rest, channels)
    found = Cutout(project, channels, level, Box(*zip(*spans, strict=True)), times, blank=blank, **options)
    bounds, down = domain(project, level), 1
    if found.near_isotropic:
        down = scale_down(project, level)
        by = (down, 1, 1)
        bounds = Box(
            tuple(n // f for n, f in zip(bounds.start, by, strict=True)),
            tuple(a // f + n // f for a, n, f in zip(bounds.start, bounds.shape, by, strict=True)),
        )
    require_inside(found.box, bounds)
    if math.prod(found.shape) * down * len(named) * found.dtype.itemsize > LIMIT:
        raise TooLarge(f"{math.prod(found.shape)} voxels are too many for one request")
    return found


def level_of(project: Project, text: str) -> int:
    """Return the level that a part of a path names. PlanError where the project has no such level."""
    if not NUMBER.fullmatch(text) or int(text) >= project.levels:
        raise PlanError(f"Illegal resolution {text}; {project.name} has 0 to {project.levels - 1}")
    return int(text)


def span(text: str) -> tuple[int, int]:
    """Return the two numbers of `a,b` with a < b. PlanError for anything else."""
    found = SPAN.fullmatch(text)
    if not found or int(found[1]) >= int(found[2]):
        raise PlanError(f"Illegal range {text!r}; write a,b with a < b")
    return int(found[1]), int(found[2])


def require_inside(box: Box, bounds: Box) -> None:
    """Raise PlanError for a box that leaves the level."""
    if not bounds.contains(box):
        raise PlanError(
            f"Illegal range. The box {box.describe('zyx')} leaves the level, which is {bounds.describe('zyx')}"
        )


def _options(rest: list[str], channels: Sequence[Channel]) -> dict[str, Any]:
    """Return the options behind the ranges; what is not known is passed over, as at an ndstore."""
    found: dict[str, Any] = {}
    while rest:
        name = rest.pop(0)
        if name == "neariso":
            found["near_isotropic"] = True
        elif name == "window" and rest:
            low, _, high = rest.pop(0).partition(",")
            if not (NUMBER.fullmatch(low) and NUMBER.fullmatch(high) and int(low) <= int(high)):
                raise PlanError(f"Illegal window {low},{high}")
            found["window"] = (float(low), float(high))
        elif name == "filter" and rest:
            ids = rest.pop(0).split(",")
            if any(channel.kind != Kind.LABELS for channel in channels) or not all(map(NUMBER.fullmatch, ids)):
                raise PlanError("filter takes ids, of annotation channels alone")
            found["ids"] = tuple(map(int, ids))
    return found

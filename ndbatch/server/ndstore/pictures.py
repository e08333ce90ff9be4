"""Slices as PNG: grey for images, colours for labels, 0 transparent; `xy/level/x0,x1/y0,y1/z/` and the other two planes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array, Kind
from ndbatch.server.catalogue import Project
from ndbatch.server.ndstore.cutouts import read, windowed
from ndbatch.server.ndstore.grammar import NUMBER, cutout
from ndbatch.server.ndstore.tokens import own, voxel_size

if TYPE_CHECKING:
    from ndbatch.server.service import Service

CUT = {"xy": 2, "xz": 1, "yz": 0}
"""The place, among the ranges x, y, z, of the one that is a single number."""
LARGEST = 2**26
"""Most pixels of a picture."""


def respond(service: Service, project: Project, names: str, parts: Sequence[str]) -> Response:
    """Return a slice; `parts` are the plane, the level, three ranges one of which is a number, time and options."""
    plane, given = parts[0], list(parts[1:])
    place = 1 + CUT[plane]
    if len(given) < 4 or not NUMBER.fullmatch(given[place]):
        raise PlanError("Illegal arguments: level and x0,x1/y0,y1/z/ are due, one of the three a single slice")
    given[place] = f"{given[place]},{int(given[place]) + 1}"
    if len(given) > 4 and NUMBER.fullmatch(given[4]):
        given[4] = f"{given[4]},{int(given[4]) + 1}"
    where = cutout(service, project, names, given, whole=True)
    channel = where.channels[0]
    pixels = np.squeeze(read(service, where, channel).reshape(where.box.shape), axis=2 - CUT[plane])
    if pixels.size > LARGEST:
        raise PlanError(f"a picture of {pixels.shape} is too large")
    if channel.kind == Kind.LABELS:
        drawn = coloured(pixels)
    else:
        drawn = packed_colours(pixels) if pixels.dtype == np.uint32 else grey(pixels, own(channel).get("window"))
    return Response(_png(drawn, _stretch(project, where.level, plane)), media_type="image/png")


def grey(pixels: Array, window: Sequence[float] | None) -> Array:
    """Return an image as uint8; a channel's own window is applied, else values are cut to 8 bits as an ndstore does."""
    if pixels.dtype == np.uint8:
        return pixels
    if window and tuple(window) != (0, 0):
        return windowed(pixels, *window)
    return pixels.astype(np.int64).astype(np.uint8) if pixels.dtype.kind in "iu" else windowed(pixels, 0.0, 1.0)


def packed_colours(pixels: Array) -> Array:
    """Return an image of uint32, whose bytes are A, B, G, R from the highest, as RGBA."""
    return np.ascontiguousarray(pixels, "<u4").view(np.uint8).reshape((*pixels.shape, 4))


def coloured(labels: Array) -> Array:
    """Return labels as RGBA, a colour an id, 0 transparent."""
    mixed = labels.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    parts = [
        ((mixed >> np.uint64(shift)) & np.uint64(0xFF)).astype(np.uint8) | np.uint8(0x40) for shift in (56, 40, 24)
    ]
    return np.stack([*parts, np.where(labels != 0, 255, 0).astype(np.uint8)], axis=-1)


def _stretch(project: Project, level: int, plane: str) -> float:
    """Return how many pixels high a slice along z is drawn, so that the picture has the proportions of the tissue."""
    z, y, x = voxel_size(project, level)
    return {"xy": 1.0, "xz": z / x, "yz": z / y}[plane]


def _png(pixels: Array, stretch: float) -> bytes:
    from PIL import Image

    picture, body = Image.fromarray(pixels), io.BytesIO()
    height = max(1, round(picture.height * stretch))
    if height != picture.height and height * picture.width <= LARGEST:
        picture = picture.resize((picture.width, height), Image.Resampling.NEAREST)
    picture.save(body, "PNG")
    return body.getvalue()

"""Pictures of slices and projections: grey values by percentile, objects outlined in colours, a scale bar.

Pixels are drawn square in physical units, so that a slice across y or x of anisotropic data looks as the specimen does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.report.atomic import write_bytes
from ndbatch.report.planes import SCREEN, Limits, Projection, Readable, gather, levels_of_grey, pixel_size, window

Rgb = NDArray[np.uint8]

COMFORTABLE = 640
"""Pixels to which small planes are enlarged, so that outlines are thin beside the objects."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio's fraction, 0.618..., in units of 2^-64: products wrap around in whole numbers, exact for ids of 64 bits."""


@dataclass(frozen=True)
class Picture:
    """A picture (rows, columns, 3) and where it was taken, in words."""

    rgb: Rgb
    words: str


@dataclass(frozen=True)
class Sight:
    """Voxels read for a picture: a plane (rows, columns), and the ids of objects in it or None."""

    plane: Array
    objects: Array | None
    pixel: tuple[float, float] | None
    kind: Kind
    words: str
    most: int

    def picture(self, contrast: tuple[float, float] | None = None) -> Picture:
        """Return the picture; `contrast` are the values shown black and white (percentiles of the plane if not given)."""
        return Picture(draw(self.plane, self.objects, self.pixel, self.kind, self.most, contrast), self.words)


def sight(
    volume: Readable,
    labels: Readable | None = None,
    axis: str = "z",
    position: int | Mapping[str, int] | None = None,
    project: Projection | None = None,
    region: Box | None = None,
    limits: Limits = SCREEN,
) -> Sight:
    """Return the voxels of a picture of `volume` across `axis`, with the objects of `labels`.

    `position` is an absolute voxel along `axis` (the middle if not given) or a mapping by axis name; `project` takes the
    maximum or mean along `axis` instead (labels: the largest id). `region` limits the look. Planes above the `limits` are
    strided or cut to their middle, and `words` says so. Raises PlanError for an axis or position that the volume does not
    have, RemoteError where voxels cannot be read.
    """
    spec = volume.spec
    if spec.kind == Kind.LABELS and project == "mean":
        raise PlanError("a mean of labels has no meaning; use project max")
    view = window(spec, axis, position, project, region, limits)
    plane = gather(volume, view, project)
    objects = None
    if labels is not None:
        if labels.spec.axes != spec.axes:
            raise PlanError(f"the image has the axes {spec.axes}, the labels {labels.spec.axes}; they must be the same")
        objects = gather(labels, view, "max" if project else None)
    return Sight(plane, objects, pixel_size(spec, view), spec.kind, view.words, limits.pixels)


def look(
    volume: Readable,
    labels: Readable | None = None,
    axis: str = "z",
    position: int | Mapping[str, int] | None = None,
    project: Projection | None = None,
) -> Picture:
    """Return a picture of `volume` across `axis`, objects of `labels` outlined; a volume of labels in colours. See `sight`."""
    return sight(volume, labels, axis, position, project).picture()


def slice_picture(
    volume: Readable,
    labels: Readable | None = None,
    axis: str = "z",
    position: int | Mapping[str, int] | None = None,
    project: Projection | None = None,
) -> Rgb:
    """Return the pixels of `look`, (rows, columns, 3)."""
    return look(volume, labels, axis, position, project).rgb


def draw(
    plane: Array,
    objects: Array | None = None,
    pixel: tuple[float, float] | None = None,
    kind: Kind = Kind.IMAGE,
    most: int = SCREEN.pixels,
    contrast: tuple[float, float] | None = None,
) -> Rgb:
    """Return `plane` (rows, columns) as a picture, `objects` (ids, same shape) outlined, with a scale bar.

    `pixel` is micrometres along rows and columns (no scale bar where it is None); `most` pixels is the longest side; `contrast`
    are the values shown black and white.
    Labels are filled with the colours that outlines have.
    """
    rows, columns = _resampling(plane.shape, pixel, most)
    if kind == Kind.LABELS:
        filled = colours(plane[rows][:, columns])
        edge = _edges(plane[rows][:, columns])
        filled[edge] //= 2
        rgb = filled
    else:
        grey = (levels_of_grey(plane, contrast) * 255).astype(np.uint8)[rows][:, columns]
        rgb = np.repeat(grey[:, :, None], 3, axis=2)
    if objects is not None:
        ids = objects[rows][:, columns]
        edge = _edges(ids)
        rgb[edge] = colours(ids[edge])
    return _scale_bar(rgb, pixel[1] * plane.shape[1] / len(columns)) if pixel is not None else rgb


def colours(ids: Array) -> Rgb:
    """Return a colour for every id, the same in every picture, black for 0; shape of `ids` and three channels.

    Hues step by the golden ratio, so that neighbouring ids are far apart; lightness alternates.
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    number = unique.astype(np.uint64)
    hue = (number * _GOLDEN).astype(np.float64) / 2.0**64 % 1.0
    saturation = np.choose((number % np.uint64(3)).astype(np.int64), [0.95, 0.7, 0.85])
    value = np.choose((number % np.uint64(2)).astype(np.int64), [1.0, 0.92])
    table = _lightened(_from_hsv(hue, saturation, value))
    table[unique == 0] = 0
    result: Rgb = table[inverse].reshape((*ids.shape, 3))
    return result


def png(rgb: Rgb) -> bytes:
    """Return the picture as a PNG file."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(rgb).save(sink, "PNG")
    return sink.getvalue()


def write_png(path: Path, rgb: Rgb) -> Path:
    """Write the picture as a PNG file, which appears whole or not at all."""
    return write_bytes(Path(path), png(rgb))


def _from_hsv(hue: NDArray[Any], saturation: NDArray[Any], value: NDArray[Any]) -> Rgb:
    """Return colours of hue, saturation and value in 0..1 (Smith 1978), as (n, 3) bytes."""
    shift = np.array([5.0, 3.0, 1.0])
    k = (shift + hue[:, None] * 6.0) % 6.0
    ramp = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    rgb: Rgb = np.rint(255 * (value[:, None] - value[:, None] * saturation[:, None] * ramp)).astype(np.uint8)
    return rgb


def _lightened(table: Rgb) -> Rgb:
    """Return the colours with dark ones (blue above all) mixed with white, so that they stand out from dark images."""
    luminance = table @ np.array([0.2126, 0.7152, 0.0722]) / 255
    white = np.clip((0.5 - luminance) / (1 - luminance), 0, 1)[:, None]
    light: Rgb = np.rint(table * (1 - white) + 255 * white).astype(np.uint8)
    return light


def _resampling(
    shape: tuple[int, ...], pixel: tuple[float, float] | None, most: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, for every pixel of the picture, the row and column of the plane it shows (nearest; square pixels)."""
    tall, wide = pixel if pixel is not None else (1.0, 1.0)
    finest = min(tall, wide)
    height, width = shape[0] * tall / finest, shape[1] * wide / finest
    longest = max(height, width, 1.0)
    factor = min(max(1.0, math.floor(COMFORTABLE / longest)), 8.0)
    factor = min(factor, most / longest)
    sizes = [max(1, round(n * factor)) for n in (height, width)]
    rows, columns = (np.arange(size) * n // size for size, n in zip(sizes, shape, strict=True))
    return rows, columns


def _edges(ids: Array) -> NDArray[np.bool_]:
    """Return the pixels of objects that touch another object or the background."""
    from skimage.segmentation import find_boundaries

    found: NDArray[np.bool_] = find_boundaries(ids, mode="inner", background=0)
    return found


def _scale_bar(rgb: Rgb, pixel: float) -> Rgb:
    """Return the picture with a bar of a round length below a quarter of its width; `pixel` in micrometres."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = rgb.shape[:2]
    if width < 60 or height < 40 or not (math.isfinite(pixel) and pixel > 0):
        return rgb
    length = round_length(width * pixel / 4)
    bar, margin, thick = max(2, round(length / pixel)), max(6, width // 50), max(2, width // 160)
    picture = Image.fromarray(rgb)
    pen = ImageDraw.Draw(picture)
    right, bottom = width - margin, height - margin
    pen.rectangle((right - bar - 1, bottom - thick - 1, right + 1, bottom + 1), fill=(0, 0, 0))
    pen.rectangle((right - bar, bottom - thick, right, bottom), fill=(255, 255, 255))
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um" if length >= 1 else f"{length * 1000:g} nm"
    font = ImageFont.load_default(max(11, width // 36))
    place = (right - bar / 2, bottom - thick - 4)
    pen.text(place, text, fill=(255, 255, 255), font=font, anchor="ms", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture).copy()


def round_length(longest: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, 50, ... that is not above `longest`."""
    power = 10.0 ** math.floor(math.log10(longest))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= longest * (1 + 1e-9))

"""Detecting nuclei by one blob filter: fixed halo, no per-block decision, the same points for any block grid.

The image is first made to have even noise by a square root above its floor (Anscombe's transform without the constants),
so that one relative cut serves bright and dim nuclei alike. Nuclei are maxima of a scale-normalised Laplacian of
Gaussian (Lindeberg 1998) whose size is set by the diameter. What depends on more than a neighbourhood (noise, typical
response, suppression of double peaks) is decided on the samples of `survey` and on the merged table of points, never in a block.

Arrays are C-order (z, y, x), or (y, x); `diameter` is in voxels, axis by axis, so that a coordinate divided by it is a
length in diameters. Filters run in float32, and every value depends on voxels within `response_halo` or `measure_halo`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.nuclei.background import Evening
from ndbatch.steps.nuclei.survey import Level

BLOB_SCALE = 1.1
"""Filter size relative to that of strongest response to a ball, diameter / (2 sqrt(ndim))."""
FINE_SCALE = 0.08
"""Sigma of the smoothing under masks and profiles, in diameters."""
TRUNCATE = 3.0
"""Radius of every Gaussian kernel, in sigmas."""
SEPARATION = 0.6
"""No two nuclei lie closer than this many diameters."""
NOISE_CUT = 6.0
"""... and at least this many standard deviations of the response to white noise."""
DIRECTIONS, STEPS = 64, 20
"""Rays around a nucleus, and samples along each, up to one diameter."""
INSIDE, OUTSIDE = 7, 11
"""The first samples of every ray, up to 0.35 diameters, are inside; the last, from 0.6 on, outside."""
HEIGHT = 0.5
"""The border of a nucleus lies at this height between its surroundings (0) and its inside (1), after `stabilise`."""
SMALLEST, LARGEST = 0.25, 0.75
"""Bounds of the radius of a nucleus, in diameters."""


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of one table. `voxel` is int64 (n, ndim), absolute; the others float32 (n,): `score` is the filter's response,
    `inside` and `outside` the levels of the nucleus and of its surroundings, all in the even image; `radius` is in
    diameters; `ground` is what the image was divided by at the voxel, 1 for nothing."""

    voxel: Array
    score: Array
    inside: Array
    outside: Array
    radius: Array
    ground: Array

    def intensity(self, levels: Array, level: Level) -> Array:
        """Return float64 intensities of the image for `levels` of the even one, (n,) of these points."""
        even = levels.astype(np.float64)
        return even**2 * self.ground.astype(np.float64) + (level.floor - level.pedestal)

    def __len__(self) -> int:
        return len(self.score)

    def take(self, rows: Array) -> Points:
        """Return the points at `rows` (indices or a mask), in that order."""
        return Points(*(getattr(self, name)[rows] for name in self.__slots__))


def sigmas(diameter: Sequence[float]) -> tuple[float, ...]:
    """Return the sigma of the blob filter, in voxels along each axis."""
    return tuple(BLOB_SCALE * d / (2 * math.sqrt(len(diameter))) for d in diameter)


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


def fine_halo(diameter: Sequence[float]) -> Shape:
    """Return the context, in voxels, of a value of `smooth`."""
    return tuple(_radius(FINE_SCALE * d) for d in diameter)


def response_halo(diameter: Sequence[float]) -> Shape:
    """Return the context, in voxels, of the answer whether a voxel is a maximum of the response."""
    return tuple(_radius(s) + 2 for s in sigmas(diameter))


def measure_halo(diameter: Sequence[float]) -> Shape:
    """Return the context, in voxels, of the levels inside and around a nucleus whose maximum is a voxel."""
    reach = (int(d + 0.5) for d in diameter)
    return tuple(r + f for r, f in zip(reach, fine_halo(diameter), strict=True))


def detection_halo(diameter: Sequence[float]) -> Shape:
    """Return the context, in voxels, that `detect` needs around a core."""
    return tuple(max(p) for p in zip(response_halo(diameter), measure_halo(diameter), strict=True))


def smooth(flat: Array, diameter: Sequence[float]) -> Array:
    """Return `flat` with its noise reduced at a scale below that of a nucleus's border, float32."""
    return _gaussian(flat, [FINE_SCALE * d for d in diameter])


def _gaussian(flat: Array, sigma: Sequence[float]) -> Array:
    result: Array = ndimage.gaussian_filter(flat, sigma, mode="reflect", truncate=TRUNCATE)
    return result


def blob_response(flat: Array, diameter: Sequence[float]) -> Array:
    """Return the negative scale-normalised Laplacian of Gaussian of `flat`, float32; positive in bright blobs.

    The Laplacian is taken by second differences of the smoothed image, mirrored at the array's edges.
    """
    sigma = sigmas(diameter)
    rounded = _gaussian(flat, sigma)
    result = np.zeros_like(rounded)
    for axis, s in enumerate(sigma):
        slope = np.diff(rounded, axis=axis)
        slope *= np.float32(s * s)
        before, after = (_along(result, axis, part) for part in (slice(None, -1), slice(1, None)))
        before -= slope
        after += slope
    return result


def _along(array: Array, axis: int, part: slice) -> Array:
    return array[(slice(None),) * axis + (part,)]


def noise_gain(diameter: Sequence[float]) -> float:
    """Return the standard deviation of `blob_response` of white noise of standard deviation 1."""
    total, sigma = 0.0, sigmas(diameter)
    kernels = []
    for s in sigma:
        x = np.arange(-_radius(s), _radius(s) + 1)
        g = np.exp(-0.5 * (x / s) ** 2)
        g = np.pad(g / g.sum(), 1)
        bend = s * s * np.convolve(g, [1.0, -2.0, 1.0], mode="same")
        kernels.append((float(g @ g), float(g @ bend), float(bend @ bend)))
    for a in range(len(sigma)):
        for b in range(len(sigma)):
            others = math.prod(k[0] for i, k in enumerate(kernels) if i not in (a, b))
            total += others * (kernels[a][2] if a == b else kernels[a][1] * kernels[b][1])
    return math.sqrt(total)


def lower_cut(level: Level, diameter: Sequence[float]) -> float:
    """Return the response below which a maximum is noise, of the image or of the arithmetic."""
    return max(NOISE_CUT * level.noise * noise_gain(diameter), 1e-3 * level.span)


def find_maxima(response: Array, box: Box, core: Box, cut: float) -> Array:
    """Return int64 (n, ndim): the absolute voxels of `core`, in C-order, whose response is above `cut` and the largest of
    the 3^ndim around it; of equals in a row, the first in C-order. `response` covers `box`: core + 1, in the volume."""
    near = core.grow((1,) * box.ndim)
    known = near.intersect(box)
    missing = [(a - n, m - b) for n, m, a, b in zip(near.start, near.stop, known.start, known.stop, strict=True)]
    walled = np.pad(response[known.slices(box.start)], missing, constant_values=-np.inf)
    strides = np.array([math.prod(walled.shape[i + 1 :]) for i in range(box.ndim)])
    inner = np.argwhere(walled[(slice(1, -1),) * box.ndim] > np.float32(cut)) + 1
    flat, places = walled.reshape(-1), inner @ strides
    own = flat[places]
    for shift in np.ndindex(*(3,) * box.ndim):
        step = int(np.subtract(shift, 1) @ strides)
        if step:
            other = flat[places + step]
            top = own > other if step < 0 else own >= other
            places, own = places[top], own[top]
    found: Array = np.stack(np.unravel_index(places, walled.shape), axis=1).astype(np.int64)
    found += np.array(core.start) - 1
    return found


def _sphere(ndim: int) -> Array:
    """Return float64 (DIRECTIONS, ndim): unit vectors evenly spread (a Fibonacci spiral, or a circle)."""
    turn: Array = np.arange(DIRECTIONS) + 0.5
    if ndim == 2:
        angle = 2 * np.pi * turn / DIRECTIONS
        columns = [np.sin(angle), np.cos(angle)]
    else:
        angle, height = np.pi * (1 + math.sqrt(5)) * turn, 1 - 2 * turn / DIRECTIONS
        around = np.sqrt(1 - height**2)
        columns = [height, around * np.sin(angle), around * np.cos(angle)]
    return np.stack(columns, axis=1)


def _profiles(fine: Array, box: Box, voxels: Array, diameter: Sequence[float]) -> Array:
    """Return float32 (n, DIRECTIONS, STEPS): `fine` along rays from each voxel, NaN outside the box."""
    length = np.arange(1, STEPS + 1) / STEPS
    rays = np.rint(_sphere(len(diameter))[:, None, :] * length[None, :, None] * np.array(diameter)).astype(np.int64)
    near = (voxels - np.array(box.start))[:, None, None, :] + rays
    inside = ((near >= 0) & (near < fine.shape)).all(axis=-1)
    near[~inside] = 0
    values: Array = np.where(inside, fine[tuple(np.moveaxis(near, -1, 0))], np.float32(np.nan))
    return values


def _quantile(values: Array, part: float) -> Array:
    """Return float32 (n,): the lower `part` quantile of each row of (n, m), NaN apart; a value of the row, never a mean."""
    ordered = np.sort(values, axis=1)
    rank = (part * ((~np.isnan(values)).sum(axis=1) - 1)).astype(np.int64)
    picked: Array = np.take_along_axis(ordered, np.maximum(rank, 0)[:, None], axis=1)[:, 0]
    return picked


def measure(fine: Array, box: Box, voxels: Array, diameter: Sequence[float]) -> tuple[Array, Array, Array]:
    """Return float32 (n,) three times: inside, outside and radius of nuclei seeded at `voxels`, (n, ndim).

    Inside is the median level within 0.35 diameters, outside the lower quartile from 0.6 to 1 diameter, radius
    the median over rays of where they fall below HEIGHT. `fine` is `smooth`ed and covers `box`, cut only by the volume.
    """
    values = _profiles(fine, box, voxels, diameter)
    inside = _quantile(values[:, :, :INSIDE].reshape(len(voxels), -1), 0.5)
    outside = _quantile(values[:, :, OUTSIDE:].reshape(len(voxels), -1), 0.25)
    limit = border_level(inside, outside)[:, None, None]
    ended = ~(values > limit)
    first = np.where(ended.any(axis=2), ended.argmax(axis=2), STEPS - 1)
    cut_off = np.isnan(np.take_along_axis(values, first[:, :, None], axis=2)[:, :, 0])
    length = np.where(cut_off, np.float32(np.nan), ((first + 1) / STEPS).astype(np.float32))
    radius = np.clip(np.nan_to_num(_quantile(length, 0.5), nan=0.5), SMALLEST, LARGEST)
    return inside, outside, radius


def border_level(inside: Array, outside: Array) -> Array:
    """Return float32 (n,): the level, after `stabilise`, above which a voxel is part of the nucleus."""
    level: Array = outside + np.float32(HEIGHT) * (inside - outside)
    return level


def detect(image: Array, box: Box, core: Box, diameter: Sequence[float], level: Level, evening: Evening) -> Points:
    """Return the candidates whose voxel lies in `core`, in C-order; `image` covers core + `detection_halo` + that of
    `evening`."""
    flat, ground = evening.even(image, box, level)
    near = core.grow((1,) * box.ndim).intersect(box)
    response = blob_response(flat, diameter)[near.slices(box.start)]
    voxels = find_maxima(np.ascontiguousarray(response), near, core, lower_cut(level, diameter))
    score = response[tuple((voxels - np.array(near.start)).T)]
    if len(voxels) == 0:
        return Points(voxels, score, score, score, score, score)
    fine = smooth(flat, diameter)
    parts = [measure(fine, box, some, diameter) for some in np.array_split(voxels, len(voxels) // 1024 + 1)]
    divided = np.ones_like(score) if ground is None else ground[tuple((voxels - np.array(box.start)).T)]
    inside, outside, radius = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Points(voxels, score, inside, outside, radius, divided)


def merge(
    parts: Iterable[Points],
    domain: Box,
    diameter: Sequence[float],
    level: Level,
    threshold: float | None,
    relative: float,
) -> Points:
    """Return the nuclei among the candidates of all blocks, in C-order of their voxels.

    Of candidates closer than SEPARATION the strongest stays (the first in C-order of equals). Then those stay that
    respond at least `relative` times as strongly as the typical nucleus; or, where a `threshold` in intensities of the image
    is given, those whose inside is above it. Mirroring makes noise stronger near the edges of `domain`: the cut follows.
    """
    found = list(parts)
    table = Points(*(np.concatenate([getattr(p, name) for p in found]) for name in Points.__slots__))
    to_edge = np.minimum(table.voxel - domain.start, np.subtract(domain.stop, 1) - table.voxel)
    edges = (to_edge <= np.array(sigmas(diameter))).sum(axis=1)
    table = table.take((table.inside > table.outside) & (table.score > lower_cut(level, diameter) * 2 ** (edges / 2)))
    table = table.take(np.lexsort((*table.voxel.T[::-1], -table.score.astype(np.float64))))
    table = table.take(_apart((table.voxel - domain.start) / np.array(diameter)))
    if threshold is None:
        keep = table.score >= relative * _typical(table.score.astype(np.float64))
    else:
        keep = table.intensity(table.inside, level) > threshold
    table = table.take(keep)
    return table.take(np.lexsort(table.voxel.T[::-1]))


def _typical(scores: Array) -> float:
    """Return the response of a typical nucleus from those of all candidates, descending: the one at half of their sum.

    Candidates below a third of that at half of the summed squares are left out: noise and texture, weak but many.
    """
    if len(scores) == 0:
        return 0.0
    squares = np.cumsum(scores**2)
    strong = scores[scores > scores[np.searchsorted(squares, squares[-1] / 2)] / 3]
    mass = np.cumsum(strong)
    return float(strong[np.searchsorted(mass, mass[-1] / 2)])


def _apart(places: Array) -> Array:
    """Return bool (n,): which of `places`, best first, a greedy choice keeps no two of closer than SEPARATION."""
    kept, open_ = np.zeros(len(places), bool), np.ones(len(places), bool)
    pairs = cKDTree(places).query_pairs(SEPARATION, output_type="ndarray") if len(places) else np.empty((0, 2), int)
    better, worse = pairs.min(axis=1, initial=len(places)), pairs.max(axis=1, initial=-1)
    while open_.any():
        beaten = np.zeros(len(places), bool)
        beaten[worse[open_[better] & open_[worse]]] = True
        kept |= open_ & ~beaten
        open_ &= beaten
        open_[worse[kept[better]]] = False
    return kept

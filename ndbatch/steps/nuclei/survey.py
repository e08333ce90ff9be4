"""One look at the whole image before detecting: its floor, its noise, and the square root that evens the noise out.

Voxels are sampled on a lattice that belongs to the volume and not to any block, and merged by order statistics, so that
the result is the same for any block grid, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ndbatch.geometry import Box
from ndbatch.remotes.base import Array

PEDESTAL = 0.25
"""What is added to an image that is divided by its background, as a share of its typical intensity above the floor."""
SAMPLES = 1 << 17
"""How many voxels the lattice has, at most about."""
LAG = 2
"""Distance, in voxels, over which noise is taken to be uncorrelated."""
NORMAL = ((0.5, 0.6745), (0.75, 1.1503), (0.9, 1.6449))
"""Quantiles of the size of a normal deviate; the first that is not 0 tells the noise (counts are mostly 0 in dim images)."""


@dataclass(frozen=True, slots=True)
class Level:
    """What one look at the whole image says of it. `floor` and `otsu` are intensities of the image, `pedestal` one above the
    floor; `noise` is the standard deviation and `span` the range of the even image."""

    floor: float
    noise: float
    span: float
    otsu: float
    pedestal: float = 0.0


def sample(image: Array, box: Box, core: Box, domain: Box) -> Array:
    """Return float64 (n, 1 + 2 ndim): voxels of `core` on a lattice of the whole `domain`, each with its neighbours at
    LAG voxels before and after along every axis. `image` covers `box`: the core and LAG voxels around it, in the domain.
    """
    step = max(1, math.ceil((domain.size / SAMPLES) ** (1 / domain.ndim)))
    first = [o + min(step // 2, n - 1) for o, n in zip(domain.start, domain.shape, strict=True)]
    places = [np.arange(f + max(0, -((f - a) // step)) * step, b, step)
              for f, a, b in zip(first, core.start, core.stop, strict=True)]  # fmt: skip
    columns = [image[np.ix_(*(p - o for p, o in zip(places, box.start, strict=True)))].reshape(-1)]
    for axis in range(domain.ndim):
        for shift in (-LAG, LAG):
            moved = list(places)
            moved[axis] = np.clip(places[axis] + shift, domain.start[axis], domain.stop[axis] - 1)
            columns.append(image[np.ix_(*(p - o for p, o in zip(moved, box.start, strict=True)))].reshape(-1))
    return np.stack(columns, axis=1).astype(np.float64)


def survey(samples: Iterable[Array], local: bool = False) -> Level:
    """Return the level of an image from the samples of all its blocks, in any order; `local` for one that will be divided by
    its background.

    The floor is the 1st percentile. The noise is told by the median absolute curvature over LAG voxels after
    `stabilise`, which nuclei, being larger, hardly change. The Otsu threshold comes from a 256-bin histogram of the samples.
    With `local` each sample is divided by the mean around it, in place of the background; the pedestal is a share of the
    value at half of the summed intensity, which empty space around the tissue does not change.
    """
    from skimage.filters import threshold_otsu

    rows = np.concatenate([s for s in samples if len(s)] or [np.empty((0, 3))])
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) == 0:
        return Level(0.0, 0.0, 0.0, 0.0)
    values = np.sort(rows[:, 0])
    floor, top = (float(values[round(q * (len(values) - 1))]) for q in (0.01, 0.999))
    pedestal = PEDESTAL * _half_mass(values - floor) if local else 0.0
    flat = np.sqrt(np.maximum(rows - floor, 0.0) + pedestal)
    if pedestal:
        around = np.maximum(rows[:, 1:].mean(axis=1) - floor, 0.0) + pedestal
        flat /= np.sqrt(around)[:, None]
    bends = np.concatenate([flat[:, 0] - (flat[:, i] + flat[:, i + 1]) / 2 for i in range(1, flat.shape[1], 2)])
    spread = np.quantile(np.abs(bends), [q for q, _ in NORMAL], method="lower") / [z for _, z in NORMAL]
    noise = float(next((s for s in spread if s > 0), 0.0)) / math.sqrt(1.5)
    counts, edges = np.histogram(values, bins=256)
    otsu = float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))) if values[-1] > values[0] else top
    span = math.sqrt(max(top - floor, 0.0)) if not pedestal else float(flat[:, 0].max())
    return Level(floor, noise, span, otsu, pedestal)


def _half_mass(values: Array) -> float:
    """Return the value, of ascending ones, at which half of the sum of those above 0 is reached."""
    mass = np.cumsum(np.maximum(values, 0.0))
    return float(max(values[np.searchsorted(mass, mass[-1] / 2)], 0.0))


def above_floor(image: Array, floor: float) -> Array:
    """Return a new float32 array, image - floor, any shape; 0 below the floor and where the image is not finite."""
    if image.dtype.itemsize > 2 and image.dtype != np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            above = np.subtract(image, floor, dtype=np.float64).astype(np.float32)
    else:
        above = np.subtract(image, np.float32(floor), dtype=np.float32)
    np.fmax(above, np.float32(0), out=above)
    above[np.isinf(above)] = 0
    return above


def stabilise(image: Array, floor: float) -> Array:
    """Return float32 sqrt(image - floor), any shape; 0 below the floor and where the image is not finite."""
    above = above_floor(image, floor)
    return np.sqrt(above, out=above)

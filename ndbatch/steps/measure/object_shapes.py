"""The shape of objects: second moments of their voxels, how their surface lies between voxels, and whom they touch.

Everything a block finds is a whole number (products of positions, pairs of neighbouring voxels), so that it adds up
exactly; lengths and areas are worked out in the end.

Surfaces are measured by Crofton's formula: the mean number of times that lines of a direction enter or leave an object, times
the area between such lines, over the directions to the 26 neighbours (8 in a plane), each weighted by the part of the
sphere (circle) that is nearest to it. Legland, Kieu and Devaux 2007, Image Analysis and Stereology 26, 83.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.measure.exact_sums import Limbs, integers
from ndbatch.steps.measure.value_counts import ValueCounts, tally

LONGEST = 1 << 21
"""Longest axis, in voxels, whose second moments fit the sums of a slab."""


def products(lengths: Array, places: Mapping[str, Array]) -> dict[str, Limbs]:
    """Return the sums of products of positions over runs of `lengths` voxels, `B.A` for axes A and B.

    `places` are the positions of each run's first voxel by axis, the last axis that of the runs, each below `LONGEST`.
    """
    *across, along = places
    first = places[along]
    total = lengths * first + lengths * (lengths - 1) // 2
    squares = (
        lengths * first * first + first * lengths * (lengths - 1) + (lengths - 1) * lengths * (2 * lengths - 1) // 6
    )
    made = {f"{along}.{along}": {0: squares}}
    for place, axis in enumerate(across):
        made[f"{axis}.{along}"] = {0: places[axis] * total}
        for other in across[place:]:
            made[f"{axis}.{other}"] = {0: places[axis] * places[other] * lengths}
    return made


def covariances(sums: Mapping[str, Limbs], voxels: Array, axes: Sequence[str], size: Sequence[float]) -> Array:
    """Return the covariance matrices of positions (objects, axes, axes), in squared lengths of `size` a voxel.

    From exact integers: n * sum(pq) - sum(p) * sum(q) is rounded once.
    """
    numbers = {name: _whole(sums[name]) for name in sums if set(name.split(".")) <= set(axes)}
    result = np.empty((len(voxels), len(axes), len(axes)))
    for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(axes), 2):
        rows = zip(voxels.tolist(), numbers[f"{a}.{b}"], numbers[a], numbers[b], strict=True)
        values = [(n * pq - p * q) / (n * n) for n, pq, p, q in rows]
        result[:, i, j] = result[:, j, i] = np.array(values) * (size[i] * size[j])
    return result


def _whole(limbs: Limbs) -> list[int]:
    totals, power = integers(limbs)
    return [total << power for total in totals] if power else totals


def principal(matrices: Array) -> dict[str, Array]:
    """Return eigenvalues of the inertia tensor, lengths of the main axes and the direction of the longest.

    As scikit-image defines them: the inertia tensor is trace(C) - C, its eigenvalues fall; `axis_major_length` and
    `axis_minor_length` are those of the ellipsoid (ellipse) of the same second moments. `axis_major_direction` is
    (objects, axes), of length 1, its first component that is not 0 above 0.
    """
    ndim = matrices.shape[1]
    spread, vectors = np.linalg.eigh(matrices)
    spread = np.clip(spread, 0.0, None)
    inertia = spread.sum(axis=1, keepdims=True) - spread if ndim == 3 else spread[:, ::-1]
    inertia = inertia if ndim == 2 else np.sort(inertia, axis=1)[:, ::-1]
    scale = math.sqrt(20.0) if ndim == 3 else 4.0
    direction = vectors[:, :, -1]
    leading = np.take_along_axis(direction, np.argmax(np.abs(direction) > 1e-12, axis=1)[:, None], 1)
    return {
        "inertia_tensor_eigvals": inertia,
        "axis_major_length": scale * np.sqrt(spread[:, -1]),
        "axis_minor_length": scale * np.sqrt(spread[:, 0]),
        "axis_major_direction": direction * np.where(leading < 0, -1.0, 1.0),
    }


def directions(space: tuple[bool, ...]) -> list[tuple[int, ...]]:
    """Return one of each pair of opposite neighbours, along the axes where `space` is set."""
    steps = itertools.product(*((-1, 0, 1) if inside else (0,) for inside in space))
    return [step for step in steps if step > (0,) * len(space)]


def crossings(labels: Patch, core: Box, order: Array, space: tuple[bool, ...]) -> Array:
    """Return how often the voxels of objects in `core` border on something else, by object and direction.

    `order` are the labels, ascending; `labels` covers the core and one voxel around it where the volume goes on, and what is
    beyond the volume is something else. int64 (objects, directions), both senses of a direction together.
    """
    inside = labels.crop(core)
    result = np.zeros((len(order), len(directions(space))), np.int64)
    for column, step in enumerate(directions(space)):
        for sense in (1, -1):
            differs = inside != _beside(labels, core, [sense * s for s in step])
            differs &= inside != 0
            owners = np.searchsorted(order, inside[differs])
            result[:, column] += np.bincount(owners, minlength=len(order))
    return result


def touching(labels: Patch, core: Box, order: Array, space: tuple[bool, ...]) -> tuple[ValueCounts, Array]:
    """Return whom each object in `core` touches face to face, and how many of its voxels' faces do, by axis.

    Counted from the object's own side, so every object has all of its faces once. The second is int64 (objects, axes).
    """
    inside = labels.crop(core)
    faces = np.zeros((len(order), len(space)), np.int64)
    owners, others = [np.empty(0, np.int64)], [np.empty(0, inside.dtype)]
    for axis, used in enumerate(space):
        for sense in (1, -1) if used else ():
            there = _beside(labels, core, [sense * (i == axis) for i in range(len(space))])
            meet = (inside != there) & (inside != 0) & (there != 0)
            found = np.searchsorted(order, inside[meet])
            faces[:, axis] += np.bincount(found, minlength=len(order))
            owners.append(found)
            others.append(there[meet])
    return tally(np.concatenate(owners), np.concatenate(others), len(order)), faces


def _beside(labels: Patch, core: Box, step: Sequence[int]) -> Array:
    """Return the neighbours of the voxels of `core` at `step`, 0 beyond the volume."""
    wanted = core.shift(step)
    there = wanted.intersect(labels.box)
    if there == wanted:
        return labels.crop(wanted)
    result = np.zeros(core.shape, labels.data.dtype)
    if not there.empty:
        result[there.slices(wanted.start)] = labels.crop(there)
    return result


def surfaces(counts: Array, size: Sequence[float]) -> Array:
    """Return areas (3 axes) or perimeters (2 axes) for `crossings` counts along voxels of `size`; float64."""
    steps = np.array(directions((True,) * len(size)), float) * np.asarray(size)
    lengths = np.linalg.norm(steps, axis=1)
    between = math.prod(size) / lengths
    mean = 2.0 if len(size) == 3 else math.pi / 2
    return np.asarray(mean * (counts @ (_shares(tuple(size)) * between)))


@cache
def _shares(size: tuple[float, ...]) -> Array:
    """Return, for each direction, the part of the sphere or circle that is nearest to it or its opposite."""
    steps = np.array(directions((True,) * len(size)), float) * np.asarray(size)
    units = steps / np.linalg.norm(steps, axis=1)[:, None]
    if len(size) == 3:
        from scipy.spatial import SphericalVoronoi

        areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
        return np.asarray((areas[: len(units)] + areas[len(units) :]) / (4 * math.pi))
    angles = np.arctan2(units[:, 0], units[:, 1]) % math.pi
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + math.pi)
    shares = np.empty(len(units))
    shares[order] = (gaps + np.roll(gaps, 1)) / (2 * math.pi)
    return shares


def sphericity(volume: Array, area: Array) -> Array:
    """Return the area of the ball of the same volume over the area; 1 for a ball (Wadell 1935)."""
    return np.asarray(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area)


def equivalent_diameter(volume: Array, ndim: int) -> Array:
    """Return the diameter of the ball (disc, stretch) of the same volume (area, length)."""
    unit = {3: math.pi / 6, 2: math.pi / 4, 1: 1.0}[ndim]
    return np.asarray((volume / unit) ** (1 / ndim))

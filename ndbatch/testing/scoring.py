"""How well found objects match the truth: F1 scores of centroids and of masks. Axis order is (z, y, x), or (y, x)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ndbatch.remotes.base import Array


def median_diameter(labels: Array, voxel_size: Sequence[float]) -> float:
    """Return the median diameter of the objects of `labels` (0 is background), in the unit of `voxel_size`: of a ball of
    the same volume, or of a disc of the same area."""
    sizes = np.unique(labels[labels > 0], return_counts=True)[1] * float(np.prod(voxel_size))
    size = float(np.median(sizes))
    return float((6 * size / np.pi) ** (1 / 3) if labels.ndim == 3 else (4 * size / np.pi) ** 0.5)


def centroids(labels: Array) -> Array:
    """Return float64 (n, ndim): the centres of mass of the objects of `labels`, in voxels, in order of their ids."""
    places = np.argwhere(labels > 0)
    _, row, counts = np.unique(labels[labels > 0], return_inverse=True, return_counts=True)
    sums = [np.bincount(row, places[:, axis], len(counts)) for axis in range(labels.ndim)]
    return np.stack(sums, axis=1) / counts[:, None]


def centroid_f1(truth: Array, found: Array, voxel_size: Sequence[float], radius: float) -> float:
    """Return the F1 score of points `found` against `truth`, both (n, ndim) in voxels.

    Pairs are one to one, as many as possible, no further apart than `radius`, which is in the unit of `voxel_size`.
    Two empty tables agree: 1.
    """
    if len(truth) == 0 or len(found) == 0:
        return float(len(truth) == len(found))
    size = np.asarray(voxel_size, np.float64)
    apart = cdist(np.asarray(truth, np.float64) * size, np.asarray(found, np.float64) * size)
    return _f1(_pairs(apart <= radius, 1 - apart / (2 * radius)), len(truth), len(found))


def iou_f1(truth: Array, labels: Array, threshold: float = 0.5) -> float:
    """Return the F1 score of the objects of `labels` against those of `truth`: integer arrays of one shape, 0 is none.

    Pairs are one to one, as many as possible, with intersection over union of at least `threshold`.
    """
    if truth.shape != labels.shape:
        raise ValueError(f"truth has shape {truth.shape} and labels {labels.shape}; they must be the same voxels")
    overlap = _iou(truth, labels)
    if 0 in overlap.shape:
        return float(overlap.shape[0] == overlap.shape[1])
    return _f1(_pairs(overlap >= threshold, overlap), *overlap.shape)


def _iou(truth: Array, labels: Array) -> Array:
    """Return float64 (objects of truth, objects of labels): intersection over union of each pair."""
    true_ids, rows = np.unique(truth, return_inverse=True)
    found_ids, columns = np.unique(labels, return_inverse=True)
    pairs = rows.reshape(-1) * len(found_ids) + columns.reshape(-1)
    common = np.bincount(pairs, minlength=len(true_ids) * len(found_ids)).reshape(len(true_ids), len(found_ids))
    union = common.sum(axis=1)[:, None] + common.sum(axis=0)[None] - common
    result: Array = (common / union)[true_ids > 0][:, found_ids > 0]
    return result


def _pairs(allowed: Array, quality: Array) -> int:
    """Return the size of the largest one-to-one choice among `allowed` pairs; `quality`, in [0, 1], breaks ties."""
    gain = np.where(allowed, 1 + quality / (1 + min(allowed.shape)), 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return int(allowed[rows, columns].sum())


def _f1(matched: int, truths: int, found: int) -> float:
    return 2 * matched / (truths + found)

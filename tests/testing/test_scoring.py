"""Scores of detections: one to one, as many pairs as possible."""

from __future__ import annotations

import numpy as np
import pytest

from ndbatch.testing.scoring import centroid_f1, centroids, iou_f1, median_diameter


def test_centroids_pair_one_to_one() -> None:
    truth = np.array([[0, 0, 0], [0, 0, 10]])
    assert centroid_f1(truth, truth, (1, 1, 1), 1.0) == 1.0
    assert centroid_f1(truth, truth[:1], (1, 1, 1), 1.0) == pytest.approx(2 / 3)
    assert centroid_f1(truth[:1], np.array([[0, 0, 0], [0, 0, 1]]), (1, 1, 1), 2.0) == pytest.approx(2 / 3)
    assert centroid_f1(truth, np.empty((0, 3)), (1, 1, 1), 1.0) == 0.0
    assert centroid_f1(np.empty((0, 3)), np.empty((0, 3)), (1, 1, 1), 1.0) == 1.0


def test_more_pairs_beat_closer_ones() -> None:
    truth, found = np.array([[0, 0], [0, 4]]), np.array([[0, 3], [0, 7]])
    assert centroid_f1(truth, found, (1, 1), 3.0) == 1.0


def test_distance_is_physical() -> None:
    truth, found = np.array([[0, 0, 0]]), np.array([[2, 0, 0]])
    assert centroid_f1(truth, found, (1, 1, 1), 2.0) == 1.0
    assert centroid_f1(truth, found, (5, 1, 1), 2.0) == 0.0


def test_masks_pair_by_overlap() -> None:
    truth = np.zeros((4, 8), np.uint16)
    truth[:, :4], truth[:, 4:] = 7, 9
    half = np.where(np.arange(8) < 2, 3, 0) * np.ones((4, 1), np.int64)
    assert iou_f1(truth, truth.astype(np.uint64) * 10**12) == 1.0
    assert iou_f1(truth, half) == pytest.approx(2 / 3)
    assert iou_f1(truth, half, 0.6) == 0.0
    assert iou_f1(truth, np.zeros_like(truth)) == 0.0
    assert iou_f1(np.zeros_like(truth), np.zeros_like(truth)) == 1.0
    with pytest.raises(ValueError, match="must be the same voxels"):
        iou_f1(truth, truth[:2])


def test_centres_and_diameters() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:4, 1:4, 1:4], labels[5:8, 5:8, 5:8] = 2, 5
    np.testing.assert_allclose(centroids(labels), [[2, 2, 2], [6, 6, 6]])
    assert median_diameter(labels, (1, 1, 1)) == pytest.approx((6 * 27 / np.pi) ** (1 / 3))
    assert median_diameter(labels[2], (2, 2)) == pytest.approx((4 * 36 / np.pi) ** 0.5)

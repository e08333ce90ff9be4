"""Volumes seen otherwise: an index of an axis, flipped, cropped, resampled."""

"""Zarr v2 and v3, plain or as OME-Zarr images."""

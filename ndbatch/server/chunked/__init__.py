"""Volumes as chunks by HTTP: Neuroglancer's precomputed format and OME-Zarr, computed from whatever lies behind a channel."""

"""Neuroglancer's precomputed layers."""

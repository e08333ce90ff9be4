"""Uneven background taken away."""

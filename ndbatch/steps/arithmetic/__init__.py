"""Expressions of arrays."""

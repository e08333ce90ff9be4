"""Contrast, of whole volumes and locally."""

"""Histograms, percentiles and counts of whole volumes, block by block."""

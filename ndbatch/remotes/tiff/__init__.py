"""TIFF files of one or many pages."""

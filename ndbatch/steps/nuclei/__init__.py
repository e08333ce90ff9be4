"""Nuclei and cell bodies: found, outlined, numbered."""

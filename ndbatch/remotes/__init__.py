"""Volumes wherever they are: the contract (`base`), from an address to a volume (`registry`, `address`, `api`), and the formats.

A format of several modules is a package of its own; `files` holds those of one file or a stack of slices, `places` what
reaches folders, buckets and web servers, `views` a volume seen another way.
"""

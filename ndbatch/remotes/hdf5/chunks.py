"""Reading a dataset of a file that is in a bucket or on a web server: its chunks are fetched at the same time.

HDF5 itself asks for one chunk after the other, each of which would wait for an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ndbatch.remotes.base import Array
from ndbatch.remotes.places.far import WINDOW, FarPath, Range

Slices = tuple[slice, ...]


def read_far(dataset: Any, region: Slices, path: FarPath) -> Array:
    """Return the voxels of `region` (stored order) of an open h5py dataset of the file `path`.

    Raises what `FarPath.pieces` and h5py raise.
    """
    if dataset.chunks is None:
        data: Array = dataset[region]
        return data
    result = np.empty([part.stop - part.start for part in region], dataset.dtype)
    for part in _parts(region, dataset.chunks, dataset.dtype.itemsize):
        path.fetch(_places(dataset, part))
        inside = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
        result[inside] = dataset[part]
    return result


def _parts(region: Slices, chunks: tuple[int, ...], itemsize: int) -> Iterator[Slices]:
    """Yield parts of `region` along borders of chunks, whose chunks are at most as large as what is fetched at the same time."""
    counts = [len(_numbers(part, chunk)) for part, chunk in zip(region, chunks, strict=True)]
    nbytes = int(np.prod(counts)) * int(np.prod(chunks)) * itemsize
    if nbytes <= WINDOW or max(counts) == 1:
        yield region
        return
    axis = counts.index(max(counts))
    border = (_numbers(region[axis], chunks[axis]).start + counts[axis] // 2) * chunks[axis]
    for half in (slice(region[axis].start, border), slice(border, region[axis].stop)):
        yield from _parts((*region[:axis], half, *region[axis + 1 :]), chunks, itemsize)


def _numbers(part: slice, chunk: int) -> range:
    """Return the numbers of the chunks that a part of an axis meets."""
    return range(part.start // chunk, -(-part.stop // chunk))


def _places(dataset: Any, region: Slices) -> Iterator[Range]:
    """Yield where the chunks of a region are stored; those that are not have only zeros."""
    numbers = [_numbers(part, chunk) for part, chunk in zip(region, dataset.chunks, strict=True)]
    for place in itertools.product(*numbers):
        first = tuple(n * chunk for n, chunk in zip(place, dataset.chunks, strict=True))
        info = dataset.id.get_chunk_info_by_coord(first)
        if info.byte_offset is not None:
            yield info.byte_offset, info.size

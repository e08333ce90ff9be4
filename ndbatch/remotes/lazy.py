"""Volumes as lazy dask arrays, and dask arrays into volumes: for interactive work (a run does not use dask graphs)."""

from __future__ import annotations

import math
import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from ndbatch.errors import PlanError, RemoteError, missing_extra
from ndbatch.geometry import Box, Shape
from ndbatch.importing import about_to_act
from ndbatch.remotes.base import Array, ArraySpec, Volume

OPEN_VOLUMES = 64
"""Volumes that a process keeps open for the tasks of dask graphs."""

_writing = threading.Lock()
"""Held while a volume is written that only one writer may write."""


def as_dask(volume: Volume, chunks: Mapping[str, int] | Sequence[int] | None = None) -> Any:
    """Return a lazy dask array over all of `volume`: shape, dtype and order are the volume's, its first voxel is at 0.

    Building it reads no voxel; computing a chunk reads exactly the voxels of that chunk. Chunks are the volume's own
    unless `chunks` gives extents, in order or by axis name. Tasks hold the volume's address and open it once a
    process. The name of the array is the volume's identity, so that equal volumes are computed once, and a volume whose
    voxels changed is another array. Raises PlanError for chunks that do not fit, MissingExtra without dask.
    """
    da = _dask_array()
    extents = _extents(volume, chunks)
    grid = da.core.normalize_chunks(extents, shape=volume.shape, dtype=volume.dtype)
    if math.prod(volume.shape) == 0:
        return da.zeros(volume.shape, dtype=volume.dtype, chunks=extents)
    reader = _Reader(volume, extents)
    name = f"ndbatch-{reader.token}-{'x'.join(map(str, extents))}"
    return da.map_blocks(reader, chunks=grid, dtype=volume.dtype, meta=_meta(volume.ndim, volume.dtype), name=name)


def store(array: Any, volume: Volume, *, compute: bool = True) -> Any:
    """Write a dask (or numpy) array into all of `volume` through its upload path, and return None.

    Chunks of the array that do not line up with the volume's chunks (shards, where it has them) are merged and cut until
    they do, so that no two tasks write one and no lock is needed; choose chunks that are whole multiples to avoid that.
    Volumes that only one process may write (HDF5, TIFF) are written by one thread at a time, and refuse schedulers with
    processes. Shape and dtype must be the volume's: a cast is the caller's decision.

    With `compute=False` nothing is written: a lazy array is returned, and its `compute()` writes. Raises PlanError.
    """
    about_to_act("writes a volume")
    da = _dask_array()
    if not volume.abilities.write:
        raise PlanError(f"{volume.url}: {volume.scheme} volumes cannot be written")
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if shape != volume.shape:
        raise PlanError(
            f"{volume.url} has shape {volume.shape}, the array {shape}; crop the array or create a volume that fits"
        )
    if dtype != volume.dtype:
        raise PlanError(
            f"{volume.url} holds {volume.dtype}, the array {dtype}; cast it first: .astype('{volume.dtype}')"
        )
    array = _aligned(da.asarray(array), volume.spec)
    ones = tuple((1,) * len(sizes) for sizes in array.chunks)
    writer = _Writer(volume, array.chunks)
    written = array.map_blocks(writer, chunks=ones, dtype=bool, meta=_meta(volume.ndim, bool))
    if not compute:
        return written
    written.compute()
    volume.close()
    return None


def _sizes(sizes: tuple[int, ...], unit: int, first: int) -> tuple[int, ...]:
    """Return `sizes` if all chunks but the first begin at `first` plus a multiple of `unit`, else others that do."""
    starts = np.cumsum((0, *sizes))
    if all((start - first) % unit == 0 for start in starts[1:-1].tolist()):
        return sizes
    step = max(1, round(max(sizes) / unit)) * unit
    whole = int(starts[-1])
    cuts = [0, *range(first or step, whole, step), whole]
    return tuple(b - a for a, b in pairwise(cuts) if b > a)


def _dask_array() -> Any:
    try:
        import dask.array
    except ImportError:
        raise missing_extra("dask", "dask", "a lazy array") from None
    return dask.array


def _meta(ndim: int, dtype: Any) -> Array:
    return np.empty((0,) * ndim, dtype)


def _extents(volume: Volume, chunks: Mapping[str, int] | Sequence[int] | None) -> Shape:
    """Return the extents of a chunk. PlanError where they do not fit the volume."""
    if isinstance(chunks, Mapping):
        unknown = [axis for axis in chunks if axis not in volume.axes]
        if unknown:
            raise PlanError(f"{volume.url}: chunks names the axis {unknown[0]!r}, not one of {', '.join(volume.axes)}")
        chunks = [chunks.get(axis, n) for axis, n in zip(volume.axes, volume.chunks, strict=True)]
    extents = tuple(chunks) if chunks is not None else volume.chunks
    if len(extents) != volume.ndim or any(not isinstance(n, int | np.integer) or n < 1 for n in extents):
        raise PlanError(f"{volume.url}: chunks {extents} is not one whole number for each of {', '.join(volume.axes)}")
    return tuple(int(n) for n in extents)


def _aligned(array: Any, spec: ArraySpec) -> Any:
    """Return the array with chunks that begin where the volume's units do, rechunked along the axes where they do not."""
    wanted = tuple(
        _sizes(sizes, n, (origin - start) % n)
        for sizes, n, start, origin in zip(array.chunks, spec.write_unit, spec.offset, spec.origin, strict=True)
    )
    return array if wanted == array.chunks else array.rechunk(wanted)


@lru_cache(maxsize=OPEN_VOLUMES)
def _opened(token: str, pickled: bytes) -> Volume:
    """Open a volume once a process; `token` tells the versions of one address apart."""
    del token
    volume: Volume = pickle.loads(pickled)
    return volume


class _Task:
    """What a task of a graph holds of a volume: its address, never an open handle."""

    def __init__(self, volume: Volume) -> None:
        self.token = volume.identity()
        self.pickled = pickle.dumps(volume)

    @property
    def volume(self) -> Volume:
        return _opened(self.token, self.pickled)


class _Reader(_Task):
    """Reads the chunk at a place of the grid."""

    def __init__(self, volume: Volume, extents: Shape) -> None:
        super().__init__(volume)
        self.extents = extents

    def __call__(self, block_id: tuple[int, ...]) -> Array:
        volume = self.volume
        start = [place * n + o for place, n, o in zip(block_id, self.extents, volume.offset, strict=True)]
        return volume.read(Box.of_shape(self.extents, start).intersect(volume.domain))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("ndbatch-read", self.token, self.extents)


class _Writer(_Task):
    """Writes the chunk it is given at its place; returns one True a chunk."""

    def __init__(self, volume: Volume, chunks: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(volume)
        self.starts = [np.cumsum([0, *sizes[:-1]]).tolist() for sizes in chunks]
        self.process = os.getpid()

    def __call__(self, block: Array, block_id: tuple[int, ...]) -> Array:
        volume = self.volume
        start = [starts[i] + o for starts, i, o in zip(self.starts, block_id, volume.offset, strict=True)]
        box = Box.of_shape(block.shape, start)
        if volume.abilities.concurrent:
            volume.write(box, block)
        else:
            self._write_alone(volume, box, block)
        return np.ones((1,) * block.ndim, bool)

    def _write_alone(self, volume: Volume, box: Box, block: Array) -> None:
        if os.getpid() != self.process:
            raise RemoteError(
                f"{volume.url}: one process writes a {volume.scheme} file; compute with scheduler='threads', or store into "
                "a .zarr volume",
                url=volume.url,
            )
        with _writing:
            volume.write(box, block)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("ndbatch-store", self.token, self.starts)

"""Volumes as lazy dask arrays, and dask arrays into volumes."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from ndbatch.errors import PlanError, RemoteError, missing_extra
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array, Volume


def _dask_array() -> Any:
    try:
        import dask.array
    except ImportError:
        raise missing_extra("dask", "dask", "a lazy array") from None
    return dask.array


@lru_cache(maxsize=64)
def _opened(token: str, pickled: bytes) -> Volume:
    """Open a volume once a process; `token` tells versions of one address apart."""
    import pickle

    volume: Volume = pickle.loads(pickled)
    return volume


class _Reader:
    """What a task of the graph holds: the volume's address, pickled, never an open handle."""

    def __init__(self, volume: Volume) -> None:
        import pickle

        self.token = volume.identity()
        self.pickled = pickle.dumps(volume)
        self.offset = volume.offset

    def __call__(self, block_info: Any = None) -> Array:
        ends = block_info[None]["array-location"]
        box = Box(tuple(a for a, _ in ends), tuple(b for _, b in ends)).shift(self.offset)
        return _opened(self.token, self.pickled).read(box)

    def __dask_tokenize__(self) -> str:
        return self.token


def as_dask(volume: Volume, chunks: Shape | None = None) -> Any:
    """Return a lazy dask array over all of `volume`: shape, dtype and order are the volume's.

    One task a chunk (the volume's own grid unless `chunks` is given), which reads exactly the voxels of that chunk when
    it is computed. Building it reads nothing. Raises MissingExtra without dask.
    """
    da = _dask_array()
    grid = da.core.normalize_chunks(chunks or volume.chunks, shape=volume.shape, dtype=volume.dtype)
    name = f"ndbatch-{volume.identity()}-{'x'.join(str(n) for n in chunks or volume.chunks)}"
    return da.map_blocks(_Reader(volume), chunks=grid, dtype=volume.dtype, meta=_meta(volume), name=name)


def _meta(volume: Volume) -> Array:
    import numpy as np

    return np.empty((0,) * volume.ndim, volume.dtype)


def store(array: Any, volume: Volume, *, compute: bool = True) -> Any:
    """Write a dask array into all of `volume` through its upload path; return None, or the task with `compute=False`.

    The array is rechunked to whole chunks (shards) of the volume where it does not line up, so that no two tasks write
    one, and no lock is taken: only stores that one process must write take a lock of their own, and refuse schedulers
    with processes. Shape and dtype must be the volume's: a cast is the caller's decision. Raises PlanError.
    """
    import dask

    _dask_array()
    if tuple(array.shape) != volume.shape or array.dtype != volume.dtype:
        raise PlanError(
            f"{volume.url}: cannot store {array.dtype} {tuple(array.shape)} in a volume of {volume.dtype} {volume.shape}; "
            "cast or crop the array first"
        )
    array = _aligned(array, volume.spec.write_unit)
    writer = _Writer(volume)
    done = array.map_blocks(writer, dtype="uint8", chunks=tuple((1,) * n for n in array.numblocks), meta=_meta(volume))
    task = done.sum()
    if not compute:
        return task
    dask.compute(task)
    volume.close()
    return None


def _aligned(array: Any, unit: Shape) -> Any:
    """Return the array with chunks that are whole numbers of `unit`, rechunked only where they are not."""
    wanted = tuple(
        sizes if all(s % n == 0 for s in sizes[:-1]) else max(n, sizes[0] // n * n)
        for sizes, n in zip(array.chunks, unit, strict=True)
    )
    return array if wanted == array.chunks else array.rechunk(wanted)


class _Writer:
    """Writes the chunk it is given where it lies; returns one byte a chunk."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.lock = None if volume.abilities.concurrent else threading.Lock()

    def __call__(self, block: Array, block_info: Any = None) -> Array:
        import numpy as np

        if block_info:
            ends = block_info[0]["array-location"]
            box = Box(tuple(a for a, _ in ends), tuple(b for _, b in ends)).shift(self.volume.offset)
            if self.lock is None:
                self.volume.write(box, block)
            else:
                with self.lock:
                    self.volume.write(box, block)
        return np.ones((1,) * block.ndim, "uint8")

    def __getstate__(self) -> dict[str, Any]:
        if self.lock is not None:
            raise RemoteError(
                f"{self.volume.url}: only one process can write a {self.volume.scheme} file; compute with scheduler='threads'"
            )
        return self.__dict__

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("ndbatch-store", self.volume.identity())

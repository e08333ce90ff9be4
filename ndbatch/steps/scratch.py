"""Arrays of passes that are kept in a file, so that the driver does not grow with the number of blocks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ndbatch.remotes.base import Array


def scratch_array(path: Path, dtype: object, shape: tuple[int, ...]) -> Array:
    """Return a new array of zeros (at least one element) that lies in the file `path`.

    Its room on the disk is taken now: OSError where there is none. A page of a mapped file that finds no room later ends the
    process without a word.
    """
    kind = np.dtype(dtype)  # type: ignore[call-overload]
    shape = tuple(max(1, n) for n in shape)
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * kind.itemsize)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
    return np.memmap(path, kind, "r+", shape=shape)

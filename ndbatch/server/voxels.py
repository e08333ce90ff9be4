"""Voxels of served volumes: boxes read and written by many threads and processes at once, and no write lost.

A write that covers parts of chunks reads them first; locks on the chunks that it touches, held across processes, keep others
away meanwhile. The locks are bytes of one file, so that a process that dies leaves none behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.config.secret import Secret
from ndbatch.errors import Denied
from ndbatch.geometry import Box, Shape
from ndbatch.remotes import api
from ndbatch.remotes.base import Array, Volume
from ndbatch.server.mark import Kept, Mark

STRIPES = 1024
"""Locks of one service: chunks share them by chance, which costs waiting and never an order that could block for good."""


class Voxels:
    """Reads and writes of all volumes of a service. `state` is the folder for the file of locks."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._locks = [threading.Lock() for _ in range(STRIPES)]
        self._file = os.open(state / "locks", os.O_RDWR | os.O_CREAT, 0o600)
        self._forgotten = Mark(state / "generation")
        self._volumes: Kept[Volume] = Kept()

    @property
    def generation(self) -> bytes:
        """What is another whenever volumes were forgotten, by any process that serves the folder."""
        return self._forgotten.value

    def open(self, url: str, level: int = 0, told: Mapping[str, Any] | None = None) -> Volume:
        """Return the volume at `url`, opened once, with what `ndbatch.open` is `told` of it; see `forget`."""
        options = json.dumps(told or {}, sort_keys=True)
        return self._volumes.get(self.generation, (url, level, options), lambda: _opened(url, level, options))

    def forget(self) -> None:
        """Open volumes anew from now on, in every process, because one was created, deleted or got levels."""
        self._forgotten.change()

    def read(self, volume: Volume, box: Box) -> Array:
        """Return the voxels of `box`, C-order, the volume's axes and dtype; those outside the volume are 0."""
        inside = box.intersect(volume.domain)
        if inside == box:
            return volume.read(box)
        result = np.zeros(box.shape, volume.dtype)
        if not inside.empty:
            result[inside.slices(box.start)] = volume.read(inside)
        return result

    def write(self, volume: Volume, box: Box, data: Array, merge: bool = False) -> None:
        """Store `data` in `box`, which lies inside the volume, and return when it is stored.

        With `merge` zeros change nothing. Raises Denied for volumes that cannot be written block by block.
        """
        _require_writable(volume)
        with self._locked(volume, box):
            if merge and not data.all():
                data = np.where(data != 0, data, volume.read(box))
            volume.write(box, np.ascontiguousarray(data))

    def change(self, volume: Volume, box: Box, alter: Callable[[Array], Array | None]) -> bool:
        """Store what `alter` makes of the voxels of `box`, which nobody else changes meanwhile; None leaves them as they are.

        Returns whether anything was stored. Raises Denied for volumes that cannot be written block by block.
        """
        _require_writable(volume)
        with self._locked(volume, box):
            changed = alter(volume.read(box))
            if changed is not None:
                volume.write(box, np.ascontiguousarray(changed))
        return changed is not None

    @contextmanager
    def _locked(self, volume: Volume, box: Box) -> Iterator[None]:
        """Hold the locks of every unit that `box` touches, in one order for all, so that nobody waits in a circle."""
        import fcntl

        unit = volume.spec.write_unit
        with ExitStack() as held:
            for stripe in sorted(_stripes(f"{volume.url}@{volume.spec.level}", box, volume.offset, unit)):
                held.enter_context(self._locks[stripe])
                fcntl.lockf(self._file, fcntl.LOCK_EX, 1, stripe)
                held.callback(fcntl.lockf, self._file, fcntl.LOCK_UN, 1, stripe)
            yield


def _require_writable(volume: Volume) -> None:
    if not (volume.abilities.write and volume.abilities.concurrent):
        raise Denied(f"{volume.url} is only read: {volume.scheme} cannot be written block by block")


def _stripes(name: str, box: Box, origin: Shape, unit: Shape) -> set[int]:
    """Return the locks of the units of a volume that `box` touches."""
    start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
    grid = [
        np.arange((a - o) // u, (b - 1 - o) // u + 1)
        for a, b, o, u in zip(box.start, box.stop, origin, unit, strict=True)
    ]
    total = np.zeros(1, np.int64)
    for axis in grid:
        total = (total[:, None] * 31 + axis).reshape(-1) % STRIPES
    return {int(one) for one in (total + start) % STRIPES}


def _opened(url: str, level: int, told: str) -> Volume:
    options = json.loads(told)
    if "token" in options:
        options["token"] = Secret(**options["token"])
    return api.open(url, level=level, **options) if level else api.open(url, **options)

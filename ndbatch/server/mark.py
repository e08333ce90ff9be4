"""What processes keep in memory of things that others change: a mark that they share says whether it is still true."""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

V = TypeVar("V")

SIZE = 8


class Mark:
    """Eight bytes of the file `path`, mapped by every process that uses it: looking at them costs no system call."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size < SIZE:
                os.pwrite(file, bytes(SIZE), 0)  # room of its own: a page of a mapped file without any ends the process
            self._bytes = mmap.mmap(file, SIZE)
        finally:
            os.close(file)

    @property
    def value(self) -> bytes:
        """What it says now."""
        return self._bytes[:SIZE]

    def change(self) -> None:
        """Have it say something else. Random, so that no two processes that do it at once say the same."""
        self._bytes[:SIZE] = os.urandom(SIZE)


class Kept(Generic[V]):
    """Values by key, made once as long as a stamp stays the same: at most `most`, those that were asked for last."""

    def __init__(self, most: int = 256) -> None:
        self._most, self._lock = most, threading.Lock()
        self._stamp: Hashable = None
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, stamp: Hashable, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value of `key`, made by `make` where there is none of this `stamp`; all of other stamps are let go.

        The stamp is read before what the value is made of. Nothing is kept where `make` raises.
        """
        with self._lock:
            if stamp != self._stamp:
                self._stamp, self._values = stamp, OrderedDict()
            values = self._values
            if key in values:
                values.move_to_end(key)
                return values[key]
        made = make()
        with self._lock:
            values[key] = made
            while len(values) > self._most:
                values.popitem(last=False)
        return made

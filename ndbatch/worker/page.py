"""A page of memory that a worker process shares with its driver: what it is at, and why it ended."""

from __future__ import annotations

import mmap
import struct
from typing import IO, Self

_LAYOUT = struct.Struct("<qqqdq")
_VERDICTS = ("", "memory", "time")


class Page:
    """The block a worker is at (-1 for none), since when (time.monotonic), its memory in bytes, and a verdict.

    Written by the worker, but for the verdict `time` and for `draining`, which are the driver's. It outlives the worker.
    """

    def __init__(self, memory: mmap.mmap, file: IO[bytes] | None = None) -> None:
        self._memory = memory
        self._file = file

    @classmethod
    def create(cls, file: IO[bytes]) -> Self:
        """Make the page in an empty temporary file."""
        file.write(_LAYOUT.pack(-1, 0, 0, 0.0, 0).ljust(mmap.PAGESIZE, b"\0"))
        file.flush()
        return cls(mmap.mmap(file.fileno(), mmap.PAGESIZE), file)

    @classmethod
    def attach(cls, descriptor: int) -> Self:
        """Open the page in the worker, by the file descriptor it inherited."""
        return cls(mmap.mmap(descriptor, mmap.PAGESIZE))

    @property
    def block(self) -> int:
        """The block that is computed, or -1."""
        return int(struct.unpack_from("<q", self._memory, 0)[0])

    @property
    def verdict(self) -> str:
        """Why the worker was ended: '', memory or time."""
        return _VERDICTS[struct.unpack_from("<q", self._memory, 8)[0]]

    @property
    def memory(self) -> int:
        """Resident bytes of the worker when it last looked."""
        return int(struct.unpack_from("<q", self._memory, 16)[0])

    @property
    def since(self) -> float:
        """When the block was begun (time.monotonic, the same clock in all processes of a machine)."""
        return float(struct.unpack_from("<d", self._memory, 24)[0])

    @property
    def draining(self) -> bool:
        """Whether no batch is to be begun any more."""
        return bool(struct.unpack_from("<q", self._memory, 32)[0])

    def drain(self) -> None:
        """Have the worker begin no batch any more."""
        struct.pack_into("<q", self._memory, 32, 1)

    def set_block(self, block: int, since: float) -> None:
        """Say which block is computed now."""
        struct.pack_into("<q", self._memory, 0, block)
        struct.pack_into("<d", self._memory, 24, since)

    def set_verdict(self, verdict: str) -> None:
        """Say why the worker is about to end."""
        struct.pack_into("<q", self._memory, 8, _VERDICTS.index(verdict))

    def set_memory(self, count: int) -> None:
        """Say how much memory the worker uses."""
        struct.pack_into("<q", self._memory, 16, count)

    def close(self) -> None:
        """Give the page free."""
        self._memory.close()
        if self._file is not None:
            self._file.close()

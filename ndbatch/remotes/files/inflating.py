"""Any part of a deflate stream (gzip, a member of a zip file) without unpacking what comes before it again and again.

Deflate can only be unpacked from the start: but the state of an unpacker (a window of 32 KiB and its tables) can be
copied. While a stream is unpacked for the first time a copy is kept every few MiB; a later read starts from the nearest
copy before it. The unpacked stream is cut into pages, and the last pages used are kept. Format: RFC 1951, RFC 1952.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ndbatch.errors import Corrupt

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

PAGE = 4 * 2**20
"""Bytes of a page, unpacked."""
PAGES = 12
"""Pages that are kept of each stream."""
POINTS = 256
"""Most copies of the unpacker's state for each stream, about 50 kB each."""
PIECE = 256 * 1024
"""Bytes read from the file at a time."""
GZIP, DEFLATE = 31, -15
"""What zlib calls the formats: with gzip's header and checksum, or bare as in zip files."""


@dataclass(frozen=True)
class Stream:
    """A compressed part of a file: `size` bytes from `begin` on; `version` changes when the file is replaced.

    `checksum` is the CRC-32 of what it unpacks to, where the file tells it elsewhere (a zip file's directory).
    """

    path: FilePath
    version: str
    begin: int
    size: int
    form: int = GZIP
    checksum: int | None = None


@lru_cache(maxsize=4)
def inflater(stream: Stream, nbytes: int) -> Inflater:
    """Return the reader of a stream, which this process keeps for the next reads. `nbytes` is what it unpacks to."""
    return Inflater(stream, nbytes)


class _State:
    """An unpacker on its way: where in the file it goes on, and the CRC-32 of what it has unpacked so far."""

    def __init__(self, unpacker: Any, consumed: int = 0, pending: bytes = b"", checksum: int = 0) -> None:
        self.unpacker, self.consumed, self.pending, self.checksum = unpacker, consumed, pending, checksum

    def copy(self) -> _State:
        """Return the same state, to go on from later."""
        return _State(self.unpacker.copy(), self.consumed, self.pending, self.checksum)


class Inflater:
    """Reads a stream by position, from any thread."""

    def __init__(self, stream: Stream, nbytes: int) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._points = {0: _State(zlib.decompressobj(stream.form))}
        self._stride = max(1, -(-nbytes // PAGE) // POINTS)
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from position `start` of what the stream unpacks to.

        Raises Corrupt where it ends before or cannot be unpacked, OSError where the file cannot be read.
        """
        pages = range(start // PAGE, -(-(start + size) // PAGE))
        with self._lock:
            data = b"".join(self._page(number) for number in pages)
        first = start - pages.start * PAGE
        if len(data) < first + size:
            raise self._cut_short()
        return data[first : first + size]

    def _page(self, number: int) -> bytes:
        if number in self._pages:
            self._pages.move_to_end(number)
            return self._pages[number]
        nearest = max(point for point in self._points if point <= number)
        state = self._points[nearest].copy()
        page = b""
        with self._stream.path.open("rb") as file:
            for current in range(nearest, number + 1):
                if current % self._stride == 0 and current not in self._points:
                    self._points[current] = state.copy()
                page = b"".join(self._unpacked(file, state, PAGE))
                self._keep(current, page)
                if len(page) < PAGE and current < number:
                    raise self._cut_short()
        if (number + 1) % self._stride == 0 and number + 1 not in self._points and len(page) == PAGE:
            self._points[number + 1] = state
        return page

    def _keep(self, number: int, page: bytes) -> None:
        self._pages[number] = page
        while len(self._pages) > PAGES:
            self._pages.popitem(last=False)

    def _unpacked(self, file: Any, state: _State, wanted: int) -> Iterator[bytes]:
        """Yield up to `wanted` bytes more from `state`, fewer only at the end of the stream."""
        stream = self._stream
        while wanted:
            if not state.pending:
                file.seek(stream.begin + state.consumed)
                state.pending = file.read(min(PIECE, stream.size - state.consumed))
                state.consumed += len(state.pending)
            before = len(state.pending)
            try:
                piece = state.unpacker.decompress(state.pending, wanted)
            except zlib.error as error:
                raise Corrupt(f"{stream.path} is damaged: {error}; copy it again", url=str(stream.path)) from None
            state.pending = state.unpacker.unconsumed_tail
            state.checksum, wanted = zlib.crc32(piece, state.checksum), wanted - len(piece)
            yield piece
            if state.unpacker.eof:
                if stream.checksum not in (None, state.checksum):
                    raise Corrupt(
                        f"{stream.path} is damaged: its checksum differs; copy it again", url=str(stream.path)
                    )
                state.pending = state.unpacker.unused_data
                if stream.form == DEFLATE or not (state.pending.strip(b"\0") or state.consumed < stream.size):
                    return
                # The next member: gzip files may be several, one after the other.
                state.unpacker = zlib.decompressobj(stream.form)
            elif not before and not piece:
                raise self._cut_short()

    def _cut_short(self) -> Corrupt:
        size = self._stream.path.stat().st_size
        return Corrupt(f"{self._stream.path} is cut short at {size} bytes; copy it again", url=str(self._stream.path))

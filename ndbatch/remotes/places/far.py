"""One file of a bucket or a web server, read by parts: what formats that are single files (HDF5, TIFF, NIfTI ...) read from.

A `FarPath` has the methods of pathlib.Path that reading needs, so that these formats have one code for all places. Parts are
fetched as whole blocks of 64 KiB, neighbours in one request, many requests at the same time, and a process keeps the last
32 MiB of them. Nothing is ever taken from a file that was replaced meanwhile.
"""

from __future__ import annotations

import fnmatch
import io
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ndbatch.errors import NotFound, PlanError, RemoteError
from ndbatch.remotes.address import PLACE_OPTIONS, Address
from ndbatch.remotes.places.facts import Facts, facts
from ndbatch.remotes.places.keyvalue import ZIPPED
from ndbatch.remotes.places.objects import Objects, remote

BLOCK = 64 * 1024
"""Bytes of a block: directories of TIFF pages and the indices of HDF5 files are small and lie apart."""
KEPT_BYTES = 32 * 2**20
"""Blocks that a process keeps, of all files; as many more are held for a moment while one is read."""
REACH = 4 * 2**20
"""Most bytes of one request."""
WINDOW = 16 * 2**20
"""Most bytes that are asked for at the same time by one read."""

Range = tuple[int, int]
"""The first byte, and how many."""


class _Blocks:
    """The blocks that this process read last, of any file, by file, version and number."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int]) -> bytes | None:
        """Return a block, None where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: tuple[str, str, int], data: bytes) -> None:
        """Keep a block, and let those go that were used longest ago."""
        with self._lock:
            self._nbytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._nbytes > KEPT_BYTES and len(self._kept) > 1:
                self._nbytes -= len(self._kept.popitem(last=False)[1])


_blocks = _Blocks()
_editions = itertools.count()


@dataclass(frozen=True)
class Status:
    """What `stat` tells of a file elsewhere, in the words of os.stat_result."""

    st_size: int


class FarPath:
    """A file, or a folder of files, of a bucket or a web server. Two of them are equal where their names are.

    What a file is (size, tag) is asked once and stays: a new FarPath sees what changed. Errors are ndbatch's own: NotFound,
    Denied, Transient, and RemoteError for a file that was replaced while it was read.
    """

    def __init__(self, address: Address, store: Objects | None = None) -> None:
        if ZIPPED.fullmatch(address.path):
            raise PlanError(f"{address.url}: a {address.scheme} file inside a zip file is not read; unpack it first")
        self.address = address
        self._here = remote(address) if store is None else store
        self._tag: bytes | None = None
        self._last = -1

    # -- what pathlib.Path has -----------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self._here.where

    def __hash__(self) -> int:
        return hash(self._here.where)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FarPath) and self._here.where == other._here.where

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self._here.name

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> FarPath:
        """The folder that the file is in."""
        return FarPath(self.address, self._above)

    def __truediv__(self, name: str) -> FarPath:
        return FarPath(self.address, self._here.child(name))

    def with_suffix(self, suffix: str) -> FarPath:
        """Return the file beside this one whose name has another ending."""
        return self.parent / PurePosixPath(self.name).with_suffix(suffix).name

    def exists(self) -> bool:
        """Return whether there is a file of this name. Raises Denied, Transient."""
        return self._found is not None

    def stat(self) -> Status:
        """Return the size in bytes. Raises NotFound with the nearest name, Denied, Transient."""
        return Status(self._facts.size)

    def is_dir(self) -> bool:
        """Return whether anything is below this name. Raises Denied; RemoteError where the server gives no index."""
        return any(True for _ in self._here.names())

    def iterdir(self) -> Iterator[FarPath]:
        """Yield the files directly in this folder, sorted. Raises as `is_dir`."""
        for name in self._here.names():
            if not name.endswith("/"):
                yield self / name

    def address_as(self, scheme: str) -> Address:
        """Return the address of this file as a volume of the format `scheme`, with how the place is reached."""
        kept = PLACE_OPTIONS.get(self.address.place, ())
        return Address(scheme, str(self), options=tuple(pair for pair in self.address.options if pair[0] in kept))

    def beside(self) -> list[FarPath]:
        """Return the files of the folder whose names this one's pattern (`*.png`) matches. Raises as `is_dir`."""
        return [file for file in self.parent.iterdir() if fnmatch.fnmatchcase(file.name, self.name)]

    def open(self, mode: str = "rb") -> FarFile:
        """Return a read-only file object; `mode` is `rb`, as nothing can be written here."""
        if mode != "rb":
            raise ValueError(f"{self} is read only: mode {mode}")
        return FarFile(self)

    def read_bytes(self) -> bytes:
        """Return the whole file."""
        return self.read(0, self._facts.size)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the whole file as text. Raises UnicodeDecodeError."""
        return self.read_bytes().decode(encoding)

    # -- what places have beside ---------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Size and tag: another string where the file was replaced, as far as the place tells."""
        return f"{self._facts.size}-{self._facts.tag}"

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on, fewer where the file ends before."""
        return next(self.pieces([(start, size)]))

    def pieces(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Yield the bytes of each range, in order: those of the next 16 MiB are asked for at the same time."""
        waiting: list[Range] = []
        nbytes = 0
        for start, size in ranges:
            waiting.append((start, size))
            nbytes += size
            if nbytes >= WINDOW:
                yield from self._fetched(waiting)
                waiting, nbytes = [], 0
        yield from self._fetched(waiting)

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Bring the blocks of up to 16 MiB of `ranges` here, for a reader that will ask for them one after the other."""
        for _ in self.pieces(ranges):
            pass

    @cached_property
    def _above(self) -> Objects:
        above = self._here.parent
        if above is None:
            raise NotFound(f"{self} is a whole bucket or server; name the file", url=self.address.url)
        return above

    @cached_property
    def _found(self) -> Facts | None:
        return facts(self._above, self.name)

    @cached_property
    def _edition(self) -> tuple[str, str]:
        """What blocks are kept by: name and version, and another one each time where the version may miss a change."""
        return str(self), self.version if self._facts.sure else f"{self.version} {next(_editions)}"

    @property
    def _facts(self) -> Facts:
        if self._found is None:
            raise self._here.missing() or NotFound(f"{self} is a folder; name a file in it", url=self.address.url)
        return self._found

    @cached_property
    def _source(self) -> tuple[Objects, str]:
        """The folder and the name that parts are read from: those that the web server sent on to, where it did."""
        if not self._facts.moved:
            return self._above, self.name
        moved = urlsplit(self._facts.moved)
        folder, _, name = unquote(moved.path).rpartition("/")
        base = f"{moved.scheme}://{moved.netloc}" + (f"?{moved.query}" if moved.query else "")
        return Objects(self.address, {"driver": "http", "base_url": base}, folder, str(self.parent)), name

    @cached_property
    def _block(self) -> int:
        """Bytes of a block: of the whole file where the server sends no parts."""
        return BLOCK if self._facts.parts else max(1, self._facts.size)

    def _fetched(self, ranges: list[Range]) -> Iterator[bytes]:
        size, block = self._facts.size, self._block
        spans = [(min(start, size), min(start + count, size)) for start, count in ranges]
        needed = {n for start, stop in spans if stop > start for n in range(start // block, -(-stop // block))}
        held = self._held(sorted(needed))
        for start, stop in spans:
            first = start // block
            whole = [held[n] for n in range(first, -(-stop // block))] if stop > start else []
            data = whole[0] if len(whole) == 1 else b"".join(whole)
            yield data[start - first * block : stop - first * block]

    def _held(self, numbers: list[int]) -> dict[int, bytes]:
        """Return blocks by number: those that are kept, and the others, fetched."""
        version, block = self._edition, self._block
        found = {n: _blocks.get((*version, n)) for n in numbers}
        held = {n: data for n, data in found.items() if data is not None}
        missing = self._ahead([n for n in numbers if n not in held])
        if missing:
            runs = list(_runs(missing, max(1, REACH // block)))
            for run, data in zip(runs, self._asked(runs), strict=True):
                for place, number in enumerate(run):
                    held[number] = data[place * block : (place + 1) * block]
                    _blocks.keep((*version, number), held[number])
        return held

    def _ahead(self, missing: list[int]) -> list[int]:
        """Return the blocks to fetch: more than are missing where the last ones fetched lie directly before them."""
        if not missing:
            return []
        count, follows = missing[-1] - missing[0] + 1, missing[0] == self._last + 1 and missing[0] > 0
        last = math.ceil(self._facts.size / self._block) - 1
        extra = range(missing[-1] + 1, min(missing[-1] + max(count, 2), last) + 1) if follows else range(0)
        wanted = [*missing, *extra]
        self._last = wanted[-1]
        return wanted

    def _asked(self, runs: list[range]) -> list[bytes]:
        """Return the bytes of runs of blocks, and see that all are of one file."""
        store, key = self._source
        spans = [(run.start * self._block, min(run.stop * self._block, self._facts.size)) for run in runs]
        answers = store.parts(key, spans)
        if self._tag is None and store.base["driver"] != "http":
            self._tag = bytes.fromhex(self._facts.tag)
        tags = {tag for _, tag in answers} | ({self._tag} if self._tag is not None else set())
        short = any(len(data) != stop - start for (data, _), (start, stop) in zip(answers, spans, strict=True))
        if len(tags) > 1 or short:
            raise RemoteError(f"{self} was replaced while it was read; open it again", url=self.address.url)
        self._tag = tags.pop()
        return [data for data, _ in answers]


FilePath = Path | FarPath
"""A file of this machine or of another place, to be read."""


class FarFile(io.RawIOBase):
    """A read-only file object over a FarPath, for libraries that take one. It may be used from one thread at a time."""

    def __init__(self, path: FarPath) -> None:
        super().__init__()
        self.path, self.name = path, path.name
        self.failure: RemoteError | None = None
        """The last fault of a read: libraries take some for damage of the file, and go on."""
        self._size, self._position = path.stat().st_size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, the position or the end, and return the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position on; return the bytes that were read, fewer only at the end of the file."""
        target = memoryview(buffer).cast("B")
        try:
            data = self.path.read(self._position, len(target))
        except RemoteError as error:
            self.failure = error
            raise
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def require_read(self) -> None:
        """Raise the last fault of a read, where there was one."""
        if self.failure is not None:
            raise self.failure


def _runs(numbers: list[int], longest: int) -> Iterator[range]:
    """Yield runs of consecutive numbers, at most `longest` each."""
    start = numbers[0]
    for before, number in zip(numbers, [*numbers[1:], -1], strict=True):
        if number != before + 1 or number - start >= longest:
            yield range(start, before + 1)
            start = number

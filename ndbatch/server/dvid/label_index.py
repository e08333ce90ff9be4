"""What labels a version has and where: voxels of each supervoxel in each block, and the body that each belongs to.

One SQLite file for each version that has its own; a child gets a copy when it first changes. Ids of 64 bits are kept as the
signed number of the same bits, for SQLite has no other. Blocks are numbered as in DVID's label indices: 21 bits each for z, y
and x, sign and magnitude.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.geometry import Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.remotes.dvid.indices import block_key, block_place
from ndbatch.server.dvid.storage import Storage

if TYPE_CHECKING:
    from ndbatch.geometry import Box

SCHEMA = """
CREATE TABLE counts (sv INTEGER, block INTEGER, n INTEGER NOT NULL, PRIMARY KEY (sv, block)) WITHOUT ROWID;
CREATE TABLE mapping (sv INTEGER PRIMARY KEY, body INTEGER NOT NULL);
CREATE INDEX bodies ON mapping (body);
"""
SCANNED = (256, 256, 256)
"""Voxels that are looked at together when a volume is counted for the first time."""


def signed(number: int) -> int:
    """Return the signed number of the same 64 bits."""
    return number - 2**64 if number >= 2**63 else number


def unsigned(number: int) -> int:
    """Return the number from 0 up of the same 64 bits."""
    return number + 2**64 if number < 0 else number


def counts_of(data: Array) -> dict[int, int]:
    """Return voxels of each label in an array, 0 left out."""
    labels, counts = np.unique(data, return_counts=True)
    return {int(label): int(n) for label, n in zip(labels, counts, strict=True) if label}


class LabelIndex:
    """The index of an instance, seen from one version."""

    def __init__(self, storage: Storage, uuid: str) -> None:
        self.storage, self.uuid = storage, uuid
        self._folder = storage.service.state / "dvid" / storage.repo.name / storage.name

    def _path(self, uuid: str) -> Path:
        return self._folder / f"{uuid}.labels.db"

    def _nearest(self) -> Path | None:
        one = self.storage.instance
        versions = self.storage.repo.lineage(self.uuid) if one.versioned else [one.uuid]
        return next((self._path(uuid) for uuid in versions if self._path(uuid).exists()), None)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the index of the version to be read; counted now, where that was never done."""
        found = self._nearest()
        if found is None or self.storage.written_elsewhere():
            with self.storage.lock(alone=True):
                found = self._current()
        with closing(_connection(found)) as connection:
            yield connection

    def mapping(self) -> list[tuple[int, int]]:
        """Return supervoxel and body of all that are not their own body, by supervoxel; nothing is counted for it."""
        found = self._nearest()
        if found is None:
            return []
        with closing(_connection(found)) as connection:
            return mapping(connection)

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Yield the version's own index in a transaction; the lock of the instance is held alone by the caller."""
        found, own = self._current(), self._path(self.storage.owner(self.uuid))
        if found != own:
            part = own.with_suffix(".part")
            part.unlink(missing_ok=True)
            with closing(_connection(found)) as source, closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
            part.rename(own)
        with closing(_connection(own)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _current(self) -> Path:
        """Return an index that follows from the voxels; the lock of the instance is held alone by the caller."""
        found, outdated = self._nearest(), self.storage.written_elsewhere()
        if found is not None and not outdated:
            return found
        self.storage.note_counted()  # before the first voxel is read: what is written from now on is counted another time
        if found is None:
            return self._counted()
        with closing(_connection(found)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM counts")
            self._count(connection, self._owner())
            connection.execute("COMMIT")
        return found

    def _owner(self) -> str:
        """Return the version whose voxels are seen from this one."""
        one = self.storage.instance
        versions = self.storage.repo.lineage(self.uuid) if one.versioned else [one.uuid]
        return next((uuid for uuid in versions if uuid in one.volumes), versions[-1])

    def _counted(self) -> Path:
        """Count a volume that was there before anyone asked, and return its index, which belongs to who owns the voxels."""
        owner = self._owner()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(owner)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(part, isolation_level=None)) as connection:
            connection.executescript(SCHEMA)
            connection.execute("BEGIN")
            self._count(connection, owner)
            connection.execute("COMMIT")
        part.rename(path)
        return path

    def _count(self, connection: sqlite3.Connection, owner: str) -> None:
        """Count all voxels of a version."""
        one, volume = self.storage.instance, self.storage.volume(owner)
        if volume is None:
            return
        steps = tuple(max(1, most // n) * n for most, n in zip(SCANNED, one.block, strict=True))
        for piece in Grid.over(volume.domain.aligned_to(one.block, (0, 0, 0)), steps):
            add_counts(connection, piece.core, self.storage.read(owner, piece.core), one.block)


def add_counts(
    connection: sqlite3.Connection, box: Box, data: Array, block: Shape, before: Array | None = None
) -> None:
    """Add the voxels of each label in each block of a box, less those that were there `before` where that is given."""
    rows: list[tuple[int, int, int]] = []
    for part in Grid.over(box, block):
        place = tuple(a // n for a, n in zip(part.core.start, block, strict=True))
        here = part.core.slices(box.start)
        change = counts_of(data[here])
        for label, n in counts_of(before[here]).items() if before is not None else ():
            change[label] = change.get(label, 0) - n
        rows += [(signed(label), block_key(place), n) for label, n in change.items() if n]
    connection.executemany(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (sv, block) DO UPDATE SET n = n + excluded.n", rows
    )
    if before is not None:
        gone = [row[:2] for row in rows if row[2] < 0]
        connection.executemany("DELETE FROM counts WHERE sv = ? AND block = ? AND n <= 0", gone)


def body_of(connection: sqlite3.Connection, supervoxels: Iterable[int]) -> dict[int, int]:
    """Return the body of each supervoxel: itself where nothing else is known, 0 where it was mapped away."""
    found = dict(mapping(connection))
    return {sv: found.get(sv, sv) for sv in supervoxels}


def mapping(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return supervoxel and body of all that are not their own body, by supervoxel."""
    rows = connection.execute("SELECT sv, body FROM mapping")
    return sorted((unsigned(sv), unsigned(body)) for sv, body in rows)


def supervoxels_of(connection: sqlite3.Connection, body: int) -> list[int]:
    """Return the supervoxels of a body that have voxels or were mapped to it; none for a body that is not there."""
    found = {unsigned(sv) for (sv,) in connection.execute("SELECT sv FROM mapping WHERE body = ?", (signed(body),))}
    moved = connection.execute("SELECT body FROM mapping WHERE sv = ?", (signed(body),)).fetchone()
    if moved is None and connection.execute("SELECT 1 FROM counts WHERE sv = ? LIMIT 1", (signed(body),)).fetchone():
        found.add(body)
    return sorted(found)


def set_mapping(connection: sqlite3.Connection, pairs: Mapping[int, int]) -> None:
    """Have supervoxels belong to bodies."""
    rows = [(signed(sv), signed(body)) for sv, body in pairs.items()]
    connection.executemany("INSERT OR REPLACE INTO mapping VALUES (?, ?)", rows)
    connection.execute("DELETE FROM mapping WHERE sv = body")


def sizes(connection: sqlite3.Connection, supervoxels: Sequence[int]) -> list[int]:
    """Return the voxels of each supervoxel, 0 for those that are not there."""
    asked = (
        connection.execute("SELECT SUM(n) FROM counts WHERE sv = ?", (signed(sv),)).fetchone() for sv in supervoxels
    )
    return [int(n or 0) for (n,) in asked]


def blocks(connection: sqlite3.Connection, supervoxels: Sequence[int]) -> dict[Shape, dict[int, int]]:
    """Return the blocks (z, y, x) that supervoxels lie in, and the voxels of each of them there; sorted by place."""
    found: dict[Shape, dict[int, int]] = {}
    for sv in supervoxels:
        for key, n in connection.execute("SELECT block, n FROM counts WHERE sv = ?", (signed(sv),)):
            found.setdefault(block_place(key), {})[sv] = n
    return dict(sorted(found.items()))


def largest(connection: sqlite3.Connection) -> int:
    """Return the largest supervoxel that has voxels, 0 where none has."""
    low = connection.execute("SELECT MIN(sv) FROM counts").fetchone()[0]
    query = "SELECT MAX(sv) FROM counts" + (" WHERE sv < 0" if low is not None and low < 0 else "")
    return unsigned(connection.execute(query).fetchone()[0] or 0)


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection

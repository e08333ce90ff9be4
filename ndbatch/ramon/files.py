"""RAMON objects in one file: parquet, HDF5 or JSON. The file is read when it is opened, and replaced as a whole when changed.

HDF5 keeps voxels too, each object's as a list at one level. Several processes may use one file; each change is made to what
is there then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ndbatch.errors import Conflict, Corrupt, NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.ramon import dialects
from ndbatch.ramon.hdf5 import LARGEST, Paint, from_hdf5, h5, write_groups
from ndbatch.ramon.model import LARGEST_ID, Annotation, require_id
from ndbatch.ramon.store import Objects, Wanted, cutout_of, places_of, with_ids
from ndbatch.remotes.base import Array

ENDINGS = (".parquet", ".h5", ".hdf5", ".json")
"""Endings of files of objects."""
TOGETHER = 10_000
"""Objects that are looked at together."""


class FileObjects(Objects):
    """The objects of a file, which is made at the first change where it is absent. PlanError for another ending."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).expanduser().absolute()
        self.url = str(self._path)
        self._ending = next((one for one in ENDINGS if self._path.name.lower().endswith(one)), "")
        if not self._ending:
            raise PlanError(f"{path}: a file of RAMON objects ends in {', '.join(ENDINGS)}")
        self._stamp: tuple[int, ...] = ()
        self._things: dict[int, Annotation] = {}
        self._paint: dict[int, Paint] = {}
        self._next = 1
        self._read()

    def get(self, ids: Iterable[int]) -> list[Annotation]:
        """Return objects in the order of `ids`. NotFound where one is absent."""
        self._read()
        return [self._things[one] for one in self._require(ids)]

    def select(self, wanted: Wanted, box: Box | None, level: int, limit: int | None) -> list[int]:
        """Return the ids of the objects that fit."""
        self._read()
        found = [number for number in sorted(self._things) if wanted.fits(self._things[number])]
        if box is not None:
            found = [number for number in found if self._has(number, box, level)]
        return found[:limit]

    def reserve(self, count: int) -> range:
        """Return ids above all that the file and this store have given; a file keeps no reservations of others."""
        self._read()
        first = max(self._next, max(self._things, default=0) + 1)
        if not 0 < count <= LARGEST_ID + 1 - first:
            raise PlanError(f"{self.url}: {count} ids cannot be reserved; from 1 to {LARGEST_ID + 1 - first} are left")
        self._next = first + count
        return range(first, first + count)

    def put(self, things: Iterable[Annotation], replace: bool = False) -> list[int]:
        """Store objects, with ids for those that have none."""
        given, made = list(things), list[Annotation]()

        def change() -> None:  # ids are chosen in here, where nobody else chooses the same
            made.extend(thing for batch in with_ids(self, given, TOGETHER) for thing in batch)
            taken = [thing.id for thing in made if thing.id in self._things]
            if taken and not replace:
                raise Conflict(f"{self.url}: the object {taken[0]} is there already; use replace=True to replace it")
            self._things.update({thing.id: thing for thing in made})

        self._change(change)
        return [thing.id for thing in made]

    def delete(self, ids: Iterable[int]) -> None:
        """Remove objects and their voxels."""
        asked = list(ids)

        def change() -> None:
            for number in self._require(asked):
                del self._things[number]
                self._paint.pop(number, None)

        self._change(change)

    def merge(self, keep: int, others: Iterable[int], level: int = 0) -> None:
        """Give the voxels of `others` to `keep`, and remove them."""
        asked = [one for one in others if one != keep]

        def change() -> None:
            first, *rest = self._require([keep, *asked])
            for number in rest:
                if number in self._paint:
                    voxels = self._voxels(number, self._paint[number].level)
                    self._add(first, voxels, self._paint[number].level)
                del self._things[number]
                self._paint.pop(number, None)

        self._change(change)

    def paint(
        self,
        id: int,
        *,
        cutout: Array | None = None,
        start: Sequence[int] = (0, 0, 0),
        voxels: Array | None = None,
        level: int = 0,
        rule: str = "overwrite",
    ) -> None:
        """Give voxels to an object, or take them (`reduce`). PlanError for files that keep none."""
        if self._ending not in (".h5", ".hdf5"):
            raise PlanError(f"{self.url} keeps no voxels; use a file that ends in .h5, or an ndstore")
        if rule not in ("overwrite", "preserve", "reduce"):
            raise PlanError(f"rule {rule!r} is none of overwrite, preserve and reduce")
        places = [np.empty((0, 3), np.int64)]
        if cutout is not None:
            data, first = cutout_of(cutout, start)
            places.append(np.argwhere(data) + np.asarray(first, np.int64))
        if voxels is not None:
            places.append(places_of(voxels))
        new = np.unique(np.concatenate(places), axis=0)

        def change() -> None:
            (number,) = self._require([id])
            if not self._things[number].painted:
                raise PlanError(f"{self._things[number].word} {number} has no voxels of its own; paint a segment of it")
            others = [other for other in self._paint if other != number and self._paint[other].level == level]
            if rule == "reduce":
                self._set(number, without(self._voxels(number, level), new), level)
                return
            mine = new
            for other in others:
                theirs = self._voxels(other, level)
                if rule == "preserve":
                    mine = without(mine, theirs)
                else:
                    self._set(other, without(theirs, new), level)
            self._add(number, mine, level)

        self._change(change)

    def bounding_box(self, id: int, level: int = 0) -> Box | None:
        """Return where an object lies."""
        found = self.voxels(id, level)
        if not len(found):
            return None
        return Box(tuple(found.min(axis=0).tolist()), tuple((found.max(axis=0) + 1).tolist()))

    def cutout(self, id: int, level: int = 0, box: Box | None = None) -> tuple[Box, Array]:
        """Return the voxels of an object in its box. PlanError for more than 2^28 voxels."""
        where = self.bounding_box(id, level)
        if where is None:
            raise NotFound(f"{self.url}: the object {id} has no voxel at level {level}")
        where = box or where
        if where.size > LARGEST:
            raise PlanError(
                f"{self.url}: the box of {id} has {where.size} voxels, more than {LARGEST}; give a part of it"
            )
        result = np.zeros(where.shape, np.uint32)
        places = self.voxels(id, level)
        inside = np.logical_and(places >= where.start, places < where.stop).all(axis=1)
        result[tuple((places[inside] - where.start).T)] = id
        return where, result

    def voxels(self, id: int, level: int = 0) -> Array:
        """Return the voxels of an object."""
        self._read()
        (number,) = self._require([id])
        return self._voxels(number, level)

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _require(self, ids: Iterable[int]) -> list[int]:
        numbers = [require_id(one) for one in ids]
        for number in numbers:
            if number not in self._things:
                raise NotFound(f"{self.url}: there is no object {number}", url=self.url)
        return numbers

    def _voxels(self, number: int, level: int) -> Array:
        paint = self._paint.get(number)
        if paint is None or paint.level != level:
            return np.empty((0, 3), np.int64)
        parts = [] if paint.voxels is None else [paint.voxels]
        if paint.cutout is not None:
            parts.append(np.argwhere(paint.cutout) + np.asarray(paint.start))
        return np.unique(np.concatenate(parts), axis=0)

    def _set(self, number: int, voxels: Array, level: int) -> None:
        if len(voxels):
            self._paint[number] = Paint(level, voxels=voxels)
        elif number in self._paint and self._paint[number].level == level:
            del self._paint[number]

    def _add(self, number: int, voxels: Array, level: int) -> None:
        other = self._paint.get(number)
        if other is not None and other.level != level:
            raise PlanError(
                f"{self.url}: the object {number} has voxels at level {other.level}, and a file keeps one level"
            )
        self._set(number, np.unique(np.concatenate([self._voxels(number, level), voxels]), axis=0), level)

    def _has(self, number: int, box: Box, level: int) -> bool:
        places = self._voxels(number, level)
        return bool(np.logical_and(places >= box.start, places < box.stop).all(axis=1).any())

    # -- the file ------------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the file anew if it is another than was read."""
        try:
            known = os.stat(self._path)
        except FileNotFoundError:
            self._things, self._paint, self._stamp = {}, {}, ()
            return
        stamp = (known.st_ino, known.st_mtime_ns, known.st_size)
        if stamp == self._stamp:
            return
        if self._ending == ".json":
            found: list[tuple[Annotation, Paint | None]] = [
                (thing, None) for thing in dialects.loads(self._path.read_bytes())
            ]
        elif self._ending == ".parquet":
            found = [(thing, None) for thing in _of_parquet(self._path)]
        else:
            found = from_hdf5(self._path)
        self._things = {thing.id: thing for thing, _ in found}
        if len(self._things) < len(found) or 0 in self._things:
            raise Corrupt(f"{self.url}: two objects have one id, or one has none; give every object one of its own")
        self._paint = {thing.id: paint for thing, paint in found if paint is not None}
        self._stamp = stamp

    def _change(self, change: Callable[[], None]) -> None:
        """Make a change to what is there now, and replace the file by a whole new one; all or nothing."""
        with _locked(self._path.parent):
            self._stamp = ()
            self._read()
            try:
                change()
                self._write()
            finally:
                self._stamp = ()  # what a failed change left behind is forgotten

    def _write(self) -> None:
        partial = self._path.with_name(f".{self._path.name}.partial")
        things = [self._things[number] for number in sorted(self._things)]
        try:
            if self._ending == ".json":
                partial.write_text(dialects.dumps(things, "nested"), "utf-8")
            elif self._ending == ".parquet":
                from ndbatch.ramon.rows import batches
                from ndbatch.tables.writing import write_batches

                write_batches(partial, ".parquet", batches(things))
            else:
                with h5().File(partial, "w") as file:
                    write_groups(file, things, self._paint)
            os.replace(partial, self._path)
        finally:
            partial.unlink(missing_ok=True)


def without(places: Array, others: Array) -> Array:
    """Return the rows of `places`, (n, 3), that are none of `others`, sorted."""
    both = np.concatenate([np.unique(places, axis=0), np.unique(others, axis=0), np.unique(others, axis=0)])
    rows, counts = np.unique(both, axis=0, return_counts=True)
    found: Array = rows[counts == 1]
    return found


def _of_parquet(path: Path) -> Iterator[Annotation]:
    import pyarrow as pa
    from pyarrow import parquet

    from ndbatch.ramon.rows import from_rows

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    if not {"id", "type"} <= set(table.column_names):
        raise Corrupt(f"{path} is no table of RAMON objects: it needs the columns id and type")
    yield from from_rows(table)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads from changing files of `folder`, by a lock of the folder itself."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

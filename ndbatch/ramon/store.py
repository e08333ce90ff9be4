"""Stores of RAMON objects: one interface for channels of an ndstore and for files."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.ramon.model import CLASSES, LARGEST_ID, RELATED, Annotation, Written, class_of, require_id, written
from ndbatch.remotes.base import Array

if TYPE_CHECKING:
    import pandas as pd

FIELDS: dict[str, tuple[Written, ...]] = {}
"""How a field of any class is written, by its name: in as many ways as classes have it."""
for _one in CLASSES:
    for _name, _how in written(_one).items():
        FIELDS[_name] = tuple(dict.fromkeys((*FIELDS.get(_name, ()), _how)))
PAGE = 1000
"""Objects that are asked for together when a store is iterated."""


def places_of(voxels: Any) -> Array:
    """Return voxels as rows of absolute places (n, 3), z, y, x, int64. PlanError where they are no such rows, or below 0."""
    rows = np.asarray(voxels)
    if not rows.size:
        return np.empty((0, 3), np.int64)
    if rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype.kind not in "iuf":
        raise PlanError(f"voxels are rows of three places, z, y, x; {rows.dtype} of the shape {rows.shape} came")
    if rows.dtype.kind == "f" and not np.array_equal(rows, np.floor(rows)):
        raise PlanError("voxels are whole numbers of voxels; round the places first")
    if rows.min() < 0 or rows.max() > LARGEST_ID:
        raise PlanError(f"voxels lie from 0 to {LARGEST_ID} along each axis; {rows.min():g} to {rows.max():g} came")
    return rows.astype(np.int64)


def cutout_of(cutout: Any, start: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """Return a cutout (z, y, x) and where it begins. PlanError where it has other axes, or begins below 0."""
    data, first = np.asarray(cutout), tuple(start)
    if data.ndim != 3:
        raise PlanError(f"a cutout has the axes z, y, x; one of the shape {data.shape} came")
    return data, tuple(int(n) for n in places_of([first])[0])


@dataclass(frozen=True)
class Wanted:
    """Which objects a query asks for: those that fit everything that is given.

    `where` holds values by the name of a field, or by a key of `kvpairs`: a list of ids fits where it contains the value.
    `above` and `below` bound the confidence, both excluded.
    """

    type: type[Annotation] | None = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    above: float | None = None
    below: float | None = None

    def fits(self, thing: Annotation) -> bool:
        """Return whether an object is asked for."""
        if self.type is not None and type(thing) is not self.type:
            return False
        if self.above is not None and not thing.confidence > self.above:
            return False
        if self.below is not None and not thing.confidence < self.below:
            return False
        return all(_fits(thing, name, value) for name, value in self.where.items())


def _fits(thing: Annotation, name: str, value: Any) -> bool:
    how = written(type(thing)).get(name)
    if how is None or how.kind == "pairs":
        return name not in FIELDS and thing.kvpairs.get(name) == str(value)
    found = getattr(thing, name)
    if how.kind == "ids":
        return value in found
    return bool(found == (tuple(value) if how.kind in ("place", "point") else value))


class Objects(ABC):
    """RAMON objects of one channel or file, by id. Places are z, y, x; voxels are absolute positions of a level."""

    url: str
    """Where they are."""

    @abstractmethod
    def get(self, ids: Iterable[int]) -> list[Annotation]:
        """Return the objects `ids`, in that order. NotFound where one is absent."""

    @abstractmethod
    def select(self, wanted: Wanted, box: Box | None, level: int, limit: int | None) -> list[int]:
        """Return what `query` returns."""

    @abstractmethod
    def reserve(self, count: int) -> range:
        """Take `count` ids that nobody else is given, one after the other."""

    @abstractmethod
    def put(self, things: Iterable[Annotation], replace: bool = False) -> list[int]:
        """Store objects and return their ids; those with the id 0 get one. Their voxels stay as they are.

        With `replace` an object of the same id is replaced, so that storing twice is storing once. Conflict where an id is
        taken otherwise; PlanError where two of `things` have one id.
        """

    @abstractmethod
    def delete(self, ids: Iterable[int]) -> None:
        """Remove objects and erase their voxels at every level. NotFound where one is absent."""

    @abstractmethod
    def merge(self, keep: int, others: Iterable[int], level: int = 0) -> None:
        """Give the voxels of `others` to `keep` and remove them. NotFound where one is absent."""

    @abstractmethod
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
        """Give voxels to an object: those of `cutout` (z, y, x, begins at `start`) that are not 0, and `voxels` (n, 3).

        `rule` says what becomes of voxels of other objects: `overwrite`, or `preserve` them. With `reduce` the voxels are taken
        away from the object instead, where they are its own.
        """

    @abstractmethod
    def bounding_box(self, id: int, level: int = 0) -> Box | None:
        """Return where an object lies; None where it has no voxel. Old services answer with whole cuboids around it."""

    @abstractmethod
    def cutout(self, id: int, level: int = 0, box: Box | None = None) -> tuple[Box, Array]:
        """Return a box and the voxels of an object in it, (z, y, x) uint32, its id or 0.

        The box is the object's own, or `box`. NotFound where the object has no voxel.
        """

    @abstractmethod
    def voxels(self, id: int, level: int = 0) -> Array:
        """Return the voxels of an object, (n, 3) int64, z, y, x, sorted."""

    def query(
        self,
        type: int | str | type[Annotation] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        above: float | None = None,
        below: float | None = None,
        box: Box | None = None,
        level: int = 0,
        limit: int | None = None,
    ) -> list[int]:
        """Return the ids, sorted, of objects that fit all that is given; all objects where nothing is.

        `where` holds values by field or by key of `kvpairs`, `{"neuron": 7, "colour": "red"}`; `above` and `below` bound the
        confidence; `box` (z, y, x, at `level`) must hold a voxel of the object; `limit` is how many at most. PlanError for a
        type that there is not.
        """
        wanted = Wanted(None if type is None else class_of(type), dict(where or {}), above, below)
        if limit is not None and limit < 0:
            raise PlanError(f"limit {limit} is below 0")
        return self.select(wanted, box, level, limit)

    def related(self, id: int, name: str) -> list[int]:
        """Return the ids of the objects that say they belong to this one, such as `segments` of a neuron: see `RELATED`."""
        (thing,) = self.get([id])
        for (kind, known), (other, field) in RELATED.items():
            if isinstance(thing, kind) and known == name:
                return self.query(other, where={field: thing.id})
        known_names = [known for (kind, known) in RELATED if isinstance(thing, kind)]
        raise PlanError(f"{thing.word} {id} has no {name}; it has {', '.join(known_names) or 'no objects of its own'}")

    def change(self, id: int, **fields: Any) -> Annotation:
        """Replace fields of an object, and return it as it is then."""
        (thing,) = self.get([id])
        unknown = set(fields) - set(written(type(thing)))
        if unknown or "id" in fields:
            raise PlanError(f"{thing.word} {id}: {', '.join(sorted(unknown)) or 'id'} cannot be changed")
        changed: Annotation = dataclasses.replace(thing, **fields)
        self.put([changed], replace=True)
        return changed

    def __iter__(self) -> Iterator[Annotation]:
        """Yield all objects, by id, `PAGE` at a time."""
        ids = self.query()
        for first in range(0, len(ids), PAGE):
            yield from self.get(ids[first : first + PAGE])

    def __len__(self) -> int:
        return len(self.query())

    def to_pandas(self) -> pd.DataFrame:
        """Return all objects as a data frame, a row each, with the id as index."""
        from ndbatch.ramon.rows import to_pandas

        return to_pandas(self)

    def __repr__(self) -> str:
        return f"<Objects {self.url}>"


def with_ids(store: Objects, things: Iterable[Annotation], count: int) -> Iterator[list[Annotation]]:
    """Yield `things`, up to `count` at a time, each with an id: new ones are reserved together. PlanError for an id twice."""
    left, seen = iter(things), set[int]()
    while batch := list(islice(left, count)):
        wanting = sum(not thing.id for thing in batch)
        fresh = iter(store.reserve(wanting) if wanting else ())
        batch = [thing if thing.id else dataclasses.replace(thing, id=next(fresh)) for thing in batch]
        for thing in batch:
            if require_id(thing.id) in seen:
                raise PlanError(f"two objects have the id {thing.id}; give every object one of its own")
            seen.add(thing.id)
        yield batch

"""RAMON objects of a channel of an ndstore, over HTTP: `ndstore://host[:port]/token/channel`.

Objects travel as JSON, either dialect, but to an ndstore as HDF5. Old services test two predicates on one row, so that one is
asked for at a time and the answers are intersected here; they take `reserve` and `merge` by GET, and answer with boxes of whole
cuboids. An answer of 404 stands for every error of the service's own, with its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from ndbatch.errors import Conflict, Corrupt, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Grid
from ndbatch.ramon.dialects import dumps, loads
from ndbatch.ramon.hdf5 import MANY, Paint, from_hdf5, query_box, read_ids, read_numbers
from ndbatch.ramon.hdf5 import to_hdf5 as packed
from ndbatch.ramon.model import Annotation, require_id
from ndbatch.ramon.store import FIELDS, Objects, Wanted, cutout_of, places_of, with_ids
from ndbatch.remotes.base import Array
from ndbatch.remotes.http.client import Client, Reply, in_flight, segment

T = TypeVar("T")
ASKED = 100
"""Objects that one request asks for: they stand in its address."""
SENT = 500
"""Objects of one body."""
PIECE = (64, 256, 256)
"""Voxels, z, y, x, of a dense cutout that go in one body."""
PLACES = 2**20
"""Voxels of a list that go in one body."""
SLOW = 480.0
"""Seconds that the service may take for what touches voxels at every level: its proxy's own time-out."""


class ChannelObjects(Objects):
    """The objects of the channel at `path`, `/sd/token/channel`, of a service; `url` is how the user calls it."""

    def __init__(self, client: Client, path: str, url: str) -> None:
        self._client, self._path, self.url = client, path, url

    def get(self, ids: Iterable[int]) -> list[Annotation]:
        """Return objects in the order of `ids`. NotFound where one is absent."""
        asked = [require_id(one) for one in ids]
        known: dict[int, Annotation] = {}
        calls = (
            partial(self._client.get, f"{self._path}/{_joined(part)}/json/")
            for part in _parts(dict.fromkeys(asked), ASKED)
        )
        for reply in in_flight(calls):
            known |= {thing.id: thing for thing in loads(reply.body)}
        for one in asked:
            if one not in known:
                raise NotFound(f"{self.url}: there is no object {one}", url=self.url)
        return [known[one] for one in asked]

    def select(self, wanted: Wanted, box: Box | None, level: int, limit: int | None) -> list[int]:
        """Return the ids of the objects that fit. What no path can say is looked at here, in the objects themselves."""
        said = [] if wanted.type is None else [f"type/{wanted.type.number}/"]
        said += [] if wanted.above is None else [f"confidence/gt/{wanted.above!r}/"]
        said += [] if wanted.below is None else [f"confidence/lt/{wanted.below!r}/"]
        left = {}
        for name, value in wanted.where.items():
            path = _predicate(name, value)
            if path is None:
                left[name] = value
            else:
                said.append(path)
        few = f"limit/{limit}/" if limit and len(said) < 2 and box is None and not left else ""
        found: set[int] | None = None
        for predicate in said or ([] if box else [""]):
            ids = set(read_ids(self._client.get(f"{self._path}/query/{predicate}{few}").body))
            found = ids if found is None else found & ids
        if box is not None:
            body = query_box(box, level)
            ids = set(read_ids(self._client.post(f"{self._path}/query/", body, read_timeout=SLOW, deadline=SLOW).body))
            found = ids if found is None else found & ids
        result = sorted(found or ())
        if left:
            kept = Wanted(where=left)
            result = [thing.id for part in _parts(result, 10 * ASKED) for thing in self.get(part) if kept.fits(thing)]
        return result[:limit]

    def reserve(self, count: int) -> range:
        """Take ids from the service."""
        if count < 1:
            raise PlanError(f"{count} ids cannot be reserved; give a number from 1 up")
        found = self._either(f"{self._path}/reserve/{count}/").json()
        if not (isinstance(found, list) and len(found) == 2 and all(isinstance(one, int) for one in found)):
            raise Corrupt(
                f"{self.url}: the service answered {str(found)[:100]!r} where ids were reserved", url=self.url
            )
        if found[1] != count:
            raise RemoteError(f"{self.url}: {count} ids were asked for and {found[1]} given", url=self.url)
        return range(found[0], found[0] + count)

    def put(self, things: Iterable[Annotation], replace: bool = False) -> list[int]:
        """Store objects, `SENT` in a request, several requests at a time."""
        how, made, many = "update" if replace else "overwrite", list[int](), self._takes_many
        how = f"json/{how}" if many else how

        def send(batch: list[Annotation]) -> list[int]:
            body = dumps(batch, "nested").encode() if many else packed(batch)
            try:
                reply = self._client.post(f"{self._path}/{how}/", body, again=replace)
            except NotFound as error:
                if not replace and re.search(r"\bexists?\b|\balready\b", error.message):
                    raise Conflict(f"{error.message}; use replace=True to replace it", **error.fields) from None
                raise
            sent = {thing.id for thing in batch}
            if {int(one) for one in re.findall(r"\d+", reply.text)} != sent:
                raise Corrupt(f"{self.url}: the service named other objects than it was sent: {reply.text[:100]}")
            return [thing.id for thing in batch]

        for ids in in_flight(partial(send, batch) for batch in with_ids(self, things, SENT)):
            made += ids
        return made

    def delete(self, ids: Iterable[int]) -> None:
        """Remove objects and erase their voxels."""
        for part in _parts((require_id(one) for one in ids), ASKED):
            path = f"{self._path}/{_joined(part)}/"
            self._client.delete(path, read_timeout=SLOW, deadline=10 * SLOW, again=False)

    def merge(self, keep: int, others: Iterable[int], level: int = 0) -> None:
        """Have the service give the voxels of `others` to `keep`, and remove them."""
        ids = [require_id(keep), *(require_id(one) for one in others if one != keep)]
        if len(ids) > 1:
            self._either(f"{self._path}/merge/{_joined(ids)}/global/{level}/", again=False)

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
        """Send voxels in pieces, several at a time; a piece of zeros alone is left out."""
        if rule not in ("overwrite", "preserve", "reduce"):
            raise PlanError(f"rule {rule!r} is none of overwrite, preserve and reduce")
        (thing,) = self.get([id])
        if not thing.painted:
            raise PlanError(f"{thing.word} {id} has no voxels of its own; paint a segment of it")
        path = f"{self._path}/dataonly/{rule}/"

        def send(piece: Paint) -> Reply:
            return self._client.post(path, packed([thing], {thing.id: piece}), read_timeout=SLOW, deadline=SLOW)

        for _ in in_flight(partial(send, piece) for piece in _pieces(cutout, start, voxels, level)):
            pass

    def bounding_box(self, id: int, level: int = 0) -> Box | None:
        """Return where the service says that an object lies."""
        try:
            body = self._slowly(f"{self._path}/{require_id(id)}/boundingbox/{level}/").body
        except NotFound:
            self.get([id])
            return None
        found = read_numbers(body, f"{id}/XYZOFFSET", f"{id}/XYZDIMENSION")
        if [len(one) for one in found.values()] != [3, 3]:
            return None
        start, size = (one[::-1].tolist() for one in found.values())
        return Box(tuple(start), tuple(a + n for a, n in zip(start, size, strict=True)))

    def cutout(self, id: int, level: int = 0, box: Box | None = None) -> tuple[Box, Array]:
        """Return the voxels of an object in its box, made tight here where the service's is wider."""
        path = f"{self._path}/{require_id(id)}/cutout/{level}/"
        if box is not None:
            path += "".join(f"{a},{b}/" for a, b in zip(box.start[::-1], box.stop[::-1], strict=True))
        found = from_hdf5(self._slowly(path).body)
        paint = next((paint for _, paint in found if paint is not None and paint.cutout is not None), None)
        if paint is None or paint.box is None or (box is None and not np.any(paint.cutout)):
            raise NotFound(f"{self.url}: the object {id} has no voxel at level {level}", url=self.url)
        data = np.where(np.asarray(paint.cutout) != 0, id, 0).astype(np.uint32)
        if box is not None:
            return paint.box, data
        tight = Box(*(tuple(int(edge) for edge in edges) for edges in _edges(data))).shift(paint.box.start)
        return tight, np.ascontiguousarray(data[tight.slices(paint.box.start)])

    def voxels(self, id: int, level: int = 0) -> Array:
        """Return the voxels of an object."""
        found = from_hdf5(self._slowly(f"{self._path}/{require_id(id)}/voxels/{level}/").body)
        lists = [paint.voxels for _, paint in found if paint is not None and paint.voxels is not None]
        return np.unique(np.concatenate([np.empty((0, 3), np.int64), *lists]), axis=0)

    @cached_property
    def _takes_many(self) -> bool:
        """Whether the service takes many objects in one body of JSON, which both sides handle ten times as fast as HDF5."""
        return MANY.lower() in self._client.get(f"{self._path}/query/limit/1/").headers

    def _slowly(self, path: str) -> Reply:
        return self._client.get(path, read_timeout=SLOW, deadline=SLOW)

    def _either(self, path: str, **options: Any) -> Reply:
        """POST, or GET where the service of old takes no POST."""
        try:
            return self._client.post(path, **options, read_timeout=SLOW, deadline=10 * SLOW)
        except RemoteError as error:
            if error.fields.get("status") != 405:
                raise
            return self._client.get(path, **options, read_timeout=SLOW, deadline=10 * SLOW)


def _predicate(name: str, value: Any) -> str | None:
    """Return a predicate as a path says it; None where it cannot: keys of pairs that have no text, or have slashes."""
    ways = FIELDS.get(name, ())
    if name == "id" or any(how.kind not in ("whole", "id", "parent", "text", "ids") for how in ways):
        return None
    key, text = name, str(value)
    if len({how.json for how in ways}) > 1:
        return None  # classes keep it under several names
    if ways and name != "status":
        key = ways[0].json
    if not text or not key or not (text + key).isprintable() or "/" in text + key:
        return None  # lines and slashes do not survive every server
    if text in (".", "..") or key in (".", "..", "type", "limit"):
        return None
    return f"{segment(key)}/{segment(text)}/"


def _pieces(cutout: Array | None, start: Sequence[int], voxels: Array | None, level: int) -> Iterator[Paint]:
    if cutout is not None:
        data, first = cutout_of(cutout, start)
        whole = Box.of_shape(data.shape, first)
        for block in Grid.over(whole, PIECE, whole.start):
            part = data[block.core.slices(whole.start)]
            if part.any():
                z, y, x = block.core.start
                yield Paint(level, (z, y, x), part)
    if voxels is not None:
        places = places_of(voxels)
        for begin in range(0, len(places), PLACES):
            yield Paint(level, voxels=places[begin : begin + PLACES])


def _edges(data: Array) -> tuple[list[int], list[int]]:
    """Return the start and the stop of the box of what is not 0."""
    start, stop = [], []
    for axis in range(3):
        hit = np.flatnonzero(data.any(axis=tuple(other for other in range(3) if other != axis)))
        start.append(int(hit[0]))
        stop.append(int(hit[-1]) + 1)
    return start, stop


def _parts(values: Iterable[T], count: int) -> Iterator[list[T]]:
    left = iter(values)
    while part := list(islice(left, count)):
        yield part


def _joined(ids: Iterable[int]) -> str:
    return ",".join(str(one) for one in ids)

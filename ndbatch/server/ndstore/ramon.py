"""RAMON objects over HTTP, `sd/{token}/{channel}/...` as HDF5 and JSON, and `ramon/{token}/{channel}/...` as JSON.

Where services differed, both ways are taken: `reserve` and `merge` by GET and POST; JSON answers in both dialects at once. Boxes
are tight and absolute, queries with several predicates ask for all of them, and answers hold each id once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response

from ndbatch.errors import NotFound, PlanError
from ndbatch.geometry import Box
from ndbatch.ramon.dialects import from_json, to_both, to_flat
from ndbatch.ramon.hdf5 import MANY, Paint, from_hdf5, image, new_file, read_numbers, write_groups, write_paint
from ndbatch.ramon.model import LARGEST_ID, Annotation, class_of, require_id
from ndbatch.remotes.base import Kind
from ndbatch.server.calls import Call, as_json, plain
from ndbatch.server.ndstore import fields
from ndbatch.server.ndstore.grammar import level_of, span
from ndbatch.server.ndstore.objects import ObjectTable
from ndbatch.server.ndstore.painting import Canvas
from ndbatch.server.ndstore.tokens import channel_of, project_of

if TYPE_CHECKING:
    from ndbatch.server.service import Service

HDF5 = "product/hdf5"
OPTIONS = frozenset({"overwrite", "preserve", "exception", "update", "dataonly", "reduce", "json"})
BOUND = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?")
IDS = re.compile(r"\d{1,10}(,\d{1,10})*,?")
MOST = 2**31
"""Most ids that are reserved at once."""


@dataclass(frozen=True)
class Place:
    """The channel of a request: its objects and their voxels."""

    service: Service
    call: Call
    table: ObjectTable
    canvas: Canvas

    def require_write(self) -> None:
        """Raise Denied where the request may change nothing."""
        self.service.access.require_write(self.call)
        self.canvas.require_writable()


def respond(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer a request about objects; `parts` begin with `sd` or `ramon`, the token and the channel."""
    if len(parts) < 3:
        raise NotFound(f"{call.path} is not served")
    application, token, name, *rest = parts
    project = project_of(service, token)
    channel = channel_of(service, project, name)
    if channel.kind != Kind.LABELS:
        raise PlanError(f"Channel {name} is no annotation channel, so that it has no objects")
    place = Place(service, call, ObjectTable(service.catalogue, channel), Canvas(service, project, channel))
    if application == "ramon":
        return _as_json(place, rest)
    if rest and rest[0] in VERBS:
        return VERBS[rest[0]](place, rest[1:])
    if rest and IDS.fullmatch(rest[0]) and call.method in ("GET", "DELETE"):
        ids = _ids(rest[0])
        return _delete(place, ids) if call.method == "DELETE" else _get(place, ids, rest[1:])
    if call.method == "POST" and set(rest) <= OPTIONS:
        return _post_json(place, rest) if "json" in rest else _post(place, rest)
    raise NotFound(f"{call.path} is not served")


# -- reading ----------------------------------------------------------------------------------------------------------------


def _get(place: Place, ids: Sequence[int], rest: Sequence[str]) -> Response:
    """Answer `GET {ids}/[nodata|json|voxels|cutout|boundingbox|cuboids]/[level/]`."""
    things = place.table.get(ids)
    what = rest[0] if rest else "nodata"
    if what == "json":
        return as_json({str(thing.id): _told(place, thing) for thing in things})
    if what not in ("nodata", "voxels", "cutout", "boundingbox", "cuboids"):
        raise PlanError(f"{what} is nothing that objects are asked for")
    if what != "nodata" and len(rest) < 2:
        raise PlanError(f"{what} needs a resolution: {what}/0/")
    level = level_of(place.canvas.project, rest[1]) if what != "nodata" else 0
    labels = {thing.id: place.table.labels_of(thing) for thing in things}
    boxes: Mapping[int, Box] = {}
    if what == "boundingbox" or (what == "cutout" and len(rest) == 2):
        boxes = place.canvas.boxes(labels, level)
        absent = [thing.id for thing in things if thing.id not in boxes]
        if absent:
            raise NotFound(f"the object {absent[0]} has no voxels at resolution {level}")
    elif what == "cutout":
        if len(rest) < 5:
            raise PlanError("a cutout of a part is cutout/resolution/x0,x1/y0,y1/z0,z1/")
        box = Box(*zip(*[span(part) for part in rest[2:5]][::-1], strict=True))
        boxes = {thing.id: box for thing in things}
    with new_file() as file:
        write_groups(file, things, {})
        for thing in things:
            if what != "nodata":
                group = file[str(thing.id)]
                _write_voxels(place, group, what, thing.id, labels[thing.id], level, boxes.get(thing.id))
        return Response(image(file), media_type=HDF5)


def _write_voxels(
    place: Place, group: Any, what: str, one: int, labels: Sequence[int], level: int, box: Box | None
) -> None:
    """Write what was asked for of an object's voxels into its group."""
    if what == "cutout" and box is not None:
        z, y, x = box.start
        write_paint(group, Paint(level, (z, y, x), place.canvas.dense(level, box, labels, one)))
        return
    if what == "voxels":
        places = place.canvas.places(labels, level)
        if len(places):
            write_paint(group, Paint(level, voxels=places))
            return
    group["RESOLUTION"] = np.array([level], np.uint32)
    if what == "boundingbox" and box is not None:
        group["XYZOFFSET"] = np.array(box.start[::-1], np.uint32)
        group["XYZDIMENSION"] = np.array(box.shape[::-1], np.uint32)
    elif what == "cuboids":
        for number, (where, data) in enumerate(place.canvas.cuboids(labels, level, one)):
            group[f"CUBOIDS/{number}/XYZOFFSET"] = np.array(where.start[::-1], np.uint32)
            group[f"CUBOIDS/{number}/CUBOID"] = data


def _told(place: Place, thing: Annotation) -> dict[str, Any]:
    """Return an object in both dialects of JSON; the nested one also tells who belongs to it."""
    found = to_both(thing)
    found["metadata"] = place.table.related(thing) | found["metadata"]
    return found


def _query(place: Place, rest: Sequence[str]) -> Response:
    """Answer `GET|POST query/[{field}/{value}/...][limit/{n}/]`; a body of HDF5 names a box."""
    predicates, limit, left = [], None, list(rest)
    while left:
        name = left.pop(0)
        if name == "confidence" and left and left[0] in ("lt", "gt"):
            how, bound = left.pop(0), left.pop(0) if left else ""
            if not BOUND.fullmatch(bound):
                raise PlanError(f"query/confidence/{how}/ takes a number, not {bound!r}")
            predicates.append((name, how, bound))
        elif not left:
            raise PlanError(f"{name} needs a value: query/{name}/VALUE/")
        elif name == "limit":
            limit = _number(left.pop(0), MOST)
        elif name == "type":
            predicates.append((name, "eq", str(class_of(left.pop(0)).number)))
        else:
            predicates.append((name, "eq", left.pop(0)))
    ids = place.table.query(predicates)
    if place.call.method == "POST" and place.call.body:
        present = _present(place)
        ids = [one for one in ids if one in present]
    with new_file() as file:
        if ids[:limit]:
            file["ANNOIDS"] = np.array(ids[:limit], np.uint32)
        return Response(image(file), media_type=HDF5, headers={MANY: "json"})


def _present(place: Place) -> set[int]:
    """Return the ids that have a voxel in the box of a body; a neuron where one of its segments has."""
    names = ("RESOLUTION", "XYZOFFSET", "CUTOUTSIZE")
    found = read_numbers(place.call.body, *names)
    if [len(found.get(name, ())) for name in names] != [1, 3, 3]:
        raise PlanError("the body of a query needs RESOLUTION, XYZOFFSET and CUTOUTSIZE")
    start = tuple(found["XYZOFFSET"][::-1].tolist())
    box = Box.of_shape(tuple(found["CUTOUTSIZE"][::-1].tolist()), start)
    if box.empty:
        raise PlanError("the box of the query is empty")
    labels = place.canvas.labels_in(level_of(place.canvas.project, str(int(found["RESOLUTION"][0]))), box)
    return set(labels) | place.table.neurons_of(labels)


def _field(place: Place, rest: Sequence[str]) -> Response:
    """Answer `GET getField/{id}/{field}/`."""
    if len(rest) != 2:
        raise PlanError("a field is asked for as getField/id/field/")
    (thing,) = place.table.get([require_id(rest[0])])
    return plain(fields.text_of(thing, rest[1], place.table))


# -- writing ----------------------------------------------------------------------------------------------------------------


def _post(place: Place, options: Sequence[str]) -> Response:
    """Answer `POST [options/]` with a body of HDF5: objects are stored, then painted; the ids, in the order of the file."""
    place.require_write()
    chosen = set(options)
    if {"update", "dataonly"} <= chosen:
        raise PlanError("update and dataonly exclude each other")
    if "exception" in chosen:
        raise PlanError(f"{place.canvas.channel.name} keeps no exceptions: a voxel has one label")
    rule = next((rule for rule in ("preserve", "reduce") if rule in chosen), "overwrite")
    found = from_hdf5(place.call.body)
    for thing, paint in found:
        if paint is not None:
            if not thing.painted:
                raise PlanError(f"{thing.word} {thing.id} has no voxels of its own; paint a segment of it")
            place.canvas.check(paint, max(1, thing.id))
    if chosen & {"dataonly", "reduce"}:
        if any(not thing.id for thing, _ in found):
            raise PlanError("voxels need the id of their object")
        ids = [thing.id for thing, _ in found]
    else:
        ids = place.table.put([thing for thing, _ in found], update="update" in chosen)
    for one, (_, paint) in zip(ids, found, strict=True):
        if paint is not None:
            place.canvas.check(paint, one)
            place.canvas.paint(paint, one, rule)
    return plain("" if "dataonly" in chosen else ",".join(map(str, ids)))


def _post_json(place: Place, options: Sequence[str]) -> Response:
    """Answer `POST json/[update/]` with objects as JSON of either dialect: an ndstore takes one, this any number."""
    place.require_write()
    body = place.call.json()
    if not isinstance(body, dict) or not body or not all(isinstance(one, dict) for one in body.values()):
        raise PlanError('the body must be an object, {"any": {"ann_type": 2, ...}}')
    ids = place.table.put([from_json(one) for one in body.values()], update="update" in options)
    return plain(",".join(map(str, ids)))


def _delete(place: Place, ids: Sequence[int]) -> Response:
    """Answer `DELETE {ids}/`: the voxels are erased first, so that what was cut off can be asked for again."""
    place.require_write()
    things = place.table.get(ids)
    place.canvas.relabel([thing.id for thing in things if thing.painted], 0)
    place.table.delete(ids)
    return plain("Success")


def _reserve(place: Place, rest: Sequence[str]) -> Response:
    """Answer `reserve/{n}/`: `[first, n]`."""
    place.require_write()
    found = place.table.reserve(max(1, _number(rest[0] if rest else "", MOST)))
    return as_json([found.start, len(found)])


def _merge(place: Place, rest: Sequence[str]) -> Response:
    """Answer `merge/{keep,id,...}/global/{level}/`: voxels of all become those of the first, at every level; the others go."""
    place.require_write()
    if not rest or not IDS.fullmatch(rest[0]) or rest[1:2] not in ([], ["global"]):
        raise PlanError("a merge is merge/keep,id,.../global/resolution/")
    keep, *others = list(dict.fromkeys(_ids(rest[0])))
    first, *things = place.table.get([keep, *others])
    if not first.painted and any(thing.painted for thing in things):
        raise PlanError(f"{first.word} {keep} has no voxels of its own, so that it takes none")
    place.canvas.relabel([thing.id for thing in things if thing.painted], keep)
    place.table.delete(others)
    return plain(f"merged {','.join(map(str, others))} into {keep}")


def _set_field(place: Place, rest: Sequence[str]) -> Response:
    """Answer `GET setField/{id}/{field}/{value}/`; a value may hold slashes, and be empty."""
    place.require_write()
    if len(rest) < 2:
        raise PlanError("a field is set as setField/id/field/value/")
    (thing,) = place.table.get([require_id(rest[0])])
    place.table.put([fields.changed(thing, rest[1], "/".join(rest[2:]))], update=True)
    return plain("")


VERBS: Mapping[str, Callable[[Place, Sequence[str]], Response]] = {
    "query": _query,
    "reserve": _reserve,
    "getField": _field,
    "setField": _set_field,
    "merge": _merge,
}


# -- the application `ramon` --------------------------------------------------------------------------------------------------


def _as_json(place: Place, rest: Sequence[str]) -> Response:
    """Answer `{id}/`, `{id}/boundingbox/{level}/`, `query/{key}/{value}/` and `topkeys/{n}/[type/{t}/]`."""
    if rest and rest[0] == "query" and len(rest) == 3:
        value = str(class_of(rest[2]).number) if rest[1] in ("type", "ann_type") else rest[2]
        return as_json(place.table.query([(rest[1], "eq", value)]))
    if rest and rest[0] == "topkeys" and (len(rest) == 2 or (len(rest) == 4 and rest[2] == "type")):
        kind = class_of(rest[3]).number if len(rest) == 4 else None
        return as_json(place.table.top_keys(_number(rest[1], MOST), kind))
    if not rest or not IDS.fullmatch(rest[0]):
        raise NotFound(f"{place.call.path} is not served")
    (thing,) = place.table.get([require_id(rest[0])])
    found = {**thing.kvpairs, **to_flat(replace(thing, kvpairs={}))}
    if len(rest) == 3 and rest[1] == "boundingbox":
        box = place.canvas.boxes({thing.id: place.table.labels_of(thing)}, level_of(place.canvas.project, rest[2]))
        if thing.id not in box:
            raise NotFound(f"the object {thing.id} has no voxels at resolution {rest[2]}")
        found |= {"bbcorner": list(box[thing.id].start[::-1]), "bbdim": list(box[thing.id].shape[::-1])}
    elif len(rest) > 1:
        raise NotFound(f"{place.call.path} is not served")
    return as_json(found)


def _ids(text: str) -> list[int]:
    return [require_id(one) for one in text.split(",") if one]


def _number(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > min(most, LARGEST_ID):
        raise PlanError(f"{text!r} is no number from 0 to {most}")
    return int(text)

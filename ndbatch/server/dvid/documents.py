"""Instances without voxels: keyvalue, annotation, roi. What a version changes is its own; the rest is its ancestors'."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.server.calls import as_json, plain
from ndbatch.server.dvid import labels
from ndbatch.server.dvid.asking import Absent, Ask, Table, octets, point, whole
from ndbatch.server.dvid.instance import instance

GONE, THERE = b"\0", b"\1"
"""First byte of what is kept: a key that the version removed, and one that it set."""


class Versioned:
    """Bytes by key, as one version of an instance sees them."""

    def __init__(self, ask: Ask) -> None:
        self._catalogue, self._repo, one = ask.repo.catalogue, ask.repo, ask.instance
        self._start = f"{ask.repo.scope}/{one.name}/"
        self._lineage = ask.repo.lineage(ask.uuid) if one.versioned else [one.uuid]

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, None where there are none."""
        for uuid in self._lineage:
            found = self._catalogue.document(self._start + uuid, key)
            if found is not None:
                return found[1:] if found[:1] == THERE else None
        return None

    def keys(self, first: str = "", last: str = "\U0010ffff") -> list[str]:
        """Return the keys from `first` to `last`, both included, sorted."""
        names = {key for uuid in self._lineage for key in self._catalogue.keys(self._start + uuid, first, last)}
        return sorted(key for key in names if self.get(key) is not None)

    def set(self, key: str, value: bytes | None) -> None:
        """Keep bytes under a key at this version, or remove it."""
        self._catalogue.keep(self._start + self._lineage[0], key, GONE if value is None else THERE + value)
        self._repo.changed()


def _key(ask: Ask) -> str:
    return "/".join((ask.part(0, "a key"), *ask.parts[1:]))


def get_key(ask: Ask) -> Response:
    """GET key: its bytes, or those from `byte_start` to `byte_end`, both included."""
    found = Versioned(ask).get(_key(ask))
    if found is None:
        raise Absent(f"Key {_key(ask)!r} not found")
    if "byte_start" in ask.call.query or "byte_end" in ask.call.query:
        found = found[ask.number("byte_start") : ask.number("byte_end", len(found)) + 1]
    return octets(found)


def post_key(ask: Ask) -> Response:
    """POST key: the body is what it holds from now on."""
    Versioned(ask).set(_key(ask), ask.call.body)
    return plain("")


def delete_key(ask: Ask) -> Response:
    """DELETE key."""
    Versioned(ask).set(_key(ask), None)
    return plain("")


def get_keys(ask: Ask) -> Response:
    """GET keys: all of them."""
    return as_json(Versioned(ask).keys())


def get_keyrange(ask: Ask) -> Response:
    """GET keyrange: those from the first to the last, both included."""
    return as_json(Versioned(ask).keys(ask.part(0, "the first key"), ask.part(1, "the last key")))


def get_keyvalues(ask: Ask) -> Response:
    """GET keyvalues?json=true: the documents of the keys in the body, `{}` for those that are not there."""
    if not ask.flag("json"):
        raise PlanError("several values are given with json=true; ask for others one by one with key")
    kept = Versioned(ask)
    return _jsons((key, kept.get(str(key)) or b"{}") for key in ask.json(list))


def get_keyrangevalues(ask: Ask) -> Response:
    """GET keyrangevalues?json=true: keys and documents from the first to the last."""
    if not ask.flag("json"):
        raise PlanError("several values are given with json=true; ask for others one by one with key")
    kept = Versioned(ask)
    return _jsons((key, kept.get(key) or b"{}") for key in kept.keys(ask.part(0, "a key"), ask.part(1, "a key")))


def _jsons(pairs: Iterable[tuple[str, bytes]]) -> Response:
    try:
        return as_json({key: json.loads(value) for key, value in pairs})
    except ValueError:
        raise PlanError("a value is not JSON; ask for it with key") from None


# -- annotation: the elements of one block under one key ------------------------------------------------------------------


def _block_key(place: Shape) -> str:
    return ",".join(str(n) for n in reversed(place))


def _block_of(ask: Ask, position: list[int]) -> Shape:
    return tuple(n // size for n, size in zip(reversed(position), ask.instance.block, strict=True))


def _elements(ask: Ask) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    kept = Versioned(ask)
    for key in kept.keys():  # noqa: SIM118 - no mapping
        yield key, json.loads(kept.get(key) or b"[]")


def _inside(ask: Ask) -> Iterator[dict[str, Any]]:
    box = ask.box(0, 0)
    for _, found in _elements(ask):
        yield from (one for one in found if box.contains(Box.of_shape((1, 1, 1), one["Pos"][::-1])))


def get_elements(ask: Ask) -> Response:
    """GET elements in a box."""
    return as_json(list(_inside(ask)))


def post_elements(ask: Ask) -> Response:
    """POST elements: added, or in place of those at the same points."""
    elements = ask.json(list)
    for one in elements:
        position = one.get("Pos") if isinstance(one, dict) else None
        if not isinstance(position, list) or len(position) != 3 or any(type(n) is not int for n in position):
            raise PlanError(f"an element needs its Pos [x, y, z]: {json.dumps(one)[:100]}")
    by_block: dict[str, list[dict[str, Any]]] = {}
    for one in elements:
        by_block.setdefault(_block_key(_block_of(ask, one["Pos"])), []).append(one)
    with ask.repo.catalogue.transaction():
        for key, added in by_block.items():
            _set_block(ask, key, added, [one["Pos"] for one in added])
    return plain("")


def _set_block(ask: Ask, key: str, added: list[dict[str, Any]], gone: list[list[int]]) -> int:
    """Put elements in place of those at the points `gone`, and return how many these were."""
    kept = Versioned(ask)
    before = json.loads(kept.get(key) or b"[]")
    stay = [one for one in before if one["Pos"] not in gone]
    after = sorted([*stay, *({tuple(one["Pos"]): one for one in added}.values())], key=lambda one: one["Pos"][::-1])
    kept.set(key, json.dumps(after).encode() if after else None)
    return len(before) - len(stay)


def delete_element(ask: Ask) -> Response:
    """DELETE element: the one at a point, and what others say of it."""
    position = [int(n) for n in reversed(point(ask.part(0, "a point")))]
    with ask.repo.catalogue.transaction():
        if not _set_block(ask, _block_key(_block_of(ask, position)), [], [position]):
            raise PlanError(f"there is no element at {position}")
        for key, found in list(_elements(ask)):
            others = [{**one, "Rels": [r for r in one.get("Rels") or [] if r.get("To") != position]} for one in found]
            if others != [{**one, "Rels": one.get("Rels") or []} for one in found]:
                Versioned(ask).set(key, json.dumps(others).encode())
    return plain("")


def get_all_elements(ask: Ask) -> Response:
    """GET all-elements, by block `x,y,z`."""
    return as_json(dict(_elements(ask)))


def get_blocks(ask: Ask) -> Response:
    """GET blocks: the elements of those blocks that a box touches."""
    box, size = ask.box(0, 0), ask.instance.block
    found = {}
    for key, elements in _elements(ask):
        place = [int(n) * size for n, size in zip(reversed(key.split(",")), size, strict=True)]
        if not box.intersect(Box.of_shape(size, place)).empty:
            found[key] = elements
    return as_json(found)


def post_blocks(ask: Ask) -> Response:
    """POST blocks: all elements of each block, in place of what it had."""
    told = ask.json()
    with ask.repo.catalogue.transaction():
        for key, elements in told.items():
            if len(key.split(",")) != 3 or not isinstance(elements, list):
                raise PlanError(f"{key!r} is not a block x,y,z with a list of elements")
            Versioned(ask).set(key, json.dumps(elements).encode())
    return plain("")


def get_label(ask: Ask) -> Response:
    """GET label: the elements that lie in a body of the labelmap that the instance is synced to."""
    wanted = whole(ask.part(0, "a label"), "the label")
    found = [one for _, elements in _elements(ask) for one in elements]
    for name in ask.instance.syncs:
        synced = Ask(ask.service, ask.repo, ask.uuid, instance(ask.service, ask.repo, name), ask.call)
        if synced.instance.typename == "labelmap":
            at = labels.at_points(synced, [tuple(one["Pos"][::-1]) for one in found]) if found else []
            return as_json([one for one, label in zip(found, at, strict=True) if label == wanted])
    raise PlanError(f"{ask.instance.name} is synced to no labelmap; POST sync first")


def get_tag(ask: Ask) -> Response:
    """GET tag: the elements that have a tag."""
    wanted = ask.part(0, "a tag")
    return as_json([one for _, elements in _elements(ask) for one in elements if wanted in (one.get("Tags") or [])])


def reloaded(ask: Ask) -> Response:
    """POST reload: nothing is to be done, since elements are looked for where they are."""
    del ask
    return plain("")


# -- roi --------------------------------------------------------------------------------------------------------------------


def _spans(ask: Ask) -> list[list[int]]:
    found: list[list[int]] = json.loads(Versioned(ask).get("roi") or b"[]")
    return found


def get_roi(ask: Ask) -> Response:
    """GET roi: rows of z, y, first x, last x, in blocks."""
    return as_json(_spans(ask))


def post_roi(ask: Ask) -> Response:
    """POST roi: rows are added."""
    rows = ask.json(list)
    if any(not isinstance(row, list) or len(row) != 4 or any(type(n) is not int for n in row) for row in rows):
        raise PlanError("a region is rows [z, y, x0, x1] of blocks")
    Versioned(ask).set("roi", json.dumps(sorted({tuple(row) for row in [*_spans(ask), *rows]})).encode())
    return plain("")


def delete_roi(ask: Ask) -> Response:
    """DELETE roi: nothing is left of it."""
    Versioned(ask).set("roi", None)
    return plain("")


def get_mask(ask: Ask) -> Response:
    """GET mask: 1 in the voxels of the region, uint8."""
    box, size = ask.box(itemsize=1), ask.instance.block
    mask = np.zeros(box.shape, np.uint8)
    for z, y, first, last in _spans(ask):
        start, stop = (z, y, first), (z + 1, y + 1, last + 1)
        run = Box(_times(start, size), _times(stop, size)).intersect(box)
        if not run.empty:
            mask[run.slices(box.start)] = 1
    return octets(mask.tobytes())


def _times(place: Shape, size: Shape) -> Shape:
    return tuple(n * by for n, by in zip(place, size, strict=True))


def post_ptquery(ask: Ask) -> Response:
    """POST ptquery: whether each of the points in the body lies in the region."""
    rows = {(z, y): [] for z, y, _, _ in _spans(ask)}  # type: dict[tuple[int, int], list[tuple[int, int]]]
    for z, y, first, last in _spans(ask):
        rows[z, y].append((first, last))
    places = [_block_of(ask, list(reversed(p))) for p in labels.points_of(ask)]
    return as_json([any(a <= x <= b for a, b in rows.get((z, y), ())) for z, y, x in places])


KEYVALUE: Table = {
    ("GET", "key"): get_key,
    ("HEAD", "key"): get_key,
    ("POST", "key"): post_key,
    ("DELETE", "key"): delete_key,
    ("GET", "keys"): get_keys,
    ("GET", "keyrange"): get_keyrange,
    ("GET", "keyvalues"): get_keyvalues,
    ("GET", "keyrangevalues"): get_keyrangevalues,
}
ANNOTATION: Table = {
    ("GET", "elements"): get_elements,
    ("POST", "elements"): post_elements,
    ("DELETE", "element"): delete_element,
    ("GET", "all-elements"): get_all_elements,
    ("GET", "blocks"): get_blocks,
    ("POST", "blocks"): post_blocks,
    ("GET", "label"): get_label,
    ("GET", "tag"): get_tag,
    ("POST", "reload"): reloaded,
}
ROI: Table = {
    ("GET", "roi"): get_roi,
    ("POST", "roi"): post_roi,
    ("DELETE", "roi"): delete_roi,
    ("GET", "mask"): get_mask,
    ("POST", "ptquery"): post_ptquery,
}

"""RAMON objects as JSON: the flat dialect, the nested one of older services, and both in one.

Flat: `{"21": {"ann_id": 21, "ann_type": 2, "syn_weight": 0.5, "syn_segments": [3, 4], "colour": "red"}}`; every pair of
`kvpairs` stands beside the fields. Nested: `{"21": {"type": "synapse", "metadata": {"author": "", "kvpairs": {}, ...}}}` with
the names of HDF5 in small letters. Since their keys differ, a service answers with both, and clients of either read it.

Places are JSON texts in x, y, z, `"[30, 20, 10]"`. What is read may hold numbers as text, a list of one as its element, and
lists as text, as services write them that keep every value as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ndbatch.errors import Corrupt, NdbatchError, PlanError
from ndbatch.ramon.model import CLASSES, Annotation, Written, class_of, written

TYPE = "ann_type"
FLAT_KEYS = frozenset({TYPE} | {how.json for one in CLASSES for how in written(one).values() if how.json})
"""Keys of fields in flat JSON, which no key of `kvpairs` may be."""


def to_flat(thing: Annotation) -> dict[str, Any]:
    """Return an object in flat JSON. PlanError where a key of its pairs is that of a field."""
    clash = FLAT_KEYS.intersection(thing.kvpairs)
    if clash:
        raise PlanError(
            f"{thing.word} {thing.id}: the key {min(clash)} is that of a field in flat JSON; choose another, or nested JSON"
        )
    return {**_fields(thing), **thing.kvpairs}


def to_nested(thing: Annotation) -> dict[str, Any]:
    """Return an object in nested JSON, with the keys `type` and `metadata`."""
    inner = {
        how.hdf5.lower(): _value(how, getattr(thing, name)) for name, how in written(type(thing)).items() if how.hdf5
    }
    return {"id": thing.id, "type": thing.word, "metadata": inner}


def to_both(thing: Annotation) -> dict[str, Any]:
    """Return an object in both dialects at once. Pairs whose key is that of a field or of nested JSON are nested alone."""
    nested = to_nested(thing)
    # The client ndio takes the class of an organelle for a list, and cannot read a number there.
    nested["metadata"] |= {key: [value] for key, value in nested["metadata"].items() if key == "organelleclass"}
    return {**thing.kvpairs, **_fields(thing), **nested}


def from_json(found: Mapping[str, Any], known_as: object = 0) -> Annotation:
    """Return the object that JSON of any dialect tells of. `known_as` is its id where the JSON says none.

    Raises Corrupt where it is no object.
    """
    try:
        if isinstance(found.get("metadata"), Mapping):
            return _from_nested(found, known_as)
        kind = class_of(_scalar(found.get(TYPE, 1)))
        facts = {
            name: _parsed(how, found[how.json]) for name, how in written(kind).items() if how.json and how.json in found
        }
        pairs = {key: _as_text(value) for key, value in found.items() if key not in FLAT_KEYS}
        return kind(**{"id": _id_of(known_as), **facts, "kvpairs": pairs})
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError, PlanError) as error:
        raise Corrupt(f"the object {known_as} is no RAMON: {_said(error)}") from None


def loads(text: str | bytes) -> list[Annotation]:
    """Return the objects of a JSON document, `{"id": object}`, in its order. Corrupt where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"this is no JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise Corrupt('this is no JSON of RAMON objects, {"id": {...}, ...}')
    return [from_json(one, name) for name, one in found.items()]


def dumps(things: Iterable[Annotation], dialect: str = "both") -> str:
    """Return objects as a JSON document, by id: flat, nested or both. PlanError where two have one id."""
    write = {"flat": to_flat, "nested": to_nested, "both": to_both}[dialect]
    made: dict[str, Any] = {}
    for thing in things:
        if str(thing.id) in made:
            raise PlanError(f"two objects have the id {thing.id}, and JSON keeps them by id; give every object one")
        made[str(thing.id)] = write(thing)
    return json.dumps(made, ensure_ascii=False)


def _fields(thing: Annotation) -> dict[str, Any]:
    made: dict[str, Any] = {TYPE: thing.number}
    return made | {
        how.json: _value(how, getattr(thing, name)) for name, how in written(type(thing)).items() if how.json
    }


def _value(how: Written, value: Any) -> Any:
    if how.kind in ("place", "point"):
        return json.dumps(list(value[::-1]))
    if how.kind == "ids":
        return list(value)
    return dict(value) if how.kind == "pairs" else value


def _from_nested(found: Mapping[str, Any], known_as: object) -> Annotation:
    """Return an object of nested JSON; what is told beside it in flat JSON counts more, being whole."""
    inner = found["metadata"]
    kind = class_of(_scalar(found.get("type", found.get(TYPE, 1))))
    facts: dict[str, Any] = {"id": _id_of(found.get("ann_id", found.get("id", known_as)))}
    for name, how in written(kind).items():
        keys = [(found, how.json)] if how.json else []
        keys += [(inner, key) for key in (how.hdf5.lower(), name, *map(str.lower, how.also)) if key]
        for place, key in keys:
            if key in place and name != "id":
                facts[name] = _parsed(how, place[key])
                break
    return kind(**facts)


def _id_of(value: object) -> int:
    text = str(_scalar(value))
    return int(text) if text.isascii() and text.isdigit() else 0


def _parsed(how: Written, value: Any) -> Any:
    """Return the value of a field, read leniently."""
    if how.kind == "pairs":
        return {str(key): _as_text(one) for key, one in value.items()}
    if how.kind in ("ids", "place", "point"):
        numbers = [float(one) if how.kind == "point" else _integer(one) for one in _listed(value)]
        return tuple(numbers[::-1]) if how.kind != "ids" else tuple(numbers)
    value = _scalar(value)
    if how.kind == "text":
        return "" if value is None else str(value)
    return float(value) if how.kind == "real" else _integer(value)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("[") else [one for one in text.split(",") if one.strip()]
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _integer(value: Any) -> int:
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(f"{value} is no whole number")
    return number


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _said(error: Exception) -> str:
    return error.message if isinstance(error, NdbatchError) else str(error)

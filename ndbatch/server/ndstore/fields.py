"""Fields of RAMON objects one by one, as text: `getField` and `setField`. Lists are joined by commas, places are x,y,z."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ndbatch.errors import NotFound, PlanError
from ndbatch.ramon.dialects import FLAT_KEYS, TYPE
from ndbatch.ramon.model import RELATED, Annotation, Written, written

if TYPE_CHECKING:
    from ndbatch.server.ndstore.objects import ObjectTable

ID = "annid"
"""What the id is called here."""


def text_of(thing: Annotation, name: str, table: ObjectTable) -> str:
    """Return a field of an object, a pair of it, or who belongs to it. NotFound where it has no such thing."""
    field = _field_of(thing, name)
    if field is not None:
        value = getattr(thing, field)
        kind = written(type(thing))[field].kind
        if kind in ("ids", "place", "point"):
            return ",".join(str(one) for one in (value if kind == "ids" else value[::-1]))
        return str(value)
    if name in ("type", TYPE):
        return str(thing.number)
    related = table.related(thing)
    if name in related:
        return ",".join(map(str, related[name]))
    if name in thing.kvpairs:
        return thing.kvpairs[name]
    raise NotFound(f"{thing.word} {thing.id} has no field {name}")


def changed(thing: Annotation, name: str, text: str) -> Annotation:
    """Return an object with a field set from text; what is no field becomes a pair. PlanError for what cannot be set."""
    field = _field_of(thing, name)
    if field == "id" or name in ("type", TYPE):
        raise PlanError(f"{name} of an object cannot be changed")
    if any(known == name and type(thing) is kind for kind, known in RELATED):
        raise PlanError(f"{name} follows from other objects: set it there")
    if field is None:
        if name in FLAT_KEYS:
            raise PlanError(f"{thing.word} {thing.id} has no field {name}")
        return replace(thing, kvpairs={**thing.kvpairs, name: text})
    try:
        return replace(thing, **{field: _parsed(written(type(thing))[field], text)})
    except ValueError:
        raise PlanError(f"{text!r} is no value of {name}") from None


def _field_of(thing: Annotation, name: str) -> str | None:
    """Return the field that a name or its key in flat JSON stands for."""
    ways = written(type(thing))
    if name == ID:
        return "id"
    if name in ways and name not in ("kvpairs", "id"):
        return name
    return next((field for field, how in ways.items() if how.json == name), None)


def _parsed(how: Written, text: str) -> Any:
    if how.kind == "text":
        return text
    if how.kind in ("ids", "place", "point"):
        numbers = [float(one) if how.kind == "point" else int(one) for one in text.split(",") if one.strip()]
        return tuple(numbers if how.kind == "ids" else numbers[::-1])
    return float(text) if how.kind == "real" else int(text)

"""What is wrong with a configuration, one sentence for each mistake, for the person who wrote it."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ndbatch.config.source import Key

Path = tuple[Key, ...]

_KINDS = {
    "string_type": "text", "string_sub_type": "text",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "dict_type": "a mapping (key: value)", "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)", "model_attributes_type": "a mapping (key: value)",
    "list_type": "a list", "tuple_type": "a list", "is_instance_of": "one name with its parameters",
    "none_required": "nothing",
}  # fmt: skip
"""What was expected, by pydantic's error type."""
_NUMBER_OR_TEXT = {"a number", "text"}


@dataclass(frozen=True)
class Problem:
    """One mistake: the keys that lead to it, and a sentence."""

    path: Path
    sentence: str
    rooted: bool = False
    """The path begins at the document, wherever the error was raised."""
    meant: str | None = None
    """The known key that an unknown one is probably misspelt for."""
    missing: bool = False

    def within(self, prefix: Path) -> Problem:
        """Return the same problem where the part it was found in stands at `prefix`."""
        return self if self.rooted else replace(self, path=prefix + self.path)

    def text(self) -> str:
        """Return `key.path: sentence`."""
        return ": ".join(part for part in (".".join(map(str, self.path)), self.sentence) if part)


def problems_of(error: ValidationError, model: type[BaseModel], data: Any) -> list[Problem]:
    """Return a problem for each mistake that pydantic found in `data`, which should have been a `model`."""
    groups: dict[Path, list[tuple[Path, ErrorDetails]]] = {}
    single: list[Problem] = []
    for details in error.errors(include_url=False):
        path, tagged_at = _real_path(details["loc"], data, details["type"])
        if tagged_at is None:
            single.append(_problem(details, path, model))
        else:
            groups.setdefault(tagged_at, []).append((path, details))
    found = single + [problem for place, members in groups.items() for problem in _choice(place, members, model)]
    misspelt = {(*problem.path[:-1], problem.meant) for problem in found if problem.meant}
    return [problem for problem in found if not (problem.missing and problem.path in misspelt)]


def nearest(word: object, known: Iterable[str]) -> str | None:
    """Return the name in `known` that `word` was probably meant to be."""
    close = difflib.get_close_matches(str(word).lower(), known, n=1, cutoff=0.6)
    return close[0] if close else None


def shown(value: Any) -> str:
    """Return a value as YAML shows it, short."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    plain = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return plain[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _real_path(loc: Sequence[Key], data: Any, kind: str) -> tuple[Path, Path | None]:
    """Return the keys of `loc` that stand in the file, and where pydantic's name of a union member stood between them."""
    path: list[Key] = []
    tagged_at: Path | None = None
    here = data
    for i, key in enumerate(loc):
        last = i == len(loc) - 1
        if key == "[key]":
            continue
        if _holds(here, key):
            here = here[key]
        elif not (last and kind == "missing"):
            tagged_at = tagged_at if tagged_at is not None else tuple(path)
            continue
        path.append(key)
    return tuple(path), tagged_at


def _holds(here: Any, key: Key) -> bool:
    """Return whether `key` leads to something in the value `here`."""
    if isinstance(here, (list, tuple)):
        return isinstance(key, int) and key < len(here)
    return isinstance(here, Mapping) and key in here


def _choice(place: Path, errors: list[tuple[Path, ErrorDetails]], model: type[BaseModel]) -> list[Problem]:
    """Return the problems of a value that may be one of several types: those of the type it has, or all types in one."""
    telling = [
        (path, details)
        for path, details in errors
        if len(path) > len(place) or (details["type"] not in _KINDS and details["type"] != "literal_error")
    ]
    if telling:
        return [_problem(details, path, model) for path, details in telling]
    words: list[str] = []
    for _, details in errors:
        words += [_KINDS.get(details["type"]) or str(details.get("ctx", {}).get("expected", "")).replace("'", "")]
    if "a number" in words:
        words = [word for word in words if word != "a whole number"]
    if set(words) >= _NUMBER_OR_TEXT:
        words = ["a number", "text such as 12 um"]
    return [Problem(place, f"must be {' or '.join(dict.fromkeys(words))}, not {shown(errors[0][1]['input'])}")]


def _problem(details: ErrorDetails, path: Path, model: type[BaseModel]) -> Problem:
    """Return the problem that one of pydantic's errors means."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "fit":
        return Problem(tuple(context["path"]), str(context["sentence"]), rooted=True)
    if kind == "invalid_key" or (details["loc"] and details["loc"][-1] == "[key]"):
        return Problem(path, _wrong_key(details))
    if kind == "extra_forbidden":
        return _unknown_key(path, model)
    if kind == "missing" and path and isinstance(path[-1], int):
        return Problem(path[:-1], f"the list is too short; it needs {path[-1] + 1} entries at least")
    if kind == "missing":
        return Problem(path, "is missing" + _meaning(path, model), missing=True)
    return Problem(path, _wrong_value(details))


def _wrong_key(details: ErrorDetails) -> str:
    """Return the sentence for a key that is not one of the names allowed."""
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "string_pattern_mismatch":
        return "a name is made of letters, digits, _ and -, and begins with a letter"
    return "a key must be text; put it in quotes"


def _wrong_value(details: ErrorDetails) -> str:
    """Return the sentence for a value of the wrong type or size."""
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {shown(value)}"
    if kind in ("literal_error", "enum"):
        allowed = str(context["expected"]).replace("'", "")
        near = nearest(value, allowed.replace(" or ", ", ").split(", ")) if isinstance(value, str) else None
        return f"must be {allowed}, not {shown(value)}" + (f"; did you mean {near}?" if near else "")
    bounds = {
        "greater_than_equal": "at least",
        "greater_than": "above",
        "less_than_equal": "at most",
        "less_than": "below",
    }
    if kind in bounds:
        bound = next(context[name] for name in ("ge", "gt", "le", "lt") if name in context)
        return f"must be {bounds[kind]} {bound:g}, not {shown(value)}"
    if kind == "too_short":
        return "is empty" if context.get("actual_length") == 0 else f"needs {context['min_length']} entries at least"
    if kind == "too_long":
        return f"has {context['actual_length']} entries; {context['max_length']} at most are allowed"
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} is not a name: letters, digits, _ and -, beginning with a letter"
    if kind == "finite_number":
        return f"must be a finite number, not {shown(value)}"
    if kind == "value_error":
        return str(context["error"])
    return details["msg"][:1].lower() + details["msg"][1:]


def _unknown_key(path: Path, model: type[BaseModel]) -> Problem:
    """Return the problem of a key that nothing reads."""
    key, known = path[-1], {name for found in _models_at(path[:-1], model) for name in keys_of(found)}
    if near := nearest(key, known):
        return Problem(path, f"unknown key; did you mean {near}?", meant=near)
    for section in ("cluster", "retry"):
        if len(path) == 1 and section in known and key in keys_of(_models_at((section,), model)[0]):
            return Problem(path, f"unknown key; did you mean {section}: {{{key}: ...}}?")
    return Problem(path, f"unknown key; known keys: {', '.join(sorted(known))}")


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys that a mapping of `model` may have in the file."""
    return [name for name, field in model.model_fields.items() if not field.exclude]


def _meaning(path: Path, model: type[BaseModel]) -> str:
    """Return what the missing key means, in brackets."""
    for found in _models_at(path[:-1], model):
        field = found.model_fields.get(str(path[-1]))
        if field is not None and field.description:
            return f" ({field.description.splitlines()[0].rstrip('.')})"
    return ""


def _models_at(path: Path, model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models that a mapping at `path` may be, below `model`."""
    found: list[Any] = [model]
    for key in path:
        found = [inner for kind in found for inner in _below(kind, key)]
    return [kind for annotation in found for kind in _models_in(annotation)]


def _below(annotation: Any, key: Key) -> list[Any]:
    """Return the types that a value under `key` in an `annotation` may have."""
    result: list[Any] = []
    for kind in members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(key))
            result += [field.annotation] if field else []
        elif get_origin(kind) is dict:
            result.append(get_args(kind)[1])
        elif get_origin(kind) in (tuple, list):
            result.append(get_args(kind)[0])
    return result


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models among the members of a type."""
    return [kind for kind in members(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]


def members(annotation: Any) -> list[Any]:
    """Return the members of a union, annotations taken off."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]

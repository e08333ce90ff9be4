"""A commented configuration to start from, written from the model itself so that it is never out of date."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import numpy as np
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ndbatch.config.cluster import Cluster
from ndbatch.config.dialect import Dumper
from ndbatch.config.model import Config, Retry
from ndbatch.config.sentences import members
from ndbatch.config.stepform import build
from ndbatch.errors import NdbatchError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Kind
from ndbatch.steps.base import ArrayInfo, Operation, Step
from ndbatch.steps.registry import step_class

WIDTH = 100
LENGTH = "12 um"
"""The example of a length, where a step gives none of its own."""
_NAMES = {"input": "image", "intensity": "image", "image": "image", "labels": "labels"}
"""Names of arrays that read well, by the parameter that takes them."""
_NAMED_AFTER = {"mask": "mask", "labels": "labels"}
"""Names of arrays that a step makes, by what they are."""


def template(kind: str) -> str:
    """Return a commented, loadable configuration with one `kind` step: every parameter, its meaning and its default.

    `kind` is a step's name or `package.module:function`. Raises ConfigError for an unknown step.
    """
    chosen = step_class(kind)
    step = _example(chosen, kind)
    lines = [f"# {kind}: {summary(chosen)}", "# Run it:  ndbatch run FILE    Look first:  ndbatch try FILE", ""]
    lines += [f"name: {kind.rpartition(':')[2]}", "", "inputs:"]
    for name in dict.fromkeys(step.sources.values()):
        lines += [
            f"  {name}:",
            f"    url: {'labels.zarr' if name == 'labels' else f'{name}.tif'}",
            "    # Only where the file does not know it:",
            "    # voxel_size: {z: 1 um, y: 0.5 um, x: 0.5 um}",
        ]
    lines += ["", "steps:", f"  - {kind}:"]
    lines += _parameters(chosen, step)
    lines += ["", "outputs:"]
    tables = _tables(step)
    for role, name in step.products.items():
        lines.append(f"  {name}: {name}.{'parquet' if role in tables else 'zarr'}")
    return "\n".join([*lines, "", *_rest()]) + "\n"


def summary(model: type[BaseModel]) -> str:
    """Return the first sentence of a class's docstring."""
    return (model.__doc__ or "").strip().partition("\n")[0]


def _example(chosen: type[Step], kind: str) -> Step:
    """Return a step with defaults, examples where there is no default, and an output named after what it is."""
    values: dict[str, Any] = {}
    for name, field in chosen.model_fields.items():
        if field.examples:
            values[name] = field.examples[0]
        elif name in ("input", "output") or (field.is_required() and not (name == "function" and ":" in kind)):
            values[name] = _value(name, field.annotation)
    step = build(chosen, kind, values)
    operation = _bound(step)
    role = next((role for role, name in step.products.items() if name == "result"), None)
    if operation is None or role is None or values.get("output") != "result":
        return step
    name = "objects" if role in operation.tables else _NAMED_AFTER.get(_meaning(operation, role), "result")
    return step if name in step.sources.values() else build(chosen, kind, {**values, "output": name})


def _meaning(operation: Operation, role: str) -> str:
    """Return what an array is: image, mask or labels."""
    info = operation.arrays[role]
    return "mask" if info.kind is Kind.LABELS and info.dtype.itemsize == 1 else str(info.kind)


def _value(name: str, annotation: Any) -> Any:
    """Return an example for a parameter of a type."""
    kinds = members(annotation)
    if get_origin(kinds[0]) is Literal:
        return get_args(kinds[0])[0]
    if get_origin(kinds[0]) is dict:
        return {}
    if {str, float} <= set(kinds):
        return LENGTH
    examples: dict[Any, Any] = {
        str: _NAMES.get(name, "result" if name == "output" else name),
        int: 1,
        float: 1.0,
        bool: False,
    }
    return next((examples[kind] for kind in kinds if kind in examples), None)


def _parameters(chosen: type[Step], step: Step) -> Iterator[str]:
    """Yield a comment and a line for each parameter."""
    values = step.model_dump(mode="json")
    for name, field in chosen.model_fields.items():
        if name == "function":
            continue
        yield from _comment(field, "      ")
        required = "   # required" if field.is_required() else ""
        yield f"      {name}: {inline(values[name])}{required}"


def _comment(field: FieldInfo, indent: str) -> Iterator[str]:
    """Yield the meaning of a parameter as comment lines."""
    words = " ".join((field.description or "").split())
    for line in textwrap.wrap(words, WIDTH - len(indent)):
        yield f"{indent}# {line}"


def inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _tables(step: Step) -> frozenset[str]:
    """Return the roles that are tables."""
    operation = _bound(step)
    return frozenset(operation.tables if operation else {"table"} & set(step.products))


def _bound(step: Step) -> Operation | None:
    """Return the step bound to a small volume, which knows what it makes; None for a function that is not there yet."""
    box = Box.of_shape((64, 64, 64))
    infos = {}
    for role, name in step.sources.items():
        kind, dtype = (Kind.LABELS, "uint32") if name == "labels" else (Kind.IMAGE, "uint16")
        infos[role] = ArrayInfo(box, np.dtype(dtype), "zyx", (1.0, 0.5, 0.5), kind)
    try:
        return step.bind(infos, {})
    except (NdbatchError, ImportError):
        return None


def _rest() -> Iterator[str]:
    """Yield the sections that may be left out, as comments with their defaults."""
    yield "# What follows may be left out; these are the defaults."
    sections: Mapping[str, type[BaseModel]] = {"cluster": Cluster, "retry": Retry}
    for name in ("region", "blocks", "time_limit", "directory"):
        field = Config.model_fields[name]
        yield from _comment(field, "")
        yield f"# {name}: {inline(field.default)}"
    for section, model in sections.items():
        yield from _comment(Config.model_fields[section], "")
        yield f"# {section}:"
        for name, field in model.model_fields.items():
            yield from _comment(field, "#   ")
            yield f"#   {name}: {inline(field.default)}"

"""The JSON Schema of the configuration, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from ndbatch.config.model import Config
from ndbatch.config.sentences import keys_of
from ndbatch.steps.base import Step
from ndbatch.steps.registry import step_class, step_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN_FUNCTION = r"^[^:]+:[A-Za-z_][A-Za-z0-9_.]*$"
"""How a function of the user's is named: package.module:function, or script.py:function."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file, with every installed step in its one-key form.

    Descriptions are the docstrings of the fields. Raises MissingExtra where a step cannot be imported.
    """
    schema = Config.model_json_schema()
    kept = set(keys_of(Config))
    schema["properties"] = {name: entry for name, entry in schema["properties"].items() if name in kept}
    definitions: dict[str, Any] = {name: part for name, part in schema.pop("$defs").items() if name != "Step"}
    for section in ("inputs", "outputs"):
        _allow_bare_address(schema["properties"][section])
    forms = [_form(kind, definitions) for kind in sorted(step_names())]
    schema["properties"]["steps"]["items"] = {"anyOf": [*forms, _own_form(definitions)]}
    return {
        "$schema": DIALECT,
        "title": "ndbatch configuration",
        **_without_titles(schema),
        "$defs": _without_titles(definitions),
    }


def _allow_bare_address(section: dict[str, Any]) -> None:
    """Let an entry of inputs or outputs be a path or URL instead of a mapping."""
    for holder in (section, section.get("patternProperties", {})):
        for key, entry in holder.items():
            if isinstance(entry, dict) and "$ref" in entry:
                holder[key] = {"anyOf": [{"type": "string", "description": "Path or URL."}, entry]}


def _form(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of `{kind: {parameters}}`; what it refers to goes into `definitions`."""
    definitions[f"step-{kind}"] = _parameters(step_class(kind), definitions)
    return {
        "type": "object",
        "properties": {kind: {"$ref": f"#/$defs/step-{kind}"}},
        "required": [kind],
        "additionalProperties": False,
    }


def _own_form(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of `{module:function: {parameters}}`."""
    own = _parameters(step_class("module:function"), definitions)
    own["properties"].pop("function", None)
    own["required"] = [name for name in own.get("required", []) if name != "function"]
    definitions["step-function"] = own
    return {
        "type": "object",
        "patternProperties": {OWN_FUNCTION: {"$ref": "#/$defs/step-function"}},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }


def _parameters(step: type[Step], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = step.model_json_schema()
    definitions.update(schema.pop("$defs", {}))
    return schema


def _without_titles(part: Any) -> Any:
    """Leave out the titles that pydantic makes of the field names; they say nothing."""
    if isinstance(part, dict):
        return {k: _without_titles(v) for k, v in part.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in part] if isinstance(part, list) else part

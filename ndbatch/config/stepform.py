"""The form steps take in YAML, `{kind: {parameters}}`, to and from typed steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ndbatch.errors import ConfigError
from ndbatch.steps.base import Step
from ndbatch.steps.registry import step_class

ONE_NAME = "a step is one name with its parameters, such as  - filter: {input: image, output: smooth}"


def step_of(value: Any) -> Any:
    """Return the step that a one-key mapping describes; anything else is returned for pydantic to refuse or take.

    Raises ConfigError for an unknown kind or wrong parameters, one sentence each.
    """
    if isinstance(value, Step) or not isinstance(value, Mapping):
        return value
    kind, fields = split(value)
    chosen = step_class(kind)
    try:
        return build(chosen, kind, fields)
    except ValidationError as error:
        from ndbatch.config.sentences import problems_of

        found = problems_of(error, chosen, fields)
        raise ConfigError("\n".join(problem.within((kind,)).text() for problem in found)) from None


def split(form: Mapping[Any, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the kind and the parameters of a step as written; ConfigError where it is not one name with parameters."""
    if len(form) != 1:
        names = ", ".join(map(str, form)) or "nothing"
        raise ConfigError(f"{ONE_NAME}, not {names}")
    ((kind, parameters),) = form.items()
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ConfigError(f"the parameters of {kind} must be a mapping (key: value), such as {{input: image}}")
    return str(kind), {str(name): value for name, value in (parameters or {}).items()}


def build(chosen: type[Step], kind: str, fields: Mapping[str, Any]) -> Step:
    """Return the step of class `chosen` with parameters as YAML gives them; pydantic's ValidationError where they do not fit.

    They are checked as JSON: still strict, but a list is taken where a tuple is meant and text where an enum is.
    """
    named = {**fields, "function": kind} if ":" in kind else fields
    return chosen.model_validate_json(json.dumps(named, default=str))


def form_of(step: Step) -> dict[str, Any]:
    """Return the YAML form of `step` with every parameter filled in."""
    fields = step.model_dump(mode="json")
    kind = fields.pop("function", step.kind)
    return {kind: fields}

"""The form steps take in YAML, `{kind: {parameters}}`, to and from typed steps."""

from __future__ import annotations

from typing import Any

from ndbatch.steps.base import Step
from ndbatch.steps.registry import step_class


def step_of(value: Any) -> Any:
    """Return the step that a one-key mapping describes; anything else is returned for pydantic to refuse or take.

    Raises ConfigError for an unknown kind and pydantic's ValidationError for wrong parameters.
    """
    if isinstance(value, Step) or not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("a step is one name with its parameters, such as  - filter: {input: image, output: smooth}")
    ((kind, parameters),) = value.items()
    chosen = step_class(str(kind))
    fields = dict(parameters or {})
    if ":" in str(kind):
        fields["function"] = str(kind)
    return chosen.model_validate(fields)


def form_of(step: Step) -> dict[str, Any]:
    """Return the YAML form of `step` with every parameter filled in."""
    fields = step.model_dump(mode="json")
    kind = fields.pop("function", step.kind)
    return {kind: fields}

"""What every part of the configuration is made of: the strict mapping, and the plain values that several parts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ndbatch.config.quantities import parse_bytes, parse_seconds
from ndbatch.errors import ConfigError

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]


class Document(BaseModel):
    """A mapping of the YAML file: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def _checked(parse: Callable[[Any], object]) -> AfterValidator:
    """Return a validator that keeps the text as written once `parse` has taken it."""

    def check(value: Any) -> Any:
        try:
            parse(value)
        except ConfigError as error:
            raise ValueError(error.message) from None
        return value

    return AfterValidator(check)


def _with_unit(value: Any) -> Any:
    """Refuse a bare number, which could be bytes or gigabytes."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write one, such as {value} GB")
    return value


Memory = Annotated[str, BeforeValidator(_with_unit), _checked(lambda text: text == "auto" or parse_bytes(text))]
"""An amount of memory such as `4 GB`."""
Duration = Annotated[float | int | str, _checked(parse_seconds)]
"""Seconds, or text such as `5 min`."""

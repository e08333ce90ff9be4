"""Secrets by reference: the configuration says where a secret is, never what it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from ndbatch.errors import Denied

_PASSWORD = re.compile(r"^[\w+.-]+://[^/@\s]+@")


class Secret(BaseModel):
    """Where a secret is: the environment variable `env` or the file `file`. Prints, dumps and pickles as the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    env: str | None = None
    """Name of the environment variable that holds it."""
    file: str | None = None
    """Path of the file whose first line is it."""

    @model_validator(mode="before")
    @classmethod
    def _is_reference(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError("a secret is never written into the file; write {env: NAME} or {file: path}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("write either {env: NAME} or {file: path}")
        return self

    def reference(self) -> dict[str, str]:
        """Return where the secret is, as it is written in a configuration."""
        return {name: value for name, value in (("env", self.env), ("file", self.file)) if value is not None}

    def resolve(self) -> str:
        """Return the secret, read now. Denied, with the name of the variable or file, where it is absent or empty."""
        if self.env is not None:
            value = os.environ.get(self.env, "")
            place = f"the environment variable {self.env}"
        else:
            place = f"the file {self.file}"
            try:
                value = (Path(str(self.file)).expanduser().read_text().splitlines() or [""])[0]
            except (OSError, UnicodeDecodeError):
                value = ""
        if not value.strip():
            raise Denied(f"the secret in {place} is missing or empty; set it and run again", place=place)
        return value.strip()


def refuse_password(url: str) -> str:
    """Return `url`; ValueError where it holds a user name or password, which would end up in every record of the run."""
    if _PASSWORD.match(url):
        raise ValueError("has a user name or password in it; leave it out and write token: {env: NAME}")
    return url

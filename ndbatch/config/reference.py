"""The tables of the documents, written from the models: `python -m ndbatch.config.reference docs/configuration.md`.

A table stands between `<!-- NAME -->` and `<!-- end -->`; everything else in the file is prose and stays as it is. Names are
those of the sections, `steps` for all steps, `step KIND` for the keys of one, `function` for those of users' functions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ndbatch.config.cluster import Cluster
from ndbatch.config.model import Config, Input, Output, Retry
from ndbatch.config.secret import Secret
from ndbatch.config.sentences import keys_of, members
from ndbatch.config.template import inline, summary
from ndbatch.steps.registry import step_class, step_names

_PLACE = re.compile(r"<!-- ([\w ]+) -->\n.*?<!-- end -->", re.DOTALL)
_MODELS: dict[str, type[BaseModel]] = {
    "configuration": Config, "input": Input, "output": Output, "secret": Secret, "cluster": Cluster, "retry": Retry,
}  # fmt: skip


def table(name: str) -> str:
    """Return the Markdown that belongs between the markers of `name`; KeyError where it names none."""
    if name == "function":
        return "\n" + _keys(step_class("module:function")) + "\n"
    if name.startswith("step "):
        return "\n" + _keys(step_class(name.removeprefix("step "))) + "\n"
    if name == "steps":
        return (
            "".join(
                f"\n### {kind}\n\n{summary(step_class(kind))}\n\n{_keys(step_class(kind))}"
                for kind in sorted(step_names())
            )
            + "\n"
        )
    return "\n" + _keys(_MODELS[name]) + "\n"


def filled(text: str, made: Callable[[str], str | None] = table) -> str:
    """Return `text` with what stands between markers `made` anew from the markers' name; as it is where that gives None."""

    def anew(match: re.Match[str]) -> str:
        inside = made(match[1])
        return match[0] if inside is None else f"<!-- {match[1]} -->\n{inside}<!-- end -->"

    return _PLACE.sub(anew, text)


def _keys(model: type[BaseModel]) -> str:
    """Return a table of the keys of `model`: name, default, meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name in keys_of(model):
        field = model.model_fields[name]
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `{name}` | {default} | {_cell(' '.join([meaning, *_choices(field.annotation)]))} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None:
        return ""
    return "see below" if isinstance(value, BaseModel) else f"`{_cell(inline(value))}`"


def _choices(annotation: Any) -> Iterator[str]:
    """Yield the words that may be written, where there are several."""
    words = [word for kind in members(annotation) if get_origin(kind) is Literal for word in get_args(kind)]
    if len(words) > 1:
        yield "One of " + ", ".join(f"`{word}`" for word in words) + "."


def _cell(text: str) -> str:
    return text.strip().replace("|", r"\|")


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")

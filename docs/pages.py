"""What mkdocs is told when it builds the guide: the pages of steps, and tables that code knows better than prose.

A step needs no page to be in the guide: without one it gets its description and the table of its keys. A page in docs/steps,
named after the step, adds what it is for, an example and a picture.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import ndbatch
from ndbatch.config.reference import filled, table
from ndbatch.steps.registry import step_class, step_names

DOCS = Path(__file__).parent
LAST = "<!-- step {kind} -->\n<!-- end -->\n"


def steps() -> list[str]:
    """Return the steps of ndbatch itself, in the order of the alphabet."""
    return sorted(kind for kind, place in step_names().items() if place.startswith("ndbatch."))


def on_config(config: Any) -> Any:
    """Put the pages of steps and of docs/design into the navigation."""
    listed = []
    for entry in config.nav:
        ((title, target),) = entry.items()
        if target == "steps/index.md":
            listed.append({title: [target, *({kind: f"steps/{kind}.md"} for kind in steps())]})
        elif target == "design":
            listed.append({title: [f"design/{page.name}" for page in sorted((DOCS / "design").glob("*.md"))]})
        elif (DOCS / target).exists():
            listed.append(entry)
    config.nav = listed
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every step that has none."""
    for kind in steps():
        name = f"steps/{kind}.md"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=bare_page(kind)))
    return files


def bare_page(kind: str) -> str:
    """Return the page of a step that nobody has written one for: its description and its keys."""
    text = inspect.cleandoc(step_class(kind).__doc__ or "")
    return f"# {kind}\n\n{text}\n\n## Keys\n\n{LAST.format(kind=kind)}"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the tables of a page that are not kept in it."""
    return filled(markdown, made)


def made(name: str) -> str | None:
    """Return what belongs between the markers of `name`; None for tables that stand in the page already and have a test."""
    if name in ("exports", "list"):
        return exports() if name == "exports" else step_list()
    return table(name) if name == "function" or name.startswith("step ") else None


def exports() -> str:
    """Return a directive for every public name, functions first, which mkdocstrings turns into its documentation."""
    names = sorted((n for n in ndbatch.__all__ if not n.startswith("_")), key=lambda n: (n[0].isupper(), n))
    homes = [f"{getattr(ndbatch, name).__module__}.{getattr(ndbatch, name).__qualname__}" for name in names]
    return "\n" + "\n\n".join(f"::: {home}" for home in homes) + "\n\n"


def step_list() -> str:
    """Return a table of all steps: a link, the first sentence, the picture where there is one."""
    rows = ["| step | what it does | |", "|---|---|---|"]
    for kind in steps():
        picture = f"![{kind}](../images/steps/{kind}.png){{ width=220 }}" if picture_of(kind).exists() else ""
        first = re.split(r"\n\s*\n|(?<=[.])\s", inspect.cleandoc(step_class(kind).__doc__ or ""))[0]
        rows.append(f"| [`{kind}`]({kind}.md) | {' '.join(first.split()).replace('|', chr(92) + '|')} | {picture} |")
    return "\n" + "\n".join(rows) + "\n\n"


def picture_of(kind: str) -> Path:
    """Return where the picture of a step is."""
    return DOCS / "images" / "steps" / f"{kind}.png"

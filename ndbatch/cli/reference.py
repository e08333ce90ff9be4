"""The verbs of docs/cli.md, written from the program itself: `python -m ndbatch.cli.reference docs/cli.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ndbatch.config.reference import filled


def verbs(name: str = "verbs") -> str:
    """Return the Markdown between the markers `verbs`: every verb, its arguments and its options; KeyError for other names."""
    from typer.main import get_command

    from ndbatch.cli.app import app

    if name != "verbs":
        raise KeyError(name)
    root: Any = get_command(app)
    return "\n" + "\n".join(line for verb, command in _named(root) for line in _verb(verb, command)) + "\n"


def _named(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every verb with its name, those of a group (`points convert`) after the group's."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _named(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _verb(verb: str, command: Any) -> Iterator[str]:
    """Yield the lines of one verb, in the words of its --help."""
    context = command.context_class(command, info_name=verb)
    yield from (f"### ndbatch {verb}", "", "```text", _usage(verb, command), "```", "")
    yield from (" ".join((command.help or "").split()), "")
    records = [record for p in command.params if (record := p.get_help_record(context)) and p.name != "help"]
    if records:
        yield from ("| argument or option | meaning |", "|---|---|")
        yield from (f"| `{_cell(name)}` | {_cell(meaning)} |" for name, meaning in records)
        yield ""


def _usage(verb: str, command: Any) -> str:
    """Return how the verb is called: its arguments by name, in brackets where they may be left out."""
    words = [(p.metavar or p.name.upper(), p.required) for p in command.params if p.param_type_name == "argument"]
    return " ".join(["ndbatch", verb, *(word if needed else f"[{word}]" for word, needed in words), "[OPTIONS]"])


def _cell(text: str) -> str:
    """Return text for a cell of a table; that an argument is required the usage line tells already."""
    return " ".join(text.replace("[required]", "").replace(" <str>", "").split()).replace("|", r"\|")


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(filled(document.read_text(encoding="utf-8"), verbs), encoding="utf-8")

"""The verb objects: RAMON objects in a channel of an ndstore or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndbatch.cli.arguments import AsJson, echo_json

if TYPE_CHECKING:
    from ndbatch.ramon.model import Annotation

COLUMNS = 8
"""Most columns that are printed; --json shows all."""


def add_to(app: typer.Typer) -> None:
    """Add the verb of this module to `app`."""
    app.command("objects", short_help="List RAMON objects.")(objects)


def objects(
    url: Annotated[str, typer.Argument(metavar="URL", help="ndstore://host/token/channel, or cells.ramon.h5.")],
    type: Annotated[str | None, typer.Option(help="Only these: segment, neuron, synapse, organelle ...")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most objects that are shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the RAMON objects of a channel or a file: id, type, and what is known of each."""
    from ndbatch.ramon.opening import open

    store = open(url, base=Path.cwd())
    ids = store.query(type)
    found = [_facts(one) for one in store.get(ids[:limit])]
    if as_json:
        echo_json({"url": url, "count": len(ids), "objects": found})
        return
    names = list(dict.fromkeys(name for one in found for name in one))[:COLUMNS]
    rows = [names, *([_word(one.get(name, "")) for name in names] for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    for row in rows if found else ():
        typer.echo("  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)))
    more = f", {limit} of them here" if len(ids) > limit else ""
    typer.echo(f"{len(ids)} object{'' if len(ids) == 1 else 's'} in {url}{more}")


def _facts(thing: Annotation) -> dict[str, Any]:
    """Return what is known of an object; fields that say nothing are left out."""
    from ndbatch.ramon.model import written

    fields = {name: getattr(thing, name) for name in written(type(thing))}
    told = {
        name: value for name, value in fields.items() if name not in ("id", "kvpairs") and value not in (0, 0.0, "", ())
    }
    return {"id": thing.id, "type": thing.word, **told, **thing.kvpairs}


def _word(value: Any) -> str:
    """Return a value in few characters."""
    if isinstance(value, Mapping | list | tuple):
        return ",".join(_word(one) for one in value)
    try:
        return f"{float(value):.4g}" if "." in str(value) else str(value)
    except ValueError:
        return str(value)

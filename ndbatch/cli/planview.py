"""The plan on a terminal: what is read and written, and a table of stages."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ndbatch.report.words import count, nbytes


def show(document: Mapping[str, Any]) -> None:
    """Print the plan `document` on standard output, as wide as the terminal or, in a pipe, as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, soft_wrap=True)
    for line in _head(document):
        console.print(line)
    table = Table("stage", "what", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("blocks", "context", "reads", "writes", "requests", "memory a worker"):
        table.add_column(title, justify="right")
    stages = document["stages"]
    for stage in stages:
        table.add_row(str(stage["index"] + 1), Text(stage["name"]), *_numbers(stage))
    console.print(table, soft_wrap=False)
    if len(stages) > 1:
        read, written = (sum(stage[key] for stage in stages) for key in ("bytes_read", "bytes_written"))
        console.print(f"all stages together: {nbytes(read)} read, {nbytes(written)} written (not compressed)")
    for warning in document["warnings"]:
        console.print(f"note: {warning}")


def _numbers(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a stage that are numbers."""
    halo = "-" if not any(stage["halo"]) else " ".join(map(str, stage["halo"]))
    return (
        f"{stage['blocks']:,}",
        halo,
        nbytes(stage["bytes_read"]),
        nbytes(stage["bytes_written"]),
        f"{stage['requests']:,}",
        nbytes(stage["memory"]),
    )


def _head(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what holds for the whole run."""
    axes, region, grid, executor = (document[key] for key in ("axes", "region", "grid", "executor"))
    shape = [b - a for a, b in zip(region["start"], region["stop"], strict=True)]
    yield f"{document['name']}: {count(math.prod(shape), 'voxel')} in {count(grid['blocks'], 'block')}"
    whole = zip(axes, region["start"], region["stop"], strict=True)
    yield "  region   " + ", ".join(f"{axis}: [{a}, {b}]" for axis, a, b in whole)
    if document["voxel_size"]:
        yield f"  voxel    {_named(axes, [f'{size:g}' for size in document['voxel_size']])} um"
    yield f"  block    {_named(axes, grid['block'])}; {' x '.join(map(str, grid['counts']))} of them"
    limit = nbytes(executor["memory_limit"])
    yield f"  workers  {count(executor['workers'], 'worker')} ({executor['kind']}), {limit} each"
    for way, entries in (("reads", document["inputs"]), ("writes", document["outputs"])):
        for name, entry in entries.items():
            yield f"  {way:<8} {name}: {entry['url']}{_what(entry)}"
    if asked := document.get("bucket_requests"):
        kinds = ", ".join(f"{asked[kind]:,} {kind}" for kind in ("GET", "PUT", "LIST"))
        prices = asked["dollars_per_1000"]
        yield (
            f"  buckets  about {kinds}: ${asked['dollars']:.2g} where a thousand GET cost ${prices['GET']:g}, "
            f"PUT and LIST ${prices['PUT']:g}"
        )


def _what(entry: Mapping[str, Any]) -> str:
    """Return what a volume is, in brackets; nothing for a table."""
    if not entry.get("shape"):
        return f", {entry['object_type']} objects: {entry['objects']}" if "objects" in entry else ""
    chunks = f", chunks {'x'.join(map(str, entry['chunks']))}" if entry.get("chunks") else ""
    return f" ({entry['kind']}, {entry['dtype']}, {'x'.join(map(str, entry['shape']))}{chunks})"


def _named(axes: str, values: Sequence[object]) -> str:
    return ", ".join(f"{axis}: {value}" for axis, value in zip(axes, values, strict=True))

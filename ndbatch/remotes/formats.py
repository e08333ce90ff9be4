"""The tables of formats in docs/formats.md and README.md, from what stores declare: `python -m ndbatch.remotes.formats FILES`.

A table stands between `<!-- formats -->` (or `<!-- formats short -->`) and `<!-- end -->`; all else stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ndbatch.remotes.abilities import VOXEL_TYPES, Abilities
from ndbatch.remotes.registry import BUILT_IN, store_class

_PLACE = re.compile(r"<!-- (formats(?: short)?) -->\n.*?<!-- end -->", re.DOTALL)
_FULL = (
    "format",
    "addresses",
    "open",
    "create",
    "levels",
    "concurrent writes",
    "places",
    "dtypes",
    "offset",
    "voxel size",
    "extra",
)
_SHORT = ("format", "address", "written", "levels", "places", "extra")
_FAMILIES = (("uint", (8, 16, 32, 64)), ("int", (8, 16, 32, 64)), ("float", (16, 32, 64)))


def filled(text: str) -> str:
    """Return `text` with every table of formats written anew."""
    return _PLACE.sub(lambda match: f"<!-- {match[1]} -->\n\n{_table(match[1])}\n<!-- end -->", text)


def _table(name: str) -> str:
    """Return the Markdown table that belongs between the markers of `name`, one row a registered store."""
    row, heads = (_full, _FULL) if name == "formats" else (_short, _SHORT)
    rows: list[Sequence[str]] = [heads, ["---"] * len(heads)]
    rows += [row(scheme, store_class(scheme).abilities) for scheme in sorted(BUILT_IN, key=_place)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _place(scheme: str) -> tuple[int, str]:
    """Return the order of the rows: formats of many chunks first, then by name."""
    able = store_class(scheme).abilities
    return (-able.levels - able.concurrent, able.title.lower())


def _full(scheme: str, able: Abilities) -> list[str]:
    return [
        able.title,
        f"`{scheme}://`, {', '.join(f'`{example}`' for example in able.examples)}",
        "yes",
        "yes" if able.write else "no",
        "read, appended" if able.levels else "read" if able.coarser else "one",
        "yes" if able.concurrent and able.shared else "one process" if able.concurrent else "no, staged",
        _places(able),
        dtypes(able.dtypes),
        "kept" if able.offset else "from 0 only",
        "kept" if able.facts else "to be told",
        f"`{able.extra}`" if able.extra else "",
    ]


def _short(scheme: str, able: Abilities) -> list[str]:
    how = "by all workers at once" if able.concurrent and able.shared else "once, at the end"
    return [
        able.title,
        f"`{able.examples[0]}`",
        "with `threads` and `inline`" if not able.shared else how if able.write else "no",
        "read, written" if able.levels else "read" if able.coarser else "",
        _places(able),
        f"`{able.extra}`" if able.extra else "",
    ]


def _places(able: Abilities) -> str:
    return ", ".join(able.places) + (f"; read: {', '.join(able.read_places)}" if able.read_places else "")


def dtypes(names: Iterable[str]) -> str:
    """Return the types of voxels in short: `u/int8-64, float32-64, bool`."""
    known = set(names)
    if known == set(VOXEL_TYPES):
        return "all"
    parts = []
    for family, bits in _FAMILIES:
        found = [bit for bit in bits if f"{family}{bit}" in known]
        if found == list(bits) and len(bits) > 3:
            parts.append(f"{family}{bits[0]}-{bits[-1]}")
        else:
            parts += [f"{family}{bit}" for bit in found]
    return ", ".join([*parts, *(["bool"] if "bool" in known else [])])


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:]):
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")

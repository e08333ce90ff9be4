"""Numbers as a reader says them: durations, bytes, rates, counts with their noun."""

from __future__ import annotations

import math
from collections.abc import Mapping

_BYTES = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_SCALES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_PLURALS = {"nucleus": "nuclei", "voxel": "voxels"}


def duration(seconds: float) -> str:
    """Return `seconds` in the two largest fitting units: `0.35 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds == 0:
        return "0 s"
    if seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, "min", "s", 60)
    if (minutes := round(seconds / 60)) < 24 * 60:
        return _two(minutes, "h", "min", 60)
    return _two(round(seconds / 3600), "d", "h", 24)


def _two(whole: int, large: str, small: str, factor: int) -> str:
    """Return `whole` small units as large and small ones, the rest left out where it is zero."""
    first, rest = divmod(whole, factor)
    return f"{first} {large}" + (f" {rest} {small}" if rest else "")


def nbytes(number: float) -> str:
    """Return a number of bytes with a decimal prefix, three digits: `12.3 MB`."""
    value, place = float(number), 0
    while value >= 999.5 and place < len(_BYTES) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.3g} {_BYTES[place]}"


def scaled(number: float, unit: str) -> str:
    """Return `number` of `unit` with a decimal prefix: `12.3 Mvoxels`."""
    for prefix, scale in _SCALES:
        if number >= scale:
            return f"{number / scale:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def count(number: int, noun: str) -> str:
    """Return `number` with thousands set apart and the noun in the fitting form: `1,234 blocks`, `1 block`."""
    return f"{number:,} {noun if number == 1 else _PLURALS.get(noun, noun + 's')}"


def percent(share: float) -> str:
    """Return a share of one as percent; never `0 %` or `100 %` for what is not exactly that."""
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def value(fact: object) -> str:
    """Return one fact of a stage for a reader: numbers short, lists joined."""
    if isinstance(fact, bool) or fact is None:
        return {True: "yes", False: "no", None: "none"}[fact]
    if isinstance(fact, int):
        return f"{fact:,}"
    if isinstance(fact, float):
        return f"{fact:,.0f}" if 1000 <= abs(fact) < 1e15 else f"{fact:.4g}"
    if isinstance(fact, (list, tuple)):
        return ", ".join(value(part) for part in fact)
    if isinstance(fact, dict):
        return ", ".join(f"{label(key)} {value(part)}" for key, part in fact.items())
    return str(fact)


def facts(*found: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the facts of a stage, or of several, as (name, value) for a reader."""
    return [(name, value(fact)) for name, fact in named_facts(*found)]


def named_facts(*found: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return the facts of a stage, or of several, by names of their own; those that steps tell as mappings are set out singly.

    Before a fact stands the step's name where two steps tell a fact of the same name; where there are several steps of its
    kind, what it makes, which is the second word of its name (`threshold mask`).
    """
    single: list[tuple[str, str, object]] = []
    for step, told in (item for stage in found for item in stage.items()):
        if isinstance(told, Mapping):
            single += [(str(step), str(key), fact) for key, fact in told.items()]
        else:
            single.append(("", str(step), told))
    kinds: dict[str, set[str]] = {}
    for step, key, _ in single:
        kinds.setdefault(key, set()).add(step)
    return [(label(_fact_name(step, key, len(kinds[key]) > 1)), fact) for step, key, fact in single]


def _fact_name(step: str, key: str, shared: bool) -> str:
    kind, _, product = step.partition(" ")
    return f"{product or (kind if shared else '')} {key}".strip()


def label(key: object) -> str:
    """Return the name of a fact or column as words: `mean_intensity` as `mean intensity`."""
    return str(key).replace("_", " ")

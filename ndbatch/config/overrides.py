"""`--set a.b=c`: a value of the configuration changed from the command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndbatch.config.sentences import nearest
from ndbatch.config.source import Key, parse_value
from ndbatch.errors import ConfigError

_ADDRESSED = ("inputs", "outputs")


@dataclass(frozen=True)
class Override:
    """One `--set`: the keys as written, and the value they get."""

    text: str
    keys: str
    value: Any


def parse_override(text: str) -> Override:
    """Return the override in `text`, such as `steps.0.nuclei.diameter=9 um`; the value is YAML. ConfigError otherwise."""
    keys, separator, value = text.partition("=")
    keys = keys.strip()
    if not separator or not all(part.strip() for part in keys.split(".")):
        raise ConfigError(f"--set {text}: write KEY=VALUE, such as --set cluster.workers=2")
    return Override(text, keys, parse_value(value, f"--set {text}"))


def apply(data: Mapping[Any, Any], overrides: Sequence[Override]) -> tuple[dict[Any, Any], dict[tuple[Key, ...], str]]:
    """Return a copy of `data` with every override applied in order, and which override set what, by path.

    A bare address under inputs or outputs becomes a mapping where a key of it is set. Raises ConfigError where a key
    leads through something that holds no keys, or a list has no such item.
    """
    changed: dict[Any, Any] = copy.deepcopy(dict(data))
    set_by: dict[tuple[Key, ...], str] = {}
    for override in overrides:
        path = _assign(changed, override)
        set_by[path] = override.text
    return changed, set_by


def _assign(data: dict[Any, Any], override: Override) -> tuple[Key, ...]:
    """Set the value in place and return its path."""
    here: Any = data  # a mapping or a list
    parts = override.keys.split(".")
    path: list[Key] = []
    while True:
        key, parts = _next_key(here, parts, path, override)
        path.append(key)
        if not parts:
            here[key] = override.value
            return tuple(path)
        inner = here[key] if isinstance(key, int) else here.get(key)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and len(path) == 2 and path[0] in _ADDRESSED:
            inner = {"url": inner}
        elif not isinstance(inner, (dict, list)):
            raise _refuse(override, f"{_dotted(path)} is {inner!r}, which has no {parts[0]}")
        here[key] = inner
        here = inner


def _next_key(here: Any, parts: list[str], path: list[Key], override: Override) -> tuple[Any, list[str]]:
    """Return the key that the next parts name in `here`, and the parts left. A key with dots in it, such as the
    `package.module:function` of a step, is found by its whole name."""
    if isinstance(here, list):
        if not parts[0].isdigit() or int(parts[0]) >= len(here):
            raise _refuse(
                override, f"{_dotted(path)} is a list of {len(here)}; {parts[0]!r} must be 0 to {len(here) - 1}"
            )
        return int(parts[0]), parts[1:]
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        if name in here:
            return name, parts[count:]
    if len(path) == 2 and path[0] == "steps":
        kind = next(iter(here), "?")
        near = nearest(parts[0], map(str, here))
        raise _refuse(
            override, f"{_dotted(path)} is a {kind} step; write {_dotted(path)}.{near or kind}.PARAMETER=VALUE"
        )
    return parts[0], parts[1:]


def _dotted(path: Sequence[Key]) -> str:
    return ".".join(map(str, path))


def _refuse(override: Override, sentence: str) -> ConfigError:
    return ConfigError(f"--set {override.text}: {sentence}")

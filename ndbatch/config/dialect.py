"""The YAML that configurations are written in: safe, with scalars as YAML 1.2 reads them.

PyYAML follows YAML 1.1, in which `1e-3` is text, `1:30` is the number 90, `010` is 8 and `2024-05-01` a date. A setting
should not change its meaning like that, so numbers here are those of YAML 1.2 (section 10.3.2, the core schema).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_REPLACED = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_INTEGER = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_NUMBER = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 numbers and no dates."""


class Dumper(yaml.SafeDumper):
    """The safe dumper that quotes exactly what `Loader` would not read back as text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key, as people write them."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out instead of anchors and aliases."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote text with unusual line breaks, which PyYAML would otherwise fold into spaces."""
    style = '"' if any(c != " " and not c.isprintable() for c in text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


def _construct_integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


for _kind in (Loader, Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
Dumper.add_representer(str, _represent_text)

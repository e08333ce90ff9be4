"""A YAML text as plain values, with the line of every key: so that a wrong value is named by its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ndbatch.config.dialect import Loader
from ndbatch.errors import ConfigError

LARGEST = 4_000_000
"""Bytes of the largest configuration file that is read."""
_MOST_NODES = 100_000
_DEEPEST = 40

Key = str | int


@dataclass(frozen=True)
class Source:
    """A parsed text: its values and where they stand."""

    name: str
    """How messages call it: the path as the user gave it."""
    data: dict[Any, Any]
    root: yaml.Node

    def line(self, path: Sequence[Key]) -> int | None:
        """Return the line (from 1) of the key or list item at `path`, or of its nearest parent that is there."""
        node, line = self.root, None
        for key in path:
            found = _child(node, key)
            if found is None:
                break
            mark, node = found
            line = mark.start_mark.line + 1
        return line

    def place(self, path: Sequence[Key]) -> str:
        """Return `file:line` of the key at `path`."""
        line = self.line(path)
        return self.name if line is None else f"{self.name}:{line}"


def read(path: Path | str) -> Source:
    """Return the configuration file at `path` parsed; ConfigError where it is missing, unreadable or no YAML mapping."""
    name = str(path)
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise ConfigError(f"{name} is {_folder(file)}", file=name)
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{name} is larger than {LARGEST // 10**6} MB and no configuration file", file=name)
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file; ndbatch init STEP --output {name} writes one", file=name) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not a text file; a configuration is YAML in UTF-8", file=name) from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}", file=name) from None
    return parse(text, name)


def _folder(path: Path) -> str:
    """Return what a folder given for a file is, and what to give instead."""
    recorded = path / "config.yaml"
    if not recorded.is_file():
        return "a folder; give a configuration file"
    first = recorded.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    made_from = first.removeprefix("# from ") if first.startswith("# from ") else "the file it was made from"
    return f"a run directory; give the configuration: {made_from}"


def parse(text: str, name: str) -> Source:
    """Return the YAML mapping in `text`; ConfigError, with the line, where it is not one."""
    try:
        node = yaml.compose(text, Loader=Loader)
    except RecursionError:
        raise ConfigError(f"{name}: the file is nested too deeply", file=name) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, name) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {_first_line(error)}", file=name) from None
    if node is None or node.tag == "tag:yaml.org,2002:null":
        raise ConfigError(f"{name} is empty; ndbatch init STEP prints a configuration to start from", file=name)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{name}:{node.start_mark.line + 1}: a configuration is a mapping with the keys inputs, steps and outputs, "
            f"not {'a list' if isinstance(node, yaml.SequenceNode) else 'a single value'}",
            file=name,
        )
    builder = _Builder(name)
    builder.once(node)
    return Source(name, builder.mapping(node, 0), node)


def parse_value(text: str, name: str) -> Any:
    """Return the one YAML value in `text`, for a value given on the command line; ConfigError where it is not YAML."""
    try:
        node = yaml.compose(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name}: the value is not YAML: {_first_line(error)}; put it in quotes") from None
    if node is None:
        return None
    builder = _Builder(name)
    builder.once(node)
    return builder.value(node, 0)


class _Builder:
    """Turns nodes into values; refuses what YAML allows and a configuration does not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes = 0
        self.loader = Loader("")

    def refuse(self, node: yaml.Node, sentence: str) -> ConfigError:
        """Return the error for `node`."""
        return ConfigError(f"{self.name}:{node.start_mark.line + 1}: {sentence}", file=self.name)

    def once(self, root: yaml.Node) -> None:
        """Raise ConfigError where a key stands twice in one mapping. Merging changes nodes, so this comes first."""
        seen: set[int] = set()
        left = [root]
        while left:
            node = left.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                left += node.value
            if not isinstance(node, yaml.MappingNode):
                continue
            lines: dict[Any, int] = {}
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in lines:
                        first = lines[key.value]
                        raise self.refuse(
                            key, f"the key {key.value!r} stands here a second time; the first is in line {first}"
                        )
                    lines[key.value] = key.start_mark.line + 1
                left.append(value)

    def value(self, node: yaml.Node, depth: int) -> Any:
        """Return the value of `node`. An alias is written out again; their number is limited."""
        self.nodes += 1
        if self.nodes > _MOST_NODES or depth > _DEEPEST:
            raise self.refuse(node, "the file is nested too deeply or repeats itself by aliases without end")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        """Return a mapping; `<<` merges. Doubled keys were refused before, by `once`."""
        try:
            self.loader.flatten_mapping(node)
        except (yaml.YAMLError, RecursionError) as error:
            raise self.refuse(node, _first_line(error)) from None
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, depth + 1) if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise self.refuse(key_node, "a key must be a name")
            result[key] = self.value(value_node, depth + 1)
        return result

    def scalar(self, node: yaml.Node) -> Any:
        """Return text, a number, a truth value or nothing; other tags are refused."""
        try:
            return self.loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            raise self.refuse(node, _first_line(error)) from None


def _child(node: yaml.Node, key: Key) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the node that marks `key` in `node`, and its value."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in reversed(node.value):
            if getattr(key_node, "value", None) == str(key):
                return key_node, value_node
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    return None


def _syntax(error: yaml.MarkedYAMLError, text: str, name: str) -> ConfigError:
    """Return the error for text that is not YAML, in the reader's words."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        sentence = "the line is indented by a tab; YAML takes spaces only"
    else:
        sentence = f"not YAML: {error.problem or _first_line(error)}"
        if error.context and error.context_mark and error.context_mark.line + 1 != line:
            sentence += f" ({error.context} that began in line {error.context_mark.line + 1})"
        if "mapping values are not allowed" in sentence:
            sentence += "; is a space or a quote missing, or the indentation wrong?"
    return ConfigError(f"{name}:{line}: {sentence}", file=name, line=line)


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "problem", None) or error or type(error).__name__).splitlines()[0]

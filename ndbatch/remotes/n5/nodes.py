"""Groups and datasets of an N5 container: their `attributes.json`, what is below them, and the folders above."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ndbatch.errors import Corrupt, NotFound, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.n5 import metadata as model
from ndbatch.remotes.places.keyvalue import KeyValue, place

ATTRIBUTES = "attributes.json"
CORE = ("dimensions", "blockSize", "dataType", "compression")
"""The attributes that decide what chunks hold."""
VERSION = {"n5": "2.5.1"}
"""What the root of a container says of itself: the version of the format whose features are used here."""
ABOVE = 8
"""Folders above the one that an address names whose attributes are read at most."""
LISTED = 20
"""Nodes named in a message at most."""
DEPTH = 5
"""Folders below a group that are searched for datasets."""


@dataclass(frozen=True)
class Node:
    """A folder of a container, and its attributes: empty until `loaded`, and in a group that has none."""

    folder: KeyValue
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The path, as messages name it."""
        return self.folder.where

    @property
    def url(self) -> str:
        """The address that led here."""
        return self.folder.address.url

    def child(self, path: str) -> Node:
        """Return the folder at `path` below."""
        return Node(self.folder.child(path))


def chain(address: Address) -> list[Node]:
    """Return the folders from the top of the container to the one that an address names.

    The top is the last that ends in .n5; where none does, the path itself, without what the address has inside it.
    """
    root = place(address)
    target = root.child(address.inside) if address.inside else root
    folders = [target, *islice(target.parents, ABOVE)]
    ends = [i for i, folder in enumerate(folders) if folder.name.lower().endswith(".n5")]
    top = ends[0] if ends else next((i for i, folder in enumerate(folders) if folder.where == root.where), 0)
    return [Node(folder) for folder in reversed(folders[: top + 1])]


def read(node: Node) -> dict[str, Any] | None:
    """Return the attributes of a folder, or None where it has none. Corrupt where they are not whole, Denied."""
    return node.folder.document(ATTRIBUTES)


def loaded(node: Node) -> Node:
    """Return the node with its attributes."""
    return replace(node, document=read(node) or {})


def inherited(nodes: Sequence[Node]) -> dict[str, Any]:
    """Return the attributes that hold for what is below all of `nodes`, the nearest of which wins."""
    found: dict[str, Any] = {}
    for node in nodes:
        found |= node.document
    return found


def write(node: Node, document: Mapping[str, Any]) -> None:
    """Replace the attributes of a folder in one step."""
    node.folder.write(ATTRIBUTES, json.dumps(document, indent=2).encode())


def levels(node: Node) -> tuple[str, ...]:
    """Return the paths of a loaded group's levels, finest first: those it lists, or s0, s1 ... as far as they are there."""
    if model.is_dataset(node.document):
        return ()
    try:
        listed = model.level_paths(node.document)
    except (KeyError, TypeError, AttributeError) as error:
        raise Corrupt(
            f"{node.shown}: its N5 attributes are damaged: {type(error).__name__}: {error}", url=node.url
        ) from None
    if listed and model.is_dataset(read(node.child(listed[0]))):
        return listed
    found: list[str] = []
    while model.is_dataset(read(node.child(f"s{len(found)}"))):
        found.append(f"s{len(found)}")
    return tuple(found)


def inside(node: Node, depth: int = DEPTH) -> Iterator[str]:
    """Yield the paths, relative to a group, of datasets and multiscale groups a few folders below it, sorted."""
    for name in node.folder.names():
        if not name.endswith("/"):
            continue
        child = loaded(node.child(name))
        if model.is_dataset(child.document) or levels(child):
            yield child.folder.name
        elif depth > 1:
            yield from (f"{child.folder.name}/{path}" for path in inside(child, depth - 1))


def absent(node: Node) -> RemoteError:
    """Return the error for a folder that holds no volume: the nearest name, or what is there instead."""
    missing = node.folder.missing()
    if missing is not None:
        return missing
    found = list(islice(inside(node), LISTED))
    if not found:
        return NotFound(f"{node.shown} holds no N5 dataset", url=node.url)
    return NotFound(
        f"{node.shown} is no dataset and no group of levels, but holds {', '.join(found)}; write one of them, such as "
        f"{node.shown}/{found[0]}",
        url=node.url,
        inside=found,
    )


def remove(node: Node) -> None:
    """Remove a node and all below it. RemoteError for a folder that is not N5."""
    if not node.folder.exists():
        return
    if read(node) is None and not levels(node) and next(inside(node), None) is None:
        raise RemoteError(f"{node.shown} is not N5; it is not removed", url=node.url)
    node.folder.delete()

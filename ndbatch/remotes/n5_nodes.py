"""Groups and datasets of an N5 container: their `attributes.json`, what is below them, and the folders above."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ndbatch.errors import Corrupt, NotFound, RemoteError
from ndbatch.remotes import n5_metadata as model
from ndbatch.remotes.address import Address
from ndbatch.remotes.files import file_error
from ndbatch.remotes.precomputed_place import KeyValue, place

ATTRIBUTES = "attributes.json"
GONE = "attributes.json.deleted"
"""What the attributes are called while a node is removed, so that half of one is never taken for a whole one."""
CORE = ("dimensions", "blockSize", "dataType", "compression")
"""The attributes that decide what chunks hold."""
VERSION = {"n5": "2.5.1"}
"""What the root of a container says of itself; the version of the format whose features are used here."""
LISTED = 20
DEPTH = 5


@dataclass(frozen=True)
class Node:
    """A folder of a container and its attributes (empty until `loaded`)."""

    folder: KeyValue
    shown: str
    """The path, as messages name it."""
    address: Address
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.shown.rpartition("/")[2]

    def child(self, path: str) -> Node:
        """Return the folder at `path` below."""
        return Node(self.folder.child(path), f"{self.shown}/{path}", self.address)


def shown(address: Address) -> str:
    """Return the whole path that an address names, that inside the container included."""
    return "/".join(part for part in (address.path.rstrip("/"), address.inside.strip("/")) if part)


def chain(address: Address) -> list[Node]:
    """Return the folders from the top of the container, the last that ends in .n5, or the path, to what the address names."""
    parts = shown(address).split("/")
    tops = [i for i, part in enumerate(parts) if part.lower().endswith(".n5")]
    start = tops[-1] if tops else len(address.path.rstrip("/").split("/")) - 1
    found = []
    for end in range(start, len(parts)):
        path = "/".join(parts[: end + 1])
        found.append(Node(place(replace(address, path=path, inside="")), path, address))
    return found


def read(node: Node) -> dict[str, Any] | None:
    """Return the attributes of a folder, or None where it has none. Corrupt where they are not whole, Denied."""
    data = node.folder.read(ATTRIBUTES)
    if data is None:
        return None
    try:
        document = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{node.shown}/{ATTRIBUTES} is damaged: {error}", url=node.address.url) from None
    if not isinstance(document, dict):
        raise Corrupt(f"{node.shown}/{ATTRIBUTES} is damaged: it is not a JSON object", url=node.address.url)
    return document


def loaded(node: Node) -> Node:
    """Return the node with its attributes; a group may have none."""
    return replace(node, document=read(node) or {})


def read_all(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes with their attributes."""
    return [loaded(node) for node in nodes]


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
    """Return the paths of a group's levels, finest first: those it lists, or s0, s1 ... as far as there are datasets."""
    group = node.document or read(node) or {}
    if model.is_dataset(group):
        return ()
    try:
        listed = model.level_paths(group)
    except (KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{node.shown}: its N5 attributes are damaged: {type(error).__name__}: {error}") from None
    if listed and model.is_dataset(read(node.child(listed[0]))):
        return listed
    found: list[str] = []
    while model.is_dataset(read(node.child(f"s{len(found)}"))):
        found.append(f"s{len(found)}")
    return tuple(found)


def inside(node: Node, depth: int = DEPTH) -> Iterator[str]:
    """Yield the paths, relative to a group, of datasets and multiscale groups a few folders below it, sorted."""
    for name in sorted(name for name in node.folder.names() if name.endswith("/")):
        child = node.child(name.rstrip("/"))
        if model.is_dataset(read(child)) or levels(child):
            yield child.name
        elif depth > 1:
            yield from (f"{child.name}/{path}" for path in inside(child, depth - 1))


def absent(node: Node) -> RemoteError:
    """Return the error for a folder that holds no volume: what is there instead."""
    if not list(node.folder.names()):
        return missing(node)
    found = list(islice(inside(node), LISTED))
    if not found:
        return NotFound(f"{node.shown} holds no N5 dataset", url=node.address.url)
    return NotFound(
        f"{node.shown} is no dataset and no group of levels, but holds {', '.join(found)}; write one of them, such as "
        f"{node.shown}/{found[0]}",
        url=node.address.url,
        inside=found,
    )


def missing(node: Node) -> RemoteError:
    """Return the error for a folder that is not there, or is empty; of this machine, with the nearest name."""
    if node.address.place == "file" and not Path(node.shown).is_dir():
        reason = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return file_error(reason, replace(node.address, path=node.shown, inside=""))
    return NotFound(f"{node.shown} holds no N5 dataset", url=node.address.url)


def remove(node: Node) -> None:
    """Remove a node and all below it; its attributes first. RemoteError for a folder that is not N5."""
    data = node.folder.read(ATTRIBUTES)
    if data is None and not node.folder.exists(GONE):
        if list(node.folder.names()):
            raise RemoteError(f"{node.shown} is not N5; it is not removed", url=node.address.url)
        return
    if data is not None:
        node.folder.write(GONE, data)
        node.folder.delete(ATTRIBUTES)
    for name in [name for name in node.folder.names() if name != GONE]:
        node.folder.delete(name)
    node.folder.delete()


def digest(node: Node) -> str:
    """Return a digest that changes when chunks of a dataset may have changed: attributes do not count."""
    found = hashlib.sha256()
    for name in sorted(node.folder.names()):
        if name.endswith("/"):
            found.update(f"{name} {node.folder.child(name.rstrip('/')).digest()}\n".encode())
        elif name not in (ATTRIBUTES, GONE):
            found.update(f"{name} {node.folder.digest()}\n".encode())
    return found.hexdigest()

"""Nodes of a zarr hierarchy (v2 and v3): their JSON, what is inside, and whether stored chunks have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ndbatch.errors import Conflict, Corrupt, Denied, NotFound, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.places.keyvalue import KeyValue

METADATA_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
CONSOLIDATED = "consolidated_metadata"
LISTED = 20
"""Nodes named in a message at most."""


@dataclass(frozen=True)
class Node:
    """A group or an array: its zarr format (2 or 3), its user attributes and, of an array, its own metadata."""

    path: KeyValue
    format: int
    is_array: bool
    attributes: dict[str, Any]
    metadata: dict[str, Any]


def read_node(path: KeyValue, address: Address) -> Node | None:
    """Return the node at `path`, or None where there is none. Corrupt where its JSON is not whole, Denied.

    A bucket that may not be listed calls what is absent forbidden: that counts only where nothing is found at all.
    """
    refused: list[Denied] = []
    v3 = _json(path, "zarr.json", address, refused)
    if v3 is not None:
        kind = v3.get("node_type")
        if kind not in ("array", "group"):
            raise Corrupt(f"{path / 'zarr.json'} is damaged: it is neither an array nor a group", url=address.url)
        return Node(path, 3, kind == "array", dict(v3.get("attributes", {})), v3)
    array, group = _json(path, ".zarray", address, refused), _json(path, ".zgroup", address, refused)
    if array is None and group is None:
        if refused:
            raise refused[0]
        return None
    return Node(path, 2, array is not None, _json(path, ".zattrs", address, refused) or {}, array or {})


def _json(folder: KeyValue, name: str, address: Address, refused: list[Denied]) -> dict[str, Any] | None:
    """Return a JSON file, None where it is absent; where a place elsewhere refuses, None too, and why in `refused`."""
    try:
        return folder.document(name)
    except Denied as error:
        if address.place == "file":
            raise
        refused.append(error)
        return None


def inside(path: KeyValue, depth: int = 4) -> Iterator[str]:
    """Yield the paths, relative to the group `path`, of arrays and images up to `depth` folders below it, sorted.

    Of a place that cannot list they are those that the group's consolidated metadata names, if it has any.
    """
    try:
        folders = [name.rstrip("/") for name in path.names() if name.endswith("/") and not name.startswith(".")]
    except RemoteError:
        yield from _consolidated(path)
        return
    for name in folders:
        folder = path / name
        if is_volume(folder):
            yield name
        elif depth > 1:
            yield from (f"{name}/{deeper}" for deeper in inside(folder, depth - 1))


def is_volume(folder: KeyValue) -> bool:
    """Return whether a folder is an array or an image, by its metadata alone."""
    text = folder.read("zarr.json")
    if text is not None:
        return b'"multiscales"' in text or b'"array"' in text
    return b'"multiscales"' in (folder.read(".zattrs") or b"") or folder.read(".zarray") is not None


def _consolidated(path: KeyValue) -> list[str]:
    """Return the paths of the arrays that the consolidated metadata of a group names (v2 and v3)."""
    try:
        v3, v2 = (json.loads(path.read(name) or b"{}") for name in ("zarr.json", ".zmetadata"))
        nodes = (v3.get(CONSOLIDATED) or {}).get("metadata", {})
        found = [name for name, node in nodes.items() if node.get("node_type") == "array"]
        found += [name.removesuffix("/.zarray") for name in v2.get("metadata", {}) if name.endswith("/.zarray")]
    except (RemoteError, ValueError, AttributeError):
        return []  # the list is a hint in a message; what is wrong is told where the node is opened
    return sorted(found)


def write_json(folder: KeyValue, name: str, document: Mapping[str, Any]) -> None:
    """Write `document`; nobody sees a part of it."""
    folder.write(name, json.dumps(document, indent=2).encode())


def write_group(path: KeyValue, zarr_format: int, attributes: Mapping[str, Any]) -> None:
    """Write the metadata of a group; what makes it one comes last."""
    if zarr_format == 3:
        write_json(path, "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    else:
        write_json(path, ".zattrs", attributes)
        write_json(path, ".zgroup", {"zarr_format": 2})


def write_array(path: KeyValue, zarr_format: int, metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of an array that has no chunk yet; what makes it one comes last."""
    if zarr_format == 3:
        write_json(path, "zarr.json", {"zarr_format": 3, "node_type": "array", **metadata, "attributes": attributes})
    else:
        if attributes:
            write_json(path, ".zattrs", attributes)
        write_json(path, ".zarray", {"zarr_format": 2, **metadata})


def add_array(group: Node, name: str, metadata: Mapping[str, Any]) -> None:
    """Add an array without a chunk at the path `name` (`2`, `scale2/image`) below `group`; it appears whole.

    What an earlier attempt left there is replaced as long as it holds no chunk either; Conflict where it does.
    """
    target = group.path / name
    forget_copies(group.path)
    above = name.split("/")[:-1]
    for end in range(1, len(above) + 1):
        folder = group.path / "/".join(above[:end])
        if not _is_node(folder):
            write_group(folder, group.format, {})
    if target.exists():
        if not all(_is_metadata(entry) for entry in target.names()):
            raise Conflict(
                f"{target}: its folder {name} holds what its image does not name; remove it", url=str(group.path)
            )
        target.delete()
    with target.published() as folder:
        write_array(folder, group.format, metadata, {})


def update_attributes(node: Node, attributes: Mapping[str, Any]) -> None:
    """Replace the user attributes of a node."""
    forget_copies(node.path)
    if node.format == 3:
        own = {name: value for name, value in node.metadata.items() if name != CONSOLIDATED}
        write_json(node.path, "zarr.json", {**own, "attributes": attributes})
    else:
        write_json(node.path, ".zattrs", attributes)


def forget_copies(path: KeyValue) -> None:
    """Remove consolidated metadata from the node and the groups around it: copies that others believe and we change.

    It is a shortcut only (`.zmetadata` of v2, a key of the group's `zarr.json` in v3): readers then read the nodes themselves.
    """
    for folder in (path, *path.parents):
        group = folder.read("zarr.json")
        if group is None and not _is_node(folder):
            return
        if folder.etag(".zmetadata"):
            folder.delete(".zmetadata")
        document = json.loads(group) if group is not None else {}
        if CONSOLIDATED in document:
            del document[CONSOLIDATED]
            write_json(folder, "zarr.json", document)


def enclosing(path: KeyValue) -> list[KeyValue]:
    """Return the folders above `path` that belong to the same hierarchy: from the one that ends in .zarr down."""
    above = list(path.parents)
    tops = [i for i, folder in enumerate(above) if folder.name.lower().endswith(".zarr")]
    return above[: tops[-1] + 1][::-1] if tops else []


def remove(path: KeyValue, address: Address) -> None:
    """Remove a node and all below it; half removed, it never looks whole. RemoteError for a folder that is not zarr."""
    try:
        filled = path.exists()
    except NotFound:
        return
    unfinished = filled and list(path.names()) == ["0/"] and _is_node(path / "0")  # a create cut off in a bucket
    if filled and not (unfinished or _is_node(path)):
        raise RemoteError(f"{path} is not zarr; it is not removed", url=address.url)
    path.delete()


def digest(array: KeyValue, metadata: Mapping[str, Any]) -> str:
    """Return a digest that changes when chunks of `array` may have changed, without reading them.

    It holds the array's own metadata (user attributes aside), and what `KeyValue.digest` sees of the chunks.
    """
    core = {name: value for name, value in metadata.items() if name != "attributes"}
    facts = [json.dumps(core, sort_keys=True), array.digest(METADATA_FILES)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:20]


def _is_node(folder: KeyValue) -> bool:
    return any(folder.etag(name) for name in METADATA_FILES[:3])


def _is_metadata(name: str) -> bool:
    """Return whether a file is metadata or on its way to be: writing attributes does not change voxels."""
    return name.removesuffix(".new") in METADATA_FILES

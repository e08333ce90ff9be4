"""Nodes of a zarr hierarchy on disk (v2 and v3): their JSON, what is inside, and whether stored chunks have changed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndbatch.errors import Corrupt, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.files import file_error

METADATA_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
CONSOLIDATED = "consolidated_metadata"
LISTED = 20
"""Nodes named in a message at most."""
FILES = 20_000
"""Chunk files whose size and time `digest` looks at."""
FOLDERS = 100_000
"""Folders whose time `digest` looks at."""


@dataclass(frozen=True)
class Node:
    """A group or an array: its zarr format (2 or 3), its user attributes and, of an array, its own metadata."""

    path: Path
    format: int
    is_array: bool
    attributes: dict[str, Any]
    metadata: dict[str, Any]


def read_node(path: Path, address: Address) -> Node | None:
    """Return the node at `path`, or None where there is none. Corrupt where its JSON is not whole, Denied."""
    v3 = _json(path / "zarr.json", address)
    if v3 is not None:
        kind = v3.get("node_type")
        if kind not in ("array", "group"):
            raise Corrupt(f"{path / 'zarr.json'} is damaged: it is neither an array nor a group", url=address.url)
        return Node(path, 3, kind == "array", dict(v3.get("attributes", {})), v3)
    array, group = _json(path / ".zarray", address), _json(path / ".zgroup", address)
    if array is None and group is None:
        return None
    return Node(path, 2, array is not None, _json(path / ".zattrs", address) or {}, array or {})


def _json(path: Path, address: Address) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise file_error(error, address) from None
    except ValueError as error:
        raise Corrupt(f"{path} is damaged: {error}", url=address.url) from None
    if not isinstance(document, dict):
        raise Corrupt(f"{path} is damaged: it is not a JSON object", url=address.url)
    return document


def inside(path: Path) -> Iterator[str]:
    """Yield the paths, relative to the group `path`, of arrays and images up to four folders below it, sorted."""
    for folder, names, files in os.walk(path):
        relative = os.path.relpath(folder, path)
        names[:] = sorted(n for n in names if not n.startswith("."))
        found = set(files)
        image = any(b'"multiscales"' in (Path(folder) / f).read_bytes() for f in found & {"zarr.json", ".zattrs"})
        array = ".zarray" in found or ("zarr.json" in found and b'"array"' in (Path(folder) / "zarr.json").read_bytes())
        if relative != "." and (image or array):
            yield relative
            names.clear()
        if relative.count(os.sep) >= 3:
            names.clear()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` under a temporary name, bring it to the disk and rename it, so that nobody sees a part of it."""
    aside = path.with_name(f"{path.name}.new")
    with aside.open("w") as file:
        json.dump(document, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_group(path: Path, zarr_format: int, attributes: Mapping[str, Any]) -> None:
    """Write the metadata of a group."""
    path.mkdir(parents=True, exist_ok=True)
    if zarr_format == 3:
        write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    else:
        write_json(path / ".zgroup", {"zarr_format": 2})
        write_json(path / ".zattrs", attributes)


def write_array(path: Path, zarr_format: int, metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of an array that has no chunk yet."""
    path.mkdir(parents=True, exist_ok=True)
    if zarr_format == 3:
        write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "array", **metadata, "attributes": attributes})
    else:
        write_json(path / ".zarray", {"zarr_format": 2, **metadata})
        if attributes:
            write_json(path / ".zattrs", attributes)


def add_array(group: Node, name: str, metadata: Mapping[str, Any]) -> None:
    """Add an array without a chunk at the path `name` (`2`, `scale2/image`) below `group`; it appears whole.

    What an earlier attempt left there is replaced as long as it holds no chunk either; FileExistsError where it does.
    """
    target = group.path / name
    forget_copies(group.path)
    for folder in list(Path(name).parents)[-2::-1]:
        if not any((group.path / folder / file).exists() for file in METADATA_FILES[:3]):
            write_group(group.path / folder, group.format, {})
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    write_array(aside, group.format, metadata, {})
    if target.is_dir() and all(_is_metadata(entry.name) for entry in target.iterdir()):
        shutil.rmtree(target)
    if target.exists():
        raise FileExistsError(
            errno.EEXIST, f"its folder {name} holds what its image does not name; remove it", str(target)
        )
    os.rename(aside, target)


def update_attributes(node: Node, attributes: Mapping[str, Any]) -> None:
    """Replace the user attributes of a node on disk."""
    forget_copies(node.path)
    if node.format == 3:
        own = {name: value for name, value in node.metadata.items() if name != CONSOLIDATED}
        write_json(node.path / "zarr.json", {**own, "attributes": attributes})
    else:
        write_json(node.path / ".zattrs", attributes)


def forget_copies(path: Path) -> None:
    """Remove consolidated metadata from the node and the groups around it: copies that others believe and we change.

    It is a shortcut only (`.zmetadata` of v2, a key of the group's `zarr.json` in v3): readers then read the nodes themselves.
    """
    for folder in (path, *path.parents):
        if not any((folder / name).exists() for name in METADATA_FILES[:3]):
            return
        (folder / ".zmetadata").unlink(missing_ok=True)
        group = folder / "zarr.json"
        document = json.loads(group.read_bytes()) if group.exists() else {}
        if CONSOLIDATED in document:
            del document[CONSOLIDATED]
            write_json(group, document)


def enclosing(path: Path) -> list[Path]:
    """Return the folders above `path` that belong to the same hierarchy: from the one that ends in .zarr down."""
    above = list(path.parents)
    tops = [i for i, folder in enumerate(above) if folder.name.lower().endswith(".zarr")]
    return above[: tops[-1] + 1][::-1] if tops else []


def remove(path: Path, address: Address) -> None:
    """Remove a node and all below it: renamed first, so that a half-removed one never looks whole.

    Raises RemoteError for a folder that is not zarr.
    """
    aside = path.with_name(f".{path.name}.deleted")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        if not path.exists():
            return
        if not path.is_dir() or (any(path.iterdir()) and not any((path / f).exists() for f in METADATA_FILES[:3])):
            raise RemoteError(f"{path} is not zarr; it is not removed", url=address.url)
        os.rename(path, aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise file_error(error, address) from None


def digest(array: Path, metadata: Mapping[str, Any]) -> str:
    """Return a digest that changes when chunks of `array` may have changed, without reading them.

    It holds the array's own metadata (user attributes aside), the name and time of every folder below, and the size and
    time of every file while there are at most 20 000 files. Writers that replace a chunk file by renaming (tensorstore,
    zarr-python) change its folder's time, so that larger arrays are covered too; a tool that writes into a chunk
    file in place is seen only up to 20 000 files. Beyond 100 000 folders only the first of them, in order of name, count.
    """
    core = {name: value for name, value in metadata.items() if name != "attributes"}
    found = hashlib.sha256(json.dumps(core, sort_keys=True).encode())
    files = 0
    for place, (folder, names, leaves) in enumerate(os.walk(array)):
        names.sort()
        chunks = [leaf for leaf in sorted(leaves) if not _is_metadata(leaf)]
        files += len(chunks)
        marks = [] if place == 0 and not chunks else [f"{os.path.relpath(folder, array)} {os.stat(folder).st_mtime_ns}"]
        if files <= FILES:
            facts = [(leaf, os.stat(os.path.join(folder, leaf))) for leaf in chunks]
            marks += [f"{leaf} {stat.st_size} {stat.st_mtime_ns}" for leaf, stat in facts]
        found.update("\n".join([*marks, f"{len(chunks)}\n"]).encode())
        if place >= FOLDERS:
            break
    return found.hexdigest()[:20]


def _is_metadata(name: str) -> bool:
    """Return whether a file is metadata or on its way to be: writing attributes does not change voxels."""
    return name.removesuffix(".new") in METADATA_FILES

"""Reading outputs again: every block that has a receipt against its checksum, every table against its digest."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, Denied, NdbatchError, RemoteError, Transient
from ndbatch.geometry import Box, Grid
from ndbatch.journal import CHECKSUM_BITS, Journal
from ndbatch.plan.model import entry_address
from ndbatch.plan.program import ratio
from ndbatch.remotes.base import Volume
from ndbatch.remotes.registry import open_volume, store_class

WHOLE = -1
"""Stands for a block where a volume cannot be opened at all."""


@dataclass(frozen=True)
class Mismatch:
    """A block whose output is not what its receipt says."""

    stage: int
    block: int
    """-1 where the volume as a whole cannot be read."""
    box: str
    reason: str
    output: str = ""
    """The array, where the volume as a whole cannot be read."""
    damage: bool = True
    """False where it could not be read for a cause that is not in the data: no permission, a service that does not answer."""


@dataclass(frozen=True)
class DamagedTable:
    """A table that is not the file that was written."""

    name: str
    path: str
    reason: str


def compare(
    journal: Journal, document: Mapping[str, Any], directory: Path, only: Mapping[int, Iterable[int]] | None = None
) -> Iterator[tuple[int, Mismatch | None]]:
    """Yield 1 and the mismatch, if any, of every block with a receipt whose stored voxels are still there.

    A volume that cannot be opened is one mismatch that counts no block. With `only`, these blocks alone, by stage.
    """
    for stage in document["stages"]:
        if only is not None and stage["index"] not in only:
            continue
        receipts = journal.receipts(stage["index"])
        if only is not None:
            receipts = receipts[np.isin(receipts["block"], np.fromiter(only[stage["index"]], np.uint64))]
        entries = places(journal, document, stage, directory)
        if not entries or not len(receipts):
            continue
        volumes, problems = _opened(entries, directory)
        if problems:
            yield from ((0, Mismatch(stage["index"], WHOLE, "all", *problem)) for problem in problems)
            continue
        for index, expected in zip(receipts["block"].tolist(), receipts["checksum"].tolist(), strict=True):
            yield 1, _block(stage, index, expected % 2**CHECKSUM_BITS, volumes, entries, str(document["axes"]))


def places(
    journal: Journal, document: Mapping[str, Any], stage: Mapping[str, Any], directory: Path
) -> dict[str, Mapping[str, Any]]:
    """Return where the arrays stand that the receipts of `stage` prove, by name; nothing where they are gone.

    Arrays stored on the way are gone when a run is over, and half there while damaged blocks are done again.
    """
    final, staging = {**document["outputs"], **document["levels"]}, document.get("staging", {})
    over = journal.get("complete") is not None or journal.mending is not None
    result: dict[str, Mapping[str, Any]] = {}
    for name in stage.get("proves", stage["stores"]):
        beside = name in staging and journal.get(f"written:{name}") is None
        if (name not in final and over) or (name not in final and not beside):
            return {}
        result[name] = staging[name] if beside else final[name]
        address = entry_address(result[name], directory)
        if name not in final and not store_class(address.scheme).exists(address):
            return {}
    return result


def checksum_of(volumes: Iterable[Volume], boxes: Iterable[Box]) -> int:
    """Return the CRC-32 of the voxels of `boxes`, one a volume, as a receipt has it. Raises what reading raises."""
    checksum = 0
    for volume, box in zip(volumes, boxes, strict=True):
        checksum = zlib.crc32(np.ascontiguousarray(volume.read(box)).data, checksum)
    return checksum


def boxes_of(stage: Mapping[str, Any], index: int, entries: Mapping[str, Mapping[str, Any]]) -> list[Box]:
    """Return what block `index` of `stage` wrote of each of `entries`, in their own voxels."""
    core = Grid.described(stage["grid"])[index].core
    return [core.coarsened(ratio(entry["scale"], stage["scale"])) for entry in entries.values()]


def damaged_tables(journal: Journal, document: Mapping[str, Any], directory: Path) -> Iterator[DamagedTable]:
    """Yield the tables that were written and are not, byte by byte, what was written."""
    for name, entry in document["outputs"].items():
        known = journal.get(f"digest:{name}")
        if entry["type"] != "table" or known is None:
            continue
        path = Path(entry["url"])
        path = directory / path.name if not path.exists() and (directory / path.name).exists() else path
        try:
            reason = "" if digest_of(path) == known else "the file is not the one that was written"
        except FileNotFoundError:
            reason = "the file is gone"
        except OSError as error:
            raise Denied(f"{path} cannot be read: {error.strerror or error}", path=str(path)) from None
        if reason:
            yield DamagedTable(name, str(path), reason)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(
    entries: Mapping[str, Mapping[str, Any]], directory: Path
) -> tuple[list[Volume], list[tuple[str, str, bool]]]:
    """Open the volumes of `entries`; return them, and why one cannot be used, which one, and whether it is damaged."""
    volumes, problems = [], []
    for name, entry in entries.items():
        try:
            volume = open_volume(entry_address(entry, directory))
            _require_as_made(volume, entry)
            volumes.append(volume)
        except RemoteError as error:
            problems.append((error.message, name, not isinstance(error, Transient | Denied)))
    return volumes, problems


def _require_as_made(volume: Volume, entry: Mapping[str, Any]) -> None:
    """Raise Corrupt where the metadata of a volume say something else than when it was made."""
    told = {"shape": list(volume.shape), "dtype": volume.dtype.name, "offset": list(volume.offset)}
    size, due = volume.voxel_size, entry["voxel_size"]
    changed = [key for key, value in told.items() if value != entry[key]]
    if size and due and not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(size, due, strict=True)):
        changed, told = [*changed, "voxel_size"], {**told, "voxel_size": list(size)}
    if changed:
        key = changed[0]
        raise Corrupt(
            f"{volume.url}: its metadata say {key} {told[key]} where {entry[key]} was written", url=volume.url
        )


def _block(
    stage: Mapping[str, Any],
    index: int,
    expected: int,
    volumes: list[Volume],
    entries: Mapping[str, Mapping[str, Any]],
    axes: str,
) -> Mismatch | None:
    """Return in what the voxels of a block are not those of its receipt, or None."""
    reason, damage = "the voxels are not those that were written", True
    try:
        if checksum_of(volumes, boxes_of(stage, index, entries)) == expected:
            return None
    except NdbatchError as error:
        reason, damage = error.message, not isinstance(error, Transient | Denied)
    core = Grid.described(stage["grid"])[index].core
    return Mismatch(stage["index"], index, core.describe(axes), reason, damage=damage)

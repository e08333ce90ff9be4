"""Checking a run: outputs are read again and compared with the receipts; a damaged journal is rebuilt from what is sound."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import JournalError, NdbatchError, RemoteError
from ndbatch.geometry import Box, Grid
from ndbatch.journal import CHECKSUM_BITS, Journal
from ndbatch.journal.salvage import rebuild as salvage
from ndbatch.plan.model import entry_address
from ndbatch.plan.program import ratio
from ndbatch.remotes.base import Volume
from ndbatch.remotes.registry import open_volume


@dataclass(frozen=True)
class Mismatch:
    """A block whose output is not what its receipt says."""

    stage: int
    block: int
    box: str
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    directory: Path
    blocks: int
    """Receipts that were compared with their output."""
    mismatches: tuple[Mismatch, ...]
    salvaged: int = 0
    """Receipts that were kept of a damaged journal."""
    lost: int = 0
    """Records of a damaged journal that could not be kept; their blocks are done again by the next run."""

    @property
    def ok(self) -> bool:
        """Whether every output is what its receipt says and nothing was lost."""
        return not self.mismatches and not self.lost


def check(directory: Path, *, rebuild: bool = False) -> CheckReport:
    """Read every output of the run in `directory` again and compare it with the receipts.

    With `rebuild`, a damaged journal is replaced by what is sound in it, and receipts that do not match are taken back,
    so that the next run does those blocks again. Raises JournalError where no run is, or where its plan is lost.
    """
    salvaged, lost = salvage(directory) if rebuild else (0, 0)
    with Journal.read(directory) as journal:
        document = journal.document
        if not document:
            raise JournalError(f"{directory}: the journal holds no plan; start the run again with --fresh")
        count, found = 0, []
        for blocks, mismatch in _compare(journal, document, directory):
            count += blocks
            found.extend([mismatch] if mismatch else [])
    if rebuild and found:
        with Journal.write(directory) as journal:
            _take_back(journal, document, found)
    return CheckReport(directory, count, tuple(found), salvaged, lost)


def _take_back(journal: Journal, document: Mapping[str, Any], found: list[Mismatch]) -> None:
    """Take back the receipts of what is not as it was written; of a file that one process writes at the end, all of them."""
    for stage in document["stages"]:
        blocks = [m.block for m in found if m.stage == stage["index"]]
        if not blocks:
            continue
        keys = [f"written:{name}" for name in stage["stores"] if journal.get(f"written:{name}")]
        journal.forget(stage["index"], journal.done(stage["index"]) if keys or min(blocks) < 0 else blocks)
        for key in keys:
            journal.unset(key)
    journal.unset("complete")


def _compare(journal: Journal, document: Mapping[str, Any], directory: Path) -> Iterator[tuple[int, Mismatch | None]]:
    """Yield 1 and the mismatch, if any, of every block that wrote a volume."""
    axes, entries = str(document["axes"]), {**document["outputs"], **document["levels"]}
    for stage in document["stages"]:
        names = [name for name in stage["stores"] if name in entries]
        if len(names) < len(stage["stores"]) or not names:
            continue  # arrays stored on the way are gone when a run is over
        try:
            volumes = [open_volume(entry_address(entries[name], directory)) for name in names]
        except RemoteError as error:
            yield 0, Mismatch(stage["index"], -1, "all", error.message)
            continue
        grid = Grid.described(stage["grid"])
        scales = [ratio(entries[name]["scale"], stage["scale"]) for name in names]
        for receipt in journal.receipts(stage["index"]):
            index = int(receipt["block"])
            boxes = [grid[index].core.coarsened(by) for by in scales]
            reason = _differs(volumes, boxes, int(receipt["checksum"]) % 2**CHECKSUM_BITS)
            mismatch = Mismatch(stage["index"], index, grid[index].core.describe(axes), reason) if reason else None
            yield 1, mismatch


def _differs(volumes: list[Volume], boxes: list[Box], expected: int) -> str:
    """Return why the voxels of `boxes`, one a volume, are not those of the receipt, or nothing."""
    checksum = 0
    try:
        for volume, box in zip(volumes, boxes, strict=True):
            checksum = zlib.crc32(np.ascontiguousarray(volume.read(box)).data, checksum)
    except NdbatchError as error:
        return error.message
    return "" if checksum == expected else "the voxels are not those that were written"

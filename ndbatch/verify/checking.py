"""Checking a run: what is damaged in its outputs, and a damaged journal rebuilt from what is sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndbatch.errors import JournalError, NdbatchError
from ndbatch.journal import Journal
from ndbatch.journal.salvage import rebuild as salvage
from ndbatch.verify.compare import WHOLE, DamagedTable, Mismatch, compare, damaged_tables
from ndbatch.verify.mend import take_back
from ndbatch.verify.proof import restore_receipts


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    directory: Path
    blocks: int
    """Receipts that were compared with their output."""
    mismatches: tuple[Mismatch, ...]
    tables: tuple[DamagedTable, ...] = ()
    """Tables that are not the file that was written."""
    salvaged: int = 0
    """Receipts that were kept of a damaged journal."""
    proven: int = 0
    """Receipts that a damaged journal had lost, and that its outputs prove."""
    lost: int = 0
    """Records of a damaged journal that could not be kept; their blocks are done again by the next run."""

    @property
    def ok(self) -> bool:
        """Whether every output is what its receipt says and nothing was lost."""
        return not self.mismatches and not self.tables and not self.lost


def check(directory: Path, *, rebuild: bool = False) -> CheckReport:
    """Read every output of the run in `directory` again and compare it with the receipts, and tables with their digest.

    With `rebuild`, a damaged journal is replaced by what is sound in it and what the outputs prove, and receipts that do not
    match are taken back, so that the next run does those blocks again. Raises JournalError where no run is, or where its
    plan is lost.
    """
    if not rebuild:
        with Journal.read(directory) as journal:
            journal.verify()
            return inspect(journal, directory)
    salvaged, lost = salvage(directory)
    with Journal.write(directory) as journal:
        proven = restore_receipts(journal, directory)
        found = inspect(journal, directory)
        for mismatch in [m for m in found.mismatches if m.block == WHOLE]:
            _attempt(journal, found, [mismatch])
        _attempt(journal, found, [m for m in found.mismatches if m.block != WHOLE])
        whole = all(len(journal.done(stage["index"])) == stage["blocks"] for stage in journal.document["stages"])
    left = 0 if proven and whole else lost
    return CheckReport(directory, found.blocks, found.mismatches, found.tables, salvaged, proven, left)


def inspect(journal: Journal, directory: Path) -> CheckReport:
    """Return what is damaged in the outputs of an open `journal`. JournalError where it has no plan."""
    document: Mapping[str, Any] = journal.document
    if not document:
        raise JournalError(f"{directory}: the journal holds no plan; start the run again with --fresh")
    count, found = 0, []
    for blocks, mismatch in compare(journal, document, directory):
        count += blocks
        found.extend([mismatch] if mismatch else [])
    return CheckReport(directory, count, tuple(found), tuple(damaged_tables(journal, document, directory)))


def _attempt(journal: Journal, found: CheckReport, mismatches: list[Mismatch]) -> None:
    """Take back what can be; what cannot stays in the report."""
    try:
        take_back(journal, journal.document, found.directory, mismatches, found.tables)
    except NdbatchError:
        return

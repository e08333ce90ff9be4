"""What workers bring back for the journal: receipts, payloads, and the blocks that could not be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ndbatch.remotes.base import Array


@dataclass(frozen=True)
class Failure:
    """A block that could not be done, in words."""

    stage: int
    block: int
    box: str
    attempts: int
    kind: str
    error: str
    traceback: str = ""


@dataclass(frozen=True)
class Entry:
    """What one batch adds to the journal."""

    stage: int
    receipts: Array
    """RECEIPT records of the blocks that are done."""
    payloads: Sequence[tuple[str, int, bytes]] = ()
    """(name, block, bytes): payloads of passes and rows of tables."""
    failures: Sequence[Failure] = field(default=())

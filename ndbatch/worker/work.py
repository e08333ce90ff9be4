"""What crosses the wire: the work of a stage, once a worker, and what a batch brought back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ndbatch.engine import Fault
from ndbatch.geometry import Grid, Shape
from ndbatch.journal import RECEIPT
from ndbatch.plan.program import Bound, Stage, ratio
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import Array, Volume
from ndbatch.steps.base import ArrayInfo

BlockStates = Mapping[int, Mapping[str, Any]]
"""What one block needs of the states: by step number, by pass name."""


@dataclass(frozen=True)
class Work:
    """Everything a worker needs for a stage, sent once. Volumes travel as addresses and open in the worker."""

    stage: Stage
    steps: tuple[Bound, ...]
    infos: Mapping[str, ArrayInfo]
    volumes: Mapping[str, Volume]
    grid: Grid
    time_limit: float | None = None
    memory_limit: int | None = None
    search: str = "."
    """The folder of the configuration, where users' modules may be."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What a worker must offer beside its core, such as {"gpu": 1}."""
    ahead: int = 1
    """Blocks whose input is read while one is computed."""
    proved: tuple[str, ...] | None = None
    """Stored arrays that the checksum of a receipt is made of; None for all."""
    mending: bool = False
    """Blocks are done again because what is stored is damaged: every one is written, whatever stands there."""

    def unwritten(self, name: str) -> str:
        """Return which blocks of the array `name` need not be written, as the operation that makes it says."""
        return next((s.operation.unwritten for s in self.steps if name in s.array_names().values()), "")

    def ratio(self, name: str) -> Shape:
        """Return how many voxels of the stage's blocks make one of the array `name`, along each axis."""
        return ratio(self.infos[name].scales, self.stage.scale)


@dataclass(frozen=True)
class Batch:
    """Blocks to do, and the states of those that need any."""

    ticket: int
    blocks: Ranges
    states: Mapping[int, BlockStates] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchResult:
    """What came back of a batch: receipts of the done blocks, payloads, faults, and blocks given back untouched."""

    ticket: int
    receipts: Array = field(default_factory=lambda: np.empty(0, RECEIPT))
    payloads: tuple[tuple[str, int, bytes], ...] = ()
    faults: tuple[Fault, ...] = ()
    untouched: Ranges = field(default_factory=Ranges)
    seconds: float = 0.0
    voxels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    retire: bool = False
    """The worker cannot go on (a function that hangs holds one of its threads) and wants to be replaced."""

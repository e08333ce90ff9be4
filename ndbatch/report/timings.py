"""Time per block, from receipts in one pass: totals, mean, fitted line, slowest blocks. Everything here is seconds.

Receipts come in batches of any order; memory does not grow with the number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.remotes.base import Array
from ndbatch.report.bottleneck import Times

POINTS = 2000
"""Most points drawn of a run, however many blocks it has."""
SLOWEST = 10
TOGETHER = 65536
"""Receipts summed at a time: batches are small, and each call of numpy costs more than their receipts."""
_DECADES, _PER_DECADE = (-7, 7), 200
"""Logarithmic bins from which the median is read, to about one percent."""


@dataclass(frozen=True)
class Timings:
    """Seconds of work a block (reading, computing and writing together), over all blocks of a stage.

    `slope` is that of the least-squares line over the block number, in seconds a block. `drift` is what that line gains
    from the first block to the last, as a share of the mean: 0.1 means that the last blocks took 10 % longer.
    `points` are (block, seconds), thinned to at most 2000, in block order; `slowest` are receipts, the slowest first.
    """

    blocks: int
    totals: Times
    mean: float
    median: float
    longest: float
    slope: float
    drift: float
    centre: float
    """Mean block number, where the fitted line passes through the mean."""
    points: tuple[NDArray[np.float64], NDArray[np.float64]]
    slowest: Array

    def document(self) -> dict[str, float]:
        """Return the numbers for summary.json."""
        return {name: getattr(self, name) for name in ("mean", "median", "longest", "slope", "drift")}


def work(receipts: Array) -> NDArray[np.float64]:
    """Return the seconds of reading, computing and writing of each block."""
    seconds: NDArray[np.float64] = receipts["read"].astype(np.float64) + receipts["compute"] + receipts["write"]
    return seconds


def timings(batches: Iterable[Array], planned: int) -> Timings | None:
    """Return the timings of the blocks in `batches` (journal.RECEIPT records, any order); None without blocks.

    `planned` is the number of blocks of the stage: it sets how far the points are thinned.
    """
    gathered = _Gathered(max(1, -(-planned // (POINTS - SLOWEST))))
    waiting: list[Array] = []
    held = 0
    for receipts in batches:
        waiting.append(receipts)
        if (held := held + len(receipts)) >= TOGETHER:
            gathered.add(np.concatenate(waiting))
            waiting, held = [], 0
    if held:
        gathered.add(np.concatenate(waiting))
    return gathered.result() if gathered.blocks else None


class _Gathered:
    """Running sums over batches of receipts."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.blocks = 0
        self.totals = dict.fromkeys(Times.__dataclass_fields__, 0.0)
        # Block numbers and seconds: sums about the running means (Welford; Chan et al. 1983), exact for long runs.
        self.mean_x = self.mean_y = self.spread = self.shared = 0.0
        self.first, self.last = math.inf, -math.inf
        self.bins = np.zeros((_DECADES[1] - _DECADES[0]) * _PER_DECADE, np.int64)
        self.kept: list[tuple[Array, Array]] = []
        self.slowest: Array | None = None

    def add(self, receipts: Array) -> None:
        seconds, number = work(receipts), receipts["block"].astype(np.float64)
        for name in self.totals:
            self.totals[name] += float(receipts[name].sum(dtype=np.float64))
        self._fit(number, seconds)
        place = (np.log10(np.maximum(seconds, 1e-300)) - _DECADES[0]) * _PER_DECADE
        self.bins += np.bincount(np.clip(place, 0, len(self.bins) - 1).astype(np.intp), minlength=len(self.bins))
        chosen = receipts["block"] % np.uint64(self.step) == 0
        if chosen.any():
            self.kept.append((number[chosen], seconds[chosen]))
        best = receipts if self.slowest is None else np.concatenate([self.slowest, receipts])
        self.slowest = best[np.lexsort((best["block"], -work(best)))[:SLOWEST]].copy()

    def _fit(self, number: NDArray[np.float64], seconds: NDArray[np.float64]) -> None:
        count, x, y = len(number), float(number.mean()), float(seconds.mean())
        together = self.blocks + count
        share = self.blocks * count / together
        self.spread += float(((number - x) ** 2).sum()) + (x - self.mean_x) ** 2 * share
        self.shared += float(((number - x) * (seconds - y)).sum()) + (x - self.mean_x) * (y - self.mean_y) * share
        self.mean_x += (x - self.mean_x) * count / together
        self.mean_y += (y - self.mean_y) * count / together
        self.first, self.last = min(self.first, float(number.min())), max(self.last, float(number.max()))
        self.blocks = together

    def result(self) -> Timings:
        assert self.slowest is not None
        slope = self.shared / self.spread if self.spread > 0 else 0.0
        place = int(np.searchsorted(np.cumsum(self.bins), self.blocks / 2))
        longest = float(work(self.slowest)[0])
        median = min(10 ** ((place + 0.5) / _PER_DECADE + _DECADES[0]), longest)
        return Timings(
            blocks=self.blocks,
            totals=Times(**self.totals),
            mean=self.mean_y,
            median=median if longest > 0 else 0.0,
            longest=longest,
            slope=slope,
            drift=slope * (self.last - self.first) / self.mean_y if self.mean_y > 0 else 0.0,
            centre=self.mean_x,
            points=self._points(),
            slowest=self.slowest,
        )

    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the thinned blocks and the slowest ones, each once, in block order."""
        assert self.slowest is not None
        number = np.concatenate([*(n for n, _ in self.kept), self.slowest["block"].astype(np.float64)])
        seconds = np.concatenate([*(s for _, s in self.kept), work(self.slowest)])
        unique, index = np.unique(number, return_index=True)
        return unique, seconds[index]


def slowest_rows(found: Timings) -> list[dict[str, Any]]:
    """Return the slowest blocks as mappings: block, seconds of work and of its parts, worker, attempt."""
    names = ("block", "read", "compute", "write", "worker", "attempt")
    return [
        {**{name: receipt[name].item() for name in names}, "seconds": float(seconds)}
        for receipt, seconds in zip(found.slowest, work(found.slowest), strict=True)
    ]

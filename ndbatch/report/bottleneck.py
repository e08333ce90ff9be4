"""What a run waited for, told from five totals of seconds.

Reading, computing and writing overlap in a worker, so their sums say nothing by themselves. What counts is how long the
computing thread stood still: `waited` because its input was not there yet, `stalled` because its last result was not
stored yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ndbatch.report.words import percent

NOTABLE = 0.10
"""Share of standing still below which computing is called the limit without reservation."""
DOMINANT = 0.33
"""Share of standing still from which its cause is called the bottleneck."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of all workers together."""

    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0
    waited: float = 0.0
    stalled: float = 0.0

    @property
    def occupied(self) -> float:
        """Seconds that the computing threads spent on blocks, standing still included."""
        return self.compute + self.waited + self.stalled


@dataclass(frozen=True, slots=True)
class Verdict:
    """The bottleneck: which one, the sentence for the reader, and what would help."""

    kind: Literal["nothing", "reading", "writing", "both", "computing"]
    sentence: str
    advice: str


def verdict(times: Times) -> Verdict:
    """Return what the run waited for."""
    if times.occupied <= 0:
        return Verdict("nothing", "No block was computed, so nothing was waited for.", "")
    waited, stalled = times.waited / times.occupied, times.stalled / times.occupied
    idle = waited + stalled
    if idle < DOMINANT:
        return _computing(waited, stalled)
    if min(waited, stalled) >= idle / 3:
        return Verdict(
            "both",
            f"The run waited for storage: computing stood still {percent(idle)} of the time, {percent(waited)} for "
            f"inputs to arrive and {percent(stalled)} for results to be stored.",
            "Faster storage helps, or chunks that fit the blocks; more workers help only where the storage has reserves.",
        )
    if waited > stalled:
        return Verdict(
            "reading",
            f"The run waited for reading: computing stood still {percent(waited)} of the time because inputs were not "
            "there.",
            "Larger blocks read less halo, chunks that fit the blocks are read once, and data on a local disk arrive sooner.",
        )
    return Verdict(
        "writing",
        f"The run waited for writing: computing stood still {percent(stalled)} of the time because results were not "
        "stored yet.",
        "Larger chunks or shards make fewer files, and a target on a local disk stores sooner.",
    )


def _computing(waited: float, stalled: float) -> Verdict:
    """Return the verdict where computing was the limit."""
    advice = "More workers would make it faster as long as there are cores and memory for them."
    if waited + stalled < NOTABLE:
        words = "The run was limited by computing: reading and writing went on behind it and cost next to nothing."
        return Verdict("computing", words, advice)
    causes = [(waited, "inputs to arrive"), (stalled, "results to be stored")]
    told = " and ".join(f"{percent(share)} of it waiting for {what}" for share, what in causes if share >= 0.01)
    words = (
        f"The run was limited by computing, which was busy {percent(1 - waited - stalled)} of the time, with {told}."
    )
    return Verdict("computing", words, advice)

"""Sets of block numbers as runs of consecutive numbers: a run of 1e8 blocks is a handful of pairs, never a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ndbatch.remotes.base import Array


@dataclass(frozen=True)
class Ranges:
    """A set of non-negative integers, kept as sorted, disjoint, non-touching half-open pairs."""

    pairs: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def upto(count: int) -> Ranges:
        """Return 0 .. count - 1."""
        return Ranges(((0, count),) if count > 0 else ())

    @staticmethod
    def of(parts: Iterable[Array]) -> Ranges:
        """Return the numbers in integer arrays of any order; repeated numbers count once."""
        starts: list[Array] = []
        stops: list[Array] = []
        for part in parts:
            numbers = np.unique(part).astype(np.int64)
            if len(numbers):
                breaks = np.flatnonzero(np.diff(numbers) != 1)
                starts.append(numbers[np.r_[0, breaks + 1]])
                stops.append(numbers[np.r_[breaks, len(numbers) - 1]] + 1)
        if not starts:
            return Ranges()
        first, last = np.concatenate(starts), np.concatenate(stops)
        order = np.argsort(first, kind="stable")
        first, last = first[order], np.maximum.accumulate(last[order])
        cut = np.flatnonzero(first[1:] > last[:-1])
        merged = zip(first[np.r_[0, cut + 1]].tolist(), last[np.r_[cut, len(last) - 1]].tolist(), strict=True)
        return Ranges(tuple(merged))

    def __len__(self) -> int:
        return sum(b - a for a, b in self.pairs)

    def __iter__(self) -> Iterator[int]:
        for a, b in self.pairs:
            yield from range(a, b)

    def __contains__(self, number: object) -> bool:
        return any(a <= number < b for a, b in self.pairs) if isinstance(number, int) else False

    def minus(self, other: Ranges) -> Ranges:
        """Return the numbers of this set that are not in `other`."""
        result: list[tuple[int, int]] = []
        gone = list(other.pairs)
        place = 0
        for a, b in self.pairs:
            while place < len(gone) and gone[place][1] <= a:
                place += 1
            at = place
            while a < b and at < len(gone) and gone[at][0] < b:
                if gone[at][0] > a:
                    result.append((a, gone[at][0]))
                a = max(a, gone[at][1])
                at += 1
            if a < b:
                result.append((a, b))
        return Ranges(tuple(result))

    def take(self, count: int) -> tuple[Ranges, Ranges]:
        """Return the first `count` numbers and the rest."""
        head: list[tuple[int, int]] = []
        pairs = list(self.pairs)
        while count > 0 and pairs:
            a, b = pairs[0]
            step = min(count, b - a)
            head.append((a, a + step))
            count -= step
            if a + step == b:
                pairs.pop(0)
            else:
                pairs[0] = (a + step, b)
        return Ranges(tuple(head)), Ranges(tuple(pairs))

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndbatch.remotes.base import Array
from ndbatch.report.timings import POINTS, timings, work


def in_batches(found: Array, size: int, seed: int) -> list[Array]:
    """Return the receipts in shuffled batches, as workers bring them."""
    shuffled = found[np.random.default_rng(seed).permutation(len(found))]
    return [shuffled[i : i + size] for i in range(0, len(found), size)]


@settings(max_examples=30, deadline=None)
@given(number=st.integers(2, 300), size=st.integers(1, 50), seed=st.integers(0, 99))
def test_one_pass_equals_the_fit_of_all_blocks(
    make_receipts: Callable[..., Array], number: int, size: int, seed: int
) -> None:
    found = make_receipts(range(number))
    found["compute"] += np.random.default_rng(seed).random(number).astype(np.float32)
    got = timings(in_batches(found, size, seed), number)
    assert got is not None
    seconds = work(found)
    slope, _ = np.polyfit(np.arange(number), seconds, 1)
    assert got.blocks == number
    assert got.mean == pytest.approx(seconds.mean())
    assert got.slope == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert got.drift == pytest.approx(slope * (number - 1) / seconds.mean(), rel=1e-6, abs=1e-7)
    assert got.longest == pytest.approx(seconds.max())
    assert got.totals.compute == pytest.approx(found["compute"].astype(float).sum())
    assert sorted(seconds)[(number - 1) // 2] / 1.02 <= got.median <= sorted(seconds)[number // 2] * 1.02


def test_points_are_thinned_and_keep_the_slowest_blocks(make_receipts: Callable[..., Array]) -> None:
    found = make_receipts(range(100_000), seconds=0.001)
    found["compute"] = 0.01
    found["compute"][77_777] = 9.0
    got = timings(in_batches(found, 4096, 3), 100_000)
    assert got is not None
    number, seconds = got.points
    assert 1000 < len(number) <= POINTS
    assert (np.diff(number) > 0).all()
    assert seconds[number == 77_777] == pytest.approx(9.03)
    assert got.slowest["block"][0] == 77_777
    assert got.median == pytest.approx(0.04, rel=0.02)


def test_the_order_of_batches_does_not_matter(make_receipts: Callable[..., Array]) -> None:
    found = make_receipts(range(500))
    one, other = (timings(in_batches(found, 37, seed), 500) for seed in (1, 2))
    assert one is not None
    assert other is not None
    assert one.slowest.tolist() == other.slowest.tolist()
    assert one.points[1].tolist() == other.points[1].tolist()


def test_no_blocks_no_timings(make_receipts: Callable[..., Array]) -> None:
    assert timings([], 10) is None
    assert timings([make_receipts([])], 10) is None

"""Lengths, and their way into voxels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.errors import PlanError
from ndbatch.units import has_unit, in_voxels, micrometres, to_halo


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12 um", 12),
        ("290nm", 0.29),
        ("1.5e-3 mm", 1.5),
        ("4 µm", 4),
        ("4 μm", 4),
        ("10 Å", 1e-3),
        ("2 micron", 2),
        ("1 m", 1e6),
    ],
)
def test_micrometres(text: str, value: float) -> None:
    assert micrometres(text) == pytest.approx(value)
    assert has_unit(text)


@pytest.mark.parametrize("text", ["12", "um", "12 parsec", "1,5 um", "", "12 um 3"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(PlanError, match="is not a length; write a number and a unit"):
        micrometres(text)


def test_lengths_need_a_voxel_size() -> None:
    assert in_voxels("12 um", (0.5, 0.25, 0.25), 3) == pytest.approx((24, 48, 48))
    with pytest.raises(PlanError, match=r"diameter: 12 um cannot be turned into voxels.*add voxel_size"):
        in_voxels("12 um", None, 3, "diameter")


def test_numbers_are_voxels_of_the_finest_axis() -> None:
    assert in_voxels(12, (1.0, 0.25, 0.5), 3) == pytest.approx((3, 12, 6))
    assert in_voxels("12", (1.0, 0.25, 0.5), 3) == pytest.approx((3, 12, 6))
    assert in_voxels(12, None, 2) == (12.0, 12.0)
    for value in (math.inf, math.nan):
        with pytest.raises(PlanError, match="not a finite number"):
            in_voxels(value, None, 3)
    with pytest.raises(PlanError, match="'wide' is not a length"):
        in_voxels("wide", None, 3)


@given(st.integers(1, 500), st.lists(st.floats(0.01, 100), min_size=1, max_size=3))
def test_a_halo_is_whole_and_wide_enough(count: int, size: list[float]) -> None:
    halo = to_halo(f"{count * size[0]!r} um", size, len(size))
    assert halo[0] == count
    assert all(h * s >= count * size[0] * (1 - 1e-6) for h, s in zip(halo, size, strict=True))
    assert to_halo(count, size, len(size)) == (count,) * len(size)

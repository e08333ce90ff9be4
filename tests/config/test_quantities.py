"""Amounts of memory and lengths of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.config.quantities import parse_bytes, parse_seconds
from ndbatch.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4 GB", 4 * 10**9),
        ("4GiB", 2**32),
        ("1.5 kb", 1500),
        ("512M", 512 * 10**6),
        ("1 byte", 1),
        (".5 TB", 5 * 10**11),
    ],
)
def test_bytes(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "4", "GB", "4 GX", "-4 GB", "0 GB", "4 GB 2 MB", "four GB", "0.1 B", "nan GB"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an amount of memory; write a number and a unit, such as 4 GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (3, 3.0),
        (0.5, 0.5),
        ("90 s", 90.0),
        ("5min", 300.0),
        ("1 h 30 min", 5400.0),
        ("2 days", 172800.0),
        ("250 ms", 0.25),
    ],
)
def test_seconds(time: float | int | str, seconds: float) -> None:
    assert parse_seconds(time) == seconds


@pytest.mark.parametrize(
    "time", ["", "5", "min", "5 lightyears", "1:30", "1 h later", 0, -3, float("nan"), float("inf"), "0 s"]
)
def test_no_length_of_time(time: float | int | str) -> None:
    with pytest.raises(ConfigError, match="is not a length of time"):
        parse_seconds(time)


@given(st.integers(1, 10**6), st.sampled_from(["kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_binary_prefixes_are_larger(amount: int, unit: str) -> None:
    factor = (1024 if "i" in unit else 1000) ** ("KMG".index(unit[0].upper()) + 1)
    assert parse_bytes(f"{amount} {unit}") == amount * factor

import math

import pytest

from ndbatch.report import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00096, "0.96 ms"),
        (0.35, "0.35 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "1 d"),
        (273600, "3 d 4 h"),
        (math.inf, "?"),
        (-1, "?"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")])
def test_nbytes(number: float, text: str) -> None:
    assert words.nbytes(number) == text


def test_percent_never_rounds_to_none_or_all() -> None:
    assert [words.percent(p) for p in (0, 0.004, 0.63, 0.997, 1)] == ["0 %", "under 1 %", "63 %", "over 99 %", "100 %"]


def test_count_and_scaled() -> None:
    assert words.count(1, "block") == "1 block"
    assert words.count(12345, "block") == "12,345 blocks"
    assert words.scaled(12_300_000, "voxel") == "12.3 Mvoxel"


def test_facts_name_the_step_only_where_two_steps_tell_the_same() -> None:
    told = {"nuclei": {"threshold": 117.0, "nuclei": 20}, "threshold": {"threshold": 3}, "plain": 5}
    assert words.facts(told) == [
        ("nuclei threshold", "117"),
        ("nuclei", "20"),
        ("threshold threshold", "3"),
        ("plain", "5"),
    ]


def test_facts_of_steps_of_one_kind_are_named_by_what_they_make() -> None:
    low, high = {"threshold low": {"threshold": 100}}, {"threshold high": {"threshold": 200}}
    assert words.facts(low) == [("low threshold", "100")], "also where only one of them is told"
    assert words.facts(low, high) == [("low threshold", "100"), ("high threshold", "200")]
    mixed = words.named_facts({"nuclei": {"threshold": 1.5}}, low)
    assert mixed == [("nuclei threshold", 1.5), ("low threshold", 100)]
    once = words.facts({"percentile": {"low": 3}}, {"percentile": {"high": 4}})
    assert once == [("low", "3"), ("high", "4")], "two passes of one step"


def test_value_is_short_and_total() -> None:
    assert words.value(1234567) == "1,234,567"
    assert words.value(0.123456) == "0.1235"
    assert words.value([1, 2.5]) == "1, 2.5"
    assert words.value({"a_b": True}) == "a b yes"
    assert words.value(float("nan")) == "nan"

"""Copying and casting: nothing is lost without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndbatch.casting import cast
from ndbatch.errors import StepError
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Step
from ndbatch.steps.copy import Copy
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(1)


class TestCopy(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return Copy(input="a", output="b")

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": RNG.integers(0, 65535, (20, 31, 27), np.uint16)}

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Any]:
        return {"b": arrays["a"]}


class TestCopyTo32Bit(TestCopy):
    dtypes = {"b": "uint32"}  # noqa: RUF012

    @pytest.fixture
    def reference(self, arrays: dict[str, Array]) -> dict[str, Any]:
        return {"b": arrays["a"].astype(np.uint32)}


def test_copy_refuses_what_does_not_fit() -> None:
    with pytest.raises(StepError, match=r"b: the value 300 does not fit uint8 \(0 to 255\); set dtype: uint16"):
        run_operation(Copy(input="a", output="b"), {"a": np.array([[1, 300]])}, (1, 1), dtypes={"b": "uint8"})


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.array([0, 255], np.int64), "uint8", [0, 255]),
        (np.array([0.5, 1.5, 2.4, 254.6], np.float32), "uint8", [0, 2, 2, 255]),
        (np.array([-0.4], np.float32), "uint8", [0]),
        (np.array([True, False]), "float32", [1.0, 0.0]),
        (np.array([0, 1], np.uint8), "bool", [False, True]),
        (np.array([2**24, 2**25], np.uint32), "float32", [2.0**24, 2.0**25]),
        (np.array([1.0, np.nan, np.inf]), "float32", [1.0, np.nan, np.inf]),
        (np.array([2**63], np.uint64), "float64", [2.0**63]),
        (np.array([], np.float64), "uint8", []),
    ],
)
def test_cast_keeps(values: Array, dtype: str, expected: list[Any]) -> None:
    made = cast(values, dtype, "x")
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, np.array(expected, dtype))


@pytest.mark.parametrize(
    ("values", "dtype", "words", "holds"),
    [
        (np.array([-1, 3], np.int16), "uint8", "-1 does not fit uint8", "int8"),
        (np.array([2**32], np.uint64), "uint32", r"4294967296 does not fit uint32 \(0 to 4294967295\)", "uint64"),
        (np.array([2**64 - 1], np.uint64), "int64", "does not fit int64", "uint64"),
        (np.array([1.0, np.nan]), "int32", "nan does not fit int32", "float64"),
        (np.array([np.inf], np.float32), "uint8", "inf does not fit", "float32"),
        (np.array([255.6]), "uint8", "256.0 does not fit", "uint16"),
        (np.array([2**63], np.float64), "int64", "does not fit int64", "uint64"),
        (np.array([1e39]), "float32", r"1e\+39 does not fit float32", "float64"),
        (np.array([2**24 + 1], np.uint32), "float32", "16777217 does not fit float32", "uint32"),
        (np.array([2**53 + 1], np.uint64), "float64", "9007199254740993 does not fit float64", "uint64"),
        (np.array([2**64 - 1], np.uint64), "float64", "18446744073709551615 does not fit float64", "uint64"),
        (np.array([2], np.uint8), "bool", r"2 does not fit bool \(0 or 1\)", "uint8"),
        (np.array([1j]), "float32", "complex128 cannot be turned", None),
    ],
)
def test_cast_refuses(values: Array, dtype: str, words: str, holds: str | None) -> None:
    with pytest.raises(StepError, match=words) as caught:
        cast(values, dtype, "outputs.x")
    assert caught.value.message.startswith("outputs.x: ")
    assert caught.value.fields.get("holds") == holds

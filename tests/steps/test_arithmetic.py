"""Arithmetic: numpy's own answers, types that hold them, and nothing that can be called but what is listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ndbatch.errors import ConfigError, StepError
from ndbatch.remotes.base import Array
from ndbatch.steps.arithmetic.expression import FUNCTIONS, SHORT, arity, evaluate, names_in, parse, range_of
from ndbatch.steps.arithmetic.step import Arithmetic
from ndbatch.steps.base import Step
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(8)
A = RNG.integers(0, 256, (14, 19, 23), np.uint8)
B = RNG.integers(0, 65536, A.shape, np.uint16)
F = RNG.normal(size=A.shape).astype(np.float32)


class TestArithmetic(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return Arithmetic(
            expression="(a - b) / 2 > 10 or sqrt(abs(f)) < 0.1",
            inputs={"a": "image", "b": "back", "f": "real"},
            output="x",
        )

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"image": A, "back": B, "real": F}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        wide = (A.astype(float) - B) / 2 > 10
        return {"x": (wide | (np.sqrt(np.abs(F.astype(float))) < 0.1)).astype(np.uint8)}


def made(text: str, dtype: str | None = None, **arrays: Array) -> Array:
    step = Arithmetic(expression=text, inputs={name: name for name in arrays}, output="x")
    result: Array = run_operation(step, arrays, (100,) * A.ndim, dtypes={"x": dtype} if dtype else None)["x"]
    return result


@pytest.mark.parametrize(
    ("text", "expected", "dtype"),
    [
        ("a + a", A.astype(int) * 2, "uint16"),
        ("a - b", A.astype(int) - B, "int32"),
        ("-a", -A.astype(int), "int16"),
        ("a * b", A.astype(int) * B, "uint32"),
        ("a ** 3", A.astype(int) ** 3, "uint32"),
        ("a / 2", A / 2, "float32"),
        ("a // 7 + a % 7", A // 7 + A % 7, "uint16"),
        ("minimum(a, 9)", np.minimum(A, 9), "uint8"),
        ("clip(b, 10, 200)", np.clip(B, 10, 200), "uint8"),
        ("where(a > 100, a, 0)", np.where(A > 100, A, 0), "uint8"),
        ("10 < a <= 20", (A > 10) & (A <= 20), "uint8"),
        ("not (a > 3 and b > 5)", ~((A > 3) & (B > 5)), "uint8"),
        ("(a > 3) & (b > 5) ^ True", ((A > 3) & (B > 5)) ^ True, "uint8"),
        ("~a & 15", ~A.astype(int) & 15, "int16"),
        ("a | 256", A.astype(int) | 256, "uint16"),
        ("round(f * 10)", np.rint(F.astype(float) * 10), "float32"),
        ("exp(f) * pi", np.exp(F.astype(float)) * np.pi, "float32"),
        ("log1p(a) ** 0.5", np.log1p(A.astype(float)) ** 0.5, "float32"),
        ("isfinite(1 / (a - a))", np.zeros(A.shape), "uint8"),
        ("sign(f)", np.sign(F), "float32"),
        ("abs(a - b)", np.abs(A.astype(int) - B), "uint16"),
        ("(a > 3) + (b > 3)", (A > 3).astype(int) + (B > 3), "uint8"),
        ("max(a > 3, b > 3)", (A > 3) | (B > 3), "uint8"),
    ],
)  # fmt: skip
def test_it_is_numpy(text: str, expected: Array, dtype: str) -> None:
    used = {name: array for name, array in {"a": A, "b": B, "f": F}.items() if name in names_in(parse(text))}
    got = made(text, None, **used)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected.astype(dtype))


def test_the_output_may_ask_for_a_dtype() -> None:
    assert made("a - a", "uint8", a=A).dtype == "uint8"
    assert made("a / 3", "float64", a=A).dtype == "float64"
    assert made("f * 2", f=F.astype(np.float64)).dtype == "float64"
    with pytest.raises(StepError, match="does not fit uint8"):
        made("a - b", "uint8", a=A, b=B)


def test_integers_never_wrap() -> None:
    big = np.full((3, 3, 3), 2**62, np.int64)
    assert (made("a + (a - 1)", a=big) == 2**63 - 1).all()
    for text in ("a + a", "a * 3", "a ** 2", "a - (0 - a) - 0"):
        with pytest.raises(StepError, match=r"x: .* leaves 64 bits; make an argument floating point"):
            made(text, a=big)
    assert (made("a * 3.0", a=big, dtype="float64") == 3 * 2.0**62).all()
    with pytest.raises(StepError, match="a holds 18446744073709551615, beyond the integers"):
        made("a + 0", a=np.full((2, 2, 2), 2**64 - 1, np.uint64))
    assert made("a // 0 + a % 0", a=A).max() == 0


@given(st.data())
def test_ranges_hold_every_value(data: st.DataObject) -> None:
    """Any expression of small integers lies within the range that was foretold."""

    def part(depth: int) -> Any:
        if depth == 0:
            return st.sampled_from(["a", "b", "3", "-7", "0"])
        two = st.tuples(part(depth - 1), part(depth - 1))
        return st.one_of(
            part(depth - 1),
            st.tuples(two, st.sampled_from("+-*%|&^")).map(lambda p: f"({p[0][0]} {p[1]} {p[0][1]})"),
            two.map(lambda p: f"({p[0]} // {p[1]})"),
            two.map(lambda p: f"where({p[0]} > 0, {p[0]}, {p[1]})"),
            st.tuples(part(depth - 1), st.sampled_from(["abs", "sign", "square", "-", "~", "rint"])).map(
                lambda p: f"{p[1]}({p[0]})"
            ),
        )

    text = data.draw(part(2))
    arrays = {"a": np.array([-128, -3, 0, 5, 127], np.int8), "b": np.array([0, 255, 1, 7, 128], np.uint8)}
    tree = parse(text)
    found = range_of(tree, {name: array.dtype for name, array in arrays.items()})
    value = evaluate(tree, arrays, "x")
    assert found.kind == {"b": "b", "i": "i", "f": "f"}[value.dtype.kind]
    if found.kind == "i":
        assert found.low <= int(value.min())
        assert int(value.max()) <= found.high


def test_every_function_can_be_called() -> None:
    array = np.array([1.0, 0.5])
    for name in FUNCTIONS - {"bitwise_and", "bitwise_or", "bitwise_xor", "invert"}:
        arguments = ", ".join("a" * arity(SHORT.get(name, name)))
        assert evaluate(parse(f"{name}({arguments})"), {"a": array}, "x").shape == (2,)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "a.dtype", "a[0]", "lambda: a", "open('x')", "[a]", "a if a else b", "f'{a}'",
        "'text'", "a @ a", "a << 3", "a is a", "a in a", "exec('1')", "eval('a')", "sqrt(a, out=a)", "(lambda x: x)(a)",
        "np.sqrt(a)", "{**a}", "a := 3", "1j", "...", "sqrt(*a)", "tofile(a)", "a; a", "",
    ],
)  # fmt: skip
def test_nothing_else_can_be_said(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no expression|is not possible in an expression|takes 1 arg"):
        parse(text)


def test_mistakes_are_told() -> None:
    for fields, words in (
        ({"expression": "a + c", "inputs": {"a": "x"}}, "uses c, which inputs does not name; it names a"),
        ({"expression": "a", "inputs": {"a": "x", "b": "y"}}, "does not use b"),
        ({"expression": "a", "inputs": {"sqrt": "x"}}, "'sqrt' cannot be a name"),
        ({"expression": "sqrt(a, a)", "inputs": {"a": "x"}}, "sqrt takes 1 arguments, not 2"),
        ({"expression": "99999999999999999999 + a", "inputs": {"a": "x"}}, "beyond 64 bits"),
    ):
        with pytest.raises(ValidationError, match=words):
            Arithmetic(output="z", **fields)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="bitwise_and of floating point numbers has no meaning"):
        made("f & 1", f=F)


def test_deep_expressions_end_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="is no expression"):
        parse("(" * 5000 + "a" + ")" * 5000)

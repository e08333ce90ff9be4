"""Expressions of arrays: `(a - b) / 2 > 10`, parsed into a tree of numpy functions by name. Nothing else can be called.

Types. Voxels and numbers are truth values, integers or floating point. Integers are computed as int64, so that 3 - 5 is -2
whatever the inputs' types, floating point as float64. `/`, roots, logarithms and the like give floating point; comparisons,
`and`, `or`, `not` truth values; the others an integer where all their arguments are integers. `a ** n` of integers needs a
whole number n from 0 up, else it is floating point. For integers `x // 0` and `x % 0` are 0. An integer beyond int64 is an
error, never wrapped: the range of every part is followed from the inputs' types, and values are looked at only where it
could be left.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from ndbatch.errors import ConfigError, StepError
from ndbatch.remotes.base import Array

INT64 = (-(2**63), 2**63 - 1)
CONSTANTS = {"pi": float(np.pi), "e": float(np.e), "inf": float("inf"), "nan": float("nan")}


@dataclass(frozen=True)
class Range:
    """What a part of an expression can be: b (truth values), i (integers from `low` to `high`) or f (floating point)."""

    kind: Literal["b", "i", "f"]
    low: int = 0
    high: int = 1

    @property
    def overflows(self) -> bool:
        """Whether integers may leave int64."""
        return self.kind == "i" and not (INT64[0] <= self.low and self.high <= INT64[1])


@dataclass(frozen=True)
class Name:
    """An input by its name."""

    name: str


@dataclass(frozen=True)
class Number:
    """A number that was written."""

    value: bool | int | float


@dataclass(frozen=True)
class Call:
    """A function of other parts."""

    function: str
    arguments: tuple[Node, ...]


Node = Name | Number | Call

FLOATING = (
    "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin", "arccos", "arctan",
    "arctan2", "sinh", "cosh", "tanh", "hypot", "divide",
)  # fmt: skip
"""numpy's functions that give floating point."""
TRUTH = (
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "isnan", "isfinite", "isinf", "logical_and",
    "logical_or", "logical_not", "logical_xor",
)  # fmt: skip
WHOLE = ("bitwise_and", "bitwise_or", "bitwise_xor", "invert")
ROUNDING = ("floor", "ceil", "rint", "trunc")
SAME = ("add", "subtract", "multiply", "floor_divide", "remainder", "power", "negative", "positive", "absolute", "square", "sign",
        "minimum", "maximum")  # fmt: skip
"""numpy's functions that give an integer for integers."""
SHORT = {"abs": "absolute", "min": "minimum", "max": "maximum", "pow": "power", "round": "rint", "mod": "remainder"}
"""Other names that are taken."""
ARITY = {"where": 3, "clip": 3}
OPERATORS: Mapping[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder", ast.Pow: "power", ast.BitAnd: "bitwise_and", ast.BitOr: "bitwise_or", ast.BitXor: "bitwise_xor",
    ast.USub: "negative", ast.UAdd: "positive", ast.Invert: "invert", ast.Not: "logical_not",
    ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal", ast.NotEq: "not_equal",
    ast.And: "logical_and", ast.Or: "logical_or",
}  # fmt: skip
FUNCTIONS = frozenset({*FLOATING, *TRUTH, *WHOLE, *ROUNDING, *SAME, *SHORT, *ARITY})


def arity(function: str) -> int:
    """Return the number of arguments that a function takes."""
    return ARITY.get(function) or int(getattr(np, function).nin)


@cache
def parse(text: str) -> Node:
    """Return the tree of an expression. ConfigError for what is no expression, or calls anything that is not listed."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        said = getattr(error, "msg", None) or str(error)
        raise ConfigError(f"{text!r} is no expression: {said}; write such as (a - b) / 2 > 10") from None
    return _node(tree.body, text)


def names_in(node: Node) -> frozenset[str]:
    """Return the names of the inputs that an expression reads."""
    if isinstance(node, Call):
        return frozenset().union(*(names_in(part) for part in node.arguments))
    return frozenset({node.name}) if isinstance(node, Name) else frozenset()


def _node(tree: ast.expr, text: str) -> Node:
    """Return a part of the tree; everything that is not listed is refused."""
    match tree:
        case ast.Constant(value=bool() | int() | float() as value):
            if not isinstance(value, float) and not INT64[0] <= value <= INT64[1]:
                raise ConfigError(f"{text!r}: {value} is beyond 64 bits")
            return Number(value)
        case ast.Name(id=name):
            return Number(CONSTANTS[name]) if name in CONSTANTS else Name(name)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return Call(OPERATORS[type(op)], (_node(operand, text),))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
            return Call(OPERATORS[type(op)], (_node(left, text), _node(right, text)))
        case ast.BoolOp(op=op, values=values):
            return _chain(OPERATORS[type(op)], [_node(value, text) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in OPERATORS for op in ops):
            parts = [_node(part, text) for part in (left, *others)]
            pairs = zip(ops, parts, parts[1:], strict=False)
            return _chain("logical_and", [Call(OPERATORS[type(op)], (a, b)) for op, a, b in pairs])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return _call(SHORT.get(name, name), tuple(_node(arg, text) for arg in args), text)
    raise ConfigError(
        f"{text!r}: {ast.unparse(tree)} is not possible in an expression; there are + - * / // % ** & | ^ ~, comparisons, "
        f"and, or, not, and the functions {', '.join(sorted(FUNCTIONS))}"
    )


def _call(function: str, arguments: tuple[Node, ...], text: str) -> Node:
    if len(arguments) != arity(function):
        raise ConfigError(f"{text!r}: {function} takes {arity(function)} arguments, not {len(arguments)}")
    if function == "clip":
        return Call("minimum", (Call("maximum", arguments[:2]), arguments[2]))
    return Call(function, arguments)


def _chain(function: str, parts: list[Node]) -> Node:
    result = parts[0]
    for part in parts[1:]:
        result = Call(function, (result, part))
    return result


def range_of(node: Node, inputs: Mapping[str, np.dtype[Any]]) -> Range:
    """Return what an expression can be, given the types of its inputs. ConfigError for bits of floating point numbers."""
    if isinstance(node, Name):
        return _range_of_dtype(inputs[node.name])
    if isinstance(node, Number):
        if isinstance(node.value, float):
            return Range("f")
        return Range("b" if isinstance(node.value, bool) else "i", int(node.value), int(node.value))
    parts = [range_of(part, inputs) for part in node.arguments]
    name = node.function
    if name in TRUTH:
        return Range("b")
    if name in FLOATING:
        return Range("f")
    if name in WHOLE:
        return _bits(name, parts)
    values = parts[1:] if name == "where" else parts
    if any(part.kind == "f" for part in values):
        return Range("f")
    if name == "power" and not _whole_exponent(node):
        return Range("f")
    if all(part.kind == "b" for part in values) and name in ("where", "minimum", "maximum", *ROUNDING):
        return Range("b")
    ends = [(part.low, part.high) for part in values]
    low, high = _ENDS[name](*ends)
    # What leaves int64 is an error where it happens, so nothing beyond it comes out.
    return Range("i", low, high)


def _range_of_dtype(dtype: np.dtype[Any]) -> Range:
    if dtype.kind in "bf":
        return Range("b" if dtype.kind == "b" else "f")
    info = np.iinfo(dtype)
    return Range("i", int(info.min), min(int(info.max), INT64[1]))


def _bits(name: str, parts: list[Range]) -> Range:
    if any(part.kind == "f" for part in parts):
        raise ConfigError(
            f"{name} of floating point numbers has no meaning; compare them first, such as (a > 1) & (b > 2)"
        )
    if all(part.kind == "b" for part in parts):
        return Range("b")
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    bound = (1 << max(abs(low), abs(high) + 1).bit_length()) - 1
    return Range("i", -bound - 1 if low < 0 or name == "invert" else 0, min(bound, INT64[1]))


def _whole_exponent(node: Call) -> bool:
    exponent = node.arguments[1]
    return isinstance(exponent, Number) and isinstance(exponent.value, int) and 0 <= exponent.value <= 64


Ends = tuple[int, int]


def _product(a: Ends, b: Ends) -> Ends:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _power(a: Ends, n: Ends) -> Ends:
    corners = [a[0] ** n[0], a[1] ** n[0]]
    return min(*corners, 0), max(corners)


def _quotient(a: Ends, b: Ends) -> Ends:
    most = max(abs(a[0]), abs(a[1]))
    return (0 if a[0] >= 0 and b[0] >= 0 else -most), most


def _rest(a: Ends, b: Ends) -> Ends:
    return min(b[0], 0), max(b[1], 0)


def _joined(*ends: Ends) -> Ends:
    return min(a for a, _ in ends), max(b for _, b in ends)


_ENDS: Mapping[str, Callable[..., Ends]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "subtract": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "multiply": _product,
    "power": _power,
    "floor_divide": _quotient,
    "remainder": _rest,
    "negative": lambda a: (-a[1], -a[0]),
    "positive": _joined,
    "absolute": lambda a: (0, max(abs(a[0]), abs(a[1]))),
    "square": lambda a: (0, max(abs(a[0]), abs(a[1])) ** 2),
    "sign": lambda a: (-1, 1),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "where": _joined,
    **dict.fromkeys(ROUNDING, _joined),
}
"""From the ends of the arguments to the ends of the result, for integers."""


def evaluate(node: Node, arrays: Mapping[str, Array], where: str) -> Array:
    """Return the value of an expression voxel by voxel: bool, int64 or float64, of the shape of `arrays` (or a number's).

    Raises StepError, naming `where`, for an integer beyond int64.
    """
    return _Evaluation(arrays, where).value(node)


@dataclass(frozen=True)
class _Evaluation:
    arrays: Mapping[str, Array]
    where: str

    def value(self, node: Node) -> Array:
        """Return the voxels of a part."""
        if isinstance(node, Name):
            return self._widened(self.arrays[node.name], node.name)
        if isinstance(node, Number):
            return np.asarray(node.value)
        parts = [self.value(part) for part in node.arguments]
        if node.function == "where":
            return np.where(parts[0] != 0, parts[1], parts[2])
        if all(part.dtype.kind in "bi" for part in parts) and node.function not in (*TRUTH, *FLOATING, *WHOLE):
            return self._integers(node, parts)
        with np.errstate(all="ignore"):
            result: Array = getattr(np, node.function)(*(_numbers(node, part) for part in parts))
        return result

    def _widened(self, array: Array, name: str) -> Array:
        if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and int(array.max()) > INT64[1]:
            raise StepError(
                f"{self.where}: {name} holds {int(array.max())}, beyond the integers an expression computes with (int64)"
            )
        wide = {"b": "bool", "f": "float64"}.get(array.dtype.kind, "int64")
        return array.astype(wide, copy=False)

    def _integers(self, node: Call, parts: list[Array]) -> Array:
        """Return an integer function of integers; StepError where a result leaves int64."""
        if node.function in ROUNDING:
            return parts[0]
        if all(part.dtype.kind == "b" for part in parts) and node.function in ("minimum", "maximum"):
            return np.logical_and(*parts) if node.function == "minimum" else np.logical_or(*parts)
        if node.function == "power" and not _whole_exponent(node):
            with np.errstate(all="ignore"):
                return np.power(*(part.astype(np.float64) for part in parts))
        wide = [part.astype(np.int64, copy=False) for part in parts]
        function = getattr(np, node.function)
        with np.errstate(all="ignore"):
            if self._may_overflow(node, wide):
                rough = np.asarray(function(*(part.astype(np.float64) for part in wide)))
                if (np.abs(rough[np.isfinite(rough)]) >= 2.0**63).any():
                    raise StepError(
                        f"{self.where}: {node.function} leaves 64 bits; make an argument floating point, such as 1.0 * a"
                    )
            result: Array = function(*wide)
        return result

    def _may_overflow(self, node: Call, parts: list[Array]) -> bool:
        """Return whether a result may leave int64: by the types first, by the values where those allow it."""
        if not range_of(node, {name: array.dtype for name, array in self.arrays.items()}).overflows:
            return False
        ends = [(int(part.min()), int(part.max())) if part.size else (0, 0) for part in parts]
        low, high = _ENDS[node.function](*ends)
        return Range("i", low, high).overflows


def _numbers(node: Call, part: Array) -> Array:
    """Return truth values as integers where a function takes numbers alone."""
    plain = node.function in (*TRUTH, *WHOLE)
    return part if plain or part.dtype.kind != "b" else part.astype(np.int64)


def live_bytes(node: Node) -> int:
    """Return the most bytes a voxel that evaluating an expression holds at once, results of parts included."""
    if not isinstance(node, Call):
        return 8
    peak = max(8 * i + live_bytes(part) for i, part in enumerate(node.arguments))
    return max(peak, 8 * (len(node.arguments) + 1))

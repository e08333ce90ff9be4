"""One way from one dtype to another: what a value loses is refused, never silent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import StepError

Array = NDArray[Any]

INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")


def cast(array: Array, dtype: np.dtype[Any] | str, where: str) -> Array:
    """Return `array` as `dtype`, any shape; `array` itself where it has it already. `where` names it in messages.

    Floating point values become integers by rounding to the nearest (a tie to the even one): whoever asks for an integer
    image asks for that. Floating point values become narrower ones by rounding likewise. Everything else keeps its value
    or raises StepError: integers beyond the range, NaN or infinity to integers, finite values that would turn infinite,
    integers (ids) that a floating point number cannot hold exactly, other values than 0 and 1 to bool.
    """
    wanted = np.dtype(dtype)
    if array.dtype == wanted:
        return array
    if wanted.kind not in "buif" or array.dtype.kind not in "buif":
        raise StepError(
            f"{where}: {array.dtype} cannot be turned into {wanted}; use integers or floating point numbers"
        )
    if array.size == 0 or array.dtype.kind == "b":
        return array.astype(wanted)
    if wanted.kind == "f":
        return _to_float(array, wanted, where)
    whole = array
    if array.dtype.kind == "f":
        _require_finite(array, wanted, where)
        whole = np.rint(array)
    _require_range(whole, wanted, where)
    return whole.astype(wanted)


def _to_float(array: Array, wanted: np.dtype[Any], where: str) -> Array:
    """Return `array` as a floating point type; StepError where an integer or the range is lost."""
    with np.errstate(over="ignore"):
        result = array.astype(wanted)
    if array.dtype.kind == "f":
        lost = np.isinf(result) & np.isfinite(array)
    elif np.iinfo(array.dtype).bits - (array.dtype.kind == "i") <= np.finfo(wanted).nmant + 1:
        return result
    else:
        exact = 2 ** (np.finfo(wanted).nmant + 1)
        if -exact <= int(array.min()) and int(array.max()) <= exact:
            return result
        # Long double holds every 64-bit integer where float64 does not, so the comparison itself loses nothing.
        lost = result.astype(np.longdouble) != array.astype(np.longdouble)
    if lost.any():
        raise _refusal(array[lost].reshape(-1)[0], array, wanted, where)
    return result


def _require_finite(array: Array, wanted: np.dtype[Any], where: str) -> None:
    strange = ~np.isfinite(array)
    if strange.any():
        value = array[strange].reshape(-1)[0]
        raise StepError(
            f"{where}: the value {value} does not fit {wanted}, which knows neither NaN nor infinity; set dtype: "
            f"{array.dtype} for this output, or replace such values before",
            value=float(value),
            dtype=str(wanted),
            holds=str(array.dtype),
        )


def _require_range(whole: Array, wanted: np.dtype[Any], where: str) -> None:
    """Raise StepError where a value of `whole` (integers, or floating point without fractions) leaves the range."""
    low, high = (0, 1) if wanted.kind == "b" else (int(np.iinfo(wanted).min), int(np.iinfo(wanted).max))
    smallest, largest = whole.min(), whole.max()
    if int(smallest) < low:
        raise _refusal(smallest, whole, wanted, where)
    if int(largest) > high:
        raise _refusal(largest, whole, wanted, where)


def _refusal(value: Any, array: Array, wanted: np.dtype[Any], where: str) -> StepError:
    """Return the error for `value`: what it is, what the dtype holds, and a dtype that would hold the whole array."""
    holds = holding(array)
    advice = f"set dtype: {holds} for this output" if holds else "no dtype holds all of its values"
    return StepError(
        f"{where}: the value {value} does not fit {wanted} ({_range(wanted)}); {advice}",
        value=value.item(),
        dtype=str(wanted),
        holds=holds,
    )


def _range(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return "0 or 1"
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return f"up to {info.max:.3g}, whole numbers exactly up to {2 ** (info.nmant + 1)}"
    return f"{np.iinfo(dtype).min} to {np.iinfo(dtype).max}"


def holding(array: Array) -> str | None:
    """Return the name of the smallest integer dtype that holds every value of `array` (whole numbers, not empty), or of
    the floating point dtype where they are no integers that any holds."""
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        return str(array.dtype)
    found = integer_for(int(low), int(high))
    return found or (str(array.dtype) if array.dtype.kind == "f" else None)


def integer_for(low: int, high: int) -> str | None:
    """Return the name of the smallest integer dtype, unsigned if possible, for values from `low` to `high`; None where
    there is none."""
    for name in INTEGERS:
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return name
    return None

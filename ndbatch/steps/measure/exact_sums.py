"""Sums without rounding: integers and floating point numbers added exactly, whatever the order and the grouping.

A sum is kept in *limbs*: one int64 array for each limb index k that is in use, a row for each sum, with the value
`sum(limbs[k] * 2**(32 * k))`. Integers start at limb 0; fractions have negative indices. Adding two sums adds limb by limb;
`carried` brings every limb back to 32 bits, so that nothing ever overflows. This is the long accumulator of Kulisch
(Computer Arithmetic and Validity, 2008), of which only the limbs in use are kept. Results are rounded once, at the end,
by `quotients` and `deviations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from ndbatch.remotes.base import Array

BITS = 32
"""Bits of a limb."""
MASK = (1 << BITS) - 1
SLAB = 1 << 18
"""Most values that `moments` takes at a time: their products, below 2**33 each, then add up to less than 2**53."""

Limbs = dict[int, Array]

_BAND = 608
"""Bits by which very large and very small float64 are scaled before squaring; twice that is a whole number of limbs."""


def carried(limbs: Mapping[int, Array]) -> Limbs:
    """Return the same sums with every limb in 0 .. 2**32 - 1 but the highest, which has the sign and is within +-2**31.

    Limbs that are 0 in every row are left out, but for one. Limbs given must be within +-2**62, so that up to 2**29
    carried sums can be added limb by limb before the next call.
    """
    result: Limbs = {}
    k, last = min(limbs), max(limbs)
    total = limbs[k]
    while k < last or (abs(total) > 1 << (BITS - 1)).any():
        result[k] = total & MASK
        total = total >> BITS
        k += 1
        if k in limbs:
            total = total + limbs[k]
    result[k] = total
    return {at: digits for at, digits in result.items() if digits.any()} or {0: np.zeros_like(total)}


def deposit(limbs: Limbs, totals: Array, bits: int) -> None:
    """Add `totals * 2**bits` to `limbs` in place; totals are int64 within +-2**53, a row each."""
    k, shift = divmod(bits, BITS)
    if shift == 0:
        limbs[k] = limbs[k] + totals if k in limbs else totals
        return
    low = (totals & MASK) << shift
    deposit(limbs, low & MASK, k * BITS)
    deposit(limbs, (low >> BITS) + ((totals >> BITS) << shift), (k + 1) * BITS)


def moments(values: Array, starts: Array) -> tuple[Limbs, Limbs]:
    """Return the sums and the sums of squares of `values` (1-D, at most `SLAB`, finite) over the segments that begin at
    `starts` (ascending, the first 0), exactly, carried."""
    if len(values) > SLAB:
        raise ValueError(f"{len(values)} values, at most {SLAB} at a time")
    sums: Limbs = {}
    squares: Limbs = {}
    for bits, part in _parts(values):
        deposit(sums, _by_segment(part, starts), bits)
    for bits, part in _square_parts(values):
        deposit(squares, _by_segment(part, starts), bits)
    nothing = np.zeros(len(starts), np.int64)
    return carried(sums or {0: nothing}), carried(squares or {0: nothing})


def _by_segment(part: Array, starts: Array) -> Array:
    """Return the totals of segments as int64; floating point parts are whole numbers, and their totals below 2**53."""
    totals: Array = np.add.reduceat(part, starts).astype(np.int64, copy=False)
    return totals


def _parts(values: Array) -> Iterator[tuple[int, Array]]:
    """Yield `(bits, part)` with `values == sum(part * 2**bits)`, parts whole numbers of at most 32 bits and a sign."""
    if values.dtype.kind == "f":
        yield from _digits(values.astype(np.float64))
    else:
        yield from _halfwords(values)


def _square_parts(values: Array) -> Iterator[tuple[int, Array]]:
    """Yield `(bits, part)` with `values**2 == sum(part * 2**bits)`, parts whole numbers below 2**33."""
    if values.dtype == np.float64:
        yield from _square_digits(values)
    elif values.dtype.kind == "f":
        wide = values.astype(np.float64)
        yield from _digits(wide * wide)  # 24 bits squared are exact in float64, and never leave its range
    else:
        parts = list(_halfwords(values))
        for i, (low, first) in enumerate(parts):
            yield 2 * low, first * first
            for high, second in parts[i + 1 :]:
                yield low + high, 2 * first * second


def _halfwords(values: Array) -> Iterator[tuple[int, Array]]:
    """Yield integers in parts of 16 bits, int64; the highest has the sign."""
    last = 16 * (max(2, values.dtype.itemsize) // 2 - 1)
    for bits in range(0, last + 1, 16):
        shifted = values >> bits if bits else values
        part = shifted if bits == last else shifted & np.array(0xFFFF, values.dtype)
        yield bits, part.astype(np.int64)


def _digits(rest: Array) -> Iterator[tuple[int, Array]]:
    """Yield finite float64 in digits of 32 bits, highest first, each a whole number as float64; `rest` is used up.

    Every step is exact: factors are powers of two, and what underflows on the way to `trunc` is 0 after it.
    """
    while (largest := max(float(rest.max()), -float(rest.min()))) > 0.0:
        bits = (math.frexp(largest)[1] - 1) // BITS * BITS
        digit = _scaled(rest, -bits)
        np.trunc(digit, out=digit)
        yield bits, digit
        rest -= _scaled(digit, bits)


def _scaled(values: Array, bits: int) -> Array:
    """Return `values * 2**bits`; ldexp, ten times slower, only where the factor is no float64."""
    result: Array = values * 2.0**bits if abs(bits) < 1020 else np.ldexp(values, bits)
    return result


def _square_digits(values: Array) -> Iterator[tuple[int, Array]]:
    """Yield the digits of squared float64, whose 106 bits are made of three exact products (Dekker 1971, Veltkamp).

    Values too large or too small to be squared in float64 are scaled by a power of two on the way.
    """
    size = np.abs(values)
    low, high = size < 2.0**-400, size >= 2.0**500
    for band, chosen in ((0, ~(low | high)), (_BAND, high), (-_BAND, low & (size > 0))):
        if not chosen.any():
            continue
        scaled = _scaled(np.where(chosen, values, 0.0), -band)
        spread = scaled * 134217729.0
        first = spread - (spread - scaled)
        second = scaled - first
        for product in (first * first, 2.0 * first * second, second * second):
            for bits, digit in _digits(product):
                yield bits + 2 * band, digit


def integers(limbs: Mapping[int, Array]) -> tuple[list[int], int]:
    """Return the sums as Python integers, and the power of two to multiply them with."""
    lowest = min(limbs)
    totals = [0] * len(limbs[lowest])
    for k in sorted(limbs):
        shift = BITS * (k - lowest)
        totals = [total + (digit << shift) for total, digit in zip(totals, limbs[k].tolist(), strict=True)]
    return totals, BITS * lowest


def quotients(limbs: Mapping[int, Array], counts: Array) -> Array:
    """Return each sum over its count as float64, rounded once; NaN where the count is 0."""
    result = np.full(len(counts), np.nan)
    plain = _as_int64(limbs, counts)
    exact = np.flatnonzero((counts > 0) & plain[1])
    result[exact] = plain[0][exact] / counts[exact]
    rows = np.flatnonzero((counts > 0) & ~plain[1])
    totals, power = integers({k: digits[rows] for k, digits in limbs.items()})
    for row, total, count in zip(rows.tolist(), totals, counts[rows].tolist(), strict=True):
        # Division of Python integers is rounded correctly whatever their size.
        result[row] = (total << power) / count if power >= 0 else total / (count << -power)
    return result


def _as_int64(limbs: Mapping[int, Array], counts: Array) -> tuple[Array, Array]:
    """Return the sums as int64, and where sum and count are exact as float64 too, so that one division rounds once."""
    if set(limbs) - {0, 1}:
        return np.zeros(len(counts), np.int64), np.zeros(len(counts), bool)
    nothing = np.zeros(len(counts), np.int64)
    low, high = limbs.get(0, nothing), limbs.get(1, nothing)
    fits = (abs(high) < 1 << 20) & (abs(low) <= 1 << BITS) & (counts < 1 << 53)
    return np.where(fits, high << BITS, 0) + np.where(fits, low, 0), fits


def deviations(sums: Mapping[int, Array], squares: Mapping[int, Array], counts: Array) -> Array:
    """Return the population standard deviation as float64, rounded once; NaN where the count is 0."""
    result = np.full(len(counts), np.nan)
    first, first_power = integers(sums)
    second, second_power = integers(squares)
    power = min(2 * first_power, second_power)
    up, across = second_power - power, 2 * first_power - power
    for row, (s, q, n) in enumerate(zip(first, second, counts.tolist(), strict=True)):
        if n > 0:
            result[row] = _root(n * (q << up) - (s * s << across), n * n, power)
    return result


def _root(above: int, below: int, power: int) -> float:
    """Return sqrt(above / below * 2**power), rounded once; `power` is even.

    The root is computed to more than 55 bits and rounded to odd (Boldo and Melquiond 2008), so that rounding it to
    float64 gives what rounding the true root would.
    """
    if above == 0:
        return 0.0
    shift = max(0, (116 - above.bit_length() + below.bit_length()) // 2)
    whole, rest = divmod(above << (2 * shift), below)
    root = math.isqrt(whole)
    root |= rest != 0 or root * root != whole
    power = power // 2 - shift
    return float(root << power) if power >= 0 else root / (1 << -power)

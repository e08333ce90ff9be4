"""Amounts of memory and lengths of time as people write them: `4 GB`, `5 min`.

Decimal prefixes are powers of 1000 (`1 GB` = 10^9 bytes), binary ones powers of 1024 (`1 GiB` = 2^30 bytes), as in IEC 80000-13.
"""

from __future__ import annotations

import math
import re

from ndbatch.errors import ConfigError

_BYTES = {"b": 1, "byte": 1, "bytes": 1}
for _power, _prefix in enumerate("kmgtp", 1):
    _BYTES |= {_prefix: 1000**_power, f"{_prefix}b": 1000**_power, f"{_prefix}ib": 1024**_power}

_SECONDS = {
    "ms": 1e-3,
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
_PART = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)\s*")


def parse_bytes(text: str) -> int:
    """Return an amount of memory such as `4 GB`, `512MiB` or `8G` in bytes; ConfigError if it is not one."""
    match = _PART.fullmatch(text)
    unit = _BYTES.get(match[2].lower()) if match else None
    amount = int(float(match[1]) * unit) if match and unit else 0
    if amount < 1:
        raise ConfigError(f"{text!r} is not an amount of memory; write a number and a unit, such as 4 GB")
    return amount


def parse_seconds(time: float | int | str) -> float:
    """Return a length of time in seconds: a number of seconds, or text such as `90 s`, `5 min`, `1 h 30 min`.

    Raises ConfigError for what is not a length of time above zero.
    """
    seconds = _seconds_of(time) if isinstance(time, str) else float(time)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"{time!r} is not a length of time; write seconds or a number and a unit, such as 5 min")
    return seconds


def _seconds_of(text: str) -> float:
    """Return the sum of the parts of `text`, or 0 where a part is not a time."""
    total, place = 0.0, 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or match[2].lower() not in _SECONDS:
            return 0.0
        total, place = total + float(match[1]) * _SECONDS[match[2].lower()], match.end()
    return total

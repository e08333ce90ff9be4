"""`normalize`: intensities on a common scale, from statistics of each whole volume or of each slice.

    - normalize: {input: image, output: even, method: percentile, low: 1, high: 99.8}
    - normalize: {input: image, output: flat, method: zscore, per: slice}

- *zscore*: less the mean, over the population standard deviation; both from exact sums, rounded once.
- *minmax*: the smallest and the largest value become the ends of a range.
- *percentile*: two percentiles (numpy's linear ones, exact) become the ends; what lies beyond is clipped.

Times and channels are measured each by itself. Voxels that are not finite are left out of the statistics; NaN stays NaN.
Where all values are equal, the result is 0 (zscore) or the lower end. One read finds mean or range, one to four the
percentiles (`percentiles.py`), one more makes the result. All arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch
from ndbatch.steps.pointwise import pointwise
from ndbatch.steps.statistics.frames import FrameMoments, FrameRange, Per, leading_axes
from ndbatch.steps.statistics.percentiles import percentile_passes
from ndbatch.steps.unary import Unary

Ends = Annotated[tuple[float, float], Field(strict=False)]


class Normalize(Unary):
    """Bring intensities to a common scale: by mean and deviation, by the range, or by two percentiles."""

    kind: ClassVar[str] = "normalize"

    input: str
    """The image."""
    output: str
    """The name of the result: float32 unless the output asks for another dtype."""
    method: Literal["zscore", "minmax", "percentile"] = "percentile"
    """zscore: less the mean, over the standard deviation. minmax: the smallest and the largest value become the ends of
    `range`. percentile: two percentiles become the ends, what lies beyond is clipped."""
    low: float | None = Field(default=None, ge=0, le=100)
    """The percentile that becomes the lower end (percentile); 1 if not given."""
    high: float | None = Field(default=None, ge=0, le=100)
    """The percentile that becomes the upper end (percentile); 99.8 if not given."""
    range: Ends | None = None
    """The ends (minmax, percentile); if not given, 0 and 1 for floating point results, else all of the dtype's range."""
    per: Per = "volume"
    """volume: statistics of the whole volume, each time and channel by itself. slice: of each slice along z by itself."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> Normalize:
        if self.method != "percentile" and (self.low is not None or self.high is not None):
            raise ValueError(f"low and high go with method percentile, not with {self.method}")
        if self.method == "zscore" and self.range is not None:
            raise ValueError("range goes with methods minmax and percentile, not with zscore")
        if self.method == "percentile" and not self.percents[0] < self.percents[1]:
            raise ValueError(f"low: {self.percents[0]:g} is not below high: {self.percents[1]:g}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {self.range[0]:g} is not below {self.range[1]:g}")
        return self

    @property
    def percents(self) -> tuple[float, float]:
        """The two percentiles, 0 to 100."""
        return 1.0 if self.low is None else self.low, 99.8 if self.high is None else self.high

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo; passes that find the statistics.

        Raises PlanError for an image that is neither integer nor floating point, and for a range beyond the output's.
        """
        info = inputs["input"]
        self.require_numbers(info)
        made = replace(info, dtype=dtypes.get("output", np.dtype(np.float32)), kind=Kind.IMAGE)
        leading = leading_axes(info, self.per)
        halo = (0,) * info.ndim
        passes: tuple[Pass, ...]
        if self.method == "percentile":
            passes = percentile_passes(
                info.dtype, info.ndim, dict(zip(("low", "high"), self.percents, strict=True)), leading, self.kind
            )
        elif self.method == "minmax":
            passes = (FrameRange("range", halo, leading, self.kind),)
        else:
            passes = (FrameMoments("moments", halo, leading, self.kind),)
        ends = None if self.method == "zscore" else self.range or ends_of(made.dtype)
        if ends is not None:
            require_within(ends, made.dtype, f"{self.kind}: range of {self.output}")
        return Rescaling(
            arrays={"output": made},
            passes=passes,
            # A pass copies a core that is not contiguous; slabs and tables are small beside it.
            working_bytes=info.dtype.itemsize + 1.0,
            leading=leading,
            ends=ends,
            state=passes[-1].name,
            name=self.output,
        )


def ends_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the ends of what a dtype of images holds: 0 and 1 for floating point and bool, else its range."""
    if dtype.kind in "fb":
        return 0.0, 1.0
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def require_within(ends: tuple[float, float], dtype: np.dtype[Any], what: str) -> None:
    """Raise PlanError where integers of `dtype` do not reach to the `ends`, or float64 would round them on the way."""
    low, high = ends_of(dtype)
    if dtype.kind == "f":
        return
    if ends[0] < low or ends[1] > high:
        raise PlanError(f"{what}: {ends[0]:g} to {ends[1]:g} is beyond {dtype}, which holds {low:g} to {high:g}")
    if max(-ends[0], ends[1]) > 2.0**53:
        raise PlanError(f"{what}: {dtype} reaches beyond 2^53, to which values are computed; use at most 32 bits")


@dataclass(frozen=True)
class Rescaling(Operation):
    """Values from between two found ones to between two `ends`, clipped, bent by `gamma`; without ends, less the mean over
    the deviation."""

    leading: int = field(kw_only=True)
    ends: tuple[float, float] | None = field(kw_only=True)
    state: str = field(kw_only=True)
    name: str = field(kw_only=True)
    gamma: float = field(default=1.0, kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the voxels of `box` on the new scale."""
        data = inputs["input"].crop(box)
        result = np.empty(box.shape, self.arrays["output"].dtype)
        for place, found in self.frames(box, states):
            pointwise(data[place], lambda values, own=found: self._scaled(values, own), result[place], self.name)  # type: ignore[misc]
        return {"output": result}

    def frames(self, box: Box, states: Mapping[str, Any]) -> Iterator[tuple[Shape, Mapping[str, float]]]:
        """Yield the place of every frame of `box` along the leading axes, and what was found of it, by name."""
        found = states[self.state]
        for place in np.ndindex(box.shape[: self.leading]):
            yield place, {name: float(value[place]) if self.leading else value for name, value in found.items()}

    def _scaled(self, values: Array, found: Mapping[str, float]) -> Array:
        """Return float64 `values` on the new scale, in place."""
        if self.ends is None:
            return scaled(values, found["mean"], found["deviation"])
        return self.bent(np.clip(scaled(values, found["low"], found["high"] - found["low"]), 0.0, 1.0))

    def bent(self, part: Array) -> Array:
        """Return float64 values from 0 to 1 bent by `gamma` and put between the ends, in place."""
        low, high = self.ends or (0.0, 1.0)
        if self.gamma != 1.0:
            np.power(part, self.gamma, out=part)
        part *= high - low
        part += low
        return part


def scaled(values: Array, zero: float, one: float) -> Array:
    """Return `(values - zero) / one`, in place; 0 for finite values where `one` is 0."""
    values -= zero
    if one == 0:
        values[np.isfinite(values)] = 0.0
        return values
    values /= one
    return values

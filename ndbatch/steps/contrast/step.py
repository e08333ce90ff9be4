"""`contrast`: a percentile stretch, a gamma curve, or equalisation tile by tile (CLAHE).

    - contrast: {input: image, output: clear, low: 0.5, high: 99.5, gamma: 0.8}
    - contrast: {input: image, output: even, per: slice}
    - contrast: {input: image, output: local, method: clahe, tile: 30 um, per: slice}

- *stretch*: two percentiles become the ends of the result's range, what lies beyond is clipped; times and channels, and
  slices where asked for, each by itself.
- *clahe*: `clahe.py`; intensities between the two percentiles are sorted into bins, and each tile has its own curve. Tiles
  belong to the volume, so that the result does not know of blocks. They are flat for `per: slice`. The halo is one and a
  half tiles: blocks should be several tiles wide.

`gamma` bends the result: values from 0 to 1 are raised to its power before they are put into the range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch
from ndbatch.steps.contrast.clahe import Tiling, equalized
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.normalize import Ends, Rescaling, ends_of, require_within, scaled
from ndbatch.steps.pointwise import pointwise
from ndbatch.steps.statistics.frames import FrameRange, Per, leading_axes
from ndbatch.steps.statistics.percentiles import percentile_passes
from ndbatch.steps.unary import Unary
from ndbatch.units import Length

TILE = 64
"""Voxels of the finest axis that a tile has where none is given."""


class Contrast(Unary):
    """Improve contrast: stretch between two percentiles, bend by gamma, or equalise locally (CLAHE)."""

    kind: ClassVar[str] = "contrast"

    input: str
    """The image."""
    output: str
    """The name of the result: the image's dtype (uint8 for a mask) unless the output asks for another."""
    method: Literal["stretch", "clahe"] = "stretch"
    """stretch: two percentiles become the ends of the range. clahe: each tile gets its own curve, between which the result
    changes gradually."""
    low: float | None = Field(default=None, ge=0, le=100)
    """The percentile that becomes the lower end; if not given, 0.35 (stretch), 0 (clahe)."""
    high: float | None = Field(default=None, ge=0, le=100)
    """The percentile that becomes the upper end; if not given, 99.65 (stretch), 100 (clahe)."""
    gamma: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The power of the result: below 1 brightens what is dark."""
    range: Ends | None = None
    """The ends of the result; if not given, 0 and 1 for floating point, else all of the dtype's range."""
    per: Per = "volume"
    """volume: percentiles and tiles of the whole volume, each time and channel by itself. slice: of each slice along z."""
    tile: Length | None = None
    """The side of a tile (clahe): a length, or voxels of the finest axis, 64 if not given; rounded so that whole tiles fill
    the volume."""
    clip_limit: float = Field(default=0.01, gt=0, le=1)
    """The largest share of a tile's voxels that one bin may hold (clahe): more gives more contrast, 1 all that there is."""
    bins: int = Field(default=256, ge=2, le=65536)
    """Levels of intensity that are told apart (clahe)."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> Contrast:
        fields = type(self).model_fields
        local = {name for name in ("tile", "clip_limit", "bins") if getattr(self, name) != fields[name].default}
        if self.method != "clahe" and local:
            raise ValueError(f"{' and '.join(sorted(local))} go with method clahe, not with {self.method}")
        if not self.percents[0] < self.percents[1]:
            raise ValueError(f"low: {self.percents[0]:g} is not below high: {self.percents[1]:g}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {self.range[0]:g} is not below {self.range[1]:g}")
        return self

    @property
    def percents(self) -> tuple[float, float]:
        """The two percentiles, 0 to 100."""
        low, high = (0.0, 100.0) if self.method == "clahe" else (0.35, 99.65)
        return low if self.low is None else self.low, high if self.high is None else self.high

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: passes that find the percentiles; only clahe has a halo.

        Raises PlanError for an image that is neither integer nor floating point, for a range beyond the output's, and for
        a tile with a unit where the volume has no voxel size.
        """
        info = inputs["input"]
        self.require_numbers(info)
        own = np.dtype(np.uint8) if info.dtype.kind == "b" else info.dtype
        made = replace(info, dtype=dtypes.get("output", own), kind=Kind.IMAGE)
        ends = self.range or ends_of(made.dtype)
        require_within(ends, made.dtype, f"{self.kind}: range of {self.output}")
        leading = leading_axes(info, self.per)
        passes = self._passes(info, leading)
        # A pass copies a core that is not contiguous; slabs and tables are small beside it.
        plain = Rescaling(
            arrays={"output": made},
            passes=passes,
            working_bytes=info.dtype.itemsize + 1.0,
            leading=leading,
            ends=ends,
            state=passes[-1].name,
            name=self.output,
            gamma=self.gamma,
        )
        if self.method == "stretch":
            return plain
        sides = spatial_voxels(TILE if self.tile is None else self.tile, info, f"{self.kind}: tile")
        flat = (
            0.0 if axis in "tcz"[: 3 if self.per == "slice" else 2] else max(1.0, s)
            for axis, s in zip(info.axes, sides, strict=True)
        )
        tiling = Tiling.near(info.domain, tuple(flat))
        levels = np.dtype(np.uint8 if self.bins <= 256 else np.uint16)
        return _Equalizing(
            arrays={"output": made},
            passes=passes,
            halo=tiling.halo,
            # Levels of the whole patch, the result in float32, and what one cell between tiles takes.
            working_bytes=max(info.dtype.itemsize + 1.0, levels.itemsize + 4.0 + 12.0),
            plain=plain,
            tiling=tiling,
            levels=levels,
            bins=self.bins,
            limit=self.clip_limit,
        )

    def _passes(self, info: ArrayInfo, leading: int) -> tuple[Pass, ...]:
        if self.percents == (0.0, 100.0):
            return (FrameRange("range", (0,) * info.ndim, leading, self.kind),)
        wanted = dict(zip(("low", "high"), self.percents, strict=True))
        return percentile_passes(info.dtype, info.ndim, wanted, leading, self.kind)


@dataclass(frozen=True)
class _Equalizing(Operation):
    plain: Rescaling = field(kw_only=True)
    tiling: Tiling = field(kw_only=True)
    levels: np.dtype[Any] = field(kw_only=True)
    bins: int = field(kw_only=True)
    limit: float = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the equalised voxels of `box`; NaN counts as the darkest level."""
        patch, plain = inputs["input"], self.plain
        levels = np.empty(patch.box.shape, self.levels)
        for place, found in plain.frames(patch.box, states):
            zero, one = found["low"], found["high"] - found["low"]
            pointwise(patch.data[place], lambda v, a=zero, b=one: self._level(v, a, b), levels[place], plain.name)  # type: ignore[misc]
        even = equalized(Patch(levels, patch.box), box, self.tiling, self.bins, self.limit)
        result = np.empty(box.shape, self.arrays["output"].dtype)
        pointwise(even, plain.bent, result, plain.name)
        return {"output": result}

    def _level(self, values: Array, zero: float, one: float) -> Array:
        part = np.nan_to_num(scaled(values, zero, one) * self.bins, copy=False, nan=0.0)
        level: Array = np.clip(np.floor(part), 0, self.bins - 1)
        return level

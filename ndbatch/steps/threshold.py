"""`threshold`: a mask of what is brighter than a value, which the user gives or the whole volume decides.

Values found from the volume (Otsu's, percentiles) come from exact global counts, so that no block sees another threshold.
Hysteresis keeps the pieces above a low value that reach above a high one somewhere; pieces are joined across blocks as
`components` does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch, Step
from ndbatch.steps.components.contacts import contacts, forward_offsets
from ndbatch.steps.components.labelling import Adjacency, extents, label, marked
from ndbatch.steps.components.merge import NodeValues, join
from ndbatch.steps.components.step import RANKS, adjacency_of, relabelled
from ndbatch.steps.payload import pack
from ndbatch.steps.statistics.histogram import otsu_passes
from ndbatch.steps.statistics.percentiles import percentile_passes


class Percentile(BaseModel):
    """A value below which so many percent of the voxels lie."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    percentile: float = Field(ge=0, le=100)
    """Percent, 0 to 100."""


Level = float | Literal["otsu"] | Percentile


class Threshold(Step):
    """Make a mask, uint8 with 1 where the image is brighter than a threshold and 0 elsewhere."""

    kind: ClassVar[str] = "threshold"

    input: str
    """The image."""
    output: str
    """The name of the mask."""
    method: Literal["fixed", "otsu", "percentile", "hysteresis"] | None = None
    """How the threshold is found. If not given, the other parameters tell; with none of them it is otsu."""
    value: float | None = Field(default=None, allow_inf_nan=False)
    """The threshold (fixed)."""
    percentile: float | None = Field(default=None, ge=0, le=100)
    """The threshold is the value below which so many percent of all voxels lie (percentile)."""
    low: Level | None = None
    """Objects reach down to this value (hysteresis): a number, otsu, or {percentile: 90}."""
    high: Level | None = None
    """Objects reach above this value somewhere (hysteresis): a number, otsu, or {percentile: 99}."""
    connectivity: Literal[6, 18, 26, 4, 8] | None = None
    """Neighbours that connect (hysteresis): 6, 18 or 26 in 3-D, 4 or 8 in 2-D; the faces (6, 4) if not given."""
    bins: int = Field(default=256, ge=2, le=1 << 20)
    """Bins of the histogram for otsu where values cannot be counted one by one (floating point, very wide integers)."""
    objects: Literal["bright", "dark"] = "bright"
    """dark turns the mask around: 1 where the image is not brighter than the threshold."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> Threshold:
        needs = {"fixed": {"value"}, "percentile": {"percentile"}, "hysteresis": {"low", "high"}, "otsu": set()}
        given = {name for name in ("value", "percentile", "low", "high") if getattr(self, name) is not None}
        wanted = needs[self.chosen]
        if given != wanted:
            lacks, extra = " and ".join(sorted(wanted - given)), " and ".join(sorted(given - wanted))
            raise ValueError(
                f"method {self.chosen} "
                + (f"needs {lacks}" if lacks else f"does not go with {extra}; remove one of them")
            )
        if isinstance(self.low, float) and isinstance(self.high, float) and self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high: {self.high:g}")
        if self.chosen == "hysteresis" and self.objects == "dark":
            raise ValueError("objects: dark does not go with hysteresis")
        if self.chosen != "hysteresis" and self.connectivity is not None:
            raise ValueError(f"connectivity does not go with method {self.chosen}")
        return self

    @property
    def chosen(self) -> str:
        """The method, also where it is told by the other parameters only."""
        if self.method is not None:
            return self.method
        if self.low is not None or self.high is not None:
            return "hysteresis"
        return "fixed" if self.value is not None else "percentile" if self.percentile is not None else "otsu"

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def cuts(self) -> dict[str, Level]:
        """Return the values to compare with, by name: `threshold`, or `low` and `high`."""
        if self.chosen == "hysteresis":
            assert self.low is not None
            assert self.high is not None
            return {"low": self.low, "high": self.high}
        if self.chosen == "percentile":
            assert self.percentile is not None
            return {"threshold": Percentile(percentile=self.percentile)}
        return {"threshold": "otsu" if self.value is None else self.value}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation. Only hysteresis needs context (one voxel, in its pass) and whole blocks.

        Raises PlanError for an image that is neither integer nor floating point, and for a connectivity that does not fit
        its axes.
        """
        info = inputs["input"]
        if info.dtype.kind not in "buif":
            raise PlanError(f"threshold: {self.input} is {info.dtype}; use integers or floating point numbers")
        cuts = self.cuts()
        fixed = {name: cut for name, cut in cuts.items() if isinstance(cut, float)}
        otsu = tuple(name for name, cut in cuts.items() if cut == "otsu")
        shares = {name: cut.percentile for name, cut in cuts.items() if isinstance(cut, Percentile)}
        passes: tuple[Pass, ...] = ()
        if otsu:
            passes += otsu_passes(info.dtype, info.ndim, otsu, self.bins)
        if shares:
            passes += percentile_passes(info.dtype, info.ndim, shares)
        made = {"output": replace(info, dtype=dtypes.get("output", np.dtype(np.uint8)), kind=Kind.LABELS)}
        # A pass copies a core that is not contiguous and looks at slabs of it; comparing makes masks of one byte.
        working = max(2.0, info.dtype.itemsize + 1.0) if passes else 2.0
        values = _Values(fixed)
        if self.chosen != "hysteresis":
            return _Comparing(
                arrays=made,
                passes=passes,
                working_bytes=working,
                values=values,
                dark=self.objects == "dark",
                name=self.output,
            )
        leading = sum(axis in "tc" for axis in info.axes)
        adjacency = adjacency_of(info, self.connectivity or min(RANKS[info.ndim - leading]), binary=True)
        reaching = _Reaching("reach", adjacency.halo(info.ndim), adjacency, values)
        # Two masks beside what labelling a mask takes.
        return _Following(
            arrays=made,
            passes=(*passes, reaching),
            working_bytes=max(working, 10.0),
            block_bound=True,
            values=values,
            adjacency=adjacency,
            name=self.output,
        )


@dataclass(frozen=True)
class _Values:
    """The values to compare with: those that were given, and those that passes found."""

    fixed: Mapping[str, float]

    def all(self, states: Mapping[str, Any]) -> dict[str, float]:
        """Return every value by name, out of the states of all passes."""
        found = [states[name] for name in ("histogram", *(f"percentile{k or ''}" for k in range(4))) if name in states]
        known = dict(self.fixed)
        for state in found:
            known |= {name: value for name, value in state.items() if isinstance(value, float)}
        return known

    def low_and_high(self, states: Mapping[str, Any]) -> tuple[float, float]:
        """Return both values of hysteresis, the low one never above the high one."""
        known = self.all(states)
        return min(known["low"], known["high"]), known["high"]


def above(values: Array, threshold: float) -> Array:
    """Return bool, shape of `values`: whether a voxel is greater than `threshold`, exactly, without widening the voxels.

    Integers compare with the threshold rounded down; floating point numbers with the nearest number of their own dtype that
    is not above it. NaN is never greater.
    """
    result: Array
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    if values.dtype.kind in "ui":
        result = values > int(np.floor(threshold))
        return result
    with np.errstate(over="ignore"):
        near = values.dtype.type(threshold)
    if float(near) > threshold:
        near = np.nextafter(near, values.dtype.type(-np.inf))
    result = values > near
    return result


@dataclass(frozen=True)
class _Comparing(Operation):
    values: _Values = field(kw_only=True)
    dark: bool = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return 1 where the image is brighter, 0 elsewhere; the other way round for dark objects."""
        mask = above(inputs["input"].crop(box), self.values.all(states)["threshold"])
        if self.dark:
            np.logical_not(mask, out=mask)
        return {"output": cast(mask.view(np.uint8), self.arrays["output"].dtype, self.name)}


@dataclass(frozen=True)
class _Reaching(Pass):
    """Finds which pieces above the low value reach above the high one, in whatever block."""

    name: str
    halo: Shape
    adjacency: Adjacency
    values: _Values

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return marks and contacts of the block's pieces."""
        low, high = self.values.low_and_high(states)
        patch = inputs["input"]
        mask = Patch(above(patch.data, low), patch.box)
        values = np.ascontiguousarray(mask.crop(block.core)).view(np.uint8)
        labels, count = label(values, self.adjacency)
        sizes, first = extents(labels, count)
        marks = marked(labels, count, above(patch.crop(block.core), high))
        told = {"sizes": sizes, "first": first, "marks": marks}
        return pack({**told, **contacts(mask, block.core, values, labels, self.adjacency)})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> NodeValues:
        """Return, for every block's pieces, 1 for those that are kept and 0 for the others."""
        nodes = join(payloads, grid, forward_offsets(grid.bounds.ndim, self.adjacency), scratch, marks=True)
        assert nodes.marks is not None
        reached = np.zeros(len(nodes.root), np.uint8)
        reached[nodes.root[nodes.marks > 0]] = 1
        return NodeValues(nodes.starts, reached[nodes.root], scratch, {})


@dataclass(frozen=True)
class _Following(Operation):
    values: _Values = field(kw_only=True)
    adjacency: Adjacency = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return 1 where a piece above the low value reaches above the high one, 0 elsewhere."""
        mask = above(inputs["input"].crop(box), self.values.low_and_high(states)[0])
        kept = relabelled(mask, self.adjacency, states["reach"], self.name)
        return {"output": cast(kept, self.arrays["output"].dtype, self.name)}

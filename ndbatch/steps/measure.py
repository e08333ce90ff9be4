"""`measure`: a table of objects, one row for each label, merged exactly across blocks.

Every block gives partial rows (`object_rows`) that add up without rounding, the driver merges rows of one label
(`grouping`), and numbers are rounded once, in the end. So the table is the same to the bit for any blocks. Labels need
not be connected. Why and how is written in docs/design/measure.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.exact_sums import deviations, quotients
from ndbatch.steps.grouping import in_batches, merged_by_key
from ndbatch.steps.object_rows import ObjectRows, combined, rows_of_block, wide_label

if TYPE_CHECKING:
    import pyarrow as pa

Percent = Annotated[float, Field(ge=0, le=100)]

_CONTENTS = {3: "volume_um3", 2: "area_um2", 1: "length_um"}
"""Name of the physical size by number of spatial axes."""


class Measure(Step):
    """Measure every object of a label volume: size, place, extent and, with an image, its intensities."""

    kind: ClassVar[str] = "measure"

    labels: str
    """The objects: whole numbers, 0 is background. Voxels of one label are one object, connected or not."""
    intensity: str | None = None
    """The image whose intensities are measured; none if not given."""
    percentiles: Annotated[tuple[Percent, ...], Field(strict=False)] = ()
    """Percentiles of the intensities of each object, such as [5, 50, 95]. They are exact, and need every value of every
    object once in the journal: several bytes a voxel, where everything else takes some bytes an object."""
    output: str
    """The name of the table."""

    @model_validator(mode="after")
    def _percentiles_fit(self) -> Measure:
        if self.percentiles and self.intensity is None:
            raise ValueError("percentiles are those of an image; add intensity: NAME, or remove percentiles")
        if len(set(self.percentiles)) < len(self.percentiles):
            raise ValueError(f"percentiles: {list(self.percentiles)} names one twice")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The arrays it reads."""
        return {"labels": self.labels} | ({} if self.intensity is None else {"intensity": self.intensity})

    @property
    def products(self) -> dict[str, str]:
        """The table it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo, no passes, a table and no array.

        Raises PlanError for labels that are no whole numbers and for an image that is not real.
        """
        labels, image = inputs["labels"], inputs.get("intensity")
        if labels.dtype.kind not in "bui":
            raise PlanError(
                f"measure: {self.labels} is {labels.dtype}, and objects are told apart by whole numbers; put a components "
                "step before it, or give labels"
            )
        if image is not None and image.dtype.kind not in "buif":
            raise PlanError(f"measure: {self.intensity} is {image.dtype}; use integers or floating point numbers")
        return _Measuring(
            arrays={},
            tables=("output",),
            working_bytes=_working_bytes(labels, image, bool(self.percentiles)),
            columns=_Columns(labels, None if image is None else _measured(image.dtype), self.percentiles),
        )


def _measured(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which values of `dtype` are measured: the same, but for bool and half precision."""
    return np.dtype({"b1": np.uint8, "f2": np.float32}.get(dtype.str[1:], dtype))


def _working_bytes(labels: ArrayInfo, image: ArrayInfo | None, pairs: bool) -> float:
    """Return bytes a voxel: contiguous copies of the core, and rows and pairs where objects are as small as 30 voxels."""
    copies = labels.dtype.itemsize + (0 if image is None else image.dtype.itemsize)
    return copies + (16.0 if image is None else 24.0) + (72.0 if pairs else 0.0)


@dataclass(frozen=True)
class _Measuring(Operation):
    columns: _Columns = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, pa.RecordBatch]:
        """Return a partial row for each object that has voxels in the core."""
        image = inputs["intensity"].crop(block.core) if "intensity" in inputs else None
        rows = rows_of_block(
            inputs["labels"].crop(block.core), image, block.core, self.columns.labels.axes, bool(self.columns.percents)
        )
        return {"output": self.columns.nothing() if rows is None else rows.to_batch()}

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Yield a row for each object, in order of label; where there are none, the columns alone."""
        partial = merged_by_key(rows, "label", lambda table: combined([ObjectRows.of_table(table)]).to_batch(), scratch)
        batches = in_batches(self.columns.finished(ObjectRows.of_table(batch)) for batch in partial)
        first = next(batches, None)
        yield self.columns.nothing() if first is None else first
        yield from batches


@dataclass(frozen=True)
class _Columns:
    """The columns of the table: their names, their types, and how they follow from the merged rows."""

    labels: ArrayInfo
    image: np.dtype[Any] | None
    percents: tuple[float, ...]

    def nothing(self) -> pa.RecordBatch:
        """Return the table's columns without a row."""
        import pyarrow as pa

        return pa.RecordBatch.from_pydict({name: np.empty(0, dtype) for name, dtype in self.types().items()})

    def types(self) -> dict[str, Any]:
        """Return names and dtypes of the columns, in their order."""
        axes, scale = self.labels.axes, self._scale()
        made: dict[str, Any] = {"label": wide_label(self.labels.dtype), "voxels": np.int64}
        made |= {_CONTENTS[len(scale)]: np.float64} if scale else {}
        made |= dict.fromkeys(axes, np.float64) | {f"{axis}_um": np.float64 for axis in scale}
        made |= {f"bbox_{end}_{axis}": np.int64 for end in ("min", "max") for axis in axes}
        if self.image is not None:
            made |= {"intensity_mean": np.float64, "intensity_min": self.image, "intensity_max": self.image}
            made |= {"intensity_std": np.float64} | {f"intensity_p{p:g}": np.float64 for p in self.percents}
            made |= {"intensity_excluded": np.int64} if self.image.kind == "f" else {}
        return made | {"touches_border": np.bool_}

    def _scale(self) -> dict[str, float]:
        """Return micrometres a voxel along the spatial axes; empty where they are not known."""
        size = self.labels.voxel_size
        return (
            {} if size is None else {axis: s for axis, s in zip(self.labels.axes, size, strict=True) if axis in "zyx"}
        )

    def finished(self, rows: ObjectRows) -> pa.RecordBatch:
        """Return the rows of the table for merged `rows`."""
        import pyarrow as pa

        made = self._places(rows)
        if self.image is not None:
            made |= self._intensities(rows)
        return pa.RecordBatch.from_pydict({name: np.asarray(made[name], dtype) for name, dtype in self.types().items()})

    def _places(self, rows: ObjectRows) -> dict[str, Any]:
        """Return size, centroid, bounds and whether a bound is that of the volume.

        An axis of one voxel has no border: all objects of a plane would touch it.
        """
        voxels, domain, scale = rows.columns["voxels"], self.labels.domain, self._scale()
        made: dict[str, Any] = {"label": rows.label, "voxels": voxels}
        if scale:
            made[_CONTENTS[len(scale)]] = voxels * math.prod(scale.values())
        touches = np.zeros(len(voxels), bool)
        for number, axis in enumerate(self.labels.axes):
            made[axis] = quotients(rows.sums[axis], voxels)
            low, high = rows.columns[f"min.{axis}"], rows.columns[f"max.{axis}"]
            made |= {f"bbox_min_{axis}": low, f"bbox_max_{axis}": high}
            if axis in scale:
                made[f"{axis}_um"] = made[axis] * scale[axis]
            if axis in "zyx" and domain.shape[number] > 1:
                touches |= (low == domain.start[number]) | (high == domain.stop[number])
        return made | {"touches_border": touches}

    def _intensities(self, rows: ObjectRows) -> dict[str, Any]:
        """Return what is measured of the image; NaN where an object has no finite voxel."""
        columns, voxels = rows.columns, rows.columns["voxels"]
        finite = columns.get("finite", voxels)
        made: dict[str, Any] = {"intensity_min": columns["low"], "intensity_max": columns["high"]}
        if "finite" in columns:
            made = {name: np.where(finite > 0, values, np.nan) for name, values in made.items()}
            made["intensity_excluded"] = voxels - finite
        made["intensity_mean"] = quotients(rows.sums["intensity"], finite)
        made["intensity_std"] = deviations(rows.sums["intensity"], rows.sums["squares"], finite)
        if rows.pairs is not None:
            found = rows.pairs.percentiles(self.percents)
            made |= {f"intensity_p{p:g}": values for p, values in zip(self.percents, found, strict=True)}
        return made

"""`measure`: a table of objects, one row for each label, merged exactly across blocks.

Every block gives partial rows (`object_rows`) that add up without rounding, the driver merges rows of one label
(`grouping`), and numbers are rounded once, in the end. So the table is the same to the bit for any blocks. Labels need
not be connected. Why and how is written in docs/design/measure.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.function.models import files_of
from ndbatch.steps.grouping import in_batches, merged_by_key
from ndbatch.steps.measure import object_shapes as shapes
from ndbatch.steps.measure.object_columns import Columns
from ndbatch.steps.measure.object_rows import ObjectRows, Wanted, combined, rows_of_block
from ndbatch.steps.measure.zone_rows import ZoneTable, require_names, without_measured, zone_means, zone_rows

if TYPE_CHECKING:
    import pyarrow as pa

Percent = Annotated[float, Field(ge=0, le=100)]

Property = Literal["shape", "surface", "neighbours", "distribution"]


class Measure(Step):
    """Measure every object of a label volume: size, place, extent and, with an image, its intensities."""

    kind: ClassVar[str] = "measure"
    version: ClassVar[int] = 2

    labels: str
    """The objects: whole numbers, 0 is background. Voxels of one label are one object, connected or not."""
    intensity: str | None = None
    """The image whose intensities are measured; none if not given."""
    percentiles: Annotated[tuple[Percent, ...], Field(strict=False)] = ()
    """Percentiles of the intensities of each object, such as [5, 50, 95]. They are exact, and need every value of every
    object once in the journal: several bytes a voxel, where everything else takes some bytes an object."""
    properties: Annotated[tuple[Property, ...], Field(strict=False)] = ()
    """More columns. shape: equivalent diameter, extent, lengths of the main axes, direction of the longest, inertia tensor.
    surface: area by Crofton's formula and sphericity; of planes the perimeter. neighbours: how many objects touch it face to
    face, and the area of contact. distribution: median, skewness and kurtosis of the intensities, at the cost of
    percentiles."""
    zones: str | None = None
    """A volume of zones, such as the regions of an atlas: an object is of the zone that holds most of its voxels, the
    smallest of several."""
    zones_output: str | None = None
    """The name of a table of the zones: how many objects, how many voxels, objects per cubic millimetre, and with an image
    its mean over all voxels of the zone."""
    zone_names: str | None = None
    """A CSV file of the zones' names, by its path from the configuration's folder: the first column is the number, the second
    the name."""
    names: Literal["plain", "regionprops"] = "plain"
    """What columns are called: plainly, with units, or as scikit-image's regionprops_table calls them, where it can."""
    output: str
    """The name of the table."""

    @model_validator(mode="after")
    def _percentiles_fit(self) -> Measure:
        if self.percentiles and self.intensity is None:
            raise ValueError("percentiles are those of an image; add intensity: NAME, or remove percentiles")
        if "distribution" in self.properties and self.intensity is None:
            raise ValueError("properties: distribution is that of an image; add intensity: NAME, or remove it")
        for name in ("zones_output", "zone_names"):
            if getattr(self, name) is not None and self.zones is None:
                raise ValueError(f"{name} needs zones: NAME, the volume of zones")
        if self.zone_names is not None and self.zones_output is None:
            raise ValueError("zone_names are for the table of zones; add zones_output: NAME")
        if len(set(self.percentiles)) < len(self.percentiles):
            raise ValueError(f"percentiles: {list(self.percentiles)} names one twice")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The arrays it reads."""
        named = {"labels": self.labels, "intensity": self.intensity, "zones": self.zones}
        return {role: name for role, name in named.items() if name is not None}

    @property
    def products(self) -> dict[str, str]:
        """The tables it makes."""
        return {"output": self.output} | ({} if self.zones_output is None else {"zones": self.zones_output})

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes, tables and no array; a halo of one voxel for surface and neighbours.

        Raises PlanError for labels and zones that are no whole numbers, for an image that is not real, for shapes of lines
        and of very long volumes, and for a file of names that cannot be read.
        """
        labels, image, zones = inputs["labels"], inputs.get("intensity"), inputs.get("zones")
        if labels.dtype.kind not in "bui":
            raise PlanError(
                f"measure: {self.labels} is {labels.dtype}, and objects are told apart by whole numbers; put a components "
                "step before it, or give labels"
            )
        if image is not None and image.dtype.kind not in "buif":
            raise PlanError(f"measure: {self.intensity} is {image.dtype}; use integers or floating point numbers")
        if zones is not None and zones.dtype.kind not in "bui":
            raise PlanError(f"measure: {self.zones} is {zones.dtype}, and zones are whole numbers")
        columns = Columns(
            labels,
            None if image is None else _measured(image.dtype),
            self.percentiles,
            frozenset(self.properties),
            None if zones is None else zones.dtype,
            self.names == "regionprops",
        )
        self._require_shapes(columns)
        around = {"surface", "neighbours"} & set(self.properties)
        listed = bool(self.percentiles) or "distribution" in self.properties
        return _Measuring(
            arrays={},
            tables=("output",) if self.zones_output is None else ("output", "zones"),
            halo=tuple(int(axis in columns.space) for axis in labels.axes) if around else (),
            working_bytes=_working_bytes(labels, image, listed)
            + (labels.dtype.itemsize + 12.0 if around else 0.0)
            + (0.0 if zones is None else zones.dtype.itemsize + 24.0),
            columns=columns,
            zone_table=ZoneTable(require_names(self.zone_names), labels.voxel_size, labels.axes),
        )

    def identity(self) -> dict[str, Any]:
        """Return what the fingerprint keeps: the parameters, and the content of the file of names."""
        return {**super().identity(), "files": files_of({"zone_names": self.zone_names or ""})}

    def _require_shapes(self, columns: Columns) -> None:
        wanted = [name for name in self.properties if name in ("shape", "surface")]
        if wanted and len(columns.space) < 2:
            raise PlanError(f"measure: {wanted[0]} needs at least two axes of more than one voxel")
        ends = (*columns.labels.domain.start, *columns.labels.domain.stop)
        if "shape" in wanted and max(map(abs, ends)) > shapes.LONGEST:
            raise PlanError(f"measure: shape works up to {shapes.LONGEST} voxels from 0; set the offset of the input")


def _measured(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which values of `dtype` are measured: the same, but for bool and half precision."""
    return np.dtype({"b1": np.uint8, "f2": np.float32}.get(dtype.str[1:], dtype))


def _working_bytes(labels: ArrayInfo, image: ArrayInfo | None, pairs: bool) -> float:
    """Return bytes a voxel: contiguous copies of the core, and rows and pairs where objects are as small as 30 voxels."""
    copies = labels.dtype.itemsize + (0 if image is None else image.dtype.itemsize)
    return copies + (16.0 if image is None else 24.0) + (72.0 if pairs else 0.0)


@dataclass(frozen=True)
class _Measuring(Operation):
    columns: Columns = field(kw_only=True)
    zone_table: ZoneTable = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, pa.RecordBatch]:
        """Return a partial row for each object that has voxels in the core, and what is known of the zones there."""
        cores = {role: patch.crop(block.core) for role, patch in inputs.items()}
        properties, axes = self.columns.properties, self.columns.labels.axes
        wanted = Wanted(
            bool(self.columns.percents) or "distribution" in properties,
            self.columns.space if "shape" in properties else "",
        )
        zones = cores.get("zones")
        rows = rows_of_block(cores["labels"], cores.get("intensity"), block.core, axes, wanted, zones)
        if rows is not None:
            rows = self._with_surroundings(rows, inputs["labels"], block.core)
        made = {"output": self.columns.nothing() if rows is None else rows.to_batch()}
        if "zones" in self.tables and zones is not None:
            made["zones"] = zone_rows(rows, zones, cores.get("intensity"), block.core, axes)
        return made

    def _with_surroundings(self, rows: ObjectRows, labels: Patch, core: Box) -> ObjectRows:
        """Return the rows with what the voxels around each object tell: crossings, and whom it touches."""
        properties, columns, lists = self.columns.properties, dict(rows.columns), dict(rows.lists)
        if not {"surface", "neighbours"} & properties:
            return rows
        data = labels.data.view(np.uint8) if labels.data.dtype.kind == "b" else labels.data
        patch, order = Patch(data, labels.box), rows.label.astype(data.dtype)
        space = tuple(axis in self.columns.space for axis in self.columns.labels.axes)
        if "surface" in properties:
            found = shapes.crossings(patch, core, order, space)
            columns |= {f"crossings.{k}": found[:, k] for k in range(found.shape[1])}
        if "neighbours" in properties:
            lists["neighbours"], faces = shapes.touching(patch, core, order, space)
            columns |= {f"faces.{a}": faces[:, i] for i, a in enumerate(self.columns.labels.axes) if space[i]}
        return replace(rows, columns=columns, lists=lists)

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Yield a row for each object, in order of label, or one for each zone; where there are none, the columns alone."""
        objects = without_measured(rows)
        partial = merged_by_key(objects, "label", lambda t: combined([ObjectRows.of_table(t)]).to_batch(), scratch)
        if role == "zones":
            counted = (ObjectRows.of_table(batch) for batch in partial)
            yield self.zone_table.counted(
                counted, None if self.columns.image is None else zone_means(rows, _inner(scratch))
            )
            return
        batches = in_batches(self.columns.finished(ObjectRows.of_table(batch)) for batch in partial)
        first = next(batches, None)
        yield self.columns.nothing() if first is None else first
        yield from batches


def _inner(scratch: Path) -> Path:
    """Return a folder in `scratch` for runs of other rows."""
    folder = scratch / "means"
    folder.mkdir(exist_ok=True)
    return folder

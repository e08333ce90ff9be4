"""`measure`: a table of the objects of a label volume, one row a label.

Blocks give partial rows whose parts are exact (counts, integer sums, extremes, exact lists of float sums), so that the
merged table is the same to the bit for every block shape, order and number of workers. Labels are merged by their
id: an object may be in pieces, and the pieces far apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.key_ranges import by_key
from ndbatch.steps.objects import merged
from ndbatch.steps.sums import Pieces, exact_square_sums, exact_sums

if TYPE_CHECKING:
    import pyarrow as pa


class Measure(Step):
    """Measure every object: size, place, bounding box, and intensities of an image under it."""

    kind: ClassVar[str] = "measure"

    labels: str
    """The labels, integers; 0 is background."""
    intensity: str | None = None
    """The image whose intensities are measured under each object."""
    percentiles: tuple[float, ...] = Field(default=(), strict=False)
    """Percentiles of the intensities, such as [5, 50, 95]. Exact, which means that every object's values are kept until the
    end: about the size of the compressed image."""
    output: str
    """The name of the table."""

    @property
    def sources(self) -> dict[str, str]:
        """The labels, and the image if there is one."""
        return {"labels": self.labels} | ({} if self.intensity is None else {"intensity": self.intensity})

    @property
    def products(self) -> dict[str, str]:
        """The table."""
        return {"table": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> MeasureOperation:
        """Return the operation. PlanError for labels that are no integers and for percentiles without an image."""
        info = inputs["labels"]
        if info.dtype.kind not in "bui":
            raise PlanError(
                f"measure: {self.labels} is {info.dtype}, which is not labels; put a components step before it"
            )
        wrong = [p for p in self.percentiles if not 0 <= p <= 100]
        if wrong:
            raise PlanError(f"measure: percentiles: {wrong[0]:g} is not between 0 and 100")
        if self.percentiles and self.intensity is None:
            raise PlanError("measure: percentiles need intensity: the image they are taken of")
        image = inputs.get("intensity")
        if image is not None and image.dtype.kind not in "buif":
            raise PlanError(f"measure: {self.intensity} is {image.dtype}; intensities must be real numbers")
        per_voxel = 4 + 4 + 8 + 8 + (0 if image is None else 40) + (24 if self.percentiles else 0)
        return MeasureOperation(
            arrays={},
            tables=("table",),
            working_bytes=per_voxel,
            info=info,
            image=image,
            percentiles=tuple(self.percentiles),
        )


@dataclass(frozen=True)
class MeasureOperation(Operation):
    """`measure`, bound. Partial rows of a block come from `apply`, `finish` merges them by label."""

    info: ArrayInfo | None = None
    image: ArrayInfo | None = None
    percentiles: tuple[float, ...] = ()

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, pa.RecordBatch]:
        """Return the partial rows of the objects in the block's core. StepError for intensities that are not finite."""
        import fastremap
        import pyarrow as pa

        labels = np.ascontiguousarray(inputs["labels"].crop(block.core))
        local, ids = fastremap.renumber(labels.view(np.uint8) if labels.dtype == bool else labels, preserve_zero=True)
        kept = np.flatnonzero(local)
        index = local.reshape(-1)[kept].astype(np.int64) - 1
        found = sorted((new, old) for old, new in ids.items() if new)
        count = len(found)
        columns: dict[str, Any] = {"label": np.array([old for _, old in found], np.uint64)}
        columns |= _geometry(local, kept, index, count, block.core)
        if "intensity" in inputs and count:
            values = np.ascontiguousarray(inputs["intensity"].crop(block.core)).reshape(-1)[kept]
            columns |= self._intensities(index, values, count, block)
        elif "intensity" in inputs:
            return {"table": pa.RecordBatch.from_pydict({})}
        return {"table": pa.RecordBatch.from_pydict(columns)}

    def _intensities(self, index: Array, values: Array, count: int, block: Block) -> dict[str, Any]:
        import pyarrow as pa

        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StepError(
                f"measure: the image holds NaN or infinity under objects of block {block.index}; replace them before measuring"
            )
        if values.dtype == bool:
            values = values.view(np.uint8)
        low = np.full(count, values.max(), values.dtype)
        high = np.full(count, values.min(), values.dtype)
        np.minimum.at(low, index, values)
        np.maximum.at(high, index, values)
        columns: dict[str, Any] = {
            "low": low.astype(np.float64) if values.dtype.kind == "f" else low,
            "high": high.astype(np.float64) if values.dtype.kind == "f" else high,
            "sum": _lists(exact_sums(index, values, count)),
            "squares": _lists(exact_square_sums(index, values, count)),
        }
        if self.percentiles:
            order = np.lexsort((values, index))
            first = np.r_[True, (np.diff(index[order]) != 0) | (np.diff(values[order]) != 0)]
            starts = np.flatnonzero(first)
            counts = np.diff(np.r_[starts, len(order)])
            bounds = np.searchsorted(index[order][starts], np.arange(count + 1)).astype(np.int32)
            for name, data in (("values", values[order][starts]), ("counts", counts.astype(np.int64))):
                columns[name] = pa.ListArray.from_arrays(pa.array(bounds), pa.array(data))
        return columns

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Merge partial rows by label, a range of labels at a time; the table is sorted by label."""
        assert self.info is not None
        anything = False
        for part in by_key(rows, "label", scratch):
            anything = True
            yield merged(part, self.info, self.percentiles)
        if not anything:
            yield self._no_rows(self.info)

    def _no_rows(self, info: ArrayInfo) -> pa.RecordBatch:
        """Return the table of no objects, with all its columns: those of one object, less its row."""
        import pyarrow as pa

        one = np.zeros((1,) * info.ndim, np.uint8)
        core = Box.of_shape(one.shape, info.domain.start)
        index = np.zeros(1, np.int64)
        columns: dict[str, Any] = {"label": np.ones(1, np.uint64)}
        columns |= _geometry(one + 1, index, index, 1, core)
        if self.image is not None:
            columns |= self._intensities(index, np.zeros(1, self.image.dtype), 1, Block(0, core))
        return merged(pa.table(columns), info, self.percentiles).slice(0, 0)


def _geometry(local: Array, kept: Array, index: Array, count: int, core: Box) -> dict[str, Array]:
    """Return counts, sums of positions within the block plus its origin, and bounding boxes; all exact integers."""
    from scipy import ndimage

    voxels = np.bincount(index, minlength=count).astype(np.int64)
    columns: dict[str, Array] = {"voxels": voxels}
    boxes = ndimage.find_objects(local, max_label=count) if count else []
    rest = kept
    for axis in reversed(range(local.ndim)):
        rest, place = np.divmod(rest, local.shape[axis])
        # Sums of positions in a block stay far below 2**53, so float weights count them exactly.
        sums = np.bincount(index, place, count).astype(np.int64) + voxels * core.start[axis]
        columns[f"sum{axis}"] = sums
        columns[f"min{axis}"] = np.array([b[axis].start for b in boxes], np.int64) + core.start[axis]
        columns[f"max{axis}"] = np.array([b[axis].stop for b in boxes], np.int64) + core.start[axis]
    return columns


def _lists(pieces: Pieces) -> pa.ListArray:
    import pyarrow as pa

    return pa.array(pieces, pa.list_(pa.float64()))

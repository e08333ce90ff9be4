"""`density`: how many objects there are in each voxel of a coarser grid, smoothed if asked for.

An object counts where its centroid is, wherever blocks cut it: a pass adds up the positions of its voxels exactly, as
`measure` does, and what is kept for `apply` are the coarse voxels that hold centroids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch, State, Step
from ndbatch.steps.grouping import merged_by_key
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.measure.exact_sums import quotients
from ndbatch.steps.measure.object_rows import ObjectRows, combined, rows_of_block
from ndbatch.steps.payload import pack_rows, unpack_rows
from ndbatch.tables.counting import Counts
from ndbatch.units import Length

if TYPE_CHECKING:
    import pyarrow as pa


class Density(Step):
    """Count the objects of a label volume in larger voxels, and smooth the counts: a map of where objects are.

    Every object counts once, where its centroid lies. The sum of the map is the number of objects, smoothed or not.
    """

    kind: ClassVar[str] = "density"

    labels: str
    """The objects: whole numbers, 0 is background. Voxels of one label are one object, connected or not."""
    voxel_size: Length
    """The size of the map's voxels along z, y and x: a length such as 50 um, or voxels of the finest axis. It is rounded to
    whole voxels of the labels."""
    smooth: Length | None = None
    """The standard deviation of the Gaussian that smooths the counts, such as 100 um; not smoothed if not given. It is mirrored
    at the ends of the volume."""
    output: str
    """The name of the map."""

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"labels": self.labels}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: one pass, an array of coarser voxels, float32 unless another dtype is asked for.

        Raises PlanError for labels that are no whole numbers, and for voxels that are not larger than those of the labels.
        """
        labels = inputs["labels"]
        if labels.dtype.kind not in "bui":
            raise PlanError(
                f"density: {self.labels} is {labels.dtype}, and objects are told apart by whole numbers; put a components "
                "step before it, or give labels"
            )
        factors = density_factors(self.voxel_size, labels)
        sigma = density_sigma(self.smooth, labels, factors)
        size = labels.voxel_size
        made = replace(
            labels,
            domain=labels.domain.coarsened(factors),
            dtype=dtypes.get("output", np.dtype(np.float32)),
            kind=Kind.IMAGE,
            voxel_size=None if size is None else tuple(s * f for s, f in zip(size, factors, strict=True)),
        )
        reach = math.prod(1 + 8 * s for s in sigma) / math.prod(factors)
        return _Counting(
            arrays={"output": made},
            scale=factors,
            passes=(_Centroids("centroids", (0,) * labels.ndim, labels.axes, factors, sigma),),
            working_bytes=labels.dtype.itemsize + 24.0 + 16.0 * min(reach, 4.0),
            name=self.output,
        )


def density_factors(voxel_size: Length, info: ArrayInfo) -> Shape:
    """Return how many voxels of `info` make one of `voxel_size` along each axis, rounded, 1 along t and c and along axes of
    one voxel. PlanError where none is more than 1."""
    wanted = spatial_voxels(voxel_size, info, "voxel_size")
    factors = tuple(max(1, round(n)) if extent > 1 else 1 for n, extent in zip(wanted, info.domain.shape, strict=True))
    if math.prod(factors) == 1:
        raise PlanError(f"voxel_size: {voxel_size} is not larger than the voxels there are; write a larger length")
    return factors


def density_sigma(smooth: Length | None, info: ArrayInfo, factors: Shape) -> tuple[float, ...]:
    """Return the standard deviation in voxels of the map along each axis, 0 where nothing is smoothed."""
    if smooth is None:
        return (0.0,) * info.ndim
    return tuple(n / f for n, f in zip(spatial_voxels(smooth, info, "smooth"), factors, strict=True))


def coarse_places(centres: Array, factors: Shape) -> Array:
    """Return the coarse voxels, (points, axes) int64, of points in voxels whose centres are whole numbers."""
    return np.floor((centres + 0.5) / np.array(factors, np.float64)).astype(np.int64)


@dataclass(frozen=True)
class _Centroids(Pass):
    name: str
    halo: Shape
    axes: str
    factors: Shape
    sigma: tuple[float, ...]

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the number of voxels and the sums of their positions for each object in the core."""
        rows = rows_of_block(inputs["labels"].crop(block.core), None, block.core, self.axes)
        return b"" if rows is None else pack_rows(rows.to_batch())

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> State:
        """Return the coarse voxels that hold centroids."""
        rows = (unpack_rows(payload) for _, payload in payloads if payload)
        places = [np.empty((0, len(self.axes)), np.int64), *self._places(rows, scratch)]
        return _Found(Counts.of(np.concatenate(places), grid.bounds.coarsened(self.factors), self.sigma))

    def _places(self, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[Array]:
        for batch in merged_by_key(rows, "label", lambda t: combined([ObjectRows.of_table(t)]).to_batch(), scratch):
            objects = ObjectRows.of_table(batch)
            voxels = objects.columns["voxels"]
            centres = np.stack([quotients(objects.sums[axis], voxels) for axis in self.axes], axis=1)
            yield coarse_places(centres, self.factors)


@dataclass(frozen=True)
class _Found(State):
    counts: Counts

    def select(self, block: Block, box: Box) -> Counts:
        """Return the counts that the coarse voxels of `box` need."""
        return self.counts.around(box)

    def facts(self) -> dict[str, Any]:
        """Return the number of objects."""
        return {"objects": self.counts.total}


@dataclass(frozen=True)
class _Counting(Operation):
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the smoothed counts in the coarse voxels of `box`."""
        counts: Counts = states["centroids"]
        return {"output": cast(counts.within(box), self.arrays["output"].dtype, self.name)}

"""`watershed`: objects from seeds, in an image or in the distances of a mask; not the same for every block, unless objects
are small.

    - watershed: {seeds: nuclei, image: membrane, mask: tissue, output: cells, size: 30 um}
    - watershed: {mask: blobs, output: cells, size: 20 um, spacing: 6 um}
    - watershed: {image: dapi, mask: foreground, output: cells, size: 20 um, spacing: 6 um, bright: true}

What is flooded, from low to high: `image` (from high to low with `bright: true`), or, without one, minus the distance to the
background of `mask`, no farther than half of `size`. The seeds: labels, or, without them, the deepest voxels: those than
which none within `spacing` is deeper (of equally deep ones the first), which get the number of their voxel in the volume as
their id, from 1 in raster order; put relabel with consecutive: true behind. Flooding is that of
`skimage.segmentation.watershed`; it stays within `mask` where there is one.

*Not block independent*: a flood is decided by all that rivals it, and a block sees no farther than `size`.
Where every connected piece of the mask is at most `size` along every axis, a block sees pieces whole, and the result is that
of the whole volume, voxel by voxel. Seeds are alike in all blocks in any case. Times and channels never mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.components.step import adjacency_of
from ndbatch.steps.distance import distances
from ndbatch.steps.extremes import Element, extreme
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.relabel.ids import distinct, replaced
from ndbatch.steps.statistics.frames import Per, frames_of, leading_axes
from ndbatch.units import Length


class Watershed(Step):
    """Split objects by flooding an image or the distances of a mask from seeds; the same for every block only where objects
    are no larger than a size."""

    kind: ClassVar[str] = "watershed"

    image: str | None = None
    """What is flooded, from low to high; minus the distance to the background of the mask if not given."""
    seeds: str | None = None
    """Labels to flood from; the deepest voxels, `spacing` apart, if not given."""
    mask: Annotated[str | None, Field(examples=["mask"])] = None
    """Where flooding stays: voxels other than 0."""
    output: str
    """The name of the labels: the dtype of the seeds (uint64 where they are found) unless the output asks for another."""
    size: Annotated[Length, Field(examples=["20 um"])]
    """The largest extent of an object, or of several that touch, for which the result is the same in every block: a length,
    or voxels of the finest axis. Blocks are read with so much context and more."""
    spacing: Annotated[Length | None, Field(examples=["6 um"])] = None
    """How near to each other the seeds that are found can be: about the radius of the smallest object."""
    bright: bool = False
    """Whether objects are bright in the image: it is flooded from high to low."""
    connectivity: Literal[6, 18, 26, 4, 8] | None = None
    """Neighbours that floods spread to: 6, 18 or 26 in 3-D, 4 or 8 in 2-D; the faces (6, 4) if not given."""
    per: Per = "volume"
    """slice: each slice along z by itself."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> Watershed:
        if self.image is None and self.mask is None:
            raise ValueError("nothing says what is flooded; give image, mask, or both")
        if (self.seeds is None) == (self.spacing is None):
            raise ValueError("give seeds (labels), or spacing, by which seeds are found; one of them")
        if self.bright and self.image is None:
            raise ValueError("bright says how image is flooded, which is not given")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The arrays it reads."""
        named = {"image": self.image, "seeds": self.seeds, "mask": self.mask}
        return {role: name for role, name in named.items() if name is not None}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is the size, twice the spacing, and half the size where distances are
        measured.

        Raises PlanError for an image that is not of numbers, for seeds or a mask that are not of integers, for a dtype that
        holds no ids, and for lengths that are not above 0 or have a unit where the volume has no voxel size.
        """
        info = next(iter(inputs.values()))
        for role, kinds in (("image", "buif"), ("seeds", "bui"), ("mask", "bui")):
            if role in inputs and inputs[role].dtype.kind not in kinds:
                what = "integers or floating point numbers" if role == "image" else "integers"
                raise PlanError(f"watershed: {self.sources[role]} is {inputs[role].dtype}; {role} is made of {what}")
        own = np.dtype(np.uint64) if self.seeds is None else inputs["seeds"].dtype
        made = replace(info, dtype=dtypes.get("output", own), kind=Kind.LABELS)
        if made.dtype.kind not in "ui":
            raise PlanError(f"watershed: {self.output} holds ids, which {made.dtype} does not; use uint32 or uint64")
        leading = leading_axes(info, self.per)
        far = self._voxels("size", self.size, info, leading)
        flood = tuple(int(n + 1 - 1e-9) for n in far)
        near = (0.0,) * info.ndim if self.spacing is None else self._voxels("spacing", self.spacing, info, leading)
        element = Element(near, "ball")
        deep = tuple(n // 2 + 1 if n and self.image is None else 0 for n in flood)
        rank = 1 if self.connectivity is None else adjacency_of(info, self.connectivity, True).rank
        return _Flooding(
            arrays={"output": made},
            halo=tuple(f + 2 * r + d for f, r, d in zip(flood, element.reach, deep, strict=True)),
            # Measured: the surface, seeds and floods with a margin, and a queue of fronts, in the worst case of all voxels.
            working_bytes=90.0,
            block_independent=False,
            caveat=f"objects (connected pieces of the mask) of more than {self.size} may be split differently where blocks meet",
            step=self,
            domain=info.domain,
            leading=leading,
            flood=flood,
            element=element,
            size=tuple(float(s) for s in info.voxel_size or (1.0,) * info.ndim),
            deep=deep,
            rank=rank,
        )

    def _voxels(self, name: str, length: Length, info: ArrayInfo, leading: int) -> tuple[float, ...]:
        voxels = spatial_voxels(length, info, f"watershed: {name}")
        return (0.0,) * leading + voxels[leading:]


@dataclass(frozen=True)
class _Flooding(Operation):
    step: Watershed = field(kw_only=True)
    domain: Box = field(kw_only=True)
    leading: int = field(kw_only=True)
    flood: Shape = field(kw_only=True)
    element: Element = field(kw_only=True)
    size: tuple[float, ...] = field(kw_only=True)
    deep: Shape = field(kw_only=True)
    rank: int = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the floods of `box`."""
        whole = next(iter(inputs.values())).box
        wide = box.grow(self.flood).intersect(whole)
        around = wide.grow(tuple(2 * r for r in self.element.reach)).intersect(whole)
        mask = (
            np.not_equal(inputs["mask"].crop(around), 0, order="C") if "mask" in inputs else np.ones(around.shape, bool)
        )
        surface = Patch(self._surface(inputs, around), around)
        within = Patch(mask, around)
        seeds = inputs["seeds"].crop(wide) if "seeds" in inputs else self._deepest(surface, within, wide)
        ids = distinct(seeds)
        ids = ids if 0 in ids else np.concatenate([np.zeros(1, ids.dtype), ids])
        order = np.argsort(ids != 0, kind="stable")  # 0 first, whatever the others are
        numbers = np.empty(len(ids), np.int32)
        numbers[order] = np.arange(len(ids), dtype=np.int32)
        floods = self._flooded(surface.crop(wide), replaced(seeds, ids, numbers), within.crop(wide))
        result = ids[order][Patch(floods, wide).crop(box)]
        return {"output": cast(result, self.arrays["output"].dtype, self.step.output)}

    def _surface(self, inputs: Mapping[str, Patch], box: Box) -> Array:
        """Return float64 of `box`: what is flooded, from low to high."""
        if "image" in inputs:
            values = inputs["image"].crop(box).astype(np.float64)
            return np.negative(values, out=values) if self.step.bright else values
        mask = inputs["mask"]
        near = box.grow(self.deep).intersect(mask.box)
        result = np.empty(box.shape)
        limit = min(d * s for d, s in zip(self.deep, self.size, strict=True) if d)
        cut = box.slices(near.start)[self.leading :]
        for frame, out in zip(frames_of(mask.crop(near), self.leading), frames_of(result, self.leading), strict=True):
            found = distances(np.not_equal(frame, 0, order="C"), self.size[self.leading :])[cut]
            np.negative(np.minimum(found, np.float32(limit)), out=out)
        return result

    def _deepest(self, surface: Patch, within: Patch, box: Box) -> Array:
        """Return uint64 of `box`: the numbers of voxels than which none in reach is deeper, from 1, else 0."""
        middle = box.grow(self.element.reach).intersect(surface.box)
        data = np.where(within.data & ~np.isnan(surface.data), surface.data, np.inf)
        high = Patch(data, surface.box)
        lowest = extreme(high, middle, self.element, True)
        found = (high.crop(middle) == lowest) & (lowest < np.inf)
        numbers = np.full(middle.shape, np.iinfo(np.uint64).max)
        numbers[found] = self._numbers(middle)[found]
        first = extreme(Patch(numbers, middle), box, self.element, True)
        own = Patch(numbers, middle).crop(box)
        return np.where((own == first) & Patch(found, middle).crop(box), own, np.uint64(0))

    def _numbers(self, box: Box) -> Array:
        """Return the number of every voxel of `box` in the volume, from 1 in raster order; uint64."""
        result = np.ones((), np.uint64)
        stride = 1
        for start, stop, low, extent in reversed(
            list(zip(box.start, box.stop, self.domain.start, self.domain.shape, strict=True))
        ):
            own = np.arange(start - low, stop - low).astype(np.uint64) * np.uint64(stride)
            result = own.reshape(-1, *(1,) * result.ndim) + result
            stride *= extent
        return result

    def _flooded(self, surface: Array, seeds: Array, mask: Array) -> Array:
        """Return int32: the number of the flood of every voxel, 0 outside the mask and where no flood comes."""
        from skimage.segmentation import watershed

        result = np.zeros(surface.shape, np.int32)
        parts = (frames_of(array, self.leading) for array in (surface, seeds, mask, result))
        for low, own, inside, out in zip(*parts, strict=True):
            if (own[inside] != 0).any():
                out[...] = watershed(low, own, connectivity=self.rank, mask=inside)
        return result

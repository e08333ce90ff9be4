"""What all ways of finding nuclei share: the axes that they work on, and the first look at the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Constant, Pass, Patch, State
from ndbatch.steps.nuclei.survey import sample, survey
from ndbatch.steps.payload import pack, unpack


@dataclass(frozen=True)
class Space:
    """The spatial axes of an array; the others have one voxel each and are left out of all arithmetic."""

    axes: tuple[int, ...]
    names: str
    domain: Box
    full: Box
    voxel_size: tuple[float, ...] | None

    @staticmethod
    def of(info: ArrayInfo) -> Space:
        """Return the space of `info`. PlanError for times or channels, fewer than two axes in space, and odd dtypes."""
        axes = tuple(i for i, name in enumerate(info.axes) if name in "zyx")
        spare = [name for i, name in enumerate(info.axes) if i not in axes and info.domain.shape[i] > 1]
        if spare or len(axes) not in (2, 3):
            raise PlanError(
                f"the image has axes {info.axes} of shape {info.domain.shape}; nuclei are found in (z, y, x) or (y, x): "
                + (f"set region to one voxel of {', '.join(spare)}" if spare else "give such an image")
            )
        if info.dtype.kind not in "buif":
            raise PlanError(f"the image has dtype {info.dtype}; nuclei are found in integers or floating point numbers")
        size = None if info.voxel_size is None else tuple(info.voxel_size[i] for i in axes)
        names = "".join(info.axes[i] for i in axes)
        return Space(axes, names, _reduced(info.domain, axes), info.domain, size)

    def box(self, box: Box) -> Box:
        """Return `box` without the other axes."""
        return _reduced(box, self.axes)

    def patch(self, patch: Patch) -> tuple[Array, Box]:
        """Return the voxels of `patch` and their box without the other axes."""
        box = self.box(patch.box)
        return patch.data.reshape(box.shape), box

    def whole(self, halo: Sequence[int]) -> Shape:
        """Return `halo` with 0 for the other axes."""
        known = dict(zip(self.axes, halo, strict=True))
        return tuple(known.get(i, 0) for i in range(self.full.ndim))


def _reduced(box: Box, axes: Sequence[int]) -> Box:
    return Box(tuple(box.start[i] for i in axes), tuple(box.stop[i] for i in axes))


@dataclass(frozen=True)
class SurveyPass(Pass):
    """The first look at the image: its `Level`, from samples on a lattice of the volume."""

    name: str
    halo: Shape
    space: Space
    local: bool

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the samples of the block's core."""
        rows = sample(*self.space.patch(inputs["image"]), self.space.box(block.core), self.space.domain)
        return pack({"rows": rows})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> State:
        """Return the `Level` of the image."""
        level = survey((rows for _, payload in payloads if len(rows := unpack(payload)["rows"])), self.local)
        return Constant(level, {"floor": level.floor, "noise": level.noise, "otsu": level.otsu})

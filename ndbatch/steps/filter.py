"""`filter`: neighbourhood filters, the same in blocks as in the whole array, to the bit.

All are scipy.ndimage's with its boundary condition (mirrored, mode `reflect`) and run axis by axis, except for the
median. A line is filtered with the context that its kernel reaches and no more, then cut to what the next axis needs.
Sliding sums (uniform_filter), whose rounding depends on where a line begins, are not among them.

Along t and c nothing is filtered. Float16 is filtered as float32, which holds it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy import ndimage

from ndbatch.casting import cast
from ndbatch.errors import PlanError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.extremes import Element, opened
from ndbatch.steps.lengths import spatial_voxels
from ndbatch.steps.strides import spread, spread_out
from ndbatch.units import Length

Method = Literal["gaussian", "dog", "log", "median", "tophat"]


class Filter(Step):
    """Filter an image: gaussian, difference of Gaussians, Laplacian of Gaussian, median, white top-hat."""

    kind: ClassVar[str] = "filter"

    input: str
    """The image."""
    output: str
    """The name of the result: float32 (gaussian, dog, log) or the image's dtype (median, tophat), unless the output asks
    for another."""
    method: Method = "gaussian"
    """gaussian: smoothed. dog: smoothed less smoothed more. log: Laplacian of the smoothed, negative in bright blobs.
    median: of the voxels in a box. tophat: what is brighter than its surroundings and fits into a box."""
    sigma: Annotated[Length | None, Field(examples=["0.5 um"])] = None
    """Standard deviation (gaussian, log; the smaller one of dog): a length such as 0.5 um, or voxels of the finest axis."""
    high_sigma: Length | None = None
    """The larger standard deviation (dog); 1.6 times sigma if not given."""
    radius: Length | None = None
    """Half the side of the box (median, tophat), rounded to whole voxels along each axis."""
    truncate: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Standard deviations at which the Gaussian ends."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> Filter:
        boxed = self.method in ("median", "tophat")
        wanted, other = ("radius", "sigma") if boxed else ("sigma", "radius")
        if getattr(self, wanted) is None:
            raise ValueError(f"method {self.method} needs {wanted}, such as {wanted}: 0.5 um")
        if getattr(self, other) is not None:
            raise ValueError(f"method {self.method} takes {wanted}, not {other}")
        if self.high_sigma is not None and self.method != "dog":
            raise ValueError(f"high_sigma goes with method dog, not with {self.method}")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no passes; the halo is what the kernels reach and no more.

        Raises PlanError for lengths that are not positive or have a unit where the volume has no voxel size, a box of one
        voxel, dog with `high_sigma` not above `sigma`, and dtypes that scipy does not filter exactly.
        """
        info = inputs["input"]
        if info.dtype.kind not in "buif":
            raise PlanError(f"filter: {self.input} is {info.dtype}; use integers or floating point numbers")
        kernel = self._box(info) if self.method in ("median", "tophat") else self._gaussians(info)
        own = _workable(info.dtype) if isinstance(kernel, BoxKernel) else np.dtype(np.float32)
        made = replace(
            info, dtype=dtypes.get("output", info.dtype if isinstance(kernel, BoxKernel) else own), kind=Kind.IMAGE
        )
        return _Filtering(
            arrays={"output": made},
            halo=kernel.halo,
            # The most arrays of the patch's size at once, one of them a copy where dtypes are changed on the way.
            working_bytes=kernel.copies * own.itemsize
            + (0 if _workable(info.dtype) == info.dtype else _workable(info.dtype).itemsize)
            + (0 if made.dtype == own else made.dtype.itemsize + 8),
            kernel=kernel,
            name=self.output,
        )

    def _gaussians(self, info: ArrayInfo) -> GaussianKernel:
        assert self.sigma is not None
        sigma = spatial_voxels(self.sigma, info, "filter: sigma")
        high: tuple[float, ...] = ()
        if self.method == "dog":
            high = tuple(1.6 * s for s in sigma)
            if self.high_sigma is not None:
                high = spatial_voxels(self.high_sigma, info, "filter: high_sigma")
            if not all(h > s for h, s in zip(high, sigma, strict=True) if s):
                raise PlanError(f"filter: high_sigma {self.high_sigma} is not above sigma {self.sigma}")
        return GaussianKernel(sigma, high, self.method == "log", self.truncate)

    def _box(self, info: ArrayInfo) -> BoxKernel:
        assert self.radius is not None
        if info.dtype.kind in "ui" and info.dtype.itemsize == 8:
            raise PlanError(
                f"filter: {self.input} is {info.dtype}, whose large values {self.method} would round; put a copy step before "
                "it and set dtype: uint32 for its output"
            )
        radius = tuple(int(r + 0.5) for r in spatial_voxels(self.radius, info, "filter: radius"))
        if not any(radius):
            raise PlanError(
                f"filter: radius {self.radius} is less than half a voxel along every axis, which changes nothing"
            )
        return BoxKernel(radius, self.method == "tophat")


@dataclass(frozen=True)
class GaussianKernel:
    """Gaussian, difference of two, or Laplacian; sigmas in voxels along each axis, 0 for axes that stay as they are."""

    sigma: tuple[float, ...]
    high: tuple[float, ...]
    laplacian: bool
    truncate: float

    @property
    def halo(self) -> Shape:
        """Voxels that the widest kernel reaches, as scipy cuts it."""
        return tuple(int(self.truncate * s + 0.5) for s in (self.high or self.sigma))

    @property
    def copies(self) -> float:
        """Arrays of the patch's size that are needed at once: two axes of one Gaussian, and a result beside them."""
        return 3.0 if self.high or self.laplacian else 2.0

    def run(self, patch: Patch, box: Box) -> Array:
        """Return the voxels of `box`, float32."""
        if self.laplacian:
            axes = [axis for axis, s in enumerate(self.sigma) if s > 0]
            result = self._smooth(patch, box, self.sigma, axes[0])
            for axis in axes[1:]:
                result += self._smooth(patch, box, self.sigma, axis)
            return result
        result = self._smooth(patch, box, self.sigma)
        if self.high:
            result -= self._smooth(patch, box, self.high)
        return result

    def _smooth(self, patch: Patch, box: Box, sigma: Sequence[float], twice: int = -1) -> Array:
        """Convolve with a Gaussian along every axis, with its second derivative along `twice`; contiguous, owned."""
        data = patch.data
        for axis, s in enumerate(sigma):
            if s > 0:
                source, data = spread_out(data), spread(data.shape, np.float32)
                ndimage.gaussian_filter1d(
                    source, s, axis, 2 if axis == twice else 0, data, "reflect", truncate=self.truncate
                )
            data = _cut(data, patch.box, box, axis)
        return np.array(data, np.float32, order="C")


@dataclass(frozen=True)
class BoxKernel:
    """Median or white top-hat over a box of 2 radius + 1 voxels along each axis."""

    radius: Shape
    tophat: bool

    @property
    def halo(self) -> Shape:
        """Voxels it reaches: an opening looks twice as far as its box."""
        return tuple(2 * r for r in self.radius) if self.tophat else self.radius

    @property
    def copies(self) -> float:
        """Arrays of the patch's size that are needed at once."""
        return 3.0 if self.tophat else 2.0

    def run(self, patch: Patch, box: Box) -> Array:
        """Return the voxels of `box` in the patch's dtype."""
        if self.tophat:
            return patch.crop(box) - opened(patch, box, Element(tuple(map(float, self.radius)), "box"))
        sizes = [2 * r + 1 for r in self.radius]
        return np.array(Patch(ndimage.median_filter(patch.data, sizes, mode="reflect"), patch.box).crop(box))


def _cut(data: Array, within: Box, box: Box, axis: int) -> Array:
    """Cut `data`, which covers `within` along `axis`, to `box` there."""
    keep = [slice(None)] * data.ndim
    keep[axis] = box.slices(within.start)[axis]
    return data[tuple(keep)]


def _workable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that scipy filters instead of `dtype`, without loss."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if dtype == np.float16 else dtype


@dataclass(frozen=True)
class _Filtering(Operation):
    kernel: GaussianKernel | BoxKernel = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the filtered voxels of `box`."""
        patch = inputs["input"]
        dtype = _workable(patch.data.dtype)
        if dtype != patch.data.dtype:
            patch = Patch(patch.data.astype(dtype), patch.box)
        return {"output": cast(self.kernel.run(patch, box), self.arrays["output"].dtype, self.name)}

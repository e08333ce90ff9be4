"""The columns of a table of objects: their names, their types, and how they follow from merged rows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo
from ndbatch.steps.measure import object_shapes as shapes
from ndbatch.steps.measure.exact_sums import deviations, quotients
from ndbatch.steps.measure.object_rows import ObjectRows, wide_label
from ndbatch.steps.measure.value_counts import ValueCounts

if TYPE_CHECKING:
    import pyarrow as pa

_CONTENTS = {3: "volume_um3", 2: "area_um2", 1: "length_um"}
"""Name of the physical size by number of spatial axes."""
_DISTRIBUTION = ("intensity_median", "intensity_skew", "intensity_kurtosis")


@dataclass(frozen=True)
class Columns:
    """The columns of the table: their names, their types, and how they follow from the merged rows."""

    labels: ArrayInfo
    image: np.dtype[Any] | None
    percents: tuple[float, ...]
    properties: frozenset[str] = frozenset()
    zones: np.dtype[Any] | None = None
    regionprops: bool = False
    """Names of scikit-image's regionprops_table instead of our own, where it has one."""

    @property
    def space(self) -> str:
        """The axes of z, y, x along which there is more than one voxel."""
        domain = self.labels.domain
        return "".join(axis for axis, n in zip(self.labels.axes, domain.shape, strict=True) if axis in "zyx" and n > 1)

    def nothing(self) -> pa.RecordBatch:
        """Return the table's columns without a row."""
        import pyarrow as pa

        return pa.RecordBatch.from_pydict({self._named(n): np.empty(0, dtype) for n, dtype in self.types().items()})

    def types(self) -> dict[str, Any]:
        """Return names and dtypes of the columns, in their order."""
        axes, scale = self.labels.axes, self._scale()
        made: dict[str, Any] = {"label": wide_label(self.labels.dtype), "voxels": np.int64}
        made |= {} if self.zones is None else {"zone": wide_label(self.zones)}
        made |= {_CONTENTS[len(scale)]: np.float64} if scale else {}
        made |= dict.fromkeys(axes, np.float64) | {f"{axis}_um": np.float64 for axis in scale}
        made |= {f"bbox_{end}_{axis}": np.int64 for end in ("min", "max") for axis in axes}
        made |= dict.fromkeys(self._forms(), np.float64) | ({"neighbours": np.int64} if self._near else {})
        if self.image is not None:
            made |= {"intensity_mean": np.float64, "intensity_min": self.image, "intensity_max": self.image}
            made |= {"intensity_std": np.float64} | {f"intensity_p{p:g}": np.float64 for p in self.percents}
            made |= dict.fromkeys(_DISTRIBUTION if "distribution" in self.properties else (), np.float64)
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
        if self.zones is not None:
            made["zone"] = main_zones(rows)
        made |= self._shapes(rows)
        typed = {self._named(name): np.asarray(made[name], dtype) for name, dtype in self.types().items()}
        return pa.RecordBatch.from_pydict(typed)

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
        if "values" in rows.lists:
            found = rows.lists["values"].percentiles([*self.percents, 50])
            made |= {f"intensity_p{p:g}": values for p, values in zip(self.percents, found, strict=False)}
            made["intensity_median"] = found[-1]
            made["intensity_skew"], made["intensity_kurtosis"] = standardized(rows.lists["values"])
        return made

    @property
    def _near(self) -> bool:
        return "neighbours" in self.properties

    def _size(self) -> list[float]:
        """Return the voxel size along `space`; 1 where it is not known."""
        scale = self._scale()
        return [scale.get(axis, 1.0) for axis in self.space]

    def _unit(self, power: int) -> str:
        return "" if not self._scale() else "_um" if power == 1 else f"_um{power}"

    def _forms(self) -> list[str]:
        """Return the names of the columns of shape, surface and contact."""
        made: list[str] = []
        length, solid = self._unit(1), len(self.space) == 3
        if "shape" in self.properties:
            made += [f"equivalent_diameter_area{length}", "extent"]
            made += [f"axis_major_length{length}", f"axis_minor_length{length}"]
            made += [f"inertia_tensor_eigvals-{i}" for i in range(len(self.space))]
            made += [f"axis_major_direction_{axis}" for axis in self.space]
        if "surface" in self.properties:
            made += [f"surface_area{self._unit(2)}", "sphericity"] if solid else [f"perimeter_crofton{length}"]
        return made + ([f"contact_area{self._unit(len(self.space) - 1)}"] if self._near else [])

    def _shapes(self, rows: ObjectRows) -> dict[str, Any]:
        """Return the columns of shape, surface and neighbours."""
        size, voxels, made = self._size(), rows.columns["voxels"], dict[str, Any]()
        content, length = voxels * math.prod(size), self._unit(1)
        if "shape" in self.properties:
            main = shapes.principal(shapes.covariances(rows.sums, voxels, self.space, size))
            made[f"equivalent_diameter_area{length}"] = shapes.equivalent_diameter(content, len(size))
            sides = [rows.columns[f"max.{axis}"] - rows.columns[f"min.{axis}"] for axis in self.space]
            made["extent"] = voxels / np.prod(sides, axis=0)
            made |= {f"{name}{length}": main[name] for name in ("axis_major_length", "axis_minor_length")}
            made |= {f"inertia_tensor_eigvals-{i}": values for i, values in enumerate(main["inertia_tensor_eigvals"].T)}
            ways = zip(self.space, main["axis_major_direction"].T, strict=True)
            made |= {f"axis_major_direction_{axis}": values for axis, values in ways}
        if "surface" in self.properties:
            counts = sorted((n for n in rows.columns if n.startswith("crossings.")), key=lambda n: int(n[10:]))
            found = shapes.surfaces(np.stack([rows.columns[name] for name in counts], 1), size)
            made |= {f"surface_area{self._unit(2)}": found, f"perimeter_crofton{length}": found}
            made["sphericity"] = shapes.sphericity(content, found) if len(size) == 3 else None
        if self._near:
            made["neighbours"] = np.diff(rows.lists["neighbours"].offsets)
            faces = [rows.columns[f"faces.{a}"] * (math.prod(size) / s) for a, s in zip(self.space, size, strict=True)]
            made[f"contact_area{self._unit(len(size) - 1)}"] = np.sum(faces, axis=0)
        return made

    def _named(self, name: str) -> str:
        """Return the name of a column as the user wants it."""
        return regionprops_name(name, self.labels.axes) if self.regionprops else name


def main_zones(rows: ObjectRows) -> Array:
    """Return the zone that holds most voxels of each object, the smallest of several."""
    pairs = rows.lists["zones"]
    best = np.lexsort((pairs.values, -pairs.counts, pairs.owners()))
    chosen: Array = pairs.values[best[pairs.offsets[:-1]]]
    return chosen


def standardized(pairs: ValueCounts) -> tuple[Array, Array]:
    """Return skewness and excess kurtosis of each group (as scipy.stats, biased); NaN where all values are equal.

    From the sorted values, so that they do not depend on how the values came together.
    """
    owners, groups = pairs.owners(), len(pairs.offsets) - 1
    values, weights = pairs.values.astype(np.float64), pairs.counts.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        total = np.bincount(owners, weights, groups)
        away = values - (np.bincount(owners, weights * values, groups) / total)[owners]
        second, third, fourth = (np.bincount(owners, weights * away**k, groups) / total for k in (2, 3, 4))
        second = np.where(second > 0, second, np.nan)
        return third / second**1.5, fourth / second**2 - 3.0


def regionprops_name(name: str, axes: str) -> str:
    """Return what scikit-image's regionprops_table calls a column; our own name where it has none."""
    if name in axes:
        return f"centroid-{axes.index(name)}"
    for start, first in (("bbox_min_", 0), ("bbox_max_", len(axes))):
        if name.startswith(start):
            return f"bbox-{first + axes.index(name.removeprefix(start))}"
    plain = re.sub(r"(?<=.{2})_um\d?$", "", name)
    return {"voxels": "num_pixels", "volume": "area", "length": "area"}.get(plain, plain)

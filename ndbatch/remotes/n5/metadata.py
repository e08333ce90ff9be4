"""Attributes of N5 groups and datasets to and from an ArraySpec; every list is in the order of the file, first axis fastest.

Format: https://github.com/saalfeldlab/n5. Where voxels lie is told by several conventions, read in this order:

- COSEM: `transform` (`axes`, `scale`, `translate`, `units`) of a dataset, or of a level in the group's `multiscales`;
- n5-viewer, BigDataViewer, Neuroglancer and Paintera: `pixelResolution` or `resolution` with `units`, `offset`, and
  `downsamplingFactors` of each level or `scales` of the group. Attributes of groups hold for all that is below them.

Centres are where `pyramids` says: a level coarser by f begins (f - 1) / 2 voxels further on. New volumes carry both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndbatch.remotes.axes import CANONICAL, AxisOrder
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.pyramids import centres, factors, nearest_voxel
from ndbatch.units import MICROMETRES

OWN = "ndbatch"
MAX_ID = "maxId"
"""The largest label, which Paintera keeps to give out new ones."""
UNIT = "um"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a level lie, axis by axis as stored: `scale` and `translation` of centres in `units`."""

    scale: tuple[float, ...]
    translation: tuple[float, ...]
    units: tuple[str, ...]

    def voxel_size(self, names: str) -> tuple[float, ...] | None:
        """Return micrometres along each axis (1.0 on t and c); None where a spatial axis has no unit of length."""
        sizes = []
        for name, scale, unit in zip(names, self.scale, self.units, strict=True):
            length = MICROMETRES.get(unit.lower()) if name not in "tc" else 1.0 / scale
            if length is None:
                return None
            sizes.append(scale * length)
        return tuple(sizes)

    def offset(self) -> tuple[int, ...]:
        """Return the place of the first voxel in whole voxels of the level."""
        return nearest_voxel(self.translation, self.scale)


def is_dataset(document: Document | None) -> bool:
    """Return whether attributes are those of a dataset."""
    return document is not None and {"dimensions", "blockSize", "dataType"} <= set(document)


def axis_names(dataset: Document, group: Document) -> str:
    """Return the names of the axes, the fastest first: as the file says, or (x, y, z, c, t) from the left."""
    ndim = len(dataset["dimensions"])
    for document in (dataset, group):
        names = "".join(str(name).lower() for name in document.get("axes") or ())
        if len(names) == ndim == len(set(names)) and set(names) <= set(CANONICAL):
            return names
    return CANONICAL[::-1][:ndim]


def level_paths(group: Document) -> tuple[str, ...] | None:
    """Return the paths of the levels that a group lists, finest first; None where they must be looked for (s0, s1 ...)."""
    entries = _image(group).get("datasets")
    if entries:
        return tuple(str(entry["path"]) for entry in entries)
    count = len(_factor_list(group))
    return tuple(f"s{level}" for level in range(count)) or None


def geometry(dataset: Document, finest: Document, group: Document, level: int, names: str) -> Geometry:
    """Return where the voxels of a level lie. `finest` are the attributes of level 0, `group` those from above.

    Raises KeyError, TypeError, ValueError for attributes that break their convention.
    """
    entries = _image(group).get("datasets") or []
    listed = entries[level].get("transform") if level < len(entries) else None
    for transform in (dataset.get("transform"), listed):
        if isinstance(transform, Mapping) and len(transform.get("scale", ())) == len(names):
            return _checked(_by_transform(transform, names))
    return _checked(_by_factors(dataset, finest, group, level, names))


def _by_transform(transform: Document, names: str) -> Geometry:
    """Read COSEM's transform, whose lists are C-order unless its axes say another."""
    order = "".join(str(name).lower() for name in transform.get("axes") or ())
    if sorted(order) != sorted(names):
        order = names[::-1]
    ndim = len(names)
    scale, moved = transform["scale"], transform.get("translate") or [0.0] * ndim
    units = transform.get("units") or [""] * ndim
    places = [order.index(name) for name in names]
    return Geometry(
        tuple(float(scale[i]) for i in places),
        tuple(float(moved[i]) for i in places),
        tuple(str(units[i]) for i in places),
    )


def _by_factors(dataset: Document, finest: Document, group: Document, level: int, names: str) -> Geometry:
    """Read the resolution of level 0 and the factors of the level."""
    listed = _factor_list(group)
    given = listed[level] if level < len(listed) else _numbers(dataset.get("downsamplingFactors"))
    factor = _along(given, names, 1.0)
    own = _resolution(dataset) if level else None
    values, unit = base = _resolution(finest) or _resolution(group) or own or ([], [])
    resolution = _along(values, names, 1.0)
    if own is not None and own[0] != base[0]:
        theirs = _along(own[0], names, 1.0)
        if dataset.get("downsamplingFactors"):  # as n5-viewer has it, of level 0
            resolution = theirs
        else:  # as COSEM has it, of the level
            factor = [a / b for a, b in zip(theirs, resolution, strict=True)]
    units = _along(unit if len(unit) != 1 else unit * len(names), names, "")
    found = next((d["offset"] for d in (finest, group) if d.get("offset")), None)
    start = [o / r for o, r in zip(_along(_numbers(found), names, 0.0), resolution, strict=True)]
    middle = [s + (f - 1) / 2 for s, f in zip(start, factor, strict=True)]
    return Geometry(
        tuple(r * f for r, f in zip(resolution, factor, strict=True)),
        tuple(m * r for m, r in zip(middle, resolution, strict=True)),
        tuple(units),
    )


def _resolution(document: Document) -> tuple[list[float], list[str]] | None:
    """Return the extent of a voxel and its units, as a document of either convention tells them."""
    pixel = document.get("pixelResolution")
    if isinstance(pixel, Mapping):
        return _numbers(pixel["dimensions"]), [str(pixel.get("unit") or "")]
    values = _numbers(pixel) or _numbers(document.get("resolution"))
    if not values:
        return None
    units = document.get("units") or document.get("unit") or ""
    return values, [units] if isinstance(units, str) else [str(unit) for unit in units]


def _along(values: Sequence[Any], names: str, default: Any) -> list[Any]:
    """Return one value an axis: all of them, or those of x, y, z alone, as stored."""
    if len(values) == len(names):
        return list(values)
    spatial = [name for name in names if name in "zyx"]
    if len(values) >= len(spatial) > 0:
        given = dict(zip(spatial, values, strict=False))
        return [given.get(name, default) for name in names]
    return [default] * len(names)


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values] if isinstance(values, Sequence) and not isinstance(values, str) else []


def _factor_list(group: Document) -> list[list[float]]:
    """Return the factors of all levels, where a group lists them."""
    for key in ("downsamplingFactors", "scales"):
        found = group.get(key)
        if isinstance(found, Sequence) and found and all(isinstance(one, Sequence) for one in found):
            return [_numbers(one) for one in found]
    return []


def _image(group: Document) -> Document:
    """Return the first image of COSEM's `multiscales`."""
    images = group.get("multiscales")
    first = images[0] if isinstance(images, Sequence) and images else {}
    return first if isinstance(first, Mapping) else {}


def _checked(found: Geometry) -> Geometry:
    if not all(0 < s < float("inf") for s in found.scale) or not all(abs(t) < float("inf") for t in found.translation):
        raise ValueError(f"scale {found.scale} and translation {found.translation} must be finite, the scale above 0")
    return found


def read_kind(group: Document) -> Kind:
    """Return what the voxels mean: ndbatch's own word, or labels where Paintera's marks say so, or an image."""
    own, paintera = group.get(OWN), group.get("painteraData")
    if isinstance(own, Mapping) and own.get("kind") in set(Kind):
        return Kind(own["kind"])
    marked = isinstance(paintera, Mapping) and paintera.get("type") == "label"
    return Kind.LABELS if marked or MAX_ID in group else Kind.IMAGE


def dataset_metadata(spec: ArraySpec, order: AxisOrder, compression: Document) -> dict[str, Any]:
    """Return what makes a dataset of `spec`."""
    return {
        "dimensions": list(order.to_stored(spec.shape)),
        "blockSize": list(order.to_stored(spec.chunks)),
        "dataType": spec.dtype.name,
        "compression": dict(compression),
        "axes": list(order.stored),
    }


def first_geometry(spec: ArraySpec, order: AxisOrder) -> Geometry:
    """Return where the voxels of a new volume lie, in micrometres, or in voxels where it has no voxel size."""
    size = order.to_stored(spec.voxel_size or (1.0,) * spec.ndim)
    units = tuple(UNIT if spec.voxel_size and name in "zyx" else "" for name in order.stored)
    moved = (o * s for o, s in zip(order.to_stored(spec.offset), size, strict=True))
    return Geometry(size, tuple(moved), units)


def coarser_geometry(first: Geometry, finest: ArraySpec, spec: ArraySpec, order: AxisOrder) -> Geometry:
    """Return where the voxels of the level `spec` lie, on those of level 0, `finest`, which lie at `first`."""
    factor = order.to_stored(factors(finest, spec))
    pairs = zip(first.translation, first.scale, order.to_stored(finest.offset), strict=True)
    rest = [t / s - o for t, s, o in pairs]
    middle = centres(order.to_stored(spec.offset), factor, rest)
    return Geometry(
        tuple(s * f for s, f in zip(first.scale, factor, strict=True)),
        tuple(m * s for m, s in zip(middle, first.scale, strict=True)),
        first.units,
    )


def dataset_place(level: Geometry, first: Geometry, names: str) -> dict[str, Any]:
    """Return the attributes of a level's dataset that tell where it lies."""
    return {"downsamplingFactors": _factors(level, first), "transform": _transform(level, names)}


def alone(found: Geometry) -> dict[str, Any]:
    """Return the attributes of a dataset without a group that tell where it lies."""
    place: dict[str, Any] = {"resolution": list(found.scale), "offset": list(found.translation)}
    return {**place, "units": list(found.units)} if any(found.units) else place


def new_group(first: Geometry, names: str, title: str) -> dict[str, Any]:
    """Return the attributes of a group whose only level, `s0`, lies at `first`."""
    entry = {"path": "s0", "transform": _transform(first, names)}
    return {
        "multiScale": True,
        "axes": list(names),
        **alone(first),
        "scales": [[1] * len(names)],
        "multiscales": [{"name": title, "datasets": [entry]}],
    }


def with_level(group: Document, path: str, level: Geometry, first: Geometry, names: str) -> dict[str, Any]:
    """Return the attributes of a group with one more level, in each list of levels that it has; the rest is kept."""
    changed = dict(group)
    for key in ("downsamplingFactors", "scales"):
        if _factor_list({key: group.get(key)}):
            changed[key] = [*group[key], _factors(level, first)]
    if _image(group).get("datasets"):
        image, *others = group["multiscales"]
        entry = {"path": path, "transform": _transform(level, names)}
        changed["multiscales"] = [{**image, "datasets": [*image["datasets"], entry]}, *others]
    return changed


def _factors(level: Geometry, first: Geometry) -> list[float | int]:
    found = [round(a / b, 9) for a, b in zip(level.scale, first.scale, strict=True)]
    return [int(f) if f.is_integer() else f for f in found]


def _transform(found: Geometry, names: str) -> dict[str, Any]:
    """Write COSEM's transform, C-order."""
    return {
        "axes": list(names[::-1]),
        "scale": list(found.scale[::-1]),
        "translate": list(found.translation[::-1]),
        "units": list(found.units[::-1]),
    }

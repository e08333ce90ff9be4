"""OME-NGFF metadata (0.4 and 0.5, older axes too; https://ngff.openmicroscopy.org) to and from an ArraySpec.

ndbatch's own facts (what the voxels mean, the run's record) stand beside it under the key `ndbatch`. Axis order here is
that of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndbatch.errors import Corrupt
from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.pyramids import centres, factors, nearest_voxel
from ndbatch.units import MICROMETRES

OWN = "ndbatch"
DISPLAY = "omero"
"""The key of the display settings, among the attributes of an image."""


@dataclass(frozen=True)
class Image:
    """A multiscale image: its axes as stored, and its levels, the finest first."""

    axes: tuple[str, ...]
    units: tuple[str, ...]
    """Unit of each axis as the file spells it, empty where it says none."""
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...], ...]
    """Extent of a voxel along each axis, level by level, in `units`."""
    translations: tuple[tuple[float, ...], ...]
    """Place of the first voxel's centre, level by level, in `units`."""

    def voxel_size(self, level: int) -> tuple[float, ...] | None:
        """Return micrometres along each axis (1.0 on t and c); None where a spatial axis has no unit of length."""
        sizes = []
        for axis, unit, scale in zip(self.axes, self.units, self.scales[level], strict=True):
            length = MICROMETRES.get(unit.lower()) if axis not in "tc" else 1.0 / scale
            if length is None:
                return None
            sizes.append(scale * length)
        return tuple(sizes)

    def offset(self, level: int) -> tuple[int, ...]:
        """Return the place of the first voxel in whole voxels of the level."""
        return nearest_voxel(self.translations[level], self.scales[level])


def read_image(attributes: Mapping[str, Any], where: str) -> Image | None:
    """Return the first multiscale image of a group's attributes, or None where there is none.

    Raises Corrupt, naming the group `where`, for metadata that breaks the format.
    """
    entries, _ = _multiscales(attributes)
    if not entries:
        return None
    try:
        entry = entries[0]
        axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in entry.get("axes") or "tczyx"]
        steps = [_transform(len(axes), d, entry) for d in entry["datasets"]]
        return Image(
            axes=tuple(_name(axis) for axis in axes),
            units=tuple(str(axis.get("unit") or "") for axis in axes),
            paths=tuple(str(dataset["path"]) for dataset in entry["datasets"]),
            scales=tuple(scale for scale, _ in steps),
            translations=tuple(shift for _, shift in steps),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Corrupt(
            f"{where}: its OME-Zarr metadata is damaged: {type(error).__name__}: {error}", url=where
        ) from None


def _name(axis: Mapping[str, Any]) -> str:
    by_type = {"time": "t", "channel": "c"}
    return by_type.get(str(axis.get("type", "")), str(axis["name"]).lower())


def _transform(
    ndim: int, dataset: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and translation of a level: its own transformations, then those of the whole image."""
    scale, shift = [1.0] * ndim, [0.0] * ndim
    for step in [*dataset.get("coordinateTransformations", []), *(entry.get("coordinateTransformations") or [])]:
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            shift = [a * float(b) for a, b in zip(shift, step["scale"], strict=True)]
        elif step["type"] == "translation":
            shift = [a + float(b) for a, b in zip(shift, step["translation"], strict=True)]
    if not all(s > 0 and math.isfinite(s) for s in scale) or not all(math.isfinite(s) for s in shift):
        raise ValueError(f"scale {scale} and translation {shift} must be finite, and the scale above 0")
    return tuple(scale), tuple(shift)


def write_image(spec: ArraySpec, version: str, name: str, source: str = "") -> dict[str, Any]:
    """Return the attributes of a group that holds `spec` as its only level, at path `0`.

    `source` is the path from labels to the image that they belong to.
    """
    size = spec.voxel_size
    axes: list[dict[str, str]] = []
    for axis in spec.axes:
        kind = {"t": "time", "c": "channel"}.get(axis, "space")
        unit = {"unit": "micrometer"} if kind == "space" and size is not None else {}
        axes.append({"name": axis, "type": kind, **unit})
    scale = list(size) if size is not None else [1.0] * spec.ndim
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(spec.offset):
        moved = [o * s for o, s in zip(spec.offset, scale, strict=True)]
        transforms.append({"type": "translation", "translation": moved})
    image = {"name": name, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}
    own = {OWN: {"kind": str(spec.kind)}}
    label = {"version": version, **({"source": {"image": source}} if source else {})}
    mark: dict[str, Any] = {"image-label": label} if spec.kind is Kind.LABELS else {}
    if version == "0.4":
        return {"multiscales": [{"version": version, **image}], **mark, **own}
    return {"ome": {"version": version, "multiscales": [image], **mark}, **own}


def with_level(
    attributes: Mapping[str, Any], finest: ArraySpec, spec: ArraySpec, order: AxisOrder, path: str, where: str
) -> dict[str, Any]:
    """Return the attributes of a group with the array at `path` as one more level of its image; the rest is kept.

    `finest` is level 0 as read from them, `spec` the new level, `order` that of their axes in the file. The level's
    centres are where `pyramids.centres` says, so that all levels lie on each other. Raises Corrupt where no image is left.
    """
    image = read_image(attributes, where)
    if image is None:
        raise Corrupt(f"{where} holds no image", url=where)
    base, start = image.scales[0], image.translations[0]
    rest = [t / s - o for t, s, o in zip(start, base, order.to_stored(finest.offset), strict=True)]
    factor = order.to_stored(factors(finest, spec))
    place = centres(order.to_stored(spec.offset), factor, rest)
    entries, key = _multiscales(attributes)
    whole = _transform(len(base), {}, entries[0])  # comes after that of the level, so it is taken back here
    scale = [b * f / w for b, f, w in zip(base, factor, whole[0], strict=True)]
    shift = [(p * b - t) / w for p, b, w, t in zip(place, base, *whole, strict=True)]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(shift):
        transforms.append({"type": "translation", "translation": shift})
    level = {"path": path, "coordinateTransformations": transforms}
    entry = {**entries[0], "datasets": [*entries[0]["datasets"], level]}
    changed = {"multiscales": [entry, *entries[1:]]}
    return {**attributes, key: {**attributes[key], **changed}} if key else {**attributes, **changed}


def _multiscales(attributes: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the images of a group and the key that they stand under: `ome` from 0.5 on, none before."""
    ome = attributes.get("ome")
    if isinstance(ome, Mapping):
        return list(ome.get("multiscales") or ()), "ome"
    return list(attributes.get("multiscales") or ()), ""


def read_kind(attributes: Mapping[str, Any]) -> Kind:
    """Return what the voxels mean: ndbatch's own word, or labels by the mark `image-label`, or an image."""
    own = attributes.get(OWN)
    if isinstance(own, Mapping) and own.get("kind") in set(Kind):
        return Kind(own["kind"])
    ome = attributes.get("ome")
    return Kind.LABELS if "image-label" in (ome if isinstance(ome, Mapping) else attributes) else Kind.IMAGE


def display_settings(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how viewers show the channels (`omero`: label, colour, window of each), or None where nothing tells it."""
    ome = attributes.get("ome")
    shown = (ome if isinstance(ome, Mapping) else attributes).get(DISPLAY)
    return dict(shown) if isinstance(shown, Mapping) else None


def with_display_settings(attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an image with its display settings replaced."""
    if isinstance(attributes.get("ome"), Mapping):
        return {**attributes, "ome": {**attributes["ome"], DISPLAY: dict(settings)}}
    return {**attributes, DISPLAY: dict(settings)}


def channel_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of the channels in the display settings (`omero`), in order; () where any is missing."""
    entries = (display_settings(attributes) or {}).get("channels")
    names = [entry.get("label") if isinstance(entry, Mapping) else None for entry in entries or ()]
    return tuple(map(str, names)) if all(names) else ()


def with_label(attributes: Mapping[str, Any], names: Sequence[str], zarr_format: int) -> dict[str, Any]:
    """Return the attributes of a `labels` group with `names` added to its list of label images."""
    ome = dict(attributes.get("ome") or {}) if zarr_format == 3 else dict(attributes)
    listed = list(ome.get("labels", []))
    ome["labels"] = listed + [name for name in names if name not in listed]
    return {**attributes, "ome": {"version": "0.5", **ome}} if zarr_format == 3 else ome

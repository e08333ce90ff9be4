"""OME-NGFF metadata (versions 0.4 and 0.5, https://ngff.openmicroscopy.org) to and from an ArraySpec.

ndbatch's own facts (kind, offset in voxels, the run's record) stand beside it under the key `ndbatch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ndbatch.errors import Corrupt
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.units import MICROMETRES

OWN = "ndbatch"


def multiscales(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first multiscale image of a group's attributes, or None where there is none."""
    ome = attributes.get("ome", attributes)
    entries = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return dict(entries[0]) if entries else None


def level_paths(image: Mapping[str, Any]) -> list[str]:
    """Return the paths of the levels, the finest first."""
    return [str(entry["path"]) for entry in image["datasets"]]


def axes_of(image: Mapping[str, Any]) -> str:
    """Return the axis names, C-order. Corrupt for axes that ndbatch has no name for."""
    names = [str(a["name"] if isinstance(a, Mapping) else a) for a in image.get("axes", [])] or list("tczyx")
    if any(len(n) != 1 or n not in "tczyx" for n in names):
        raise Corrupt(f"axes {names} of the multiscale image are not all of t, c, z, y, x")
    return "".join(names)


def geometry(image: Mapping[str, Any], level: int) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
    """Return the voxel size (micrometres; None where the image does not tell units) and the translation of a level.

    The translation is in micrometres too, or in voxels of the level where there is no unit.
    """
    axes = image.get("axes", [])
    count = len(axes)
    scale, shift = [1.0] * count, [0.0] * count
    for step in [
        *image["datasets"][level].get("coordinateTransformations", []),
        *image.get("coordinateTransformations", []),
    ]:
        if step.get("type") == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            shift = [a * float(b) for a, b in zip(shift, step["scale"], strict=True)]
        elif step.get("type") == "translation":
            shift = [a + float(b) for a, b in zip(shift, step["translation"], strict=True)]
    space = [isinstance(a, Mapping) and a.get("type", "space") == "space" and a["name"] not in "tc" for a in axes]
    units = [MICROMETRES.get(str(a.get("unit", "")).lower()) if s else 1.0 for a, s in zip(axes, space, strict=True)]
    if any(u is None for u in units):
        return None, tuple(d / s for d, s in zip(shift, scale, strict=True))
    factors = [float(u or 1.0) for u in units]
    sized = [s * f if is_space else 1.0 for s, f, is_space in zip(scale, factors, space, strict=True)]
    return tuple(sized), tuple(d * f for d, f in zip(shift, factors, strict=True))


def describe(spec: ArraySpec, version: str, name: str) -> dict[str, Any]:
    """Return the attributes of a group that holds `spec` as its only level, at path `0`."""
    size = spec.voxel_size
    axes = []
    for axis in spec.axes:
        kind = {"t": "time", "c": "channel"}.get(axis, "space")
        entry = {"name": axis, "type": kind}
        if kind == "space" and size is not None:
            entry["unit"] = "micrometer"
        axes.append(entry)
    scale = list(size) if size is not None else [1.0] * spec.ndim
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(spec.offset):
        moved = [o * s for o, s in zip(spec.offset, scale, strict=True)]
        transforms.append({"type": "translation", "translation": moved})
    image: dict[str, Any] = {
        "name": name,
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": transforms}],
    }
    own = {"kind": str(spec.kind), "offset": list(spec.offset)}
    if version == "0.4":
        return {"multiscales": [{"version": "0.4", **image}], OWN: own, **_labels(spec, {"version": "0.4"})}
    return {"ome": {"version": version, "multiscales": [image], **_labels(spec, {})}, OWN: own}


def _labels(spec: ArraySpec, extra: dict[str, Any]) -> dict[str, Any]:
    """Return the mark by which viewers know a label image."""
    return {"image-label": extra} if spec.kind is Kind.LABELS else {}


def kind_of(attributes: Mapping[str, Any]) -> Kind:
    """Return what the voxels mean: ndbatch's own word, or the image-label mark, or an image."""
    own = attributes.get(OWN)
    if isinstance(own, Mapping) and own.get("kind") in set(Kind):
        return Kind(own["kind"])
    ome = attributes.get("ome", attributes)
    return Kind.LABELS if isinstance(ome, Mapping) and "image-label" in ome else Kind.IMAGE


def offset_of(
    attributes: Mapping[str, Any], translation: tuple[float, ...], size: tuple[float, ...] | None, level: int
) -> tuple[int, ...]:
    """Return the offset in voxels: ndbatch's own word at the finest level, or the translation in whole voxels, or 0.

    A translation that is no whole number of voxels (a pyramid's half-voxel shift) is no offset.
    """
    own = attributes.get(OWN)
    if level == 0 and isinstance(own, Mapping) and "offset" in own:
        return tuple(int(o) for o in own["offset"])
    voxels = [d / s for d, s in zip(translation, size or (1.0,) * len(translation), strict=True)]
    return tuple(round(v) if abs(v - round(v)) < 1e-3 and v >= 0 else 0 for v in voxels)

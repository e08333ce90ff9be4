"""What a TIFF file tells of its voxel size and meaning: OME-XML, ImageJ's description, or tifffile's JSON.

OME-XML: https://docs.openmicroscopy.org/ome-model (Pixels/PhysicalSizeX and its unit, micrometres by default). ImageJ:
`spacing` and `unit` of the description with the resolution tags, in pixels a unit. ndbatch keeps its own facts (kind,
offset, axes, shape) as JSON in the image's description.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from ndbatch.remotes.base import ArraySpec
from ndbatch.units import MICROMETRES

OWN = "ndbatch"
OME_TYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
"""The types of voxel that OME-XML has a word for."""

Sizes = dict[str, float]


def read_metadata(file: Any, series: int) -> tuple[Sizes | None, dict[str, Any]]:
    """Return the voxel size in micrometres by axis name (None where it is not told) and ndbatch's own document."""
    if file.ome_metadata:
        return _ome(str(file.ome_metadata), series)
    if file.imagej_metadata:
        return _imagej(file), {}
    shaped = file.shaped_metadata
    if shaped and len(shaped) > series:
        document = dict(shaped[series])
        return _physical(document), _own(document.get("Description"))
    return None, {}


def channel_names(file: Any, series: int) -> tuple[str, ...]:
    """Return the names of the channels of a series, in order, where the OME-XML names every one, or ImageJ labels each plane
    of a file that has channels alone; () otherwise."""
    if file.ome_metadata:
        pixels = _pixels(str(file.ome_metadata), series)
        found = [node.get("Name") for node in pixels if node.tag.endswith("}Channel")] if pixels is not None else []
    else:
        described = file.imagej_metadata or {}
        labels = list(described.get("Labels") or [])
        found = labels if len(labels) == described.get("channels", 1) else []
    return tuple(map(str, found)) if found and all(found) else ()


def _pixels(text: str, series: int) -> ElementTree.Element | None:
    """Return the element Pixels of the image of a series, or None."""
    try:
        image = [node for node in ElementTree.fromstring(text) if node.tag.endswith("}Image")][series]
    except (ElementTree.ParseError, IndexError):
        return None
    return next((node for node in image if node.tag.endswith("}Pixels")), None)


def _ome(text: str, series: int) -> tuple[Sizes | None, dict[str, Any]]:
    try:
        images = [node for node in ElementTree.fromstring(text) if node.tag.endswith("}Image")]
        image = images[series]
    except (ElementTree.ParseError, IndexError):
        return None, {}
    pixels = next((node for node in image if node.tag.endswith("}Pixels")), None)
    described = next((node.text for node in image if node.tag.endswith("}Description")), None)
    return (_physical(pixels.attrib) if pixels is not None else None), _own(described)


def _physical(facts: Mapping[str, Any]) -> Sizes | None:
    """Return PhysicalSizeX, Y and Z in micrometres; None where one along x or y is missing or has no known unit."""
    sizes: Sizes = {}
    for axis in "zyx":
        name = f"PhysicalSize{axis.upper()}"
        unit = MICROMETRES.get(str(facts.get(f"{name}Unit", "µm")).lower())
        try:
            size = float(facts[name]) * (unit or 0.0)
        except (KeyError, ValueError, TypeError):
            continue
        if size > 0:
            sizes[axis] = size
    return sizes if {"y", "x"} <= set(sizes) else None


def _imagej(file: Any) -> Sizes | None:
    described, tags = file.imagej_metadata, file.pages[0].tags
    word = str(described.get("unit", "")).replace("\\u00B5", "µ").lower()
    unit = MICROMETRES.get(word)
    sizes: Sizes = {}
    if unit is None:
        return None
    for axis, tag in (("x", "XResolution"), ("y", "YResolution")):
        pixels, length = tags[tag].value if tag in tags else (0, 0)
        if pixels and length:
            sizes[axis] = length / pixels * unit
    if "spacing" in described:
        sizes["z"] = abs(float(described["spacing"])) * unit
    return sizes if {"y", "x"} <= set(sizes) else None


def _own(described: Any) -> dict[str, Any]:
    """Return ndbatch's document in a description, or an empty one."""
    try:
        document = json.loads(described)[OWN]
    except (ValueError, KeyError, TypeError):
        return {}
    return document if isinstance(document, dict) else {}


def write_metadata(spec: ArraySpec, name: str) -> dict[str, Any]:
    """Return what tifffile writes into the description of a new file of `spec`; the same spec gives the same bytes."""
    own = {
        "kind": str(spec.kind),
        "offset": list(spec.offset),
        "axes": spec.axes,
        "shape": list(spec.shape),
    }
    metadata: dict[str, Any] = {
        "axes": spec.axes.upper(),
        "Name": name,
        "Creator": OWN,
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {spec!r}")),
        "Description": json.dumps({OWN: own}, sort_keys=True),
    }
    if spec.voxel_size is not None:
        for axis, size in zip(spec.axes, spec.voxel_size, strict=True):
            if axis in "zyx":
                metadata[f"PhysicalSize{axis.upper()}"] = size
                metadata[f"PhysicalSize{axis.upper()}Unit"] = "µm"
    return metadata

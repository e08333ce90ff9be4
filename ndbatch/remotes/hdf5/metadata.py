"""What the attributes of an HDF5 dataset tell of its axes, its voxel size and its meaning.

Understood: `element_size_um` (z, y, x; written by the ImageJ HDF5 plug-in and ilastik), `voxel_size_um` and
`voxel_size_nm` (in the order of the axes), `axistags` (vigra's JSON, as ilastik writes it), `axes` (a word such as
`zyx`), HDF5 dimension labels, and `ndbatch` (a JSON document: kind, offset and the user's attributes). A bare
`resolution` is not: files disagree about its unit and order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import ArraySpec

OWN = "ndbatch"
LABELS = "DIMENSION_LABELS"
_SIZES = (("voxel_size_um", 1.0), ("voxel_size_nm", 1e-3))


def axis_names(attributes: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the axes in stored order, or None where no attribute tells them."""
    tags, axes, labels = attributes.get("axistags"), attributes.get("axes"), attributes.get(LABELS)
    if tags is not None:
        try:
            return [str(axis["key"]) for axis in json.loads(_text(tags))["axes"]]
        except (ValueError, KeyError, TypeError):
            return None
    if axes is not None:
        return list(_text(axes)) if isinstance(axes, str | bytes) else [_text(name) for name in axes]
    return None if labels is None else [_text(name) for name in labels]


def voxel_size(attributes: Mapping[str, Any], order: AxisOrder) -> tuple[float, ...] | None:
    """Return the voxel size in micrometres along `order.axes` (1.0 on t and c), or None where nothing tells it."""
    element = _numbers(attributes.get("element_size_um"))
    if element is not None and len(element) == 3:
        sizes = dict(zip("zyx", element, strict=True))
        return tuple(sizes.get(axis, 1.0) for axis in order.axes)
    for name, unit in _SIZES:
        numbers = _numbers(attributes.get(name))
        spatial = [axis for axis in order.stored if axis not in "tc"]
        if numbers is None or len(numbers) not in (len(order.stored), len(spatial)):
            continue
        named = list(order.stored) if len(numbers) == len(order.stored) else spatial
        sizes = {axis: n * unit for axis, n in zip(named, numbers, strict=True) if axis not in "tc"}
        return tuple(sizes.get(axis, 1.0) for axis in order.axes)
    return None


def own_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ndbatch's own document; empty where there is none that can be read."""
    try:
        document = json.loads(_text(attributes.get(OWN, "{}")))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def attributes_of(spec: ArraySpec) -> dict[str, Any]:
    """Return the attributes to write with a new dataset of `spec`."""
    attributes: dict[str, Any] = {
        "axes": spec.axes,
        OWN: json.dumps({"kind": str(spec.kind), "offset": list(spec.offset)}, sort_keys=True),
    }
    if spec.voxel_size is not None:
        sizes = dict(zip(spec.axes, spec.voxel_size, strict=True))
        attributes["element_size_um"] = np.array([sizes.get(axis, 1.0) for axis in "zyx"])
    return attributes


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _numbers(value: Any) -> Sequence[float] | None:
    """Return `value` as finite numbers above 0, or None where it is anything else."""
    try:
        numbers = [float(n) for n in np.atleast_1d(value)] if value is not None else []
    except (TypeError, ValueError):
        return None
    return numbers if numbers and all(np.isfinite(n) and n > 0 for n in numbers) else None

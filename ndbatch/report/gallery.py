"""The look at the data that a report begins with: slices and a projection of real voxels, objects outlined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import NdbatchError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Kind, Volume
from ndbatch.report.pictures import Picture, sight
from ndbatch.report.planes import Limits, contrast_of

SLICES = 5
VIEWS = 3
"""Most outputs shown."""
SMALL = Limits(pixels=900, voxels=2**26)
"""What one picture of a report may show and read: reports are mailed, and inputs may be far away."""


@dataclass(frozen=True)
class View:
    """Pictures of one volume, or the reason why there are none."""

    title: str
    pictures: list[Picture] = field(default_factory=list)
    problem: str = ""


def gallery(document: Mapping[str, Any], directory: Path, depths: tuple[float, float] | None = None) -> list[View]:
    """Return the views of a run with the plan `document`: every labels output over its image, then every image output.

    `depths` is the range of z in which objects lie, in voxels; the slices are spread over it and a little beyond.
    """
    region = Box(tuple(document["region"]["start"]), tuple(document["region"]["stop"]))
    views = []
    for title, image, labels in pairings(document)[:VIEWS]:
        try:
            base = open_entry(image, directory)
            over = open_entry(labels, directory) if labels is not None else None
            scale = _scale(image)
            seen = (
                depths
                if depths is None or "z" not in image["axes"]
                else _scaled(depths, scale[image["axes"].index("z")])
            )
            views.append(View(title, _pictures(base, over, region.coarsened(scale), seen)))
        except (NdbatchError, OSError) as error:
            views.append(View(title, problem=f"No picture could be made: {error}"))
    return views


def pairings(document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any] | None]]:
    """Return what to draw: title, the entry of the volume below, and that of the labels outlined over it or None."""
    inputs: dict[str, dict[str, Any]] = dict(document.get("inputs", {}))
    outputs = {name: e for name, e in document.get("outputs", {}).items() if e["type"] == "volume"}
    pictures = [(name, entry) for name, entry in inputs.items() if entry.get("kind") != Kind.LABELS]
    objects = [(name, entry) for name, entry in outputs.items() if entry.get("kind") == Kind.LABELS]
    if not outputs:
        objects = [(name, entry) for name, entry in inputs.items() if entry.get("kind") == Kind.LABELS]
    found: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = []
    for name, entry in objects:
        below = next(((n, e) for n, e in pictures if _fit(e, entry)), None)
        found.append((f"{name} over {below[0]}", below[1], entry) if below else (name, entry, None))
    found += [(name, entry, None) for name, entry in outputs.items() if entry.get("kind") != Kind.LABELS]
    return found or [(name, entry, None) for name, entry in pictures]


def open_entry(entry: Mapping[str, Any], directory: Path) -> Volume:
    """Open the volume of an entry of the plan, with what the run knew of it beyond the file."""
    from ndbatch.plan.model import entry_address
    from ndbatch.remotes.registry import open_volume

    volume = open_volume(entry_address(entry, directory))
    known: dict[str, Any] = {"kind": Kind(entry["kind"])} if entry.get("kind") else {}
    for name in ("voxel_size", "offset"):
        if entry.get(name) is not None and len(entry[name]) == volume.ndim:
            known[name] = tuple(entry[name])
    return volume.override(**known)


def _scale(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many voxels of the inputs make one of a volume, along each axis."""
    return tuple(entry.get("scale") or (1,) * len(entry["shape"]))


def _fit(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two volumes lie in the same voxels."""
    return one.get("axes") == other.get("axes") and _scale(one) == _scale(other)


def _scaled(depths: tuple[float, float], factor: int) -> tuple[float, float]:
    return depths[0] / factor, depths[1] / factor


def _pictures(volume: Volume, labels: Volume | None, region: Box, depths: tuple[float, float] | None) -> list[Picture]:
    """Return slices spread over `depths` (or all), in one contrast, and the projection of more than one plane."""
    region = region.intersect(volume.domain)
    if "z" not in volume.axes or region.shape[volume.axes.index("z")] == 1:
        return [sight(volume, labels, region=region, limits=SMALL).picture()]
    low, high = (end[volume.axes.index("z")] for end in (region.start, region.stop))
    if depths is not None:
        beyond = (high - low) / 4
        low, high = max(low, round(depths[0] - beyond)), min(high, round(depths[1] + beyond) + 1)
    planes = np.unique(np.floor(low + (high - low) * (np.arange(SLICES) + 0.5) / SLICES).astype(int)).tolist()
    seen = [sight(volume, labels, "z", int(z), region=region, limits=SMALL) for z in planes]
    contrast = contrast_of([s.plane for s in seen])
    projected = sight(volume, labels, "z", project="max", region=region, limits=SMALL)
    return [*(s.picture(contrast) for s in seen), projected.picture()]

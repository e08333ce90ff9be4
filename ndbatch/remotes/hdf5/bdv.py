"""What BigDataViewer's HDF5 files keep beside their voxels: levels, and the XML file with the voxel size.

https://imagej.net/plugins/bdv: `/t00000/s00/0/cells` holds time 0, setup 0, level 0 as z, y, x; `/s00/resolutions` how many
voxels of level 0 a voxel of each level is, as x, y, z. Voxels are unsigned, though the file says that they are not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ndbatch.errors import RemoteError
from ndbatch.units import MICROMETRES

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

CELLS = re.compile(r"/?(?P<time>t\d{5})/s(?P<setup>\d{2,})/(?P<level>\d+)/cells")
XML_BYTES = 64 * 2**20
"""Larger XML files are not read."""


def level_names(file: Any, name: str) -> list[str]:
    """Return the datasets of all levels that belong to the dataset `name`, the finest first; [name] where it is no level 0."""
    match = CELLS.fullmatch(name)
    if match is None or match["level"] != "0":
        return [name]
    group = file[f"{match['time']}/s{match['setup']}"]
    numbers = sorted(int(key) for key in group if key.isdecimal() and "cells" in group[key])
    return [f"/{match['time']}/s{match['setup']}/{number}/cells" for number in numbers]


def voxel_type(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the voxels of the dataset `name`: unsigned where BigDataViewer stores them as signed."""
    return np.dtype("uint16") if CELLS.fullmatch(name) and dtype == np.int16 else dtype


def voxel_size(file: Any, name: str, path: FilePath) -> dict[str, float] | None:
    """Return micrometres by axis name of the dataset `name`, from the XML file beside it; None where nothing tells them."""
    match = CELLS.fullmatch(name)
    if match is None:
        return None
    finest = _xml_size(path.with_suffix(".xml"), int(match["setup"]))
    resolutions = file.get(f"s{match['setup']}/resolutions")
    factors = (
        np.ones(3) if resolutions is None else np.asarray(resolutions, "float64").reshape(-1, 3)[int(match["level"])]
    )
    return None if finest is None else {axis: finest[axis] * float(f) for axis, f in zip("xyz", factors, strict=True)}


def _xml_size(path: FilePath, setup: int) -> dict[str, float] | None:
    """Return micrometres by axis name of a setup; None where the XML file is missing or tells no known unit."""
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size < XML_BYTES else ""
        found = [
            s for s in ElementTree.fromstring(text).iter("ViewSetup") if s.findtext("id", "").strip() == str(setup)
        ]
        unit = MICROMETRES[found[0].findtext("voxelSize/unit", "").strip().lower()]
        sizes = [float(n) * unit for n in found[0].findtext("voxelSize/size", "").split()]
        return dict(zip("xyz", sizes, strict=True)) if min(sizes) > 0 else None
    except (OSError, RemoteError, ElementTree.ParseError, IndexError, KeyError, ValueError):
        return None

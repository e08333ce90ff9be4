"""What a file tells of the volumes in it, before anything is created: size, type, window of values, times, names.

HDF5 files of ndstore hold a group for each channel, with CUTOUT (z, y, x or t, z, y, x), CHANNELTYPE and DATATYPE; the name of
a download says where it was cut from: `TOKEN-CHANNEL-hdf5-LEVEL-X0_X1-Y0_Y1-Z0_Z1-ndcutout.h5`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Grid
from ndbatch.remotes import api
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import Kind, Volume

DOWNLOAD = re.compile(
    r"(?P<token>[^-]+)-(?P<channel>[^-]+)-hdf5-(?P<level>\d+)-(?P<x>\d+_\d+)-(?P<y>\d+_\d+)-(?P<z>\d+_\d+)-.*cutout\.h5$"
)
"""Names that ndstore gave to downloads; ranges are absolute and half-open."""
CUTOUT = "CUTOUT"
MOST = 2 << 30
"""Bytes that are read to learn the window of values; of a larger volume a part, spread over it."""
READERS = 4


@dataclass(frozen=True)
class Found:
    """One volume of a file, and what can be told of it without asking."""

    volume: Volume
    name: str
    """A channel's name: that of the dataset's group, or of the file."""
    kind: Kind
    window: tuple[float, float]
    """Smallest and largest value that was seen."""
    exact: bool
    """Whether every voxel was seen for the window."""
    offset: Mapping[str, int] = field(default_factory=dict)
    """Absolute position of the first voxel along x, y, z, where the name of the file tells it."""
    token: str = ""
    """The token that the file was downloaded from, where its name tells it."""

    @property
    def times(self) -> int:
        """Time points; 1 where there is no axis t."""
        return self.volume.shape[0] if self.volume.axes.startswith("t") else 1

    def document(self) -> dict[str, Any]:
        """Return what was found as JSON types."""
        volume = self.volume
        return {
            "url": volume.url,
            "channel": self.name,
            "kind": str(self.kind),
            "shape": dict(zip(volume.axes, volume.shape, strict=True)),
            "dtype": volume.dtype.name,
            "window": list(self.window),
            "window_exact": self.exact,
            "times": self.times,
            "offset": dict(zip(volume.axes, volume.offset, strict=True)),
            "voxel_size": dict(zip(volume.axes, volume.voxel_size, strict=True)) if volume.voxel_size else None,
        }


def look(source: str | Path, told: Mapping[str, Any] | None = None) -> list[Found]:
    """Return the volumes at `source`, a path or URL, each opened and its values seen. `told` are parameters of `ndbatch.open`.

    Raises NotFound, RemoteError where nothing can be read, PlanError for axes that no service keeps.
    """
    address = parse(str(source), Path.cwd())
    return [_found(one, told or {}) for one in _addresses(address)]


def _addresses(address: Address) -> list[Address]:
    """Return the addresses of all volumes behind one: a file may hold several."""
    try:
        api.open(address).close()
    except NotFound as error:
        several = [address.__class__(address.scheme, address.path, one) for one in error.fields.get("datasets", ())]
        if not several:
            raise
        images = [one for one in several if one.inside.rsplit("/", 1)[-1] == CUTOUT]
        return images or several
    return [address]


def _found(address: Address, told: Mapping[str, Any]) -> Found:
    volume = api.open(address, **told)
    if "axes" not in told and volume.ndim == 4 and volume.axes == "czyx" and _is_cutout(volume.address.inside):
        volume = api.open(address, **told, axes="tzyx")
    if "c" in volume.axes or not set("zyx") <= set(volume.axes):
        raise PlanError(
            f"{volume.url} has axes {volume.axes}; services keep t, z, y, x: take one channel with ?c=0, or say --axes tzyx"
        )
    said = _said(volume.address)
    kind = Kind.LABELS if said.get("type") == "annotation" else volume.kind
    low, high, exact = _window(volume)
    name, offset = _name(volume.address), {}
    match = DOWNLOAD.fullmatch(Path(volume.address.path).name)
    if match and int(match["level"]) == 0:
        spans = {axis: [int(end) for end in match[axis].split("_")] for axis in "xyz"}
        if all(b - a == volume.shape[volume.axes.index(axis)] for axis, (a, b) in spans.items()):
            offset = {axis: a for axis, (a, _) in spans.items()}
    return Found(volume, name, kind, (low, high), exact, offset, match["token"] if match else "")


def _is_cutout(inside: str) -> bool:
    return inside.rsplit("/", 1)[-1] == CUTOUT


def _name(address: Address) -> str:
    """Return the name of a channel: the group around CUTOUT, the dataset, or the file."""
    parts = [part for part in address.inside.split("/") if part and part != CUTOUT]
    text = parts[-1] if parts else Path(address.path).name.partition(".")[0]
    match = DOWNLOAD.fullmatch(Path(address.path).name)
    text = match["channel"] if match and not parts else text
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "image"


def _said(address: Address) -> dict[str, str]:
    """Return what stands beside a CUTOUT: its `type` (image, annotation ...) and `dtype`; empty for other files."""
    if address.scheme != "hdf5" or not _is_cutout(address.inside):
        return {}
    import h5py

    found = {}
    with h5py.File(address.path, "r") as file:
        group = file[address.inside].parent
        for key, name in (("type", "CHANNELTYPE"), ("dtype", "DATATYPE")):
            if name in group:
                value = np.asarray(group[name][()]).reshape(-1)[0]
                found[key] = value.decode() if isinstance(value, bytes) else str(value)
    return found


def _window(volume: Volume) -> tuple[float, float, bool]:
    """Return the smallest and largest value, and whether all voxels were seen."""
    grid = Grid.over(volume.domain, volume.spec.write_unit)
    every = max(1, -(-volume.spec.nbytes // MOST))
    boxes = [grid[index].core for index in range(0, len(grid), every)]
    with ThreadPoolExecutor(READERS) as pool:
        pairs = list(pool.map(lambda box: _ends(volume, box), boxes))
    low, high = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    if not np.isfinite([float(low), float(high)]).all():
        raise RemoteError(f"{volume.url} holds values that are not finite; replace them before it is ingested")
    return low, high, every == 1


def _ends(volume: Volume, box: Box) -> tuple[Any, Any]:
    data = volume.read(box)
    return data.min().item(), data.max().item()

"""Volumes of a folder into the catalogue: `dataset/project/channel.zarr`, or fewer folders, with the name of the root instead."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath

from ndbatch.errors import Conflict
from ndbatch.geometry import Shape
from ndbatch.remotes.base import Volume
from ndbatch.remotes.connecting import connect
from ndbatch.remotes.remote import Entry
from ndbatch.server.catalogue import Channel, Project
from ndbatch.server.service import Service

DEPTH = 4
"""Folders below each other that are looked into."""


def fill(service: Service) -> list[Entry]:
    """Keep what lies in the folder of a service and is not known yet; return what cannot be served, with its `problem`.

    Channels of one folder share a project, unless their voxel sizes differ: then each has a project of its own. The frame
    of a project holds all of its channels.
    """
    known = {c.url for p in service.catalogue.projects() for c in service.catalogue.channels(p.name)}
    groups: dict[tuple[str, str], list[tuple[str, Volume]]] = defaultdict(list)
    refused = []
    for entry in connect(str(service.root)).ls(DEPTH):
        if entry.problem or entry.shape is None:
            refused.append(entry)
        elif entry.url not in known:
            volume = service.voxels.open(entry.url)
            if set("zyx") <= set(volume.axes) and "c" not in volume.axes:
                dataset, project, channel = names_of(entry.name, service.root.resolve().name)
                groups[dataset, project].append((channel, volume))
            else:
                refused.append(replace(entry, problem=f"has axes {volume.axes}; services know t, z, y, x"))
    for (dataset, project), volumes in groups.items():
        _add(service, dataset, project, volumes)
    return refused


def names_of(path: str, root: str) -> tuple[str, str, str]:
    """Return dataset, project and channel of a volume by its path below the root; what no protocol allows becomes `_`."""
    parts = [re.sub(r"[^A-Za-z0-9_]+", "_", part).strip("_") for part in PurePosixPath(path.replace("::", "/")).parts]
    parts[-1] = re.sub(r"_(ome_)?(zarr|n5|h5|hdf5|tiff?|nii|nii_gz|nrrd|mrc|npy)$", "", parts[-1])
    root = re.sub(r"[^A-Za-z0-9_]+", "_", root).strip("_") or "data"
    project = parts[-2] if len(parts) > 1 else root
    dataset = parts[-3] if len(parts) > 2 else project
    return dataset, project, parts[-1] or "volume"


def _add(service: Service, dataset: str, project: str, volumes: Sequence[tuple[str, Volume]]) -> None:
    sizes = {_spatial(volume, volume.voxel_size or (1.0,) * volume.ndim) for _, volume in volumes}
    for channel, volume in volumes:
        name = project if len(sizes) == 1 else f"{project}_{channel}"
        together = [one for _, one in volumes] if len(sizes) == 1 else [volume]
        start = [min(values) for values in zip(*(_spatial(one, one.domain.start) for one in together), strict=True)]
        stop = [max(values) for values in zip(*(_spatial(one, one.domain.stop) for one in together), strict=True)]
        frame = Project(
            name,
            dataset,
            tuple(b - a for a, b in zip(start, stop, strict=True)),
            tuple(start),
            _spatial(volume, volume.voxel_size or (1.0,) * volume.ndim),
            scaling=_scaling(volume),
            levels=max(one.levels for one in together),
            times=max(one.shape[0] if "t" in one.axes else 1 for one in together),
        )
        _keep(service, frame, channel, volume)


def _keep(service: Service, frame: Project, channel: str, volume: Volume) -> None:
    with suppress(Conflict):  # another channel of it came first, or another process that serves the same folder
        service.catalogue.add_project(frame)
    able = volume.abilities.write and volume.abilities.concurrent
    kept = Channel(frame.name, channel, volume.url, str(volume.kind), volume.dtype.name, volume.levels, not able)
    for name in (channel, *(f"{channel}_{number}" for number in range(2, 100))):
        try:
            service.catalogue.add_channel(replace(kept, name=name))
            return
        except Conflict:
            if service.catalogue.channel(frame.name, name).url == volume.url:
                return


def _spatial(volume: Volume, values: Sequence[float]) -> tuple:  # type: ignore[type-arg]
    return tuple(value for axis, value in zip(volume.axes, values, strict=True) if axis in "zyx")


def _scaling(volume: Volume) -> str:
    """Return `isotropic` where level 1 is coarser along z too."""
    if volume.levels == 1:
        return "zslices"
    from ndbatch.remotes import api

    z = volume.axes.index("z")
    coarser: Shape = api.open(volume.url, level=1).shape
    return "isotropic" if coarser[z] < volume.shape[z] else "zslices"

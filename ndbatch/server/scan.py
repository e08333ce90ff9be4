"""Volumes into the catalogue: those of a folder, `dataset/project/channel.zarr`, or fewer folders, with the name of the root
instead; and those that a configuration names.

The folder is looked through again when somebody lists, so that volumes that are put there appear and those that are taken away
go. What was made through the service is left alone: its protocols know when it comes and goes.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ndbatch.errors import Conflict, NdbatchError, PlanError
from ndbatch.geometry import Shape
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.connecting import connect
from ndbatch.remotes.remote import Entry
from ndbatch.remotes.views.options import OPTIONS
from ndbatch.server.catalogue import Catalogue, Channel, Project
from ndbatch.server.service import TOLD, Service

DEPTH = 4
"""Folders below each other that are looked into."""
INTERVAL = 3.0
"""Seconds that a look into the folder is good for."""
SHARE = 10
"""A look is good for this many times what it took, so that a large folder costs a tenth of one core at most."""
FOUND, CONFIGURED = "folder", "configuration"
"""Where a channel comes from, in its `extra` under `ORIGIN`."""
ORIGIN = "serve"
Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Found:
    """A volume to be served: the name of its channel, the volume, the address of its file, and what opens it beside.

    `volume.url` has the options of a view in it, so that all protocols see the view; `told` has the others.
    """

    channel: str
    volume: Volume
    source: str
    told: Mapping[str, Any]
    origin: str
    scaling: str
    """`isotropic` where level 1 is coarser along z too; nothing where there is no level 1."""


class Watch:
    """The folder of a service, looked through at most every `INTERVAL` seconds, by one thread at a time."""

    def __init__(self, service: Service, interval: float = INTERVAL, share: float = SHARE) -> None:
        self._service, self._interval, self._share = service, interval, share
        self._looking = threading.Lock()
        self._due = time.monotonic() + interval

    def __call__(self) -> None:
        """Look, if it is time; whoever comes while another looks goes on with what is known."""
        if time.monotonic() < self._due or not self._looking.acquire(blocking=False):
            return
        try:
            began = time.monotonic()
            with suppress(NdbatchError):  # a folder that is away for a moment; the next look tells
                fill(self._service)
            self._due = time.monotonic() + max(self._interval, self._share * (time.monotonic() - began))
        finally:
            self._looking.release()


def fill(service: Service) -> list[Entry]:
    """Keep what lies in the folder of a service and is not known yet, and forget what is gone or has another shape now.

    Returns what cannot be served, with its `problem`. Channels of one folder share a project, unless their voxel sizes
    differ: then each has a project of its own. The frame of a project holds all of its channels. Names of projects are those of
    the service: where two datasets have folders of one name, the second project is called DATASET-PROJECT.
    """
    entries = connect(str(service.root)).ls(DEPTH)
    _forget_gone(service, {entry.url: entry for entry in entries if not entry.problem})
    known = {_source(c) for c in _channels(service.catalogue)}
    groups: dict[tuple[str, str], list[_Found]] = defaultdict(list)
    refused = []
    for entry in entries:
        if entry.problem or entry.shape is None:
            refused.append(entry)
        elif not service.holds(Path(parse(entry.url).path)):
            problem = "it is a link that leads out of the folder; name it in the configuration of the service instead"
            refused.append(replace(entry, problem=problem))
        elif entry.url not in known:
            dataset, project, channel = names_of(entry.name, service.root.name)
            try:
                groups[dataset, project] += _places(service, channel, entry.url, {}, FOUND)
            except NdbatchError as error:
                refused.append(replace(entry, problem=error.message))
    for (dataset, project), found in groups.items():
        _add(service, dataset, project, found)
    return refused


def fill_configured(service: Service, volumes: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the volumes that a configuration names, PROJECT/CHANNEL, and forget those that it named before.

    Raises what opening a volume raises, and PlanError for channels of one project whose voxel sizes differ.
    """
    for before in _channels(service.catalogue):
        if before.extra.get(ORIGIN, {}).get("from") == CONFIGURED:
            service.catalogue.remove_channel(before.project, before.name)
            _remove_if_empty(service.catalogue, before.project)
    groups: dict[str, list[_Found]] = defaultdict(list)
    for name, told in volumes.items():
        project, _, channel = name.partition("/")
        options = {key: value for key, value in told.items() if key != "url"}
        groups[project] += _places(service, channel, told["url"], options, CONFIGURED)
    for project, found in groups.items():
        if len({_size(one.volume) for one in found}) > 1:
            raise PlanError(f"the channels of {project} have voxels of different sizes; give each a project of its own")
        _add(service, project, project, found)


def names_of(path: str, root: str) -> Key:
    """Return dataset, project and channel of a volume by its path below the root; what no protocol allows becomes `_`."""
    parts = [re.sub(r"[^A-Za-z0-9_]+", "_", part).strip("_") for part in PurePosixPath(path.replace("::", "/")).parts]
    parts[-1] = re.sub(r"_(ome_)?(zarr|n5|h5|hdf5|tiff?|nii|nii_gz|nrrd|mrc|npy)$", "", parts[-1])
    root = re.sub(r"[^A-Za-z0-9_]+", "_", root).strip("_") or "data"
    project = parts[-2] if len(parts) > 1 else root
    dataset = parts[-3] if len(parts) > 2 else project
    return dataset, project, parts[-1] or "volume"


def _source(channel: Channel) -> str:
    """Return the address of the file or folder behind a channel, without the options of a view of it."""
    source: str = channel.extra.get(ORIGIN, {}).get("source", channel.url)
    return source


def _channels(catalogue: Catalogue) -> Iterator[Channel]:
    for project in catalogue.projects():
        yield from catalogue.channels(project.name)


def _places(service: Service, channel: str, url: str, told: Mapping[str, Any], origin: str) -> list[_Found]:
    """Return a volume as one channel, or as one for each place along its axis c, which no service knows."""
    volume = service.voxels.open(url, 0, told)
    if not set("zyx") <= set(volume.axes):
        raise PlanError(f"{url} has axes {volume.axes}; services know t, z, y, x")
    if "c" not in volume.axes:
        return [_found(service, channel, volume, url, told, origin)]
    first = volume.offset[volume.axes.index("c")]
    result = []
    names = volume.channels
    for place in range(first, first + volume.shape[volume.axes.index("c")]):
        name = names[place - first] if names else f"c{place}"
        name = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or f"c{place}"
        one = {**told, "c": place}
        result.append(_found(service, f"{channel}_{name}", service.voxels.open(url, 0, one), url, one, origin))
    return result


def _found(service: Service, channel: str, volume: Volume, source: str, told: Mapping[str, Any], origin: str) -> _Found:
    rest = {name: value for name, value in told.items() if name not in OPTIONS}
    return _Found(channel, volume, source, rest, origin, _scaling(service, volume, rest))


def _forget_gone(service: Service, there: Mapping[str, Entry]) -> None:
    """Remove channels found in the folder whose files are gone, or that are something else now and will be found anew."""
    changed = False
    for channel in _channels(service.catalogue):
        if channel.made or channel.extra.get(ORIGIN, {}).get("from") != FOUND:
            continue
        address, entry = parse(_source(channel)), there.get(_source(channel))
        gone = entry is None and address.place == "file" and not Path(address.path).exists()
        facts = channel.extra[ORIGIN]["entry"]
        if gone or (entry is not None and facts != _facts(entry)):
            service.catalogue.remove_channel(channel.project, channel.name)
            _remove_if_empty(service.catalogue, channel.project)
            changed = True
    if changed:
        service.voxels.forget()


def _facts(one: Entry | Volume) -> list[Any]:
    """Return what makes a volume another one when it changes, as JSON types."""
    size = None if one.voxel_size is None else list(one.voxel_size)
    return [one.axes, list(one.shape or ()), np.dtype(one.dtype).name, str(one.kind), one.levels, size]


def _remove_if_empty(catalogue: Catalogue, project: str) -> None:
    with suppress(NdbatchError):  # another process did it, or there is a channel again
        if not catalogue.project(project).made:
            catalogue.remove_project(project)


def _add(service: Service, dataset: str, project: str, found: Sequence[_Found]) -> None:
    """Keep volumes as channels of a project, or of one each where their voxels are not of one size."""
    name = _free_name(service.catalogue, dataset, project)
    known = {p.name: p for p in service.catalogue.projects()}.get(name)
    sizes = {_size(one.volume) for one in found} | ({tuple(known.voxel_size)} if known is not None else set())
    for one in found:
        together = list(found) if len(sizes) == 1 else [one]
        alone = f"{project}_{one.channel}"
        kept = name if len(sizes) == 1 else _free_name(service.catalogue, dataset, alone)
        frame = _frame(kept, dataset, together)
        if kept not in (
            project,
            alone,
        ):  # in BOSS, where names of experiments are those of a collection, it has its own
            from ndbatch.server.boss.tree import with_own

            frame = replace(frame, extra=with_own(frame, experiment=project if len(sizes) == 1 else alone))
        _keep(service, frame, one)


def _free_name(catalogue: Catalogue, dataset: str, project: str) -> str:
    """Return `project`, with the dataset before it where a project of another dataset has that name."""
    datasets = {p.name: p.dataset for p in catalogue.projects()}
    names = (project, *(f"{dataset}-{project}{more}" for more in ("", *(f"-{n}" for n in range(2, 100)))))
    return next((name for name in names if datasets.get(name, dataset) == dataset), names[1])


def _frame(name: str, dataset: str, found: Sequence[_Found]) -> Project:
    """Return the project that holds volumes whose voxels are of one size."""
    volumes = [one.volume for one in found]
    start = [min(values) for values in zip(*(_spatial(one, one.domain.start) for one in volumes), strict=True)]
    stop = [max(values) for values in zip(*(_spatial(one, one.domain.stop) for one in volumes), strict=True)]
    return Project(
        name,
        dataset,
        tuple(b - a for a, b in zip(start, stop, strict=True)),
        tuple(start),
        _size(volumes[0]),
        scaling=next((one.scaling for one in found if one.scaling), "zslices"),
        levels=max(one.levels for one in volumes),
        times=max(one.shape[0] if "t" in one.axes else 1 for one in volumes),
    )


def _keep(service: Service, frame: Project, found: _Found) -> None:
    try:
        service.catalogue.add_project(frame)
    except Conflict:  # another channel of it came first, or another process that serves the same folder
        _grow(service.catalogue, frame)
    volume = found.volume
    able = volume.abilities.write and volume.abilities.concurrent
    kept = Channel(frame.name, found.channel, volume.url, str(volume.kind), volume.dtype.name, volume.levels, not able)
    origin = {"from": found.origin, "source": found.source, "entry": []}
    if found.origin == FOUND:
        origin["entry"] = _facts(service.voxels.open(found.source))
    kept = replace(kept, extra={ORIGIN: origin, **({TOLD: dict(found.told)} if found.told else {})})
    for name in (found.channel, *(f"{found.channel}_{number}" for number in range(2, 100))):
        try:
            service.catalogue.add_channel(replace(kept, name=name))
            return
        except Conflict:
            there = service.catalogue.channel(frame.name, name)
            if there.url == kept.url and there.extra.get(TOLD) == kept.extra.get(TOLD):
                return


def _grow(catalogue: Catalogue, frame: Project) -> None:
    """Let a project that was found, not made, hold `frame` too."""
    known = catalogue.project(frame.name)
    start = tuple(min(a, b) for a, b in zip(known.offset, frame.offset, strict=True))
    ends = zip(known.offset, known.shape, frame.offset, frame.shape, strict=True)
    stop = tuple(max(o + n, p + m) for o, n, p, m in ends)
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    levels, times = max(known.levels, frame.levels), max(known.times, frame.times)
    if not known.made and (start, shape, levels, times) != (known.offset, known.shape, known.levels, known.times):
        catalogue.change_project(frame.name, offset=start, shape=shape, levels=levels, times=times)


def _size(volume: Volume) -> tuple[float, float, float]:
    z, y, x = _spatial(volume, volume.voxel_size or (1.0,) * volume.ndim)
    return z, y, x


def _spatial(volume: Volume, values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(value for axis, value in zip(volume.axes, values, strict=True) if axis in "zyx")


def _scaling(service: Service, volume: Volume, told: Mapping[str, Any]) -> str:
    if volume.levels == 1:
        return ""
    z = volume.axes.index("z")
    coarser: Shape = service.voxels.open(volume.url, 1, told).shape
    return "isotropic" if coarser[z] < volume.shape[z] else "zslices"

"""Where the voxels of a version lie: made when first known of, copied when a child first writes, grown when they must be.

Chunks of a copy are hard links to those of its parent. A write puts a new file in place of a link, so that the parent keeps
its own. Whoever replaces the volume of an instance holds the lock of that instance alone; whoever writes shares it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import NotFound
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes import api
from ndbatch.remotes.base import Array, Volume
from ndbatch.server.catalogue import Channel
from ndbatch.server.dvid.asking import Refused
from ndbatch.server.dvid.instance import Instance, change, instance
from ndbatch.server.dvid.repository import Repository
from ndbatch.server.pyramids import note_write
from ndbatch.server.service import TOLD
from ndbatch.server.writes import APART, COUNTED, keep_of_dvid, of_dvid
from ndbatch.steps.base import Patch
from ndbatch.steps.pooling import pool

if TYPE_CHECKING:
    from ndbatch.server.service import Service

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
"""Files of a zarr volume that are copied, not linked."""
COPY = (256, 256, 256)
"""Voxels that are copied at once where chunks cannot be linked."""


class Storage:
    """The volumes of one instance of a repository."""

    def __init__(self, service: Service, repo: Repository, name: str) -> None:
        self.service, self.repo, self.name = service, repo, name

    @property
    def instance(self) -> Instance:
        """The instance as it is now."""
        return instance(self.service, self.repo, self.name)

    @contextmanager
    def lock(self, alone: bool) -> Iterator[None]:
        """Hold the lock of the instance, across threads and processes: `alone`, or with others who write."""
        import fcntl

        folder = self.service.state / "dvid" / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{self.repo.name}.{self.name}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)

    def volume(self, uuid: str, scale: int = 0) -> Volume | None:
        """Return the volume that holds the voxels of a version, at a level; None where none were written."""
        one = self.instance
        url = one.nearest(self.repo, uuid, one.volumes)
        return None if url is None else self._opened(url, one.level + scale)

    def _opened(self, url: str, level: int = 0) -> Volume:
        """Return a volume of the instance; that of a channel with what the configuration tells of it."""
        return self.service.voxels.open(url, level, self._told(url))

    def _told(self, url: str) -> Mapping[str, Any]:
        channel = self.channel()
        told: Mapping[str, Any] = channel.extra.get(TOLD, {}) if channel is not None and channel.url == url else {}
        return told

    def read(self, uuid: str, box: Box, scale: int = 0) -> Array:
        """Return the voxels of a box (z, y, x), those never written 0, in the type that DVID has for them."""
        one = self.instance
        if scale > one.scales and scale == one.shown:
            return self.halved(uuid, box, scale)
        volume, dtype = self.volume(uuid, scale), one.dtype
        if volume is None:
            return np.zeros(box.shape, dtype)
        return self.service.voxels.read(volume, box).astype(dtype, copy=False)

    def halved(self, uuid: str, box: Box, scale: int) -> Array:
        """Return the labels of a box of a level as the one below it has them: each is the one that most of 8 voxels have."""
        finer = box.refined((2, 2, 2))
        return pool(Patch(self.read(uuid, finer, scale - 1), finer), box, (2, 2, 2), "mode")

    def write(self, uuid: str, box: Box, data: Array, scale: int = 0) -> None:
        """Store voxels of a box at a version; zeros beyond what is there change nothing. For images and single levels."""
        while True:
            with self.lock(alone=False):
                if self._stored(uuid, box, data, scale):
                    return
            with self.lock(alone=True):
                self.prepare(uuid, self.needed(uuid, box, data, scale))

    def write_alone(self, uuid: str, box: Box, data: Array, scale: int = 0) -> None:
        """Store voxels while the lock is held alone."""
        if not self._stored(uuid, box, data, scale):
            self.prepare(uuid, self.needed(uuid, box, data, scale))
            self._stored(uuid, box, data, scale)

    def _stored(self, uuid: str, box: Box, data: Array, scale: int) -> bool:
        """Store voxels if the version has a volume of its own that holds them, and return whether it has."""
        one = self.instance
        if self.owner(uuid) not in one.volumes:
            return not data.any() and one.nearest(self.repo, uuid, one.volumes) is None
        volume = self._opened(one.volumes[self.owner(uuid)], one.level + scale)
        inside = box.intersect(volume.domain)
        if inside != box and self._nonzero_outside(box, inside, data):
            return False
        part = data[inside.slices(box.start)]
        if volume.dtype != part.dtype and part.size and part.max() > np.iinfo(volume.dtype).max:
            raise Refused(f"{self.name} holds {volume.dtype}, and a label is {part.max()}")
        if not inside.empty:
            self.service.voxels.write(volume, inside, part.astype(volume.dtype, copy=False))
        return True

    @staticmethod
    def _nonzero_outside(box: Box, inside: Box, data: Array) -> bool:
        return bool(np.count_nonzero(data) > np.count_nonzero(data[inside.slices(box.start)]))

    # -- what other protocols and other levels know of it ------------------------------------------------------------------

    def channel(self) -> Channel | None:
        """Return the channel by which other protocols see the instance; None while nothing was written."""
        try:
            return self.repo.catalogue.channel(self.repo.name, self.name)
        except NotFound:
            return None

    def written_elsewhere(self) -> bool:
        """Return whether another protocol changed the voxels since they were counted."""
        channel = self.channel()
        return channel is not None and of_dvid(channel).get(COUNTED) is False

    def note_counted(self) -> None:
        """Keep that the voxels are counted, so that a write by another protocol is noted from now on."""
        channel = self.channel()
        if channel is not None and not of_dvid(channel).get(COUNTED):
            keep_of_dvid(self.service, channel, counted=True)

    def note_write(self, uuid: str) -> None:
        """Keep that coarser levels which the instance does not make of itself no longer follow from its voxels."""
        channel, one = self.channel(), self.instance
        if channel is not None and one.volumes.get(self.owner(uuid)) == channel.url and channel.levels > one.scales + 1:
            note_write(self.service, channel)

    def owner(self, uuid: str) -> str:
        """Return the version whose data a write at `uuid` changes: itself, or the only one there is."""
        one = self.instance
        return uuid if one.versioned else one.uuid

    def needed(self, uuid: str, box: Box, data: Array, scale: int = 0) -> Box:
        """Return the box of level 0 that the volume must hold so that `data` fits."""
        volume = self.volume(uuid, scale)
        if volume is not None and not self._nonzero_outside(box, box.intersect(volume.domain), data):
            return Box(box.start, box.start)
        return box.refined((2**scale,) * 3)

    def prepare(self, uuid: str, box: Box) -> None:
        """See that the version has a volume of its own that holds `box` (and nothing more than before, if that is empty)."""
        one, owner = self.instance, self.owner(uuid)
        parent = one.nearest(self.repo, uuid, one.volumes)
        if parent is None:
            if not box.empty:
                self._make(owner, box)
            return
        source = self._opened(parent)
        domain = source.domain if box.empty else _around(source.domain, box)
        if owner in one.volumes and domain == source.domain:
            return
        if domain != source.domain and one.found:
            raise Refused(
                f"{self.name} was found in the folder and holds {source.domain.describe('zyx')}; it cannot grow"
            )
        if one.level:
            raise Refused(f"{self.name} is a coarser level of another instance, and is only read")
        target = self._place(owner)
        if domain == source.domain and _linkable(source) and not self._told(parent):
            link_tree(Path(source.address.path), target)
        else:
            self._grown(source, parent, domain, target)
        changed = change(self.service, self.repo, self.name, volumes={owner: str(target)})
        if parent == changed.volumes.get(changed.uuid) or owner == changed.uuid:
            self._show(changed)
        if owner in one.volumes:
            self._retire(Path(source.address.path))
        self.service.voxels.forget()

    def _place(self, owner: str) -> Path:
        folder = self.service.state / "dvid" / self.repo.name / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{owner[:12]}-{secrets.token_hex(4)}.zarr"

    def _make(self, owner: str, box: Box) -> None:
        """Make the first volume of the instance, and the channel by which other protocols see it."""
        one, project = self.instance, self.repo.catalogue.project(self.repo.name)
        place = self.service.place_for(project.dataset, project.name, self.name)
        if place.exists():
            place = self._place(owner)
        place.parent.mkdir(parents=True, exist_ok=True)
        _create(str(place), one, box)
        kept = change(self.service, self.repo, self.name, volumes={owner: str(place)})
        self._show(kept)
        self.service.voxels.forget()

    def _show(self, one: Instance) -> None:
        """Keep the channel, so that other protocols find the volume of the version at which the instance was made."""
        catalogue, url = self.repo.catalogue, next(iter(one.volumes.values()))
        url = one.volumes.get(one.uuid, url)
        volume = api.open(url)
        with catalogue.transaction():
            project = catalogue.project(self.repo.name)
            first = project.shape == (1, 1, 1)
            size = tuple(volume.voxel_size or (1.0,) * 3) if first else project.voxel_size
            apart = any(abs(a - b) > 1e-6 * b for a, b in zip(volume.voxel_size or size, size, strict=True))
            apart = apart or any(n < 0 for n in volume.domain.start)  # where no request of ndstore or BOSS reaches
            if known := self.channel():
                catalogue.change_channel(self.repo.name, self.name, url=url)
                keep_of_dvid(self.service, known, apart=apart)
            else:
                told = {"dvid": {COUNTED: True, APART: apart}}  # each write by DVID counts its labels
                facts = (self.repo.name, self.name, url, one.kind, volume.dtype.name, volume.levels)
                catalogue.add_channel(Channel(*facts, made=True, extra=told))
            if apart:  # also a coarser level of another instance, which is in no frame of other protocols
                return
            frame = _around(Box.of_shape(project.shape, project.offset), volume.domain)
            if first and project.made:
                frame = volume.domain
            catalogue.change_project(
                project.name,
                shape=frame.shape,
                offset=frame.start,
                voxel_size=size,
                levels=max(project.levels, volume.levels),
                scaling="isotropic" if volume.levels > 1 and project.levels == 1 else project.scaling,
            )

    def _grown(self, source: Volume, url: str, domain: Box, target: Path) -> None:
        """Make a larger copy of a volume: chunks linked where that can be, else copied voxel by voxel."""
        one = self.instance
        _create(str(target), one, domain, source)
        levels = one.scales + 1
        for level in range(levels):
            old, new = self._opened(url, level), api.open(str(target), level=level)
            shift = [a - b for a, b in zip(old.offset, new.offset, strict=True)]
            if _linkable(source) and not one.found and all(n % c == 0 for n, c in zip(shift, old.chunks, strict=True)):
                chunks = [n // c for n, c in zip(shift, old.chunks, strict=True)]
                link_chunks(Path(source.address.path) / str(level), target / str(level), chunks)
                continue
            for block in Grid.over(old.domain, COPY):
                data = old.read(block.core)
                if data.any():
                    new.write(block.core, data)

    def _retire(self, old: Path) -> None:
        """Take a volume that was replaced out of the folder; readers of other protocols may still have it open."""
        if not old.is_relative_to(self.service.state):
            old.rename(self._place("old"))


def _create(url: str, one: Instance, domain: Box, like: Volume | None = None) -> None:
    """Make an empty volume with the levels of an instance, in chunks of its blocks."""
    micrometres = {"nanometers": 1e-3, "micrometers": 1.0, "microns": 1.0, "millimeters": 1e3}
    size = tuple(n * micrometres.get(u, 1.0) for n, u in zip(reversed(one.size), reversed(one.units), strict=True))
    for level in range(one.scales + 1):
        box = domain.coarsened((2**level,) * 3)
        api.create(
            f"{url}?level={level}" if level else url,
            shape=box.shape,
            offset=box.start,
            dtype=like.dtype if like is not None else one.dtype,
            kind=one.kind,
            chunks=like.chunks if like is not None else one.block,
            voxel_size=tuple(n * 2**level for n in size),
        )


def _around(a: Box, b: Box) -> Box:
    return Box(tuple(map(min, a.start, b.start)), tuple(map(max, a.stop, b.stop)))


def _linkable(volume: Volume) -> bool:
    """Return whether a volume is a folder whose chunk files are replaced, never changed, when they are written."""
    return volume.scheme == "zarr" and volume.address.place == "file" and Path(volume.address.path).is_dir()


def link_tree(source: Path, target: Path) -> None:
    """Make a copy of a zarr folder whose chunks are links to the same files."""
    shutil.copytree(source, target, copy_function=_link)


def link_chunks(source: Path, target: Path, shift: list[int]) -> None:
    """Link the chunk files of an array (`c/z/y/x`) to another whose grid begins `shift` chunks before."""
    for path in (source / "c").rglob("*"):
        if path.is_file() and not path.name.endswith(".__lock"):
            place: Shape = tuple(int(n) + by for n, by in zip(path.relative_to(source / "c").parts, shift, strict=True))
            link = target.joinpath("c", *map(str, place))
            link.parent.mkdir(parents=True, exist_ok=True)
            _link(path, link)


def _link(source: str | Path, target: str | Path) -> None:
    if Path(source).name in METADATA:
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except FileNotFoundError:
        return  # a file that a writer was about to rename
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)

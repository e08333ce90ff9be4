"""Channels of BOSS (bossDB): `boss://host/collection/experiment/channel?level=1`, `bossdb://collection/experiment/channel`.

Chunks are the service's cuboids of 16 x 512 x 512 voxels (z, y, x). The grid begins at the first voxel of the channel's
coordinate frame: where that is no multiple of a cuboid, a chunk touches several, which the service merges one after the other,
so that nothing is lost and writing is slower. Zeros that are written keep what is there, unless `?write=replace` asks for an
erase before each write. Channels that the service keeps in a bucket are read from there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, NotFound, PlanError, RemoteError, Transient
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.boss import creation, objects, wire
from ndbatch.remotes.boss.bucket import bucket_volume
from ndbatch.remotes.boss.geometry import CUBOID, DTYPES, require_spec, spec_of
from ndbatch.remotes.boss.metadata import Metadata
from ndbatch.remotes.boss.place import channel_of
from ndbatch.remotes.boss.service import Document, Service, connected
from ndbatch.remotes.http.client import Reply, in_flight, segment
from ndbatch.remotes.http.cutouts import CutoutVolume

OPTIONS = ("access", "anonymous", "aws_region", "endpoint", "level", "profile", "write")
ACCESS = ("no-cache", "cache", "raw")
"""How the service reads: past its cache, as a job wants that reads once; through it; or without waiting for pending writes."""
LIMIT = 520 * 2**20
"""Most bytes of voxels that one request may ask for or send."""
IDS = 200
"""Ids of one request for some objects alone: they stand in its address."""
LONGEST_WAIT = 10.0
"""Seconds between two looks at whether levels are made."""


class BossVolume(CutoutVolume):
    """One level of a channel."""

    scheme = "boss"
    abilities: ClassVar[Abilities] = Abilities(
        coarser=True,
        dtypes=DTYPES,
        service=True,
        merges=True,
        propagates=True,
        request_bytes=LIMIT,
        places=("http",),
        title="BOSS (bossDB)",
        examples=("boss://host/collection/experiment/channel",),
        extra="services",
    )

    def __init__(self, address: Address, spec: ArraySpec, service: Service, channel: Document) -> None:
        super().__init__(address, spec)
        self._service, self._channel = service, channel
        self._names = channel_of(address).names
        self._resolution = int(channel.get("base_resolution", 0)) + spec.level
        self._bucket: Volume | None = None
        if address.option("write") == "replace":  # this volume erases, though others of its class do not
            vars(self)["abilities"] = replace(self.abilities, merges=False)

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a channel: reads the documents of channel, experiment, levels and coordinate frame.

        Raises NotFound, Denied; RemoteError for channels of uint32, PlanError for options that there are not.
        """
        _require_options(address)
        names, service = channel_of(address).names, connected(address)
        try:
            documents = [lambda: service.document(names), lambda: service.document(names[:2])]
            channel, experiment, pyramid = in_flight([*documents, lambda: service.pyramid(names)])
            frame = service.frame(str(experiment.get("coord_frame", "")))
        except NotFound as error:
            raise NotFound(f"{address.path} is not there: {error.message}", **error.fields) from None
        if channel.get("storage_type") == "cloudvol":
            inner = bucket_volume(address, channel)
            volume = cls(address, replace(inner.spec, level=address.count("level")), service, channel)
            volume._bucket = inner
            vars(volume)["abilities"] = replace(cls.abilities, write=False, propagates=False)
            return volume
        return cls(
            address, spec_of(channel, experiment, frame, pyramid, address.count("level"), address.url), service, channel
        )

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what the service has no word for: types, axes, positions below 0, names."""
        super().check_spec(address, spec)
        _require_options(address)
        require_spec(spec, address.url)
        creation.require_names(channel_of(address).names, address.url)

    @classmethod
    def settled(cls, address: Address, spec: ArraySpec) -> ArraySpec:
        """Return `spec` with the chunks of the service; they are also the unit of writing."""
        return replace(spec, chunks=(1, *CUBOID)[-spec.ndim :], shards=None)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make a channel, and the collection, the coordinate frame and the experiment where they are missing.

        The frame is the extent of `spec`, named `CF_<collection>_<experiment>`. Raises Conflict where the channel is there, and
        where the experiment has another extent, voxel size or number of times.
        """
        cls.check_spec(address, spec)
        creation.create(connected(address), channel_of(address).names, spec, address.url)
        return cls.open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the channel is there, or its level where the address names one."""
        names = channel_of(address).names
        try:
            if address.count("level"):
                return cls.open(address).spec.level == address.count("level")
            connected(address).document(names)
        except NotFound:
            return False
        return True

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the channel; its experiment, frame and collection stay. PlanError for a single level."""
        if address.option("level"):
            raise PlanError(f"{address.url}: a single level cannot be removed; leave level out to remove all")
        service, names = connected(address), channel_of(address).names
        if cls.exists(address):
            service.delete(names)

    def version(self) -> str:
        """Return a digest of the channel's document, and of its voxels where the service tells one (`ndbatch serve` does).

        BOSS itself tells nothing of its voxels but whether the levels follow from them.
        """
        if self._bucket is not None:
            return self._bucket.version()
        path = "/v1/collection/{}/experiment/{}/channel/{}".format(*map(segment, self._names))
        reply = self._service.client.get(path, query={"etag": "voxels"})
        facts = json.dumps([reply.json(), reply.headers.get("etag", "")], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:20]

    # -- voxels ----------------------------------------------------------------------------------------------------------------

    def _read(self, box: Box) -> Array:
        return self._bucket.read(box) if self._bucket is not None else super()._read(box)

    def _get(self, box: Box, **query: str) -> Array:
        """Return the voxels of one request, `query` in its address; asked for again where they cannot be decoded."""
        path = self._path("cutout", box)
        found: list[Array] = []

        def decoded(reply: Reply) -> None:
            found.append(wire.decode(reply.body, box.shape, self.dtype, reply.url))

        mode = {"access-mode": self.address.option("access", ACCESS[0])}
        self._service.client.get(path, query={**mode, **query}, headers={"Accept": wire.BLOSC}, check=decoded)
        return found[-1]

    def _put(self, box: Box, data: Array) -> None:
        """Store one part. What is sent twice is stored once, as long as nobody else writes there."""
        if self.abilities.merges:
            if data.any():
                self._post(box, data)
            return
        for _ in range(2):
            if not data.all():
                self._erase(box)
            if data.any():
                self._post(box, data)
            if np.array_equal(self._get(box), data):  # the order of an erase and a write is promised nowhere
                return
        raise Transient(
            f"{self.url}: the box {box.describe(self.axes)} was erased and written and reads otherwise; does somebody else "
            "write there?",
            url=self.url,
        )

    def _post(self, box: Box, data: Array) -> None:
        client = self._service.client
        body = wire.encode(data, b"lz4" if client.near else b"zstd")
        client.post(self._path("cutout", box), body, headers={"Content-Type": wire.BLOSC}, expect=(201,))

    def _erase(self, box: Box) -> None:
        """Set a box to 0; one request a time sample, since two in one are known to lose the second."""
        times = range(box.start[0], box.stop[0]) if "t" in self.axes else (None,)
        for t in times:
            part = box if t is None else Box((t, *box.start[1:]), (t + 1, *box.stop[1:]))
            self._service.client.put(self._path("cutout/to_black", part))

    def _unit(self) -> Shape:
        z, y, x = CUBOID
        deep = max(1, self.piece_bytes // (z * y * x * self.dtype.itemsize)) * z
        return (1, deep, y, x)[-self.ndim :]

    @property
    def _origin(self) -> Shape:
        return (0,) * self.ndim  # cuboids are counted from there, wherever the channel begins

    def _path(self, what: str, box: Box) -> str:
        names = "/".join(map(segment, self._names))
        return f"/v1/{what}/{names}/{self._resolution}/{objects.ranges(box, self.axes)}"

    # -- what is kept with it, and its levels ----------------------------------------------------------------------------------

    @property
    def encoding(self) -> str:
        """How voxels travel."""
        return self._bucket.encoding if self._bucket is not None else "blosc"

    @property
    def metadata(self) -> Metadata:
        """The keys and values of the channel, strings."""
        return Metadata(self._service, self._names)

    @property
    def attributes(self) -> dict[str, Any]:
        """The metadata of the channel: values that are JSON as what they mean, others as strings; one for all levels."""
        return self.metadata.document()

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Set metadata of the channel, key by key."""
        self.metadata.update(values)

    def status(self) -> str:
        """Return NOT_DOWNSAMPLED, QUEUED, IN_PROGRESS, DOWNSAMPLED or FAILED."""
        return str(self._service.pyramid(self._names).get("status", ""))

    def propagate(self) -> None:
        """Have the service make the coarser levels, and return when they are there. RemoteError where it fails to."""
        levels = int(self._service.document(self._names[:2])["num_hierarchy_levels"])
        if levels < 2:
            raise PlanError(f"{self.url}: its experiment has one level; set num_hierarchy_levels of it first")
        try:
            self._service.downsample(self._names)
        except Conflict:
            if self.status() not in ("QUEUED", "IN_PROGRESS", "DOWNSAMPLED"):
                raise
        pause = 0.05
        while (status := self.status()) != "DOWNSAMPLED":
            if status not in ("QUEUED", "IN_PROGRESS"):
                raise RemoteError(f"{self.url}: the service made no levels, its status is {status}", url=self.url)
            time.sleep(pause)
            pause = min(LONGEST_WAIT, 1.5 * pause)

    def cancel_propagation(self) -> None:
        """Stop the making of levels. Conflict where none are made now."""
        self._service.cancel_downsample(self._names)

    # -- objects ---------------------------------------------------------------------------------------------------------------

    def ids(self, box: Box) -> objects.Ids:
        """Return the ids, uint64, sorted, without 0, of the objects that have a voxel in `box` (z, y, x)."""
        return objects.ids_in(self._service, self._names, self._resolution, box)

    def bounding_box(self, one: int, tight: bool = True) -> Box:
        """Return the box (z, y, x) of an object; not `tight`, of the cuboids that it touches. NotFound where it has no voxel."""
        found = objects.box_of(self._service, self._names, self._resolution, one, tight)
        if found is None:
            raise NotFound(f"{self.url} has no voxel of the object {one}", url=self.url)
        return found

    def reserve(self, count: int) -> range:
        """Return `count` ids that nobody else is given."""
        first = objects.reserved(self._service, self._names, count)
        return range(first, first + count)

    def read_objects(self, box: Box, ids: Iterable[int]) -> Array:
        """Return the voxels of `box` with every object but `ids` set to 0."""
        wanted, stored = sorted({int(one) for one in ids}), self._stored(box)
        groups = [wanted[first : first + IDS] for first in range(0, len(wanted), IDS)]
        result = np.zeros(box.shape, self.dtype)
        for group in groups:  # no voxel belongs to two objects
            result += self._gathered(stored, filter=",".join(map(str, group)))
        return result


class BossDbVolume(BossVolume):
    """A channel of the public service, or of the one that intern is configured for."""

    scheme = "bossdb"
    abilities: ClassVar[Abilities] = replace(
        BossVolume.abilities,
        title="BOSS, the public bossDB",
        examples=("bossdb://collection/experiment/channel",),
    )


def _require_options(address: Address) -> None:
    address.require_options(OPTIONS)
    for name, known in (("access", ACCESS), ("write", ("merge", "replace"))):
        value = address.option(name, known[0])
        if value not in known:
            raise PlanError(f"{address.url}: {name}={value} is not one of {', '.join(known)}", option=name)

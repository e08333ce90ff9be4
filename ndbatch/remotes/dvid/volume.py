"""Data instances of DVID as volumes: images of one number a voxel, labels, and regions of interest as masks.

A write that covers parts of blocks reads them first. Labels are written with `mutate=true`, with which the server takes the
old voxels out of its counts, so that a request that is sent twice counts once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, Denied, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Kind, Volume
from ndbatch.remotes.dvid.info import ATTRIBUTE, IMAGES, LABELS, TAG, Info, inclusive, settings
from ndbatch.remotes.dvid.instances import add, instances, tag
from ndbatch.remotes.dvid.service import OPTIONS, REQUEST_VOXELS, Place
from ndbatch.remotes.dvid.voxels import read_image, read_labels, write_image, write_labels
from ndbatch.remotes.http.client import in_flight, segment
from ndbatch.remotes.pyramids import require_level

EDGES = (16, 32, 64, 128)
"""Extents of cubic blocks that a new instance may have; others become `BLOCK`."""
BLOCK = 64
MOST_LEVELS = 10


class DvidVolume(Volume):
    """One data instance at one version. Levels of images are instances NAME_1, NAME_2 ...; a labelmap has its own."""

    scheme = "dvid"
    abilities: ClassVar[Abilities] = Abilities(
        levels=True,
        coarser=True,
        service=True,
        dtypes=tuple(IMAGES.values()),
        labels=("uint64",),
        request_bytes=REQUEST_VOXELS * 8,
        places=("http",),
        title="DVID",
        examples=("dvid://localhost:8000/:master/grayscale", "dvid://localhost:8000/28841c8277e0/segmentation"),
    )

    def __init__(self, address: Address, spec: ArraySpec, place: Place, info: Info) -> None:
        super().__init__(address, spec)
        self._place, self._info, self._stored = place, info, spec
        self._open = False

    # -- opening and making --------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open an instance: NotFound for one that is not there or has no extents yet, RemoteError for one without voxels."""
        address.require_options(OPTIONS)
        place, level = Place.of(address).require_instance(), address.count("level")
        info = _info(place, place.instance)
        levels = info.levels if info.typename not in IMAGES else _image_levels(place)
        if level >= levels:
            raise NotFound(f"{address.url}: there is no level {level}; there are {levels} levels", url=address.url)
        if level and info.typename in IMAGES:
            place = place.named(f"{place.instance}_{level}")
            info = _info(place, place.instance)
        if info.typename == "roi":
            from ndbatch.remotes.dvid.roi import extents

            info = extents(place, info)
        return cls(address, info.spec(level, levels, address.url), place, info)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make an instance (a labelmap for labels of uint64) in an open version; with `level`, an image NAME_level."""
        address.require_options(OPTIONS)
        spec = cls.settled(address, spec)
        cls.check_spec(address, spec)
        place, level = Place.of(address).require_instance(), address.count("level")
        name = f"{place.instance}_{level}" if level else place.instance
        if cls.exists(address):
            what = f"level {level}" if level else "it"
            raise Conflict(f"{address.url}: {what} exists already; choose another name, or overwrite", url=address.url)
        if level:
            _require_finer(address, spec, level)
        place.require_open()
        made = place.named(name)
        downres = _downres(address, spec)
        add(place, settings(name, spec, downres))
        first, last = inclusive(spec)
        made.post("/extents", json.dumps({"MinPoint": first, "MaxPoint": last}).encode())
        tag(made, {TAG: json.dumps({"min": first, "max": last, "kind": str(spec.kind)})})
        return cls.open(address)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Raise PlanError for other axes than z, y, x, and for levels of a labelmap, which makes them of itself."""
        super().check_spec(address, spec)
        if spec.axes != "zyx":
            raise PlanError(
                f"{address.url}: DVID holds z, y, x, not {spec.axes}; write each time or channel to an instance of its own "
                "(t=, c= of the input)"
            )
        if any(not -(2**31) < n < 2**31 for n in (*spec.domain.start, *spec.domain.stop)):
            raise PlanError(
                f"{address.url}: the volume lies at {spec.domain.describe(spec.axes)}; places of DVID have 32 bits, move it "
                "with translate"
            )
        level = address.count("level")
        if level and cls.makes_levels(spec.dtype, spec.kind):
            raise PlanError(
                f"{address.url}: level {level} of a labelmap is made by the server when level 0 is written; create it with "
                f"?downres={level}",
                option="level",
            )

    @classmethod
    def settled(cls, address: Address, spec: ArraySpec) -> ArraySpec:
        """Return the array with blocks that DVID has: cubes of 16 to 128 voxels as they are wished, else of 64."""
        del address
        cubic = len(set(spec.chunks)) == 1 and spec.chunks[0] in EDGES
        chunks = spec.chunks if cubic else (BLOCK,) * spec.ndim
        apart = any(at % n for at, n in zip(spec.offset, chunks, strict=True))  # blocks are counted from 0
        return replace(spec, chunks=chunks, shards=None, anchor=(0,) * spec.ndim if apart else None)

    @classmethod
    def makes_levels(cls, dtype: np.dtype[Any], kind: Kind) -> bool:
        """Return whether such a volume is a labelmap, whose levels the server makes whenever level 0 is written."""
        return kind is Kind.LABELS and dtype == np.uint64

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the version has the instance (or its level)."""
        place, level = Place.of(address).require_instance(), address.count("level")
        known = instances(place)
        found = known.get(place.instance)
        if level and found is not None and Info(found).typename not in IMAGES:
            return level < Info(found).levels
        return (f"{place.instance}_{level}" if level else place.instance) in known

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove an instance, and the instances that hold its levels. Denied by servers that do so on their console only."""
        if address.count("level"):
            raise PlanError(f"{address.url}: a single level is never removed; leave level out to remove all of it")
        place = Place.of(address).require_instance()
        known = instances(place)
        if place.instance not in known:
            return
        levels = _levels_among(known, place.instance) if Info(known[place.instance]).typename in IMAGES else []
        for name in [*reversed(levels), place.instance]:
            reply = place.request(
                "DELETE",
                f"/repo/{segment(place.uuid)}/{segment(name)}",
                {"imsure": "true"},
                expect=(200, 404, 405, 501),
            )
            if reply.status != 200:
                raise Denied(
                    f"{address.url}: this server removes instances on its console only; run: dvid repo {place.uuid} delete "
                    f"{name} PASSCODE",
                    url=address.url,
                )

    # -- voxels ----------------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Return the version's full name, and while it is open also the number of the last change in its repository."""
        about = self._place.repository()
        uuid = _full(about, self._place)
        locked = about["DAG"]["Nodes"][uuid]["Locked"] if uuid else False
        return uuid if locked else f"{uuid}:{about.get('MutationID')}"

    @property
    def encoding(self) -> str:
        """How the server keeps blocks."""
        return str(self._info.body["Base"].get("Compression") or "").split(",")[0].removeprefix("Compression: ")

    def _kept(self, box: Box) -> Box:
        """Return a box where the server has it, for who opened the volume may have told another offset."""
        return box.shift([a - b for a, b in zip(self._stored.offset, self.offset, strict=True)])

    def _read(self, box: Box) -> Array:
        return self._fetch(self._kept(box))

    def _fetch(self, box: Box) -> Array:
        result = np.empty(box.shape, self.dtype)
        calls = [partial(self._read_into, result, box, part) for part in self._requests(box, aligned=False)]
        for _ in in_flight(calls):
            pass
        return result

    def _read_into(self, result: Array, box: Box, part: Box) -> None:
        result[part.slices(box.start)] = self._read_part(part)

    def _read_part(self, part: Box) -> Array:
        if self._info.typename == "roi":
            from ndbatch.remotes.dvid.roi import read_mask

            return read_mask(self._place, part)
        if self._info.typename not in LABELS:
            return read_image(self._place, part, self.dtype)
        supervoxels = self.address.option("supervoxels") == "true"
        return read_labels(self._place, part, self.chunks, self._scale, supervoxels)

    @property
    def _scale(self) -> int:
        return self.spec.level if self._info.typename == "labelmap" else 0

    def _write(self, box: Box, data: Array) -> None:
        self._require_writable()
        box = self._kept(box)
        grown = box.aligned_to(self.chunks, (0, 0, 0))
        if grown != box:
            data, box = self._completed(box, data, grown), grown
        write: Callable[..., None] = write_labels if self._info.typename in LABELS else write_image
        calls = (
            partial(write, self._place, part, np.ascontiguousarray(data[part.slices(box.start)]))
            for part in self._requests(box, aligned=True)
        )
        for _ in in_flight(calls):
            pass

    def _completed(self, box: Box, data: Array, grown: Box) -> Array:
        """Return voxels of whole blocks: `data`, and around it what is there; zeros beyond the volume."""
        inside = grown.intersect(self._stored.domain)
        result = np.zeros(grown.shape, self.dtype)
        if inside != box:
            result[inside.slices(grown.start)] = self._fetch(inside)
        result[box.slices(grown.start)] = data
        return result

    def _require_writable(self) -> None:
        """Raise Denied before anything is written where the server would refuse it; asked once for each open volume."""
        if self._open:
            return
        if self._info.typename not in (*IMAGES, *LABELS):
            raise Denied(f"{self.url}: a {self._info.typename} is only read here", url=self.url)
        if self._scale:
            raise Denied(f"{self.url}: coarser levels of labels are made by the server; write to level 0", url=self.url)
        self._place.require_open()
        self._open = True

    def _requests(self, box: Box, aligned: bool) -> Iterator[Box]:
        """Yield the parts of a box that are asked for one by one: whole blocks, long in x, for that is how they are kept."""
        unit = self.chunks
        most = REQUEST_VOXELS // (unit[0] * unit[1] * unit[2])
        if not aligned:  # several requests of one read run side by side
            most = min(most, max(1, -(-_blocks(box, unit) // 16)))
        along = [min(most, -(-box.shape[2] // unit[2]) + 1)]
        along.insert(0, max(1, min(most // along[0], -(-box.shape[1] // unit[1]) + 1)))
        along.insert(0, max(1, min(most // (along[0] * along[1]), -(-box.shape[0] // unit[0]) + 1)))
        steps = tuple(n * size for n, size in zip(along, unit, strict=True))
        origin = box.aligned_to(unit, (0, 0, 0)).start
        for block in Grid.over(Box(origin, box.stop), steps):
            part = block.core.intersect(box)
            if not part.empty:
                yield part

    # -- the document kept with it ---------------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """The JSON document, kept in tags of the instance, the same for all versions."""
        tags = _info(self._finest, self._finest.instance).tags
        found = {}
        for name, text in sorted(tags.items()):
            if name.startswith(ATTRIBUTE):
                try:
                    found[name.removeprefix(ATTRIBUTE)] = json.loads(text)
                except ValueError:  # a tag of another program
                    found[name.removeprefix(ATTRIBUTE)] = text
        return found

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document; each key is one tag."""
        tag(self._finest, {f"{ATTRIBUTE}{name}": json.dumps(value) for name, value in values.items()})

    @property
    def _finest(self) -> Place:
        return self._place.named(Place.of(self.address).instance)


def _info(place: Place, name: str) -> Info:
    """Return what an instance tells of itself; NotFound, with the names that there are, where there is none."""
    try:
        return Info(place.named(name).get("/info").json())
    except (NotFound, Conflict, RemoteError) as error:
        if error.fields.get("status") not in (400, 404):
            raise
        known = sorted(instances(place))
        if name in known:
            raise
        listed = ", ".join(known[:20]) or "none"
        raise place.missing(f"the version has no instance {name}; its instances: {listed}") from None


def _image_levels(place: Place) -> int:
    """Return the number of levels: instances NAME, NAME_1, NAME_2 ... without a gap."""
    return 1 + len(_levels_among(instances(place), place.instance))


def _levels_among(known: Mapping[str, Any], name: str) -> list[str]:
    found: list[str] = []
    for level in count(1):
        coarser = f"{name}_{level}"
        if coarser not in known or Info(known[coarser]).typename != Info(known[name]).typename:
            return found
        found.append(coarser)
    raise AssertionError("unreachable")


def _require_finer(address: Address, spec: ArraySpec, level: int) -> None:
    """Raise PlanError unless the level can be appended to what is there."""
    options = tuple((name, value) for name, value in address.options if name != "level")
    try:
        finest = DvidVolume.open(replace(address, options=options))
    except NotFound:
        raise PlanError(f"{address.url}: level {level} needs level 0 first", option="level") from None
    require_level(finest.spec, spec, level, finest.levels, address.url)


def _downres(address: Address, spec: ArraySpec) -> int:
    """Return the coarsest level that a new labelmap makes of itself."""
    wished = address.count("downres")
    if wished > MOST_LEVELS:
        raise PlanError(f"{address.url}: downres={wished}; at most {MOST_LEVELS} levels are made", option="downres")
    return wished or spec.levels - 1


def _full(about: Mapping[str, Any], place: Place) -> str:
    """Return the full name of the version that a prefix or a branch stands for."""
    nodes = about["DAG"]["Nodes"]
    start, _, branch = place.uuid.partition(":")
    if not branch:
        return next((uuid for uuid in sorted(nodes) if uuid.startswith(start)), "")
    named = "" if branch == "master" else branch
    leaves = [uuid for uuid, node in nodes.items() if node["Branch"] == named]
    return max(leaves, key=lambda uuid: int(nodes[uuid]["VersionID"]), default="")


def _blocks(box: Box, unit: Shape) -> int:
    return len(Grid.over(box, unit))

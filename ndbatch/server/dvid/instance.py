"""Data instances of a repository: those made through DVID, kept as documents, and the channels that are there anyway."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ndbatch.errors import NotFound, PlanError
from ndbatch.geometry import Shape
from ndbatch.remotes.dvid.info import IMAGES, TAG
from ndbatch.server.catalogue import NAME, Channel
from ndbatch.server.dvid.asking import Refused, triple

if TYPE_CHECKING:
    from ndbatch.remotes.base import Volume
    from ndbatch.server.dvid.repository import Repository
    from ndbatch.server.service import Service

VOXELS = (*IMAGES, "labelmap")
"""Types whose voxels are served."""
DOCUMENTS = ("keyvalue", "annotation", "neuronjson", "roi", "tarsupervoxels")
EDGE = {"labelmap": 64, "annotation": 64}
"""Voxels of a block where the settings say nothing; otherwise 32."""
SCALES = 12
"""Most coarser levels of a labelmap."""


@dataclass(frozen=True)
class Instance:
    """One data instance. `block` is z, y, x; `size` in nanometres and `units` are x, y, z, as the settings give them."""

    name: str
    typename: str
    uuid: str
    """The version at which it was made."""
    block: Shape
    size: tuple[float, ...] = (8.0, 8.0, 8.0)
    units: tuple[str, ...] = ("nanometers",) * 3
    scales: int = 0
    """Coarsest level of a labelmap."""
    versioned: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    syncs: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Where the voxels of a version lie that has its own."""
    extents: Mapping[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    """First and last voxel (x, y, z, both included) of a version that has its own."""
    level: int = 0
    """Level of the volumes that the instance is, for images whose levels are instances."""
    found: bool = False
    """Not made through DVID."""

    @property
    def shown(self) -> int:
        """Coarsest level that is read: of labels that were found with one level the next is made as it is read.

        Neuroglancer takes no labelmap whose MaxDownresLevel is 0. What a client created with 0 says 0, as in DVID.
        """
        return 1 if self.found and self.typename == "labelmap" and not self.scales else self.scales

    def document(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @property
    def dtype(self) -> str:
        """Type of a voxel on the wire."""
        return IMAGES.get(self.typename, "uint64")

    @property
    def kind(self) -> str:
        """What its voxels mean to the other protocols."""
        try:
            told = json.loads(self.tags.get(TAG, "{}")).get("kind", "")
        except (ValueError, AttributeError):
            told = ""
        default = "labels" if self.typename == "labelmap" else "image"
        return told if told in ("image", "labels", "probability") else default

    def nearest(self, repo: Repository, uuid: str, values: Mapping[str, Any]) -> Any:
        """Return the value of the nearest version, from `uuid` back to the root, that has its own; None where none has."""
        lineage = repo.lineage(uuid) if self.versioned else [self.uuid, *values]
        return next((values[one] for one in lineage if one in values), None)

    def info(self, repo: Repository, uuid: str) -> dict[str, Any]:
        """Return what `/info` tells at a version."""
        ends = self.nearest(repo, uuid, self.extents)
        first, last = ends if ends else (None, None)
        base = {
            "TypeName": self.typename,
            "TypeURL": f"github.com/janelia-flyem/dvid/datatype/{self.typename}",
            "TypeVersion": "0.1",
            "DataUUID": hashlib.md5(f"{repo.name}/{self.name}/{self.uuid}".encode()).hexdigest(),
            "Name": self.name,
            "RepoUUID": repo.dag["root"],
            "Compression": "gzip" if self.typename == "labelmap" else "none",
            "Checksum": "none",
            "Syncs": list(self.syncs),
            "Versioned": self.versioned,
            "KVStore": "ndbatch",
            "LogStore": "ndbatch",
            "Tags": dict(self.tags),
        }
        if self.typename not in VOXELS:
            small = {"BlockSize": list(reversed(self.block))} if self.typename in ("roi", "annotation") else {}
            return {"Base": base, "Extended": small}
        extended: dict[str, Any] = {
            "Values": [{"DataType": self.dtype, "Label": self.typename}],
            "Interpolable": self.typename != "labelmap",
            "BlockSize": list(reversed(self.block)),
            "VoxelSize": list(self.size),
            "VoxelUnits": list(self.units),
            "MinPoint": first,
            "MaxPoint": last,
            "MinIndex": None if first is None else [a // n for a, n in zip(first, reversed(self.block), strict=True)],
            "MaxIndex": None if last is None else [a // n for a, n in zip(last, reversed(self.block), strict=True)],
            "Background": 0,
            "GridStore": "",
            "ScaleLevel": 0,
        }
        if self.typename == "labelmap":
            extended |= {"IndexedLabels": True, "MaxDownresLevel": self.shown}
        return {"Base": base, "Extended": extended, "Extents": {"MinPoint": first, "MaxPoint": last}}


def instances(service: Service, repo: Repository, name: str | None = None) -> dict[str, Instance]:
    """Return all instances of a repository by name; of channels that were found, where a `name` is given, those it may mean."""
    kept = {
        key.partition("/")[2]: _kept(repo, key) for key in repo.catalogue.keys(repo.scope, "instance/", "instance0")
    }
    found: dict[str, Instance] = {}
    for channel in repo.catalogue.channels(repo.name):
        asked = name is None or name == channel.name or name.startswith(f"{channel.name}_")
        if channel.name not in kept and asked:
            for one in _of_channel(service, repo, channel):
                found.setdefault(one.name, one)
    return {**found, **{name: one for name, one in kept.items() if one is not None}}


def instance(service: Service, repo: Repository, name: str) -> Instance:
    """Return one instance. NotFound."""
    one = _kept(repo, f"instance/{name}")
    if one is None:
        one = instances(service, repo, name).get(name)
    if one is None:
        raise NotFound(f"invalid data instance name: {name!r} is not found in repo {repo.dag['root']}")
    return one


def keep(repo: Repository, one: Instance) -> Instance:
    """Keep an instance."""
    repo.catalogue.keep(repo.scope, f"instance/{one.name}", repo.catalogue.portable.text(one.document()).encode())
    return one


def change(service: Service, repo: Repository, name: str, **entries: Any) -> Instance:
    """Replace fields of an instance in one transaction; mappings are merged into those that are there."""
    with repo.catalogue.transaction():
        one = instance(service, repo, name)
        merged: dict[str, Any] = {
            key: {**getattr(one, key), **value} if isinstance(value, Mapping) else value
            for key, value in entries.items()
        }
        return keep(repo, replace(one, **merged))


def new_instance(service: Service, repo: Repository, uuid: str, told: Mapping[str, Any]) -> Instance:
    """Make an instance from settings, all of which must be strings. PlanError, Refused for a name that is taken."""
    wrong = next((key for key, value in told.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise PlanError(f"the setting {wrong!r} must be a string, as in {{{wrong!r}: '...'}}; every setting is")
    low = {key.lower(): value for key, value in told.items()}
    name, typename = low.get("dataname", ""), low.get("typename", "")
    if typename not in (*VOXELS, *DOCUMENTS):
        raise PlanError(f"typename {typename!r} is not one of {', '.join((*VOXELS, *DOCUMENTS))}")
    if not NAME.fullmatch(name):
        raise PlanError(f"dataname {name!r} is no name: letters, digits, _ and -")
    block = triple(low["blocksize"]) if "blocksize" in low else (EDGE.get(typename, 32),) * 3
    if any(not 1 <= n <= 1024 or (typename == "labelmap" and n % 16) for n in block):
        raise PlanError(f"BlockSize {low['blocksize']!r}: those of labels are multiples of 16, at most 1024")
    if typename == "tarsupervoxels" and not low.get("extension"):
        raise PlanError("tarsupervoxels need the setting Extension")
    scales = low.get("maxdownreslevel", "0")
    if not scales.isdigit() or int(scales) > SCALES:
        raise PlanError(f"MaxDownresLevel {scales!r} is not a whole number up to {SCALES}")
    one = Instance(
        name,
        typename,
        uuid,
        block,
        size=_numbers(low.get("voxelsize", "8.0,8.0,8.0")),
        units=tuple(low.get("voxelunits", ",".join(["nanometers"] * 3)).split(",")),
        scales=int(scales) if typename == "labelmap" else 0,
        versioned=low.get("versioned", "true").lower() not in ("false", "0") and typename != "tarsupervoxels",
        tags=dict(pair.partition("=")[::2] for pair in low.get("tags", "").split(",") if pair),
        settings=dict(low),
    )
    with repo.catalogue.transaction():
        if name in instances(service, repo):
            raise Refused(f"data name already exists: {name!r}")
        return keep(repo, one)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(0 < n < 1e12 for n in values):
        raise PlanError(f"VoxelSize {text!r} is not three lengths above 0")
    return values


def _kept(repo: Repository, key: str) -> Instance | None:
    found = repo.catalogue.document(repo.scope, key)
    if found is None:
        return None
    facts = repo.catalogue.portable.facts(found.decode())
    return Instance(**{**facts, **{name: tuple(facts[name]) for name in ("block", "size", "units", "syncs")}})


def _of_channel(service: Service, repo: Repository, channel: Channel) -> list[Instance]:
    """Return the instances that a channel is: itself, and an image's coarser levels. None for what DVID has no type for."""
    volume = service.volume(channel)
    typename = "labelmap" if channel.kind == "labels" else f"{channel.dtype}blk"
    if volume.axes != "zyx" or typename not in VOXELS or volume.dtype.kind not in "uif":
        return []
    own = 1 + _halved(service, channel, volume) if typename == "labelmap" else channel.levels
    if typename == "labelmap":
        return [_as_found(repo, channel, channel.name, typename, volume, 0, own - 1)]
    levels = [service.volume(channel, level) for level in range(own)]
    names = [channel.name, *(f"{channel.name}_{level}" for level in range(1, own))]
    return [_as_found(repo, channel, n, typename, v, i, 0) for i, (n, v) in enumerate(zip(names, levels, strict=True))]


def _as_found(
    repo: Repository, channel: Channel, name: str, typename: str, volume: Volume, level: int, scales: int
) -> Instance:
    root = repo.dag["root"]
    size = volume.voxel_size or (1e-3,) * 3
    box = volume.domain
    return Instance(
        name,
        typename,
        root,
        (64, 64, 64),
        size=tuple(float(n) * 1e3 for n in reversed(size)),
        scales=scales,
        volumes={root: channel.url},
        extents={root: ([int(n) for n in reversed(box.start)], [int(n) - 1 for n in reversed(box.stop)])},
        level=level,
        found=True,
    )


def _halved(service: Service, channel: Channel, finest: Volume) -> int:
    """Return how many coarser levels halve every axis, one after the other: those that are scales of DVID."""
    for level in range(1, min(channel.levels, SCALES + 1)):
        coarser = service.volume(channel, level)
        if coarser.domain != finest.domain.coarsened((2**level,) * 3):
            return level - 1
    return channel.levels - 1

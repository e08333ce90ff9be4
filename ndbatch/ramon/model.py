"""The classes of RAMON, the standard of ndstore for annotated objects: synapses, segments, neurons and others.

An object has an id that is unique in its channel, and that is also the value of its voxels there. Every field stands once,
here, with how it is written (`Written`): HDF5, JSON, parquet and data frames are all made from it (`written`). Sequences of
places are z, y, x as everywhere in ndbatch; the dialects of ndstore turn them into x, y, z.

Relations are kept by the child alone: a segment says its neuron, and the segments of a neuron are a question (`RELATED`).
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ndbatch.errors import PlanError

LARGEST_ID = 2**32 - 1
"""The largest id: ids are unsigned, 32 bits."""
STATUSES = ("unprocessed", "locked", "processed", "ignored")
"""What the numbers of `status` mean."""


@dataclass(frozen=True)
class Written:
    """How a field is written. `json` is its key in flat JSON, `hdf5` its dataset, and in small letters its key in nested JSON.

    `kind` is whole (0 to 2^32-1), id, parent (an id, or -1 for none), real, text, ids (any number of ids), place (z, y, x
    whole, or nothing), point (z, y, x real) or pairs (texts by name). `also` are datasets that other programs write instead.
    """

    kind: str
    json: str
    hdf5: str = ""
    also: tuple[str, ...] = ()


def _whole(json: str, hdf5: str, default: int = 0) -> Any:
    return dataclasses.field(default=default, metadata={"written": Written("whole", json, hdf5)})


def _id(json: str, hdf5: str) -> Any:
    return dataclasses.field(default=0, metadata={"written": Written("id", json, hdf5)})


def _real(json: str, hdf5: str) -> Any:
    return dataclasses.field(default=0.0, metadata={"written": Written("real", json, hdf5)})


def _ids(json: str, hdf5: str, *also: str) -> Any:
    return dataclasses.field(default=(), metadata={"written": Written("ids", json, hdf5, also)})


def _place(json: str, hdf5: str) -> Any:
    return dataclasses.field(default=(), metadata={"written": Written("place", json, hdf5)})


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An object of no particular type, and what all types have. Values that do not fit raise PlanError."""

    number: ClassVar[int] = 1
    """The number of the type."""
    word: ClassVar[str] = "generic"
    """The name of the type."""
    painted: ClassVar[bool] = True
    """Whether objects of the type have voxels of their own."""

    id: int = dataclasses.field(default=0, metadata={"written": Written("id", "ann_id")})
    """1 to 2^32-1; 0 asks for one when the object is stored."""
    status: int = _whole("ann_status", "STATUS")
    """What a workflow made of it: see `STATUSES`."""
    confidence: float = _real("ann_confidence", "CONFIDENCE")
    """Between 0 and 1."""
    author: str = dataclasses.field(default="", metadata={"written": Written("text", "ann_author", "AUTHOR")})
    """Who or what made it."""
    kvpairs: Mapping[str, str] = dataclasses.field(
        default_factory=dict, metadata={"written": Written("pairs", "", "KVPAIRS")}
    )
    """Whatever else is known of it, text by name."""

    def __post_init__(self) -> None:
        for name, how in written(type(self)).items():
            try:
                object.__setattr__(self, name, _checked(how.kind, getattr(self, name)))
            except (TypeError, ValueError, OverflowError) as error:
                raise PlanError(f"{self.word} {self.id}: {name} {error}", field=name) from None


@dataclass(frozen=True, kw_only=True)
class Synapse(Annotation):
    """A contact of segments."""

    number: ClassVar[int] = 2
    word: ClassVar[str] = "synapse"

    weight: float = _real("syn_weight", "WEIGHT")
    """Its strength."""
    synapse_type: int = _whole("syn_type", "SYNAPSE_TYPE")
    """Its kind, by the numbers of the project."""
    seeds: tuple[int, ...] = _ids("syn_seeds", "SEEDS")
    """Ids of the seeds it grew from."""
    segments: tuple[int, ...] = _ids("syn_segments", "SEGMENTS")
    """Ids of the segments that meet, where the direction is not known."""
    presegments: tuple[int, ...] = _ids("syn_presegments", "PRESEGMENTS")
    """Ids of the segments before it."""
    postsegments: tuple[int, ...] = _ids("syn_postsegments", "POSTSEGMENTS", "SPOSTEGMENTS")
    """Ids of the segments behind it."""
    centroid: tuple[int, ...] = _place("syn_centroid", "CENTROID")
    """Its middle, z, y, x, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Seed(Annotation):
    """A place from which something grows. It has no voxels."""

    number: ClassVar[int] = 3
    word: ClassVar[str] = "seed"
    painted: ClassVar[bool] = False

    parent: int = _id("seed_parent", "PARENT")
    """The seed it came from."""
    position: tuple[int, ...] = _place("seed_position", "POSITION")
    """Where it is, z, y, x, or nothing."""
    cubelocation: int = _whole("seed_cubelocation", "CUBE_LOCATION")
    """On which side of its cube it lies."""
    source: int = _id("seed_source", "SOURCE")
    """The object it was made from."""


@dataclass(frozen=True, kw_only=True)
class Segment(Annotation):
    """A piece of a cell."""

    number: ClassVar[int] = 4
    word: ClassVar[str] = "segment"

    segmentclass: int = _whole("seg_class", "SEGMENTCLASS")
    """Its kind, by the numbers of the project, such as axon, dendrite or soma."""
    parentseed: int = _id("seg_parentseed", "PARENTSEED")
    """The seed it grew from."""
    neuron: int = _id("seg_neuron", "NEURON")
    """The neuron it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Neuron(Annotation):
    """A cell. Its voxels are those of its segments."""

    number: ClassVar[int] = 5
    word: ClassVar[str] = "neuron"
    painted: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Organelle(Annotation):
    """A part of a cell, such as a nucleus or a mitochondrion."""

    number: ClassVar[int] = 6
    word: ClassVar[str] = "organelle"

    organelleclass: int = _whole("org_class", "ORGANELLECLASS")
    """Its kind, by the numbers of the project."""
    centroid: tuple[int, ...] = _place("org_centroid", "CENTROID")
    """Its middle, z, y, x, or nothing."""
    segment: int = _id("org_segment", "SEGMENT")
    """The segment it lies in."""
    parentseed: int = _id("org_parentseed", "PARENTSEED")
    """The seed it grew from."""
    seeds: tuple[int, ...] = _ids("org_seeds", "SEEDS")
    """Seeds that belong to it."""


@dataclass(frozen=True, kw_only=True)
class Node(Annotation):
    """A node of a skeleton."""

    number: ClassVar[int] = 7
    word: ClassVar[str] = "node"

    nodetype: int = _whole("node_type", "NODETYPE")
    """Its kind, by the numbers of the project; those of SWC files as a rule."""
    location: tuple[float, ...] = dataclasses.field(
        default=(0.0, 0.0, 0.0), metadata={"written": Written("point", "node_location", "LOCATION")}
    )
    """Where it is, z, y, x in voxels."""
    parent: int = dataclasses.field(default=0, metadata={"written": Written("parent", "node_parent", "PARENTID")})
    """The node before it, -1 for a root."""
    radius: float = _real("node_radius", "RADIUS")
    """Radius in voxels."""
    skeleton: int = _id("node_skeleton", "SKELETONID")
    """The skeleton it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Skeleton(Annotation):
    """A tree of nodes."""

    number: ClassVar[int] = 8
    word: ClassVar[str] = "skeleton"

    skeletontype: int = _whole("skel_type", "SKELETONTYPE")
    """Its kind, by the numbers of the project."""
    rootnode: int = _id("skel_rootnode", "ROOTNODE")
    """The node all others follow."""


@dataclass(frozen=True, kw_only=True)
class ROI(Annotation):
    """A region of interest."""

    number: ClassVar[int] = 9
    word: ClassVar[str] = "roi"

    parent: int = _id("roi_parent", "PARENT")
    """The region around it."""


CLASSES: tuple[type[Annotation], ...] = (
    Annotation, Synapse, Seed, Segment, Neuron, Organelle, Node, Skeleton, ROI,
)  # fmt: skip
"""All classes, in the order of their numbers."""
RELATED: dict[tuple[type[Annotation], str], tuple[type[Annotation], str]] = {
    (Neuron, "segments"): (Segment, "neuron"),
    (Segment, "synapses"): (Synapse, "segments"),
    (Segment, "presynapses"): (Synapse, "presegments"),
    (Segment, "postsynapses"): (Synapse, "postsegments"),
    (Segment, "organelles"): (Organelle, "segment"),
    (Skeleton, "nodes"): (Node, "skeleton"),
    (Node, "children"): (Node, "parent"),
    (ROI, "children"): (ROI, "parent"),
}
"""Questions that other objects answer, by class and name: the class whose field names the object."""
_WRITTEN = {one.number: {field.name: field.metadata["written"] for field in dataclasses.fields(one)} for one in CLASSES}
_WORDS = {one.word: one for one in CLASSES} | {"annotation": Annotation, "attributedregion": Node, "volume": Skeleton}


def written(kind: type[Annotation]) -> Mapping[str, Written]:
    """Return how each field of a class is written, in order: by the field's name."""
    return _WRITTEN[kind.number]


def class_of(kind: int | str | type[Annotation]) -> type[Annotation]:
    """Return a class by its number or its word, any case; `annotation`, and for 7 and 8 the names of old clients, too.

    Raises PlanError where there is none.
    """
    if isinstance(kind, type):
        return kind
    text = str(kind).strip().lower()
    if text.isascii() and text.isdigit() and 1 <= int(text) <= len(CLASSES):
        return CLASSES[int(text) - 1]
    if text not in _WORDS:
        known = ", ".join(f"{one.number} {one.word}" for one in CLASSES)
        raise PlanError(f"{kind!r} is no type of RAMON; use one of {known}", type=str(kind))
    return _WORDS[text]


def require_id(value: object) -> int:
    """Return an id from 1 to 2^32-1, given as a number or its digits; PlanError for anything else."""
    try:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if not 1 <= number <= LARGEST_ID:
        raise PlanError(f"{value!r} is no id; ids are whole numbers from 1 to {LARGEST_ID}")
    return number


def _checked(kind: str, value: Any) -> Any:
    """Return `value` as the type of its kind; ValueError or TypeError says what does not fit."""
    if kind in ("whole", "id", "parent"):
        number = operator.index(value)
        if not -(kind == "parent") <= number <= LARGEST_ID:
            raise ValueError(f"is {number}; it must be from {-(kind == 'parent')} to {LARGEST_ID}")
        return number
    if kind == "real":
        return _finite(value)
    if kind == "text":
        return _text(value)
    if kind == "ids":
        return tuple(_checked("id", one) for one in value)
    if kind == "pairs":
        return {_text(key): _text(one) for key, one in dict(value).items()}
    return _coordinates(kind, value)


def _coordinates(kind: str, value: Sequence[Any]) -> tuple[Any, ...]:
    if len(value) != 3 and (kind == "point" or len(value)):
        raise ValueError(f"has {len(value)} numbers; a place has three, z, y and x")
    if kind == "point":
        return tuple(_finite(one) for one in value)
    found = tuple(operator.index(one) for one in value)
    if any(not -(2**31) <= one <= LARGEST_ID for one in found):
        raise ValueError(f"{found} is too far away")
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"is {number}; it must be a finite number")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"holds {value!r}, which is no text")
    if "\0" in value or any("\ud800" <= one <= "\udfff" for one in value):
        raise ValueError("holds characters that no file of text can hold: NUL, or half a pair of surrogates")
    return str(value)

"""What a store can do, declared before any work starts: the planner asks for the ability and never for the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VOXEL_TYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""The types of voxel that any volume can have."""


FAR = ("s3", "gs", "http")
"""Where single files are read from, beside this machine (`ndbatch.remotes.places.far`)."""


@dataclass(frozen=True)
class Abilities:
    """What a store can do; the planner reads this before any work starts, and docs/formats.md is made of it."""

    write: bool = True
    """Boxes can be written."""
    concurrent: bool = True
    """Several processes may write different chunks at once, each chunk appears whole or not at all, and a process
    killed while it writes damages nothing that was written before. Where False, the engine stages the blocks beside the run and
    writes the file once, at the end, from one process, under a temporary name."""
    shared: bool = True
    """Other processes of this machine see what one writes (memory:// is private to its process)."""
    attributes: bool = True
    """A small JSON document can be kept with the array."""
    levels: bool = False
    """Coarser levels can be appended, one after the other: `create` at the same address with `level=1`, then `level=2` ..."""
    coarser: bool = False
    """Levels that others made are read, with `level=1` ...; true wherever `levels` is."""
    dtypes: tuple[str, ...] = VOXEL_TYPES
    """What a new volume can be of; anything else is refused with a sentence."""
    labels: tuple[str, ...] = ()
    """Types in which the store keeps labels with all that it does for them; () where that is any."""
    offset: bool = True
    """The absolute position of the first voxel is kept; a store that cannot refuses volumes that begin elsewhere than at 0."""
    facts: bool = True
    """Voxel size and kind are kept; where False they must be told again when the volume is opened."""
    service: bool = False
    """Spoken to by a protocol of its own over HTTP: the path of an address begins with a host."""
    merges: bool = False
    """Zeros that are written never erase what is there, so a result is only right in a volume that is new, or was emptied."""
    propagates: bool = False
    """The service makes the coarser levels itself, when `propagate` asks for them."""
    request_bytes: int | None = None
    """Most bytes of voxels, not compressed, that one request may ask for or send; None where nothing bounds them."""
    places: tuple[str, ...] = ("file",)
    """Where volumes may lie: file, s3, gs, http, zip; `memory` for none of them."""
    read_places: tuple[str, ...] = ()
    """Where volumes are read besides, by their parts, and never written."""
    title: str = ""
    """What the format is called."""
    examples: tuple[str, ...] = ()
    """Addresses, relative ones, one for each kind of volume that the store makes."""
    extra: str = ""
    """The extra of ndbatch that the store needs."""


def nearest_dtype(wanted: np.dtype[Any], known: Sequence[str]) -> str:
    """Return the smallest of the types `known` that holds every value of `wanted`, or all of them where none does."""
    fits = [name for name in known if np.can_cast(wanted, name, "safe")]
    return min(
        fits, key=lambda name: (np.dtype(name).itemsize, "uifb".index(np.dtype(name).kind)), default=", ".join(known)
    )

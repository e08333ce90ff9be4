"""The Volume contract: one array behind an address, read and written by boxes of absolute voxels.

A volume holds no voxels and no open handles that travel: it pickles as its address and opens again in the other
process. It knows nothing of plans, blocks, steps or YAML. What a store can or cannot do is declared in `Abilities`, so
that the planner asks for the ability and never for the class.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import PlanError, RemoteError
from ndbatch.geometry import Box, Shape
from ndbatch.importing import about_to_act
from ndbatch.remotes.abilities import Abilities, nearest_dtype

if TYPE_CHECKING:
    from ndbatch.remotes.address import Address

Array = NDArray[Any]


class Kind(StrEnum):
    """What the voxels mean: decides how they are downsampled, cast, compared and drawn."""

    IMAGE = "image"
    LABELS = "labels"
    PROBABILITY = "probability"


@dataclass(frozen=True)
class ArraySpec:
    """What an array is, without its voxels.

    `shape`, `chunks`, `shards`, `offset` and `voxel_size` follow `axes`, C-order (t?, c?, z, y, x). `chunks` is the unit
    of reading; `shards` the unit of writing where it is larger, else None. `offset` is the absolute position of the
    first voxel. `voxel_size` is in micrometres (1.0 on axes t and c), or None where nothing tells it.
    """

    shape: Shape
    dtype: np.dtype[Any]
    axes: str
    chunks: Shape
    shards: Shape | None = None
    offset: Shape = ()
    voxel_size: tuple[float, ...] | None = None
    kind: Kind = Kind.IMAGE
    level: int = 0
    levels: int = 1
    anchor: Shape | None = None
    """The voxel that chunks are counted from, absolute; None for the first voxel of the volume."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "offset", tuple(self.offset) or (0,) * len(self.shape))
        for name in ("axes", "chunks", "shards", "offset", "voxel_size", "anchor"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.shape):
                raise RemoteError(f"{name} {value} does not fit an array of {len(self.shape)} axes {self.shape}")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def domain(self) -> Box:
        """The box of all voxels, in absolute coordinates."""
        return Box.of_shape(self.shape, self.offset)

    @property
    def origin(self) -> Shape:
        """The voxel that chunks are counted from, absolute."""
        return self.offset if self.anchor is None else self.anchor

    @property
    def write_unit(self) -> Shape:
        """The smallest shape that is written as a whole: the shard, or the chunk where there is no shard."""
        return self.shards or self.chunks

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, not compressed."""
        return self.domain.size * self.dtype.itemsize


class Volume(ABC):
    """One array in a remote, at one level. Subclasses implement the underscore methods; users call the others."""

    scheme: ClassVar[str]
    abilities: ClassVar[Abilities] = Abilities()
    marks: ClassVar[tuple[str, ...]] = ()
    """Files that stand at the top of every folder of this format, any one of which tells it; () for formats of one file."""

    def __init__(self, address: Address, spec: ArraySpec) -> None:
        self.address = address
        self.spec = spec
        self._overrides: dict[str, Any] = {}

    # -- what a store implements ---------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def open(cls, address: Address) -> Self:
        """Open what is at `address` with one small metadata read and no voxels.

        Raises NotFound, Denied or Corrupt; the message names the file and what to do.
        """

    @classmethod
    @abstractmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Create an empty array (all voxels zero) of `spec` at `address`, metadata written atomically.

        An address with the option `level=k`, k from 1 up, appends level k to the k levels that are there (ability
        `levels`; only the driver calls it). Its geometry is `spec` as given: shape, chunks, shards and offset in voxels of
        that level, voxel size; the type and the axes are those of level 0. The first voxel of the level begins where the
        voxel of level 0 at offset x factor begins. Raises Conflict where something, or the level, is there already,
        PlanError where a level below it is missing, Denied where it may not be written.
        """

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Raise PlanError where `create` would refuse `spec` at `address` whatever is there: what the format cannot hold.

        Here: types of voxels and positions that the abilities do not name.
        """
        name, able = cls.abilities.title or cls.scheme, cls.abilities
        if spec.dtype.name not in able.dtypes:
            near = nearest_dtype(spec.dtype, able.dtypes)
            raise PlanError(
                f"{address.url}: {name} cannot hold {spec.dtype}; use dtype: {near}, or another format such as zarr"
            )
        if any(spec.offset) and not able.offset:
            raise PlanError(
                f"{address.url}: {name} keeps no position, and the volume begins at {spec.offset}; move it to 0 with translate, "
                "or use another format such as zarr"
            )

    @classmethod
    def settled(cls, address: Address, spec: ArraySpec) -> ArraySpec:
        """Return what `create` makes of `spec`, nothing asked: a service says which chunks it has, so that the planner lines
        blocks up with them. Here: as it is."""
        return spec

    @classmethod
    @abstractmethod
    def exists(cls, address: Address) -> bool:
        """Return whether something (or the level, where the address names one) is there that `create` would not replace."""

    @classmethod
    @abstractmethod
    def delete(cls, address: Address) -> None:
        """Remove the array at `address`; nothing happens where there is none."""

    @abstractmethod
    def version(self) -> str:
        """Return a short string that changes when the stored voxels may have changed (size and modification time)."""

    @abstractmethod
    def _read(self, box: Box) -> Array:
        """Return the voxels of `box` (inside the domain), C-order, `spec.dtype`, native byte order, owned by the caller."""

    @abstractmethod
    def _write(self, box: Box, data: Array) -> None:
        """Store `data` (shape of `box`, `spec.dtype`) and return when it is stored."""

    def close(self) -> None:
        """Give open handles free and finish what a file needs to be whole."""
        return  # nothing is open unless a store says so

    @property
    def attributes(self) -> dict[str, Any]:
        """The JSON document kept with the array; empty where there is none."""
        return {}

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document kept with the array, atomically. Only the driver calls this."""
        raise RemoteError(f"{self.url}: {self.scheme} volumes keep no attributes", url=self.url)

    def propagate(self) -> None:
        """Have the service make the coarser levels from level 0, and return when they are there (ability `propagates`)."""
        raise RemoteError(f"{self.url}: {self.scheme} makes no levels by itself; use ndbatch downsample", url=self.url)

    @classmethod
    def makes_levels(cls, dtype: np.dtype[Any], kind: Kind) -> bool:
        """Return whether the service makes the coarser levels of such a volume: when asked to, or as voxels are written."""
        del dtype, kind
        return cls.abilities.propagates

    def note_run(self, provenance: Mapping[str, Any]) -> None:
        """Keep the record of the run that wrote the volume where the format has a place of its own for it.

        `provenance` is that of `ndbatch.report.provenance`, and `inputs`, the addresses read. Called once by the driver, at
        the end; by a run that is continued again, and then a record with the same fingerprint is replaced.
        """
        return  # attributes keep it; a format that has another place says so

    # -- what everybody uses --------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address as the user would write it."""
        return self.address.url

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        return self.spec.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.spec.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel, native byte order."""
        return self.spec.dtype

    @property
    def axes(self) -> str:
        """Axis names in C-order, such as `zyx`."""
        return self.spec.axes

    @property
    def chunks(self) -> Shape:
        """The unit of reading."""
        return self.spec.chunks

    @property
    def offset(self) -> Shape:
        """Absolute position of the first voxel."""
        return self.spec.offset

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Micrometres along each axis, or None where nothing tells it."""
        return self.spec.voxel_size

    @property
    def levels(self) -> int:
        """Number of resolution levels at this address."""
        return self.spec.levels

    @property
    def kind(self) -> Kind:
        """Image, labels or probability."""
        return self.spec.kind

    @property
    def domain(self) -> Box:
        """The box of all voxels, in absolute coordinates."""
        return self.spec.domain

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the places along the axis c, in order; () where the store knows none."""
        return ()

    @property
    def encoding(self) -> str:
        """How chunks are packed, in the words of the format, such as `blosc zstd`; empty where the store does not say."""
        return ""

    @property
    def reading_bytes(self) -> float:
        """Most bytes a voxel that `read` holds beside its result; what a store decodes in small parts is none."""
        return 0.0

    def read(self, box: Box) -> Array:
        """Return the voxels of `box`; RemoteError where it leaves the volume."""
        if not self.domain.contains(box):
            raise RemoteError(
                f"{self.url}: the box {box.describe(self.axes)} leaves the volume, which is "
                f"{self.domain.describe(self.axes)}",
                url=self.url,
            )
        data = np.empty(box.shape, self.dtype) if box.empty else self._read(box)
        if data.shape != box.shape or data.dtype != self.dtype:
            raise RemoteError(f"{self.url}: read {data.dtype} {data.shape}, expected {self.dtype} {box.shape}")
        return data

    def write(self, box: Box, data: Array) -> None:
        """Store `data` in `box`. The dtype must be the volume's own: casts are the caller's decision."""
        about_to_act("writes a volume")
        if not self.abilities.write:
            raise RemoteError(f"{self.url}: {self.scheme} volumes cannot be written block by block", url=self.url)
        if not self.domain.contains(box):
            raise RemoteError(f"{self.url}: the box {box.describe(self.axes)} leaves the volume", url=self.url)
        if data.shape != box.shape or data.dtype != self.dtype:
            raise RemoteError(
                f"{self.url}: got {data.dtype} {data.shape} to write where {self.dtype} {box.shape} is due",
                url=self.url,
            )
        if not box.empty:
            self._write(box, np.ascontiguousarray(data))

    def override(self, **changes: Any) -> Self:
        """Return the same volume with fields of its spec replaced, for what a file does not know itself."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        try:
            other.spec = replace(self.spec, **changes)
        except RemoteError as error:
            raise PlanError(f"{self.url}: {error}") from None
        other._overrides = {**self._overrides, **changes}
        return other

    def __getitem__(self, key: Any) -> Array:
        """Return voxels by absolute position: numpy slicing, or a mapping by axis name, `volume[{"z": 3}]`."""
        from ndbatch.remotes.indexing import select

        box, drop, step = select(self.spec, key)
        data = self.read(box)
        return data[tuple(0 if d else slice(None, None, s) for d, s in zip(drop, step, strict=True))]

    def dask(self, chunks: Mapping[str, int] | Sequence[int] | None = None) -> Any:
        """Return a lazy dask array over the whole volume; a chunk (`chunks` voxels) is read when it is computed."""
        from ndbatch.remotes.lazy import as_dask

        return as_dask(self, chunks)

    def identity(self) -> str:
        """Return what the fingerprint of a run keeps of this volume: address, version and spec."""
        facts = [self.url, self.version(), repr(self.spec)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def __dask_tokenize__(self) -> tuple[str, str]:
        return (type(self).__name__, self.identity())

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.address, self._overrides)

    def __repr__(self) -> str:
        size = "?" if self.voxel_size is None else " x ".join(f"{s:g}" for s in self.voxel_size) + " um"
        shape = " ".join(f"{n}={v}" for n, v in zip(self.axes, self.shape, strict=True))
        return f"<Volume {self.url} {shape} {self.dtype} {self.kind} voxel {size}>"


def _reopen(kind: type[Volume], address: Address, overrides: dict[str, Any]) -> Volume:
    """Open a volume again in the process that unpickles it."""
    volume = kind.open(address)
    return volume.override(**overrides) if overrides else volume

"""Volumes that are one array in one file, raw or packed by deflate: what NIfTI, NRRD, MRC and npy have in common.

A format says how a header is read (`_describe`) and written (`_preamble`). A packed file is written raw first (see
`packing`); writing into one that is packed unpacks it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, Corrupt, NdbatchError, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder, axis_order
from ndbatch.remotes.base import Array, ArraySpec, Kind, Volume
from ndbatch.remotes.chunking import MINIMUM_BYTES, default_chunks
from ndbatch.remotes.files.flat import Flat
from ndbatch.remotes.files.packing import Packing, working_path
from ndbatch.remotes.files.paths import file_error, file_version, is_there, require_file, require_local, require_room

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath


@dataclass(frozen=True)
class Header:
    """What the head of a file tells: where its voxels lie and what they are.

    `names` are the axes where the file tells them, slowest first. `sizes` are micrometres by axis name;
    an axis that is not named has none. `scale` (slope, intercept) makes values of stored numbers.
    """

    flat: Flat
    names: str | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    offset: Mapping[str, int] = field(default_factory=dict)
    kind: Kind = Kind.IMAGE
    attributes: Mapping[str, Any] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    fortran: bool = False
    """Whether a user names the axes fastest first, as the libraries of the format show them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values: of what is stored, or the float that holds every scaled value of up to 16 or more bits."""
        if self.scale is None:
            return self.flat.dtype.newbyteorder("=")
        small = self.flat.dtype.itemsize <= 2 or self.flat.dtype == np.float32
        return np.dtype("float32" if small else "float64")


class FlatVolume(Volume):
    """One array in one file. Subclasses name the format and read and write its header."""

    abilities: ClassVar[Abilities] = Abilities(concurrent=False, attributes=False)
    options: ClassVar[tuple[str, ...]] = ("axes", "level")
    packed_endings: ClassVar[tuple[str, ...]] = (".gz",)

    def __init__(self, address: Address, spec: ArraySpec, header: Header, order: AxisOrder) -> None:
        super().__init__(address, spec)
        self._header, self._order = header, order
        self._version = self.version() if address.place == "file" else ""
        self._packing: Packing | None = None

    # -- what a format says --------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def _describe(cls, path: FilePath, address: Address) -> Header:
        """Read the head of the file at `path`. Any error of a library comes out as Corrupt; MissingExtra without it."""

    @classmethod
    @abstractmethod
    def _preamble(cls, address: Address, spec: ArraySpec) -> tuple[bytes, AxisOrder, np.dtype[Any]]:
        """Return the bytes before the voxels of a new file, the order of its axes, and the stored dtype."""

    @classmethod
    def _pack(cls, working: Path, address: Address) -> None:
        """Make the packed file of `address` from the raw one at `working`, at once or not at all."""
        from ndbatch.remotes.files.deflating import gzip_file

        gzip_file(working, Path(address.path))

    @classmethod
    def _unpack(cls, working: Path, address: Address) -> None:
        """Make the raw file at `working` from the packed one of `address`, at once or not at all."""
        from ndbatch.remotes.files.deflating import gunzip_file

        gunzip_file(Path(address.path), working)

    # -- the contract --------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open the file by its head. Raises NotFound, Denied, Corrupt for damage, PlanError where axes must be told."""
        address.require_options(cls.options)
        path = cls._current(address)
        header = cls._described(path, address)
        if header.fortran:
            order = AxisOrder(axis_order(address, header.flat.shape[::-1], header.names).stored[::-1])
        else:
            order = axis_order(address, header.flat.shape, header.names)
        if address.count("level"):
            raise NotFound(f"{address.url}: a {cls.abilities.title} file has level 0 only", url=address.url)
        return cls(address, _spec(header, order), header, order)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what the format cannot hold: shards, types of voxels, more or other axes."""
        require_local(address)
        super().check_spec(address, spec)
        address.require_options(cls.options)
        if spec.shards is not None:
            raise PlanError(f"{address.url}: {cls.abilities.title} has no shards; leave shards out")
        if address.option("axes"):
            raise PlanError(f"{address.url}: axes is for reading; a new volume has the axes {spec.axes}")

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make a file of zeros, which takes its place on the disk as it is written."""
        cls.check_spec(address, spec)
        if cls.exists(address):
            raise Conflict(f"{_shown(address)} exists already", url=address.url)
        path = cls._working(address) if cls._is_packed(address) else Path(address.path)
        head, _, dtype = cls._preamble(address, spec)
        aside = path.with_name(f".{path.name.removeprefix('.')}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_room(path, len(head) + spec.domain.size * dtype.itemsize, address)
            with aside.open("wb") as file:
                file.write(head)
                file.truncate(len(head) + spec.domain.size * dtype.itemsize)
            os.replace(aside, path)
        except OSError as error:
            raise file_error(error, address) from None
        volume = cls.open(address)
        volume._will_pack()
        return volume

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the file, packed or not yet, is there."""
        return is_there(address) or (cls._is_packed(address) and os.path.exists(cls._working(address)))

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the file, and what was to be packed into it."""
        require_local(address)
        try:
            if cls._is_packed(address):
                cls._working(address).unlink(missing_ok=True)
            Path(address.path).unlink(missing_ok=True)
        except OSError as error:
            raise file_error(error, address) from None

    def version(self) -> str:
        """Return size and modification time of the file."""
        return file_version(self._current(self.address), self.address)

    def close(self) -> None:
        """Pack a file that was written under its working name."""
        if self._packing is not None:
            packing, self._packing = self._packing, None
            packing.done()

    @property
    def attributes(self) -> dict[str, Any]:
        """What else the head of the file tells, by name."""
        return dict(self._header.attributes)

    def _read(self, box: Box) -> Array:
        header = self._fresh()
        try:
            data = header.flat.read(self._order.slices(box, self.offset))
        except OSError as error:
            raise file_error(error, self.address) from None
        if header.scale is not None:
            slope, intercept = header.scale
            data = data.astype(self.dtype) * self.dtype.type(slope) + self.dtype.type(intercept)
        return np.ascontiguousarray(self._order.array_from_stored(data), dtype=self.dtype)

    def _write(self, box: Box, data: Array) -> None:
        require_local(self.address)
        header = self._fresh()
        if header.scale is not None:
            raise RemoteError(
                f"{self.url} keeps scaled values, which cannot be replaced; write a new file", url=self.url
            )
        try:
            if header.flat.stream is not None:
                self._unpack(self._working(self.address), self.address)
                header = self._fresh()
            header.flat.write(self._order.slices(box, self.offset), self._order.array_to_stored(data))
        except OSError as error:
            raise file_error(error, self.address) from None
        self._version = self.version()
        self._will_pack()

    # -- packed files --------------------------------------------------------------------------------------------------

    @classmethod
    def _is_packed(cls, address: Address) -> bool:
        return address.place == "file" and address.path.lower().endswith(cls.packed_endings)

    @classmethod
    def _working(cls, address: Address) -> Path:
        """Return the name under which a file that will be packed is written raw."""
        return working_path(Path(address.path))

    @classmethod
    def _current(cls, address: Address) -> FilePath:
        """Return the file to read: the working one while there is one. NotFound, Denied, Corrupt for an empty file."""
        if cls._is_packed(address) and os.path.exists(working := cls._working(address)):
            return working
        return require_file(address, cls.abilities.title)

    @classmethod
    def _described(cls, path: FilePath, address: Address) -> Header:
        """Read the head of the file and see that the file is whole; what a library trips over is Corrupt."""
        try:
            header = cls._describe(path, address)
            header.flat.require_whole()
            return header
        except NdbatchError:
            raise
        except OSError as error:
            if error.errno is None:
                raise _damaged(path, cls.abilities.title, error) from None
            raise file_error(error, address) from None
        except Exception as error:  # damaged heads raise whatever a parser trips over
            raise _damaged(path, cls.abilities.title, error) from None

    def _fresh(self) -> Header:
        """Return the head of the file as it is now; RemoteError where it is another array than the one opened."""
        if not isinstance(self._header.flat.path, Path):
            return self._header  # a file elsewhere that was replaced is noticed when it is read
        version = self.version()
        if version != self._version or not self._header.flat.path.exists():
            header = self._described(self._current(self.address), self.address)
            if (header.flat.shape, header.dtype) != (self._header.flat.shape, self._header.dtype):
                raise RemoteError(f"{self.url} was replaced by another array; open it again", url=self.url)
            self._header, self._version = header, version
        return self._header

    def _will_pack(self) -> None:
        """Pack the working file when the volume is closed, forgotten, or the process ends."""
        if self._packing is None and self._is_packed(self.address) and os.path.exists(self._working(self.address)):
            self._packing = Packing(self, self._working(self.address), self._pack)


def _damaged(path: FilePath, title: str, error: Exception) -> Corrupt:
    reason = (str(error) or type(error).__name__).partition("\n")[0]
    return Corrupt(f"{path} is not a {title} file, or its head is damaged ({reason})", url=str(path))


def _shown(address: Address) -> str:
    return f"{address.path}::{address.inside}" if address.inside else address.path


def _spec(header: Header, order: AxisOrder) -> ArraySpec:
    axes, shape = order.axes, order.from_stored(header.flat.shape)
    known = all(axis in header.sizes for axis in axes if axis in "zyx") and any(axis in "zyx" for axis in axes)
    return ArraySpec(
        shape=shape,
        dtype=header.dtype,
        axes=axes,
        chunks=_reading_unit(header, order),
        offset=tuple(header.offset.get(axis, 0) for axis in axes),
        voxel_size=tuple(header.sizes.get(axis, 1.0) if axis in "zyx" else 1.0 for axis in axes) if known else None,
        kind=header.kind,
    )


def _reading_unit(header: Header, order: AxisOrder) -> tuple[int, ...]:
    """Return the unit of reading: of a packed file whole rows and planes, which it must unpack anyway."""
    flat = header.flat
    if flat.stream is None:
        return default_chunks(order.from_stored(flat.shape), flat.dtype, order.axes)
    unit, nbytes = [1] * len(flat.shape), flat.dtype.itemsize
    for axis in reversed(range(len(flat.shape))):
        whole = axis >= len(flat.shape) - 2
        unit[axis] = flat.shape[axis] if whole else max(1, min(flat.shape[axis], MINIMUM_BYTES // nbytes))
        nbytes *= unit[axis]
    return order.from_stored(unit)

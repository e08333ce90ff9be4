"""Arrays as numpy keeps them: one in an `.npy` file, several by name in an `.npz` file, `a.npz::/name`.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The format knows shape and type alone: axes are (t,
c, z, y, x) from the right unless they are told. Arrays of Python objects are pickles and never read. An array of an .npz
file that is stored as it is, as `numpy.savez` does, is mapped; a compressed one is read through restart points.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Corrupt, NotFound, RemoteError
from ndbatch.remotes.abilities import FAR, Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import ArraySpec
from ndbatch.remotes.files.deflating import zip_members
from ndbatch.remotes.files.flat import Flat
from ndbatch.remotes.files.flat_volume import FlatVolume, Header
from ndbatch.remotes.files.inflating import DEFLATE, Stream, inflater
from ndbatch.remotes.files.packing import working_path
from ndbatch.remotes.files.paths import file_error, file_path, file_version, is_there, require_file, require_local

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

LONGEST = 65536
"""Bytes of a head; a volume's is about 128."""
SUFFIX = ".npy"


class NpyVolume(FlatVolume):
    """The array of an `.npy` file."""

    scheme = "npy"
    packed_endings: ClassVar[tuple[str, ...]] = ()
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False,
        read_places=FAR,
        attributes=False,
        offset=False,
        facts=False,
        title="npy",
        examples=("image.npy",),
    )

    @classmethod
    def _describe(cls, path: FilePath, address: Address) -> Header:
        with path.open("rb") as file:
            return _header(file.read(LONGEST), path)

    @classmethod
    def _preamble(cls, address: Address, spec: ArraySpec) -> tuple[bytes, AxisOrder, np.dtype[Any]]:
        dtype, file = spec.dtype.newbyteorder("<"), io.BytesIO()
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": spec.shape}
        np.lib.format.write_array_header_1_0(file, head)
        return file.getvalue(), AxisOrder(spec.axes), dtype


class NpzVolume(NpyVolume):
    """One array of an `.npz` file, the only one where the address names none; a new one is called `data`."""

    scheme = "npz"
    packed_endings: ClassVar[tuple[str, ...]] = ("",)
    abilities: ClassVar[Abilities] = replace(
        NpyVolume.abilities, title="npz", examples=("image.npz", "several.npz::/image")
    )

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open an array of the file. NotFound lists what the file holds; Corrupt for damage."""
        if not address.inside and not os.path.exists(cls._working(address)):
            require_file(address, "npz")
            address = replace(address, inside=_only(address))
        return super().open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the array is there, or the file where the address names none."""
        if os.path.exists(cls._working(address)):
            return True
        if not is_there(address) or not address.inside:
            return is_there(address)
        return _name(address) in _members(address)

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the array, or the file where the address names none or nothing else is in it."""
        require_local(address)
        try:
            cls._working(address).unlink(missing_ok=True)
            if not is_there(address):
                return
            rest = [name for name in _members(address) if name != _name(address)] if address.inside else []
            if rest:
                zip_members(Path(address.path), {}, dropped=_name(address))
            else:
                Path(address.path).unlink()
        except OSError as error:
            raise file_error(error, address) from None

    @classmethod
    def _describe(cls, path: FilePath, address: Address) -> Header:
        if path == cls._working(address):
            return super()._describe(path, address)
        info = _members(address).get(_name(address))
        if info is None:
            raise _not_found(address, sorted(_members(address)))
        with path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise Corrupt(
                f"{path} is damaged: {info.filename} is not where the file says; copy it again", url=address.url
            )
        begin = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
        if info.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(begin)
                return _header(file.read(min(LONGEST, info.file_size)), path, begin)
        if info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & 1:
            raise RemoteError(
                f"{address.url}: packed in a way that is not read; save it with numpy.savez", url=address.url
            )
        stream = Stream(path, file_version(path, address), begin, info.compress_size, DEFLATE, info.CRC)
        head = inflater(stream, info.file_size).read(0, min(LONGEST, info.file_size))
        return _header(head, path, 0, stream)

    @classmethod
    def _pack(cls, working: Path, address: Address) -> None:
        path = Path(address.path)
        there = path.exists() and _name(address) in _members(address)
        zip_members(path, {_name(address): working}, dropped=_name(address) if there else "")

    @classmethod
    def _unpack(cls, working: Path, address: Address) -> None:
        aside = working.with_name(f"{working.name}.new")
        with zipfile.ZipFile(address.path) as file, file.open(_name(address)) as packed, aside.open("wb") as raw:
            while piece := packed.read(2**22):
                raw.write(piece)
        os.replace(aside, working)

    @classmethod
    def _working(cls, address: Address) -> Path:
        return working_path(Path(address.path), _name(address).replace("/", "_"))


def _name(address: Address) -> str:
    """Return the name of the member that holds the array of `address`."""
    return (address.inside.strip("/") or "data") + SUFFIX


def _members(address: Address) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays of the file by the names of their members. Corrupt where it is no whole zip file."""
    try:
        with file_path(address).open("rb") as raw, zipfile.ZipFile(raw) as file:
            return {info.filename: info for info in file.infolist() if info.filename.endswith(SUFFIX)}
    except (zipfile.BadZipFile, struct.error) as error:
        raise Corrupt(
            f"{address.path} is not an npz file, or is cut short ({error}); copy it again", url=address.url
        ) from None
    except OSError as error:
        raise file_error(error, address) from None


def _only(address: Address) -> str:
    """Return the name of the only array of a file. NotFound where there are several, or none."""
    names = sorted(_members(address))
    if len(names) != 1:
        raise _not_found(address, names)
    return f"/{names[0].removesuffix(SUFFIX)}"


def _not_found(address: Address, names: list[str]) -> NotFound:
    shown = [f"/{name.removesuffix(SUFFIX)}" for name in names]
    what = f"has no array {address.inside}" if address.inside else "holds several arrays" if names else "holds no array"
    hint = f"; it holds {', '.join(shown[:20])}; write {address.path}::{shown[0]}" if names else ""
    return NotFound(f"{address.path} {what}{hint}", url=address.url, datasets=shown)


def _header(data: bytes, path: FilePath, begin: int = 0, stream: Stream | None = None) -> Header:
    """Return the header of the array whose bytes, the first of which are `data`, begin at `begin`.

    Raises Corrupt for what is no npy (by the caller), RemoteError for arrays of objects and records.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise RemoteError(f"{path} holds {dtype}, which is no type of voxel that ndbatch reads", url=str(path))
    stored = shape[::-1] if fortran else shape
    return Header(Flat(path, begin + file.tell(), stored, dtype, stream), fortran=fortran)

"""NRRD, `.nrrd` or `.nhdr` with its data file, raw or gzip, through pynrrd: https://teem.sourceforge.net/nrrd/format.html.

The first axis of the file runs fastest: x, y, z, then t; an axis whose kind is a colour, a vector or a list, or that has no
direction in space, is c. Voxel sizes are the lengths of the space directions, or the spacings, where a unit is told.
A new file keeps kind, axes and offset in the key `ndbatch`, and the place of its first voxel in `space origin`.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ndbatch.errors import NotFound, PlanError, RemoteError, missing_extra
from ndbatch.remotes.abilities import FAR, Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.files.flat import Flat
from ndbatch.remotes.files.flat_volume import FlatVolume, Header
from ndbatch.remotes.files.inflating import Stream
from ndbatch.remotes.files.paths import file_version
from ndbatch.units import MICROMETRES

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

WORDS = {
    "int8": "int8", "signed char": "int8", "int8_t": "int8",
    "uint8": "uint8", "uchar": "uint8", "unsigned char": "uint8", "uint8_t": "uint8",
    "int16": "int16", "short": "int16", "short int": "int16", "signed short": "int16", "signed short int": "int16",
    "int16_t": "int16", "uint16": "uint16", "ushort": "uint16", "unsigned short": "uint16",
    "unsigned short int": "uint16", "uint16_t": "uint16",
    "int32": "int32", "int": "int32", "signed int": "int32", "int32_t": "int32",
    "uint32": "uint32", "uint": "uint32", "unsigned int": "uint32", "uint32_t": "uint32",
    "int64": "int64", "longlong": "int64", "long long": "int64", "long long int": "int64", "signed long long": "int64",
    "signed long long int": "int64", "int64_t": "int64", "uint64": "uint64", "ulonglong": "uint64",
    "unsigned long long": "uint64", "unsigned long long int": "uint64", "uint64_t": "uint64",
    "float": "float32", "double": "float64",
}  # fmt: skip
"""What the format calls its types."""
DTYPES = tuple(dict.fromkeys(WORDS.values()))
COLOURS = ("color", "vector", "list", "point", "normal", "complex", "quaternion", "matrix")
"""How kinds of axes that are no extent of space or time begin, as does `3-color`; those are c."""
OWN = "ndbatch"


class NrrdVolume(FlatVolume):
    """The array of an NRRD file."""

    scheme = "nrrd"
    packed_endings: ClassVar[tuple[str, ...]] = ()
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False,
        read_places=FAR,
        attributes=False,
        dtypes=DTYPES,
        title="NRRD",
        examples=("image.nrrd",),
        extra="formats",
    )

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse a new volume whose head and voxels are two files."""
        super().check_spec(address, spec)
        if address.path.lower().endswith(".nhdr"):
            raise PlanError(f"{address.url}: a new NRRD volume is one file; give it the ending .nrrd")

    @classmethod
    def _describe(cls, path: FilePath, address: Address) -> Header:
        nrrd = _nrrd()
        with path.open("rb") as file:
            told = nrrd.read_header(file)
            start = file.tell()
        voxels, shape = _dtype(told, path), tuple(int(n) for n in reversed(told["sizes"]))
        data, detached = _data_file(told, path)
        stream, start = _place(told, data, 0 if detached else start, math.prod(shape) * voxels.itemsize, address)
        own = json.loads(told.get(OWN, "{}"))
        directions = _directions(told, len(shape))
        return Header(
            flat=Flat(data, start, shape, voxels, stream),
            names=own.get("stored") or _names(told, directions),
            sizes=_sizes(told, own.get("stored") or _names(told, directions), directions),
            offset=dict(zip(own.get("axes", ""), own.get("offset", ()), strict=False)),
            kind=Kind(own["kind"]) if own.get("kind") in set(Kind) else Kind.IMAGE,
            attributes={"nrrd": _facts(told)},
        )

    @classmethod
    def _preamble(cls, address: Address, spec: ArraySpec) -> tuple[bytes, AxisOrder, np.dtype[Any]]:
        dtype = spec.dtype.newbyteorder("<")
        word = next(word for word, name in WORDS.items() if name == spec.dtype.name)
        own = {"axes": spec.axes, "stored": spec.axes, "kind": str(spec.kind), "offset": list(spec.offset)}
        space = [axis for axis in reversed(spec.axes) if axis in "zyx"]
        kinds = {"t": "time", "c": "list"}
        lines = [
            "NRRD0004",
            "# Complete NRRD file format specification at:",
            "# http://teem.sourceforge.net/nrrd/formatspec.html",
            f"type: {word}",
            f"dimension: {len(spec.shape)}",
        ]
        if spec.voxel_size is not None and space:
            size, origin = (dict(zip(spec.axes, v, strict=True)) for v in (spec.voxel_size, spec.offset))
            rows = [[size[axis] if other == axis else 0.0 for other in space] for axis in space]
            vectors = dict(zip(space, rows, strict=True))
            lines += [
                f"space dimension: {len(space)}",
                f"sizes: {' '.join(str(n) for n in reversed(spec.shape))}",
                "space directions: " + " ".join(_vector(vectors.get(axis)) for axis in reversed(spec.axes)),
                "space units: " + " ".join(['"um"'] * len(space)),
                f"space origin: {_vector([size[axis] * origin[axis] for axis in space])}",
            ]
        else:
            lines.append(f"sizes: {' '.join(str(n) for n in reversed(spec.shape))}")
        lines.append("kinds: " + " ".join(kinds.get(axis, "domain") for axis in reversed(spec.axes)))
        lines += ["endian: little"] if spec.dtype.itemsize > 1 else []
        lines += ["encoding: raw", f"{OWN}:={json.dumps(own, sort_keys=True)}", "", ""]
        return "\n".join(lines).encode(), AxisOrder(spec.axes), dtype


def _nrrd() -> Any:
    try:
        import nrrd
    except ImportError:
        raise missing_extra("pynrrd", "formats", "reading and writing NRRD") from None
    return nrrd


def _vector(numbers: list[float] | None) -> str:
    return "none" if numbers is None else f"({','.join(repr(float(n)) for n in numbers)})"


def _dtype(told: dict[str, Any], path: FilePath) -> np.dtype[Any]:
    word = str(told["type"]).lower()
    if word not in WORDS:
        raise RemoteError(f"{path} holds {word}, which is no type of voxel that ndbatch reads", url=str(path))
    return np.dtype(WORDS[word]).newbyteorder(">" if told.get("endian") == "big" else "<")


def _data_file(told: dict[str, Any], path: FilePath) -> tuple[FilePath, bool]:
    """Return the file that holds the voxels, and whether it is another one. NotFound where it is missing."""
    named = told.get("data file", told.get("datafile"))
    if named is None:
        return path, False
    if named == "LIST" or "%" in str(named) or isinstance(named, list):
        raise RemoteError(f"{path} parts its voxels among several files ({named}); save it as one .nrrd", url=str(path))
    data = path.parent / str(named)
    if not data.exists():
        raise NotFound(f"{path} names the data file {named}, which is not beside it", url=str(path))
    return data, True


def _place(
    told: dict[str, Any], data: FilePath, start: int, nbytes: int, address: Address
) -> tuple[Stream | None, int]:
    """Return the compressed stream, or None, and the byte of the first voxel in it or in the file."""
    encoding, size = str(told["encoding"]).lower(), data.stat().st_size
    lines = int(told.get("line skip", told.get("lineskip", 0)))
    skipped = int(told.get("byte skip", told.get("byteskip", 0)))
    if encoding not in ("raw", "gzip", "gz"):
        raise RemoteError(f"{data}: NRRD encoding {encoding} is not read; save it as raw or gzip", url=address.url)
    with data.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            file.readline()
        start = file.tell()
    if encoding != "raw":
        return Stream(data, file_version(data, address), start, size - start), max(0, skipped)
    return None, size - nbytes if skipped == -1 else start + skipped


def _directions(told: dict[str, Any], ndim: int) -> list[list[float] | None]:
    """Return the direction of each axis in space, fastest first, None where it has none."""
    rows = told.get("space directions")
    if rows is None:
        return [None] * ndim
    found = [None if row is None or not np.all(np.isfinite(row)) else [float(n) for n in row] for row in rows]
    return found if len(found) == ndim else [None] * ndim


def _names(told: dict[str, Any], directions: list[list[float] | None]) -> str | None:
    """Return the names of the axes, slowest first, or None where they cannot be told from kinds and directions."""
    kinds = [str(kind).lower() for kind in told.get("kinds", ["???"] * len(directions))]
    spatial, names = iter("xyz"), []
    for kind, direction in zip(kinds, directions, strict=True):
        coloured = kind.partition("-")[2].startswith(COLOURS) or kind.startswith((*COLOURS, "rgb", "hsv", "xyz"))
        if kind == "time":
            names.append("t")
        elif coloured or (direction is None and any(directions) and kind not in ("domain", "space")):
            names.append("c")
        else:
            names.append(next(spatial, "t"))
    return "".join(reversed(names)) if len(set(names)) == len(names) else None


def _sizes(told: dict[str, Any], names: str | None, directions: list[list[float] | None]) -> dict[str, float]:
    """Return the voxel size in micrometres by axis name, of the axes whose unit is told."""
    lengths = [None if row is None else math.dist(row, [0.0] * len(row)) for row in directions]
    units = [str(unit).lower() for unit in told.get("space units", [])]
    if not any(lengths):
        lengths = [float(n) for n in told.get("spacings", [])]
        units = [str(unit).lower() for unit in told.get("units", [])]
    else:
        units = [units[0] if units and set(units) == {units[0]} else ""] * len(lengths)
    sizes = {}
    for axis, length, unit in zip(reversed(names or ""), lengths, units, strict=False):
        if axis in "zyx" and length and math.isfinite(length) and unit in MICROMETRES:
            sizes[axis] = length * MICROMETRES[unit]
    return sizes


def _facts(told: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the head as plain JSON, but for those that only say where the voxels are."""
    left = ("type", "dimension", "sizes", "endian", "encoding", OWN)
    plain = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in told.items()
        if key not in left
    }
    kept: dict[str, Any] = json.loads(json.dumps(plain, default=str).replace("NaN", "null"))
    return kept

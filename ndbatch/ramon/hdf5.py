"""RAMON objects as HDF5, the files that ndstore takes and gives.

```
/{id}/ANNOTATION_TYPE        uint32 (1,)
/{id}/METADATA/{FIELD}       (1,), lists (n,) and left out where empty; texts of variable length
/{id}/RESOLUTION             uint32 (1,), with any voxels
/{id}/XYZOFFSET, /CUTOUT     (3,) and uint32 (z, y, x): what is not 0 is of the object
/{id}/VOXELS                 uint32 (n, 3), x, y, z
```

Whole numbers are uint32, or int64 where one does not fit; KVPAIRS is one text, lines of CSV, `key,value`. Beyond what ndstore
wrote: CENTROID of synapses, SEGMENT of organelles and PARENT of regions, which its own files lost.
"""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndbatch.errors import Corrupt, NdbatchError, PlanError, missing_extra
from ndbatch.geometry import Box
from ndbatch.ramon.model import Annotation, Written, class_of, written
from ndbatch.remotes.base import Array

if TYPE_CHECKING:
    from types import ModuleType

MANY = "Ramon-Many"
"""Header of answers to queries by which `ndbatch serve` says that it takes many objects in one body of JSON."""
LARGEST = 2**28
"""Most voxels of a cutout, and places of a list of voxels, that are read."""


@dataclass(frozen=True)
class Paint:
    """Voxels of an object at a level: `cutout`, (z, y, x), integers or bool, that begins at `start` and counts where it is
    not 0; and `voxels`, (n, 3) int64, z, y, x. Places are absolute voxels of the level."""

    level: int = 0
    start: tuple[int, int, int] = (0, 0, 0)
    cutout: Array | None = None
    voxels: Array | None = None

    @property
    def box(self) -> Box | None:
        """Where the cutout lies, z, y, x."""
        if self.cutout is None:
            return None
        return Box(self.start, tuple(a + n for a, n in zip(self.start, self.cutout.shape, strict=True)))


def h5() -> ModuleType:
    """Return the package h5py; MissingExtra where it is absent."""
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", "hdf5", "RAMON objects in HDF5") from None
    found: ModuleType = h5py
    return found


def to_hdf5(things: Iterable[Annotation], paint: Mapping[int, Paint] | None = None) -> bytes:
    """Return objects as an HDF5 file, with `paint` by id. An id of 0 asks the service for one. PlanError for two of one id."""
    with new_file() as file:
        write_groups(file, things, paint or {})
        return image(file)


def new_file() -> Any:
    """Return a new HDF5 file in memory, open for writing; see `image`."""
    name = f"objects-{uuid.uuid4().hex}"  # two open files of one name would be one
    return h5().File(name, "w", driver="core", backing_store=False)


def image(file: Any) -> bytes:
    """Return the bytes of a file in memory."""
    file.flush()
    found: bytes = file.id.get_file_image()
    return found


def write_groups(file: Any, things: Iterable[Annotation], paint: Mapping[int, Paint]) -> int:
    """Write objects, and the `paint` of each by id, into an open file of h5py, and return how many they were."""
    count = 0
    for count, thing in enumerate(things, 1):
        name = str(thing.id) if thing.id else f"new{count:09d}"  # a name that is no number asks for an id
        if name in file:
            raise PlanError(f"two objects have the id {thing.id}; give every object one of its own")
        group = file.create_group(name)
        _write(group, "ANNOTATION_TYPE", np.array([thing.number], np.uint32))
        inner = group.create_group("METADATA")
        for field, how in written(type(thing)).items():
            if how.hdf5:
                _write_field(inner, how, getattr(thing, field))
        if thing.id in paint:
            if not thing.painted:
                raise PlanError(f"{thing.word} {thing.id} has no voxels of its own; paint a segment of it")
            write_paint(group, paint[thing.id])
    return count


def write_paint(group: Any, paint: Paint) -> None:
    """Write voxels into the group of an object. PlanError for places below 0, which the format cannot hold."""
    group.create_dataset("RESOLUTION", data=np.array([paint.level], np.uint32))
    if paint.cutout is not None:
        group.create_dataset("XYZOFFSET", data=_unsigned(paint.start[::-1]))
        group.create_dataset("CUTOUT", data=np.asarray(paint.cutout, np.uint32), compression="gzip", compression_opts=1)
    if paint.voxels is not None:
        group.create_dataset("VOXELS", data=_unsigned(paint.voxels[:, ::-1]))


def from_hdf5(source: bytes | str | os.PathLike[str]) -> list[tuple[Annotation, Paint | None]]:
    """Return the objects of an HDF5 file, or of its bytes, with their voxels. Those that ask for an id have the id 0.

    Raises Corrupt for what is no such file.
    """
    where = "this" if isinstance(source, bytes) else str(source)
    try:
        with h5().File(io.BytesIO(source) if isinstance(source, bytes) else Path(source), "r") as file:
            return [_read_group(name, held(file, name)) for name in file]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise Corrupt(f"{where} is no HDF5 file of RAMON objects: {error}") from None


def read_ids(body: bytes) -> list[int]:
    """Return the ids that a query answered with: the dataset ANNOIDS, which is absent where there are none."""
    numbers = read_numbers(body, "ANNOIDS")
    return sorted({int(one) for one in numbers.get("ANNOIDS", ())})


def read_numbers(body: bytes, *names: str) -> dict[str, Array]:
    """Return whole numbers of the datasets `names` of an HDF5 file, flat, int64; those absent are left out. Corrupt."""
    try:
        with h5().File(io.BytesIO(body), "r") as file:
            found = {name: held(file, name) for name in names}
            return {name: one[()].reshape(-1).astype(np.int64) for name, one in found.items() if one is not None}
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise Corrupt(f"this is no HDF5 file with {', '.join(names)}: {error}") from None


def query_box(box: Box, level: int) -> bytes:
    """Return the body of a query that asks for the objects in a box, z, y, x."""
    with new_file() as file:
        file["RESOLUTION"] = np.array([level], np.uint32)
        file["XYZOFFSET"] = _unsigned(box.start[::-1])
        file["CUTOUTSIZE"] = _unsigned(box.shape[::-1])
        return image(file)


def held(group: Any, path: str) -> Any:
    """Return a dataset or a group that lies in this very file, None where there is none.

    What leads elsewhere is Corrupt, since a file that was sent could ask for any file of this machine; so is what is too large.
    """
    found = group
    for name in path.split("/"):
        link = found.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5().HardLink):
            raise Corrupt(f"/{path} is a link, which is not followed")
        found = found[name]
    if isinstance(found, h5().Dataset):
        if found.external or found.is_virtual:
            raise Corrupt(f"/{path} lies in another file, which is not read")
        if found.size is None or found.size > LARGEST:
            raise Corrupt(f"/{path} has {found.size} numbers, and at most {LARGEST} are read")
    return found


def _write_field(group: Any, how: Written, value: Any) -> None:
    if how.kind in ("text", "pairs"):
        _write(group, how.hdf5, [pairs_to_csv(value) if how.kind == "pairs" else value])
    elif how.kind in ("real", "point"):
        _write(group, how.hdf5, np.atleast_1d(np.array(value, np.float64))[::-1])
    elif how.kind in ("whole", "id"):
        _write(group, how.hdf5, np.array([value], np.uint32))
    elif how.kind == "parent":
        _write(group, how.hdf5, np.array([value], np.int32 if value < 2**31 else np.int64))
    elif value:
        data = np.array(value[::-1] if how.kind == "place" else value, np.int64)
        _write(group, how.hdf5, data if data.min() < 0 else data.astype(np.uint32))


def _write(group: Any, name: str, data: Array | list[str]) -> None:
    """Write a small dataset by the lower interface of h5py: `create_dataset` takes four times as long, and objects have ten."""
    h5d, h5s, h5t = h5().h5d, h5().h5s, h5().h5t
    values = np.array(data, h5().string_dtype()) if isinstance(data, list) else np.ascontiguousarray(data)
    kept_as = h5t.py_create(values.dtype, logical=True)
    dataset = h5d.create(group.id, name.encode(), kept_as, h5s.create_simple(values.shape))
    dataset.write(h5s.ALL, h5s.ALL, values)


def _read_group(name: str, group: Any) -> tuple[Annotation, Paint | None]:
    try:
        stated = held(group, "ANNOTATION_TYPE")
        number = 1 if stated is None else int(np.ravel(stated[()])[0])
        kind = class_of(number)
        facts: dict[str, Any] = {"id": int(name) if name.isascii() and name.isdigit() else 0}
        inner = held(group, "METADATA")
        for field, how in written(kind).items():
            spellings = (one for one in (how.hdf5, *how.also) if one and inner is not None)
            found = next((one for one in (held(inner, name) for name in spellings) if one is not None), None)
            if found is not None:
                facts[field] = _parsed(how, found)
        return kind(**facts), _read_paint(group)
    except NdbatchError as error:
        raise Corrupt(f"the group /{name} is no RAMON object: {error.message}") from None


def _parsed(how: Written, dataset: Any) -> Any:
    if how.kind in ("text", "pairs"):
        values = np.ravel(dataset.asstr()[()] if dataset.dtype.kind in "OS" else dataset[()])
        text = str(values[0]) if len(values) else ""
        return csv_to_pairs(text) if how.kind == "pairs" else text
    values = np.ravel(dataset[()]).tolist()
    if how.kind in ("ids", "place", "point"):
        return tuple(values if how.kind == "ids" else values[::-1])
    return values[0] if values else 0


def _read_paint(group: Any) -> Paint | None:
    cutout, voxels, offset = (held(group, name) for name in ("CUTOUT", "VOXELS", "XYZOFFSET"))
    if cutout is None and voxels is None:
        return None
    if any(one is not None and one.dtype.kind not in "bui" for one in (cutout, voxels)):
        raise Corrupt("voxels must be whole numbers")
    if cutout is not None and (cutout.ndim != 3 or offset is None):
        raise Corrupt("CUTOUT must have the axes z, y, x, and XYZOFFSET beside it")
    if voxels is not None and voxels.shape[1:] != (3,):
        raise Corrupt(f"VOXELS must have the columns x, y, z; its shape is {voxels.shape}")
    start = [0, 0, 0] if cutout is None or offset is None else offset[()].reshape(-1)[::-1].tolist()
    stated = held(group, "RESOLUTION")
    level = 0 if stated is None else int(np.ravel(stated[()])[0])
    return Paint(
        level,
        (int(start[0]), int(start[1]), int(start[2])),
        None if cutout is None else cutout[()],
        None if voxels is None else np.ascontiguousarray(voxels[()][:, ::-1].astype(np.int64)),
    )


def pairs_to_csv(pairs: Mapping[str, str]) -> str:
    """Return pairs as lines of CSV, `key,value`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(pairs.items())
    return text.getvalue()


def csv_to_pairs(text: str) -> dict[str, str]:
    """Return the pairs of lines of CSV. Corrupt where a line is no pair."""
    previous = csv.field_size_limit(2**31 - 1)  # the limit is the process's own, and a value may be long
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise Corrupt(f"KVPAIRS is no CSV: {error}") from None
    finally:
        csv.field_size_limit(previous)
    for row in rows:
        if len(row) != 2:
            raise Corrupt(f"a line of KVPAIRS has {len(row)} values, not a key and a value: {','.join(row)[:100]}")
    return dict(rows)


def _unsigned(values: Any) -> Array:
    data = np.asarray(values, np.int64)
    if data.size and (data.min() < 0 or data.max() >= 2**32):
        raise PlanError(f"voxels at {data.min()} to {data.max()} do not fit RAMON's HDF5, which begins at 0")
    return data.astype(np.uint32)

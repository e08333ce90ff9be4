"""Stacks of slices, one file each: a folder `images://slices`, or a glob `slices/z*.png`; PNG, JPEG and TIFF.

Slices lie along z in natural order of their names (`z9` before `z10`); colours are c. All have one size and type. Reading a
block reads the slices it meets, of TIFF only the strips or tiles. Stacks in buckets and on web servers are read only. A new
stack is a folder with a small file `ndbatch.json` beside the slices, which keeps what pictures cannot: axes, offset, voxel
size, kind and attributes.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.abilities import FAR, Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Kind, Volume
from ndbatch.remotes.files.paths import file_error, file_path, file_version, require_local
from ndbatch.remotes.files.slices import (
    FORMATS,
    Head,
    encoded,
    missing_number,
    natural,
    read_head,
    read_slice,
    require_like,
    write_file,
)
from ndbatch.remotes.places import keyvalue
from ndbatch.remotes.places.far import FilePath

OPTIONS = ("axes", "compression", "format", "gaps", "level", "quality")
OWN = "ndbatch.json"
CHECKED, CHECKED_FAR = 1000, 16
"""Slices whose heads are looked at when a stack is opened (here, and where each is a request): all, or so many evenly among
them; each is again when it is read."""
GLOB = "*["
HOLDS = {"png": ("bool", "uint8", "uint16"), "jpeg": ("uint8",)}
"""Types of voxels of the formats that do not hold all."""
QUALITY = 95


class ImagesVolume(Volume):
    """A stack of slices, or a single one."""

    scheme = "images"
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False,
        read_places=FAR,
        title="Image stack",
        examples=("images://folder", "images://folder?format=tif"),
    )

    def __init__(self, address: Address, spec: ArraySpec, files: list[FilePath], head: Head, stack: int | None) -> None:
        super().__init__(address, spec)
        self._files, self._head, self._stack = files, head, stack

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a folder, a glob or a single image by the heads of its slices.

        Raises NotFound where there is no slice, RemoteError for slices that differ or are missing in the row (`gaps=true`
        reads what is there), naming the file; Corrupt for damage.
        """
        address.require_options(OPTIONS)
        files = _files(address)
        if address.count("level"):
            raise NotFound(f"{address.url}: a stack of images has level 0 only", url=address.url)
        head = read_head(files[0])
        checked = CHECKED if address.place == "file" else CHECKED_FAR
        for number in sorted({int(n) for n in np.linspace(0, len(files) - 1, checked)}):
            require_like(files[number], read_head(files[number]), head)
        spec, stack = _spec(address, files, head)
        return cls(address, spec, files, head, stack)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what a stack cannot hold: shards, t and z together, types and channels that the format has no room for."""
        require_local(address)
        super().check_spec(address, spec)
        address.require_options(OPTIONS)
        form = _form(address, spec)
        channels = dict(zip(spec.axes, spec.shape, strict=True)).get("c", 1)
        if _is_glob(address) or Path(address.path).suffix.lower() in FORMATS:
            raise PlanError(f"{address.url}: a new stack is a folder; write images://FOLDER?format={form}")
        if form not in FORMATS.values():
            raise PlanError(f"{address.url}: format={form} is not known; use png, tif or jpeg", option="format")
        if spec.shards is not None:
            raise PlanError(f"{address.url}: images have no shards; leave shards out")
        if not spec.axes.endswith("yx") or {"t", "z"} <= set(spec.axes):
            raise PlanError(f"{address.url}: a stack has y, x and one of z and t, not {', '.join(spec.axes)}; use zarr")
        if spec.dtype.name not in HOLDS.get(form, (spec.dtype.name,)):
            raise PlanError(f"{address.url}: {form} images cannot hold {spec.dtype}; use format=tif", option="format")
        if form != "tif" and (channels not in (1, 3) or (channels == 3 and spec.dtype != np.uint8)):
            raise PlanError(
                f"{address.url}: {form} images cannot hold {channels} channels of {spec.dtype}; use format=tif",
                option="format",
            )
        if form == "jpeg" and spec.kind == Kind.LABELS:
            raise PlanError(
                f"{address.url}: jpeg changes values, and labels must keep them; use format=png", option="format"
            )

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make a folder of slices of zeros, `z0000.png` and so on. Conflict where anything is there."""
        cls.check_spec(address, spec)
        if cls.exists(address):
            raise Conflict(f"{address.path} exists already", url=address.url)
        folder, form = Path(address.path), _form(address, spec)
        stack = next((axis for axis in spec.axes if axis in "zt"), "")
        extents = dict(zip(spec.axes, spec.shape, strict=True))
        blank = np.zeros([extents[axis] for axis in spec.axes if axis != stack], spec.dtype)
        data = encoded(blank, form, _quality(address), address.option("compression", "none"))
        aside = folder.with_name(f".{folder.name}.new")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            (aside / OWN).write_text(_document(spec, {}))
            digits = max(4, len(str(extents.get(stack, 1) - 1)))
            for number in range(extents.get(stack, 1)):
                (aside / f"{stack or 'y'}{number:0{digits}d}.{form}").write_bytes(data)
            if folder.is_dir():
                folder.rmdir()
            os.rename(aside, folder)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise file_error(error, address) from None
        return cls.open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the folder is there and not empty, or any file that the glob names."""
        path = file_path(address)
        if not isinstance(path, Path):
            return bool(path.beside()) if _is_glob(address) else path.exists() or path.is_dir()
        if _is_glob(address):
            return any(glob.iglob(address.path))
        try:
            return any(path.iterdir()) if path.is_dir() else path.exists()
        except OSError as error:
            raise file_error(error, address) from None

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove a stack that ndbatch made; PlanError for pictures of others, which stay as they are."""
        require_local(address)
        folder = Path(address.path)
        if not cls.exists(address):
            return
        if not (folder / OWN).is_file():
            raise PlanError(f"{address.path} was not made by ndbatch (it has no {OWN}); it is left as it is")
        aside = folder.with_name(f".{folder.name}.deleted")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise file_error(error, address) from None

    def version(self) -> str:
        """Return a digest of the names, sizes and times of all slices; elsewhere as far as listing the folder tells them."""
        found = hashlib.sha256()
        if self.address.place != "file":
            folder = str(_folder(self.address))
            names = [file.name for file in _files(self.address)]
            found.update(f"{names} {keyvalue.place(replace(self.address, path=folder)).digest()}".encode())
            return found.hexdigest()[:20]
        for file in _files(self.address):
            found.update(f"{file.name} {file_version(file, self.address)}\n".encode())
        return found.hexdigest()[:20]

    def _read(self, box: Box) -> Array:
        result = np.empty(box.shape, self.dtype)
        inner, numbers = self._parts(box)
        planes = result if self._stack is None else np.moveaxis(result, self._stack, 0)
        for place, number in enumerate(numbers):
            target = planes if self._stack is None else planes[place]
            data = read_slice(self._files[number], inner, self._head)
            target[...] = data.reshape(target.shape)
        return result

    def _write(self, box: Box, data: Array) -> None:
        require_local(self.address)
        inner, numbers = self._parts(box)
        planes = data[None] if self._stack is None else np.moveaxis(data, self._stack, 0)
        form, shape = FORMATS[self._files[0].suffix.lower()], self._head[0]
        whole = tuple(slice(0, n) for n in shape)
        for place, number in enumerate(numbers):
            file = Path(str(self._files[number]))
            new = planes[place].reshape([part.stop - part.start for part in inner])
            if inner != whole:
                old = np.array(read_slice(file, whole, self._head))
                old[inner] = new
                new = old
            packing = self.address.option("compression", "none")
            write_file(file, encoded(new, form, _quality(self.address), packing), self.address)

    def _parts(self, box: Box) -> tuple[tuple[slice, ...], range]:
        """Return the region of a slice (c?, y, x), and the numbers of the slices, that a box meets."""
        named = dict(zip(self.axes, box.slices(self.offset), strict=True))
        inner = [named["y"], named["x"]]
        if len(self._head[0]) == 3:
            inner.insert(0, named["c"])
        part = named[self.axes[self._stack]] if self._stack is not None else slice(0, 1)
        return tuple(inner), range(part.start, part.stop)

    @property
    def attributes(self) -> dict[str, Any]:
        """The document kept beside the slices."""
        kept: dict[str, Any] = _own(self.address).get("attributes", {})
        return kept

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document beside the slices, which a folder of others gets with it."""
        require_local(self.address)
        folder = Path(str(_folder(self.address)))
        merged = {**_own(self.address).get("attributes", {}), **values}
        write_file(folder / OWN, _document(self.spec, merged).encode(), self.address)


def _is_glob(address: Address) -> bool:
    return any(sign in address.path for sign in GLOB)


def _is_folder(path: FilePath) -> bool:
    """Return whether slices are in a folder of this name: elsewhere what has not the ending of a picture."""
    return path.is_dir() if isinstance(path, Path) else path.suffix.lower() not in FORMATS


def _folder(address: Address) -> FilePath:
    path = file_path(address)
    return path if _is_folder(path) else path.parent


def _files(address: Address) -> list[FilePath]:
    """Return the slices in natural order. NotFound where there is none, RemoteError where one is missing or kinds differ."""
    path = file_path(address)
    files: list[FilePath]
    if _is_glob(address):
        files = [Path(name) for name in glob.glob(address.path)] if isinstance(path, Path) else [*path.beside()]
    elif _is_folder(path):
        files = [file for file in path.iterdir() if file.suffix.lower() in FORMATS and not file.name.startswith(".")]
    else:
        try:
            path.stat()
        except OSError as error:
            raise file_error(error, address) from None
        files = [path]
    if not files:
        raise NotFound(f"{address.path} holds no slices; they end in {', '.join(FORMATS)}", url=address.url)
    files.sort(key=lambda file: natural(file.name))
    kinds = sorted({FORMATS.get(file.suffix.lower(), file.suffix) for file in files})
    if len(kinds) > 1 or kinds[0] not in FORMATS.values():
        raise RemoteError(
            f"{address.path} holds slices of several kinds ({', '.join(kinds)}); name those you mean by a glob, such as *.png",
            url=address.url,
        )
    missing = missing_number([file.name for file in files]) if address.option("gaps") != "true" else ""
    if missing:
        raise RemoteError(
            f"{files[0].parent}: {missing} is missing in the row of {len(files)} slices; copy it again, or read what is there "
            "with gaps=true",
            url=address.url,
        )
    return files


def _own(address: Address) -> dict[str, Any]:
    """Return the document beside the slices; empty where there is none that can be read."""
    try:
        document = json.loads((_folder(address) / OWN).read_text())
    except (OSError, RemoteError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _document(spec: ArraySpec, attributes: Mapping[str, Any]) -> str:
    facts: dict[str, Any] = {
        "axes": spec.axes,
        "shape": spec.shape,
        "offset": spec.offset,
        "voxel_size": spec.voxel_size,
        "kind": str(spec.kind),
        "attributes": attributes,
    }
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def _spec(address: Address, files: list[FilePath], head: Head) -> tuple[ArraySpec, int | None]:
    """Return the spec, and the place of the axis along which the slices lie; None for a single one."""
    shape, dtype = head
    single = not _is_folder(file_path(address)) and not _is_glob(address)
    axes = "yx" if single else "zyx"
    axes = axes if len(shape) == 2 else f"c{axes}"
    own = _own(address)
    told = str(address.option("axes") or own.get("axes") or axes)
    if not _fits(told, axes, own, len(files)):
        raise PlanError(
            f"{address.url}: axes={told} does not name the axes of {len(files)} slices of shape {shape}; use {axes}, or "
            f"{axes.replace('z', 't')}"
        )
    stack = next((place for place, axis in enumerate(told) if axis in "zt"), None)
    extents = {
        "y": shape[-2],
        "x": shape[-1],
        "c": shape[0] if len(shape) == 3 else 1,
        "z": len(files),
        "t": len(files),
    }
    found: Shape = tuple(extents[axis] for axis in told)
    spec = ArraySpec(shape=found, dtype=dtype, axes=told, chunks=_unit(told, found, dtype))
    if own.get("axes") == told and tuple(own.get("shape", ())) == found:
        size = own.get("voxel_size")
        kind = Kind(own["kind"]) if own.get("kind") in set(Kind) else Kind.IMAGE
        spec = replace(spec, offset=tuple(own["offset"]), voxel_size=tuple(size) if size else None, kind=kind)
    return spec, stack


def _fits(told: str, axes: str, own: Mapping[str, Any], count: int) -> bool:
    """Return whether `told` are axes that slices have: z may be t, and a new stack may have one channel or one slice."""
    if told in (axes, axes.replace("z", "t")):
        return True
    made = told == own.get("axes")
    return made and told.replace("t", "z").replace("c", "") in ("zyx", "yx") and (count == 1 or told != "yx")


def _unit(axes: str, shape: Shape, dtype: np.dtype[Any]) -> Shape:
    """Return the unit of reading: a slice, or several small ones."""
    plane = int(np.prod([n for axis, n in zip(axes, shape, strict=True) if axis not in "zt"])) * dtype.itemsize
    deep = max(1, 2**19 // plane)
    return tuple(min(n, deep) if axis in "zt" else n for axis, n in zip(axes, shape, strict=True))


def _form(address: Address, spec: ArraySpec) -> str:
    """Return the format of the slices of a new stack: the one asked for, else PNG where it holds them, else TIFF."""
    channels = dict(zip(spec.axes, spec.shape, strict=True)).get("c", 1)
    fits = spec.dtype.name in HOLDS["png"] and (channels == 1 or (channels == 3 and spec.dtype == np.uint8))
    asked = address.option("format") or ("png" if fits else "tif")
    return {"jpg": "jpeg", "tiff": "tif"}.get(asked, asked)


def _quality(address: Address) -> int:
    return address.count("quality") or QUALITY

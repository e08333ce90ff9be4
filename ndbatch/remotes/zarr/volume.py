"""Zarr arrays (v2 and v3) and OME-Zarr images (0.4 and 0.5), on this machine or anywhere; voxels through tensorstore.

`labels.zarr`, `zarr:///data/image.zarr?level=2`, `image.zarr/labels/nuclei`, `image.zarr/0`. Created volumes are OME-Zarr
0.5 with one level at path `0` (0.4 inside a hierarchy of zarr v2), to which `?level=1`, `?level=2` ... append;
`?ome=0.4` makes an OME-Zarr 0.4 image, `?format=zarr` a plain zarr v3 array. A chunk appears whole or not at all:
tensorstore writes it under a temporary name, brings it to the disk and renames it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ndbatch.errors import Conflict, Corrupt, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder, axis_order
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.places import keyvalue
from ndbatch.remotes.places.keyvalue import KeyValue
from ndbatch.remotes.places.tensor import FAILURES, read, require_no_fork, translated
from ndbatch.remotes.pyramids import next_path, require_level
from ndbatch.remotes.zarr import ngff, nodes
from ndbatch.remotes.zarr.driver import array_metadata, codecs, open_array

OPTIONS = ("axes", "format", "level", "missing", "ome")
VERSIONS = {"0.4": 2, "0.5": 3}
"""Versions of OME-Zarr that can be written, and the zarr format of each."""
RESERVED = ("kind", "offset", "voxel_size")
"""ndbatch's own facts of an array, which are no user attributes."""


class _Place(NamedTuple):
    """Where an address leads: the array, the node that keeps its attributes, and its image, if it belongs to one."""

    array: nodes.Node
    keeper: nodes.Node
    image: ngff.Image | None
    level: int


class ZarrVolume(Volume):
    """One zarr array, alone or as a level of an OME-Zarr image."""

    scheme = "zarr"
    abilities: ClassVar[Abilities] = Abilities(
        levels=True,
        coarser=True,
        places=("file", "s3", "gs", "http", "zip"),
        title="Zarr",
        examples=("image.zarr", "image.zarr?ome=0.4", "array.zarr?format=zarr"),
    )
    marks = nodes.METADATA_FILES[:3]

    def __init__(self, address: Address, spec: ArraySpec, order: AxisOrder, place: _Place, handle: Any) -> None:
        super().__init__(address, spec)
        self._order, self._place, self._handle = order, place, handle

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open an array, or a level of an image; reads two small JSON files.

        Raises NotFound (listing what a group holds), Denied, Corrupt.
        """
        address.require_options(OPTIONS)
        place = _locate(address)
        handle = open_array(place.array.path, place.array.format, address)
        order, spec = _spec(address, place, handle)
        return cls(address, spec, order, place, handle)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what the format asked for cannot hold."""
        address.require_options(OPTIONS)
        version, form = address.option("ome", "0.5"), address.option("format", "ome")
        if version not in VERSIONS:
            raise PlanError(f"{address.url}: ome={version} cannot be written; use {' or '.join(VERSIONS)}")
        if form not in ("ome", "zarr"):
            raise PlanError(f"{address.url}: format={form} is not known; use ome or zarr")
        if address.option("axes"):
            raise PlanError(f"{address.url}: axes is for reading; a new volume has the axes {spec.axes}")
        if address.count("level") and form == "zarr":
            raise PlanError(f"{address.url}: a plain array has no levels; leave format=zarr out to make an image")
        if spec.dtype.kind not in "biuf":
            raise PlanError(f"{address.url}: {spec.dtype} is no type of voxel")
        shards = spec.shards
        if shards is not None and _version(address) == "0.4":
            raise PlanError(f"{address.url}: OME-Zarr 0.4 (zarr v2) has no shards; leave shards out, or use ome=0.5")
        if shards is not None and any(s % c for s, c in zip(shards, spec.chunks, strict=True)):
            raise PlanError(f"{address.url}: a shard of {shards} is not a whole number of chunks of {spec.chunks}")

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Create the image under a temporary name and rename it, so that a half-made one is never seen.

        A volume at `image.zarr/labels/NAME` is added to the image's list of labels. Raises Conflict where anything but an
        empty folder is there, Denied, PlanError.
        """
        cls.check_spec(address, spec)
        if address.count("level"):
            return cls._append(address, spec)
        target = _folder(address)
        target.require_writable()
        version = _version(address)
        if cls.exists(address):
            raise Conflict(f"{target} exists already; remove it or choose another url", url=address.url)
        with target.published() as folder:
            _write_metadata(folder, target, spec, version, address.option("format") == "zarr")
        _enroll(target, VERSIONS[version], address)
        return cls.open(address)

    @classmethod
    def _append(cls, address: Address, spec: ArraySpec) -> Self:
        """Add a level to an image: its array is whole before the image names it."""
        try:
            finest = cls.open(address.with_options(level="0"))
        except NotFound as error:
            raise PlanError(f"{address.url}: no level 0 to append to: {error.message}", option="level") from None
        place, level = finest._place, address.count("level")
        if place.image is None:
            raise PlanError(f"{address.url}: a single array has no levels; only images have", option="level")
        require_level(finest.spec, spec, level, finest.levels, address.url)
        if level < finest.levels:
            raise Conflict(f"{address.url}: level {level} exists already", url=address.url)
        if VERSIONS[_version(address)] != place.keeper.format:
            raise PlanError(f"{address.url}: the image is zarr v{place.keeper.format}; leave ome out", option="ome")
        path = next_path(place.image.paths)
        metadata = array_metadata(_as_stored(spec, finest._order), place.keeper.format)
        nodes.add_array(place.keeper, path, metadata)
        keeper = finest._keeper()
        attributes = ngff.with_level(keeper.attributes, finest.spec, spec, finest._order, path, address.path)
        nodes.update_attributes(keeper, attributes)
        return cls.open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether anything but an empty folder is there; or the level, where the address names one above 0."""
        if address.count("level"):
            try:
                return address.count("level") < cls.open(address.with_options(level="0")).levels
            except NotFound:
                return False
        return _folder(address).exists()

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the whole node. Refuses a folder that is not zarr, and single levels."""
        if address.option("level"):
            raise PlanError(f"{address.url}: a single level cannot be removed; leave level out to remove all")
        nodes.remove(_folder(address), address)

    def version(self) -> str:
        """Return a digest of metadata, folders and files; its limits are those of `KeyValue.digest`."""
        return nodes.digest(self._place.array.path, self._place.array.metadata)

    def _read(self, box: Box) -> Array:
        require_no_fork(self.address)
        try:
            data = read(self._handle[self._order.slices(box, self.offset)])
        except FAILURES as error:
            raise translated(error, self.address, f"the box {box.describe(self.axes)}") from None
        return np.ascontiguousarray(self._order.array_from_stored(np.asarray(data)), dtype=self.dtype)

    def _write(self, box: Box, data: Array) -> None:
        require_no_fork(self.address)
        self._place.array.path.require_writable()
        region = self._handle[self._order.slices(box, self.offset)]
        try:
            # The caller waits until all is stored, so the array need not be copied: 140 MB less a worker. But with four axes
            # and more tensorstore 0.1.86 then takes chunks that are not contiguous in the array for zeros, and stores nothing.
            borrowed = data.ndim <= 3
            region.write(self._order.array_to_stored(data), can_reference_source_data_indefinitely=borrowed).result()
        except FAILURES as error:
            raise translated(error, self.address, f"the box {box.describe(self.axes)}") from None

    @property
    def attributes(self) -> dict[str, Any]:
        """The user's part of what stands under `ndbatch` in the attributes of the image (or of a plain array).

        And, as `omero`, the display settings of an image that has them: each channel's label, colour and window.
        """
        attributes = self._keeper().attributes
        own = {name: value for name, value in attributes.get(ngff.OWN, {}).items() if name not in RESERVED}
        shown = ngff.display_settings(attributes) if self._place.image else None
        return {**own, ngff.DISPLAY: shown} if shown is not None else own

    @property
    def channels(self) -> tuple[str, ...]:
        """Labels of the channels in the display settings of the image."""
        return ngff.channel_names(self._place.keeper.attributes) if "c" in self.axes else ()

    @property
    def encoding(self) -> str:
        """The codecs of a chunk, in order."""
        return codecs(self._place.array.metadata)

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document; the metadata file is replaced in one step.

        `omero` becomes the display settings of the image, where viewers look for them.
        """
        taken = [name for name in values if name in RESERVED]
        if taken:
            raise RemoteError(
                f"{self.url}: the attribute {taken[0]} is ndbatch's own; choose another name", url=self.url
            )
        keeper, plain = self._keeper(), dict(values)
        shown = plain.get(ngff.DISPLAY) if self._place.image else None
        if isinstance(shown, Mapping):
            del plain[ngff.DISPLAY]
        attributes = {**keeper.attributes, ngff.OWN: {**keeper.attributes.get(ngff.OWN, {}), **plain}}
        if isinstance(shown, Mapping):
            attributes = ngff.with_display_settings(attributes, shown)
        nodes.update_attributes(keeper, attributes)

    def _keeper(self) -> nodes.Node:
        """Return the node that keeps the attributes, as it is on disk now."""
        node = nodes.read_node(self._place.keeper.path, self.address)
        if node is None:
            raise NotFound(f"{self.url} is gone", url=self.url)
        return node


def _folder(address: Address) -> KeyValue:
    """Return the folder that an address names, that inside a hierarchy (`image.zarr::/raw`) included."""
    root = keyvalue.place(address)
    return root / address.inside if address.inside.strip("/") else root


def _locate(address: Address) -> _Place:
    """Follow an address to an array. NotFound says what is there instead."""
    root = _folder(address)
    node = nodes.read_node(root, address)
    if node is None:
        raise _absent(root, address)
    if node.is_array:
        place = _level_of(node, address)
        if address.option("level") and address.count("level") != place.level:
            raise NotFound(f"{root} is a single array, which has no level {address.option('level')}", url=address.url)
        return place
    image, level = ngff.read_image(node.attributes, str(root)), address.count("level")
    if image is None:
        raise _no_array(root, address)
    if level >= len(image.paths):
        raise NotFound(f"{root} has no level {level}; its levels are 0 to {len(image.paths) - 1}", url=address.url)
    array = nodes.read_node(root / image.paths[level], address)
    if array is None or not array.is_array:
        raise Corrupt(f"{root} is damaged: its level {level}, {image.paths[level]}, is missing", url=address.url)
    return _Place(array, node, image, level)


def _level_of(array: nodes.Node, address: Address) -> _Place:
    """Return an array as the level of the image above it that lists it, or as it is."""
    for folder in islice(array.path.parents, 3):
        node = nodes.read_node(folder, address)
        image = ngff.read_image(node.attributes, str(folder)) if node is not None and not node.is_array else None
        relative = str(array.path).removeprefix(f"{folder}/")
        if node is not None and image is not None and relative in image.paths:
            return _Place(array, node, image, image.paths.index(relative))
    return _Place(array, array, None, 0)


def _absent(root: KeyValue, address: Address) -> RemoteError:
    return root.missing() or _no_array(root, address)


def _no_array(root: KeyValue, address: Address) -> NotFound:
    found = list(islice(nodes.inside(root), nodes.LISTED))
    if not found:
        return NotFound(f"{root} holds no zarr array", url=address.url)
    return NotFound(
        f"{root} is no array and no image, but holds {', '.join(found)}; write one of them, such as {root}/{found[0]}",
        url=address.url,
        inside=found,
    )


def _spec(address: Address, place: _Place, handle: Any) -> tuple[AxisOrder, ArraySpec]:
    """Return the spec of an open array: geometry from its image, or from its own metadata."""
    image, attributes = place.image, place.array.attributes
    dtype = np.dtype(handle.dtype.numpy_dtype)
    if dtype.kind not in "biuf":
        raise RemoteError(f"{address.url} holds {handle.dtype.name}, which is no type of voxel", url=address.url)
    if image is not None and len(image.axes) != handle.rank:
        raise Corrupt(
            f"{address.url} is damaged: {handle.rank} axes are stored, its image names {', '.join(image.axes)}",
            url=address.url,
        )
    own = attributes.get(ngff.OWN, {})
    names = place.array.metadata.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS")
    order = axis_order(address, handle.shape, image.axes if image else names)
    size = image.voxel_size(place.level) if image else own.get("voxel_size")
    offset = image.offset(place.level) if image else own.get("offset") or (0,) * handle.rank
    chunks, written = handle.chunk_layout.read_chunk.shape, handle.chunk_layout.write_chunk.shape
    return order, ArraySpec(
        shape=order.from_stored(handle.shape),
        dtype=dtype.newbyteorder("="),
        axes=order.axes,
        chunks=order.from_stored(chunks),
        shards=order.from_stored(written) if tuple(written) != tuple(chunks) else None,
        offset=order.from_stored(offset),
        voxel_size=order.from_stored(size) if size else None,
        kind=ngff.read_kind(place.keeper.attributes),
        level=place.level,
        levels=len(image.paths) if image else 1,
    )


def _as_stored(spec: ArraySpec, order: AxisOrder) -> ArraySpec:
    """Return `spec` with its axes in the order of a file."""
    return replace(
        spec,
        axes=order.stored,
        shape=order.to_stored(spec.shape),
        chunks=order.to_stored(spec.chunks),
        shards=order.to_stored(spec.shards) if spec.shards else None,
    )


def _version(address: Address) -> str:
    """Return the version of OME-Zarr to write: as asked for, or that of the hierarchy around it."""
    path = _folder(address)
    for folder in reversed([*nodes.enclosing(path), *([path] if address.count("level") else [])]):
        node = nodes.read_node(folder, address)
        if node is not None:
            around = next(version for version, form in VERSIONS.items() if form == node.format)
            return address.option("ome", around)
    return address.option("ome", "0.5")


def _write_metadata(folder: KeyValue, target: KeyValue, spec: ArraySpec, version: str, plain: bool) -> None:
    """Write into `folder` what will be renamed to `target`."""
    form = VERSIONS[version]
    metadata = array_metadata(spec, form)
    if plain:
        own = {"kind": str(spec.kind), "offset": list(spec.offset), "voxel_size": spec.voxel_size}
        nodes.write_array(folder, form, metadata, {ngff.OWN: own})
        return
    nodes.write_array(folder / "0", form, metadata, {})
    source = (
        "../../" if target.parent is not None and target.parent.name == "labels" and nodes.enclosing(target) else ""
    )
    nodes.write_group(folder, form, ngff.write_image(spec, version, target.name.partition(".")[0], source))


def _enroll(path: KeyValue, zarr_format: int, address: Address) -> None:
    """Make the folders around a new node groups, and add a label image to the list of its image."""
    nodes.forget_copies(path)
    for folder in nodes.enclosing(path):
        node = nodes.read_node(folder, address)
        if node is None:
            nodes.write_group(folder, zarr_format, {})
            node = nodes.read_node(folder, address)
        if node is not None and str(folder) == str(path.parent) and folder.name == "labels":
            nodes.update_attributes(node, ngff.with_label(node.attributes, [path.name], node.format))

"""N5 datasets and multiscale groups; voxels through tensorstore. Format: https://github.com/saalfeldlab/n5.

`cells.n5`, `cells.n5/volumes/raw`, `cells.n5::/volumes/raw?level=1`, `n5://s3://bucket/cells.n5/raw/s0`. A new volume is a
group with the level `s0`, which Paintera, n5-viewer, Neuroglancer and COSEM's tools read, to which `?level=1` ... append;
`?format=dataset` makes a single dataset. gzip, which every reader of N5 has, or another by `?compression=`. A chunk that is
not there is zero; `?missing=error` makes it an error. The option `axes` names axes as the file stores them: first axis
fastest, `xyz`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Conflict, Corrupt, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder, axis_order
from ndbatch.remotes.base import Array, ArraySpec, Volume
from ndbatch.remotes.n5 import metadata as model
from ndbatch.remotes.n5 import nodes
from ndbatch.remotes.places.tensor import FAILURES, context, require_no_fork, translated
from ndbatch.remotes.pyramids import next_path, require_level

OPTIONS = ("axes", "compression", "format", "level", "missing")
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"type": "gzip", "level": 1},
    "zstd": {"type": "zstd", "level": 1},
    "blosc": {"type": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1},
    "bzip2": {"type": "bzip2"},
    "xz": {"type": "xz"},
    "raw": {"type": "raw"},
}
"""Codecs of new volumes. Level 1, as for zarr: EM and fluorescence shrink by a few percent less than at level 6."""
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


@dataclass(frozen=True)
class _Place:
    """Where an address leads: the dataset, what lists it, and where its voxels lie."""

    node: nodes.Node
    keeper: nodes.Node
    """The node that keeps the attributes: the group, or the dataset where it stands alone."""
    group: Mapping[str, Any]
    """Attributes of the groups above and of the keeper; the nearest wins."""
    paths: tuple[str, ...]
    """Levels, by their path in the keeper; none where the dataset stands alone."""
    level: int
    order: AxisOrder
    geometry: model.Geometry


class N5Volume(Volume):
    """One N5 dataset, alone or as a level of a group."""

    scheme = "n5"
    marks = (nodes.ATTRIBUTES,)
    abilities: ClassVar[Abilities] = Abilities(
        levels=True,
        coarser=True,
        dtypes=DTYPES,
        places=("file", "s3", "gs", "http"),
        title="N5",
        examples=("image.n5",),
    )

    def __init__(self, address: Address, spec: ArraySpec, place: _Place, handle: Any) -> None:
        super().__init__(address, spec)
        self._place, self._order, self._handle = place, place.order, handle

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a dataset, or a level of a group; reads its `attributes.json` and those above.

        Raises NotFound (listing what a group holds), Denied, Corrupt; RemoteError for what holds no voxels.
        """
        address.require_options(OPTIONS)
        place = _locate(address)
        handle = _open(place.node, address)
        return cls(address, _spec(place, handle), place, handle)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what N5 cannot hold: bool, float16, shards."""
        address.require_options(OPTIONS)
        if address.option("format", "group") not in ("group", "dataset"):
            raise PlanError(f"{address.url}: format={address.option('format')} is not known; use group or dataset")
        if address.option("compression", "gzip") not in COMPRESSIONS:
            raise PlanError(
                f"{address.url}: compression={address.option('compression')} is not known; use {', '.join(COMPRESSIONS)}"
            )
        if address.option("axes"):
            raise PlanError(f"{address.url}: axes is for reading; a new volume has the axes {spec.axes}")
        if address.count("level") and address.option("format") == "dataset":
            raise PlanError(f"{address.url}: a single dataset has no levels; leave format=dataset out to make a group")
        if spec.dtype.name not in DTYPES:
            raise PlanError(f"{address.url}: N5 cannot hold {spec.dtype}; use one of {', '.join(DTYPES)}")
        if spec.shards is not None:
            raise PlanError(f"{address.url}: N5 has no shards; leave shards out")

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Write the group and its dataset under a hidden name and rename it; or append a level.

        Raises Conflict where anything but an empty folder, or the level, is there.
        """
        cls.check_spec(address, spec)
        if address.count("level"):
            return cls._append(address, spec)
        chain = nodes.chain(address)
        target = chain[-1]
        target.folder.require_writable()
        if cls.exists(address):
            raise Conflict(f"{target.shown} exists already; remove it or choose another url", url=address.url)
        order = AxisOrder(spec.axes[::-1])
        first = model.first_geometry(spec, order)
        dataset = model.dataset_metadata(spec, order, _compression(address))
        own = {model.OWN: {"kind": str(spec.kind)}}
        if nodes.read(chain[0]) is None and len(chain) > 1:
            nodes.write(chain[0], nodes.VERSION)
        root = nodes.VERSION if len(chain) == 1 else {}
        with target.folder.published() as folder:
            made = nodes.Node(folder)
            if address.option("format") == "dataset":
                nodes.write(made, {**root, **dataset, **model.alone(first), **own})
            else:
                title = target.folder.name.partition(".")[0]
                nodes.write(made.child("s0"), {**dataset, **model.dataset_place(first, first, order.stored)})
                nodes.write(made, {**root, **model.new_group(first, order.stored, title), **own})
        return cls.open(address)

    @classmethod
    def _append(cls, address: Address, spec: ArraySpec) -> Self:
        try:
            finest = cls.open(address.with_options(level="0"))
        except NotFound as error:
            raise PlanError(f"{address.url}: no level 0 to append to: {error.message}", option="level") from None
        place, level = finest._place, address.count("level")
        if not place.paths:
            raise PlanError(f"{address.url}: a single dataset has no levels; only groups have", option="level")
        require_level(finest.spec, spec, level, finest.levels, address.url)
        if level < finest.levels:
            raise Conflict(f"{address.url}: level {level} exists already", url=address.url)
        path, names = next_path(place.paths), place.order.stored
        if set(place.keeper.folder.child(path).names()) - {nodes.ATTRIBUTES}:
            raise RemoteError(
                f"{place.keeper.shown}/{path} is there already, and is no level; remove it", url=address.url
            )
        found = model.coarser_geometry(place.geometry, finest.spec, spec, place.order)
        codec = _compression(address) if address.option("compression") else place.node.document["compression"]
        dataset = model.dataset_metadata(spec, place.order, codec)
        nodes.write(place.keeper.child(path), {**dataset, **model.dataset_place(found, place.geometry, names)})
        group = finest._keeper().document
        changed = model.with_level(group, path, found, place.geometry, names)
        if changed != group:
            nodes.write(place.keeper, changed)
        return cls.open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether anything but an empty folder is there; or the level, where the address names one above 0."""
        if address.count("level"):
            try:
                return address.count("level") < cls.open(address.with_options(level="0")).levels
            except NotFound:
                return False
        return nodes.chain(address)[-1].folder.exists()

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the whole node. Refuses a folder that is not N5, and single levels."""
        if address.option("level"):
            raise PlanError(f"{address.url}: a single level cannot be removed; leave level out to remove all")
        nodes.remove(nodes.chain(address)[-1])

    def version(self) -> str:
        """Return a digest of the dataset's own metadata and of its chunks' names, sizes and times."""
        core = {name: self._place.node.document[name] for name in nodes.CORE}
        return hashlib.sha256(
            f"{json.dumps(core)} {self._place.node.folder.digest([nodes.ATTRIBUTES])}".encode()
        ).hexdigest()[:20]

    def _read(self, box: Box) -> Array:
        require_no_fork(self.address)
        try:
            data = self._handle[self._order.slices(box, self.offset)].read(order="C").result()
        except FAILURES as error:
            raise translated(error, self.address, f"the box {box.describe(self.axes)}") from None
        return np.ascontiguousarray(self._order.array_from_stored(np.asarray(data)), dtype=self.dtype)

    def _write(self, box: Box, data: Array) -> None:
        require_no_fork(self.address)
        self._place.node.folder.require_writable()
        region = self._handle[self._order.slices(box, self.offset)]
        try:
            region.write(self._order.array_to_stored(data)).result()
        except FAILURES as error:
            raise translated(error, self.address, f"the box {box.describe(self.axes)}") from None

    @property
    def attributes(self) -> dict[str, Any]:
        """The user's part of what stands under `ndbatch` in the attributes, and `maxId` of labels that have it."""
        document = self._keeper().document
        own = {name: value for name, value in document.get(model.OWN, {}).items() if name != "kind"}
        return {**own, **({model.MAX_ID: document[model.MAX_ID]} if model.MAX_ID in document else {})}

    @property
    def channels(self) -> tuple[str, ...]:
        """Labels of the channels in Neuroglancer's `coordinateArrays`."""
        labels = self._place.group.get("coordinateArrays")
        names = labels.get("c") if isinstance(labels, Mapping) and "c" in self.axes else None
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into the document; `maxId` goes where Paintera looks for it."""
        if "kind" in values:
            raise RemoteError(f"{self.url}: the attribute kind is ndbatch's own; choose another name", url=self.url)
        keeper, plain = self._keeper(), dict(values)
        top = {model.MAX_ID: plain.pop(model.MAX_ID)} if model.MAX_ID in plain else {}
        own = {**keeper.document.get(model.OWN, {}), **plain}
        nodes.write(keeper, {**keeper.document, **top, model.OWN: own})

    def _keeper(self) -> nodes.Node:
        """Return the node that keeps the attributes, as it is now."""
        document = nodes.read(self._place.keeper)
        if document is None:
            raise NotFound(f"{self.url} is gone", url=self.url)
        return replace(self._place.keeper, document=document)


def _compression(address: Address) -> dict[str, Any]:
    return COMPRESSIONS[address.option("compression", "gzip")]


def _open(node: nodes.Node, address: Address) -> Any:
    """Return the tensorstore of a dataset; RemoteError for Paintera's label multisets, which are no single numbers."""
    import tensorstore

    if node.document.get("isLabelMultiset"):
        raise RemoteError(
            f"{node.shown} holds label multisets, which are no voxels; export it as labels", url=address.url
        )
    codec = str((node.document.get("compression") or {}).get("type", ""))
    if codec not in COMPRESSIONS:
        raise RemoteError(
            f"{node.shown} is compressed with {codec or 'nothing that it names'}, which cannot be read here; convert it to "
            f"one of {', '.join(COMPRESSIONS)}",
            url=address.url,
        )
    require_no_fork(address)
    spec = {
        "driver": "n5",
        "kvstore": node.folder.spec(),
        "fill_missing_data_reads": address.option("missing") != "error",
    }
    try:
        return tensorstore.open(spec, context=context(), open=True).result()
    except FAILURES as error:
        raise translated(error, address, "its metadata") from None


def _locate(address: Address) -> _Place:
    """Follow an address to a dataset. NotFound says what is there instead."""
    chain = [nodes.loaded(node) for node in nodes.chain(address)]
    node = chain[-1]
    if model.is_dataset(node.document):
        above = chain[-2] if len(chain) > 1 else None
        paths = nodes.levels(above) if above is not None else ()
        if above is not None and node.folder.name in paths:
            place = _place(address, node, above, nodes.inherited(chain[:-1]), paths, paths.index(node.folder.name))
        else:
            place = _place(address, node, node, nodes.inherited(chain), (), 0)
        if address.option("level") and address.count("level") != place.level:
            raise NotFound(
                f"{node.shown} is a single dataset, which has no level {address.option('level')}", url=address.url
            )
        return place
    paths, level = nodes.levels(node), address.count("level")
    if not paths:  # Paintera keeps the levels one folder below its own attributes
        below = nodes.loaded(node.child("data"))
        chain, node, paths = [*chain, below], below, nodes.levels(below)
    if not paths:
        raise nodes.absent(chain[-2])
    if level >= len(paths):
        raise NotFound(f"{node.shown} has no level {level}; its levels are 0 to {len(paths) - 1}", url=address.url)
    dataset = nodes.loaded(node.child(paths[level]))
    if not model.is_dataset(dataset.document):
        raise Corrupt(f"{node.shown} is damaged: its level {level}, {paths[level]}, is missing", url=address.url)
    return _place(address, dataset, node, nodes.inherited(chain), paths, level)


def _place(
    address: Address, node: nodes.Node, keeper: nodes.Node, group: Mapping[str, Any], paths: tuple[str, ...], level: int
) -> _Place:
    try:
        finest = nodes.loaded(keeper.child(paths[0])).document if level else node.document
        order = axis_order(address, node.document["dimensions"], model.axis_names(node.document, group))
        found = model.geometry(node.document, finest, group, level, order.stored)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise Corrupt(
            f"{node.shown}: its N5 attributes are damaged: {type(error).__name__}: {error}", url=address.url
        ) from None
    return _Place(node, keeper, group, paths, level, order, found)


def _spec(place: _Place, handle: Any) -> ArraySpec:
    order, size = place.order, place.geometry.voxel_size(place.order.stored)
    return ArraySpec(
        shape=order.from_stored(handle.shape),
        dtype=np.dtype(handle.dtype.numpy_dtype).newbyteorder("="),
        axes=order.axes,
        chunks=order.from_stored(handle.chunk_layout.read_chunk.shape),
        offset=order.from_stored(place.geometry.offset()),
        voxel_size=order.from_stored(size) if size else None,
        kind=model.read_kind(place.group),
        level=place.level,
        levels=max(1, len(place.paths)),
    )

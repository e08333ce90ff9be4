"""Channels of an ndstore: `ndstore://host/token/channel?level=1`; boxes of voxels, several in flight.

Voxels that are read travel as npz, or as `?format=` says; from `ndbatch serve` on this machine as raw bytes with a digest, since
to compress them takes longer than to send them. Chunks are the service's cuboids, counted from the first voxel. Zeros that are
written keep what is there. Labels of 64 bits are cut to 32 by an ndstore (not by `ndbatch serve`), so that ids of 2**32 and more
are refused there. An ndstore tells no unit of its voxel sizes: they are taken as micrometres, which its documents ask for, unless
`?unit=nm` says what many projects did.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from ndbatch.errors import Corrupt, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array, ArraySpec, Kind
from ndbatch.remotes.http.client import Reply, segment
from ndbatch.remotes.http.cutouts import CutoutVolume
from ndbatch.remotes.ndstore import creation, wire
from ndbatch.remotes.ndstore.frame import DTYPES, WIDE, Info, cuboid
from ndbatch.remotes.ndstore.service import Service, channel_of, connected

OPTIONS = ("dataset", "format", "level", "prefix", "scaling", "unit")
FORMATS = ("npz", "blosc", "hdf5", "raw", "zip")
LIMIT = 2**31 - 2**17
LONGEST_WAIT = 10.0
"""Seconds between two looks at whether levels are made."""
NARROW = 2**32


class NdstoreVolume(CutoutVolume):
    """One level of a channel."""

    piece_bytes = 16 * 2**20  # about 1024 x 1024 x 16
    scheme = "ndstore"
    abilities: ClassVar[Abilities] = Abilities(
        coarser=True,
        dtypes=DTYPES,
        service=True,
        merges=True,
        propagates=True,
        request_bytes=LIMIT,
        places=("http",),
        title="ndstore (NeuroData)",
        examples=("ndstore://host/token/channel",),
        extra="services",
    )

    def __init__(self, address: Address, spec: ArraySpec, service: Service, info: Info) -> None:
        super().__init__(address, spec)
        self._service, self._info = service, info
        self._token, self._channel = channel_of(address)
        self._resolution = info.base(self._channel) + spec.level
        ours = bool(info.dataset.get(WIDE))
        self._near = ours and service.client.near
        self._form = address.option("format") or ("raw" if self._near else FORMATS[0])
        if not ours:  # metadata is kept elsewhere, by a service of its own
            vars(self)["abilities"] = replace(self.abilities, attributes=False)

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a channel by one request for the info of its token. Raises NotFound, Denied, Corrupt, PlanError for options."""
        _require_options(address)
        (token, channel), service = channel_of(address), connected(address)
        try:
            info = service.info(token)
            spec = info.spec(channel, address.count("level"), address.option("unit"))
        except NotFound as error:
            raise NotFound(f"{address.path} is not there: {error.message}", **error.fields) from None
        return cls(address, spec, service, info)

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse what an ndstore has no word for: types, axes, positions below 0, names."""
        super().check_spec(address, spec)
        _require_options(address)
        creation.require_spec(spec, channel_of(address), address.url)

    @classmethod
    def settled(cls, address: Address, spec: ArraySpec) -> ArraySpec:
        """Return `spec` with the chunks of the service; they are also the unit of writing."""
        size = creation.spatial(spec, spec.voxel_size or (1.0,) * spec.ndim)
        unit = cuboid(creation.scaling_of(address), size, 0)
        return replace(spec, chunks=(1, *unit)[-spec.ndim :], shards=None)

    @classmethod
    def create(cls, address: Address, spec: ArraySpec) -> Self:
        """Make a channel, and what is missing of dataset (`?dataset=`, else named like the token), project and token.

        Raises Conflict where the channel is there, and where the token's dataset has another extent or voxel size.
        """
        cls.check_spec(address, spec)
        creation.create(connected(address), channel_of(address), spec, address)
        return cls.open(address)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Return whether the channel is there, with its level where the address names one."""
        (token, channel), service = channel_of(address), connected(address)
        try:
            info = service.info(token)
        except NotFound:
            return False
        return channel in info.channels and address.count("level") < info.made(channel)

    @classmethod
    def delete(cls, address: Address) -> None:
        """Remove the channel; token, project and dataset stay. PlanError for a single level."""
        if address.option("level"):
            raise PlanError(f"{address.url}: a single level cannot be removed; leave level out to remove all")
        (token, channel), service = channel_of(address), connected(address)
        if cls.exists(address):
            service.delete_channel(service.info(token), token, channel)

    def version(self) -> str:
        """Return a digest of what is known of the channel, and of its voxels where the service (`ndbatch serve`) tells it."""
        info = self._service.info(self._token, self._channel)
        facts = {key: value for key, value in info.channels[self._channel].items() if key != "propagate"}
        text = json.dumps([info.dataset, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    # -- voxels ----------------------------------------------------------------------------------------------------------

    def _write(self, box: Box, data: Array) -> None:
        if self.dtype == np.uint64 and self.kind is Kind.LABELS and not self._info.dataset.get(WIDE):
            largest = int(data.max())
            if largest >= NARROW:
                raise RemoteError(
                    f"{self.url}: the id {largest} does not fit into 32 bits, to which an ndstore cuts labels; number the "
                    "objects anew with the step relabel",
                    url=self.url,
                )
        super()._write(box, data)

    def _get(self, box: Box) -> Array:
        """Return the voxels of one request; asked for again where they cannot be decoded."""
        found: list[Array] = []

        def decoded(reply: Reply) -> None:
            found.append(self._decoded(self._form, reply, box))

        self._service.client.get(self._path(self._form, box), check=decoded)
        return found[-1]

    def _decoded(self, form: str, reply: Reply, box: Box) -> Array:
        shape, size = (1, *box.shape), box.size * self.dtype.itemsize
        if form == "npz":
            data = wire.unpack_npz(reply.body, size, reply.url)
        elif form == "blosc":
            data = wire.unpack_blosc(reply.body, size, reply.url)
        elif form == "hdf5":
            data = np.asarray(wire.unpack_hdf5(reply.body, size, reply.url).get(self._channel, np.empty(0)))[None]
        else:
            plain = reply.body if form == "raw" else wire.inflated(reply.body, size + 1, reply.url)
            data = wire.unpack_raw(plain, shape, self.dtype, reply.url)
        if data.shape != shape or data.dtype != self.dtype:
            raise Corrupt(
                f"{reply.url}: {data.dtype} {data.shape} came where {self.dtype} {shape} was asked for", url=reply.url
            )
        first: Array = data[0]
        return first

    def _put(self, box: Box, data: Array) -> None:
        """Store one part; what is sent twice is stored once. Blocks of zeros would change nothing."""
        if data.any():
            headers = {"Content-Type": "application/octet-stream"}
            body = wire.pack_npz(data[None], 0 if self._near else 1)
            self._service.client.post(self._path("npz", box), body, headers=headers)

    def _unit(self) -> Shape:
        z, y, x = self.chunks[-3:]
        wide = max(1, int((self.piece_bytes / (z * y * x * self.dtype.itemsize)) ** 0.5))
        return (1, z, y * wide, x * wide)[-self.ndim :]

    def _path(self, service: str, box: Box) -> str:
        """Return the path of a cutout; times stand last, and are only seen with the slash behind them."""
        spans = [f"{a},{b}" for a, b in zip(box.start, box.stop, strict=True)]
        times, (z, y, x) = spans[:-3], spans[-3:]
        parts = [segment(self._token), segment(self._channel), service, str(self._resolution), x, y, z, *times]
        return f"/sd/{'/'.join(parts)}/"

    def near_isotropic(self, first: int = 0, count: int | None = None) -> Array:
        """Return slices of the level averaged (of labels: taken) along z until voxels are nearly as long as they are wide.

        The result is (z, y, x), the volume's dtype; `first` and `count` are in such slices, counted from 0. PlanError for
        slices that are not there; and for a volume that begins at z > 0 on an ndstore, which gives the wrong slices of it.
        """
        down, whole = self._info.scale_down(self._resolution), self._info.box(self._resolution)
        if whole.start[0] and not self._info.dataset.get(WIDE):
            raise PlanError(
                f"{self.url} begins at z = {whole.start[0]}, where near-isotropic slices are the wrong ones"
            )
        there = whole.shape[0] // down
        count = there - first if count is None else count
        if not 0 <= first < first + count <= there:
            raise PlanError(f"{self.url} has {there} near-isotropic slices, not {first} to {first + count}")
        begin = whole.start[0] // down + first
        box = Box((begin, *whole.start[1:]), (begin + count, *whole.stop[1:]))
        reply = self._service.client.get(f"{self._path('npz', box)}neariso/")
        thinned: Array = wire.unpack_npz(reply.body, box.size * self.dtype.itemsize, reply.url)[0]
        if thinned.shape != box.shape or thinned.dtype != self.dtype:
            raise Corrupt(
                f"{reply.url}: {thinned.dtype} {thinned.shape} came where {box.shape} was asked for", url=reply.url
            )
        return thinned

    def picture(self, plane: str, at: int, box: Box) -> Array:
        """Return one slice as the service draws it, uint8 (rows, columns) or with colours (rows, columns, 4).

        `plane` is xy, xz or yz, `at` the position along the axis that it cuts, `box` (z, y, x) the part to show.
        """
        import io

        from PIL import Image

        spans = {axis: f"{a},{b}" for axis, a, b in zip("zyx", box.start[-3:], box.stop[-3:], strict=True)}
        where = "/".join(spans[axis] if axis in plane else str(at) for axis in "xyz")
        parts = f"{segment(self._token)}/{segment(self._channel)}/{plane}/{self._resolution}/{where}"
        drawn: Array = np.asarray(Image.open(io.BytesIO(self._service.client.get(f"/sd/{parts}/").body)))
        return drawn

    # -- what is kept with it, and its levels ------------------------------------------------------------------------------

    @property
    def encoding(self) -> str:
        """How voxels travel when they are read."""
        return self._form

    @property
    def attributes(self) -> dict[str, Any]:
        """What is kept of the channel in the document of its token; one for all levels. Empty where the service keeps none."""
        if not self.abilities.attributes:
            return {}
        kept = self._service.metadata(self._token).get("channels", {}).get(self._channel, {})
        return dict(kept)

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into what is kept of the channel in the document of its token."""
        if not self.abilities.attributes:
            super().set_attributes(values)
        # Nothing that was read is sent back: another client may have changed it meanwhile.
        self._service.set_metadata(self._token, {"channels": {self._channel: dict(values)}})

    def status(self) -> int:
        """Return 0 where the levels do not follow from the voxels, 1 while they are made, 2 where they do."""
        return self._service.propagation(self._token, self._channel)

    def propagate(self) -> None:
        """Have the service make the coarser levels, and return when they are there. RemoteError where it fails to."""
        if self._info.levels - self._info.base(self._channel) < 2:
            raise PlanError(
                f"{self.url}: its dataset has no coarser level; levels are decided when the dataset is made"
            )
        if self.status() == 2:
            self._service.set_propagation(self._token, self._channel, 0)
        if self.status() == 0:
            self._service.set_propagation(self._token, self._channel, 1)
        pause = 0.05
        while (status := self.status()) != 2:
            if status == 0:
                raise RemoteError(f"{self.url}: the service gave up making its levels", url=self.url)
            time.sleep(pause)
            pause = min(LONGEST_WAIT, 1.5 * pause)


def _require_options(address: Address) -> None:
    address.require_options(OPTIONS)
    form = address.option("format", FORMATS[0])
    if form not in FORMATS:
        raise PlanError(f"{address.url}: format={form} is not one of {', '.join(FORMATS)}", option="format")
    if address.option("unit", "um") not in ("nm", "um", "mm"):
        raise PlanError(f"{address.url}: unit={address.option('unit')} is not one of nm, um, mm", option="unit")
    creation.scaling_of(address)

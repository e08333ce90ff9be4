"""Making a channel from the spec of a volume, with the dataset, the project and the token that it needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.ndstore.frame import ISOTROPIC, SLICES, Info, level_box
from ndbatch.remotes.ndstore.service import Document, Service, sizes
from ndbatch.units import micrometres

NAME = re.compile(r"\w+", re.ASCII)
LABELS = ("uint8", "uint16", "uint32", "uint64")


def scaling_of(address: Address) -> str:
    """Return how levels of a new dataset follow from level 0: zslices, or as the address says. PlanError for another word."""
    scaling = address.option("scaling", SLICES)
    if scaling not in (SLICES, ISOTROPIC):
        raise PlanError(f"{address.url}: scaling={scaling} is not one of {SLICES}, {ISOTROPIC}", option="scaling")
    return scaling


def spatial(spec: ArraySpec, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values along z, y, x; () of ()."""
    return tuple(values[spec.axes.index(axis)] for axis in "zyx") if values else ()


def require_spec(spec: ArraySpec, names: tuple[str, str], url: str) -> None:
    """Raise PlanError for what an ndstore has no word for."""
    if spec.axes not in ("zyx", "tzyx"):
        raise PlanError(
            f"{url}: channels of an ndstore have the axes z, y, x or t, z, y, x; take one channel with ?c=0"
        )
    if any(at < 0 for at in spec.offset):
        raise PlanError(
            f"{url}: the volume begins at {spec.offset}; an ndstore has no positions below 0, move it with translate"
        )
    if spec.kind is Kind.LABELS and spec.dtype.name not in LABELS:
        raise PlanError(f"{url}: labels of an ndstore are unsigned; use dtype: uint32 (or uint64)")
    for name in names:
        if not NAME.fullmatch(name):
            raise PlanError(f"{url}: {name!r} is no name for an ndstore; use letters, digits and _")


def create(service: Service, names: tuple[str, str], spec: ArraySpec, address: Address) -> None:
    """Make what is missing of dataset, project and token, then the channel. Conflict for one that is there or does not fit."""
    token, channel = names
    try:
        info = service.info(token)
    except NotFound:
        dataset = address.option("dataset", token)
        service.add_dataset(dataset, _dataset(spec, address), address.option("unit"))
        service.add_project(dataset, token)
        info = service.info(token)
    if channel in info.channels:
        raise Conflict(f"{address.url} exists already; choose another name, or remove it first", url=address.url)
    _require_same(info, spec, address)
    service.add_channel(info, token, channel, _channel(spec))


def _dataset(spec: ArraySpec, address: Address) -> Document:
    """Return the geometry of a dataset that a volume fills; voxel sizes are micrometres (or `?unit=`), 1 if not known."""
    scale = micrometres(f"1 {address.option('unit', 'um')}")
    size = tuple(round(one / scale, 9) for one in spatial(spec, spec.voxel_size or (1.0,) * spec.ndim))
    return {
        **sizes(("imagesize",), spatial(spec, spec.shape)),
        **sizes(("offset",), spatial(spec, spec.offset)),
        **sizes(("voxelres",), size),
        "scalinglevels": spec.levels - 1,
        "scalingoption": int(scaling_of(address) == ISOTROPIC),
        "public": 1,
    }


def _channel(spec: ArraySpec) -> Document:
    timed = spec.axes.startswith("t")
    kind = "annotation" if spec.kind is Kind.LABELS else "timeseries" if timed else "image"
    first, count = (spec.offset[0], spec.shape[0]) if timed else (0, 1)
    return {
        "channel_type": kind,
        "channel_datatype": spec.dtype.name,
        "starttime": first,
        "endtime": first + count,
        "resolution": 0,
        "readonly": 0,
        "propagate": 0,
    }


def _require_same(info: Info, spec: ArraySpec, address: Address) -> None:
    """Raise Conflict where a volume does not fill the dataset that its token has, or wants more levels than it has."""
    box = level_box(spatial(spec, spec.shape), spatial(spec, spec.offset), info.scaling, 0)
    if info.box(0) != box:
        raise Conflict(
            f"{address.url}: the dataset {info.name} is {info.box(0).describe('zyx')}, the volume {box.describe('zyx')}; "
            "all channels of a token fill its dataset, use another token",
            url=address.url,
        )
    if info.levels < spec.levels:
        raise Conflict(
            f"{address.url}: the dataset {info.name} has {info.levels - 1} coarser levels, not {spec.levels - 1}; ask for "
            "fewer, or use another token",
            url=address.url,
        )
    there, wanted = info.voxel_size(0, address.option("unit")), spatial(spec, spec.voxel_size or ())
    if any(abs(a - b) > 1e-6 * b for a, b in zip(there, wanted, strict=False)):
        raise Conflict(
            f"{address.url}: voxels of the dataset {info.name} are {there} um (z, y, x), those of the volume {wanted}; "
            "use another token, or say the unit of the service with ?unit=nm",
            url=address.url,
        )

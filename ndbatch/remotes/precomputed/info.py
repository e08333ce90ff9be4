"""The `info` file of a Neuroglancer precomputed volume: what it says as an ArraySpec, and what is written into it.

Format: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed. Every key that is not known here is
kept as it is. Lists of the file are in its own order, x, y, z, and its resolution is in nanometres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, PlanError, RemoteError
from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.precomputed.sharding import shard_shape, sharding

OWN = "ndbatch"
"""The key of ndbatch's own facts and of the user's attributes, at the top of `info` and in a scale."""
RESERVED = ("axes", "kind", "voxel_size")
"""What ndbatch keeps under its key itself."""
VOLUME_TYPE = "neuroglancer_multiscale_volume"
NANOMETRES = 1000.0
"""Nanometres in a micrometre."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
"""What the format holds; layers of int64 and float64, which cloud-volume can make, are read alone."""
STORED = "xyzc"


@dataclass(frozen=True)
class Scale:
    """One level as the file has it; `size`, `offset`, `chunk` (voxels) and `resolution` (nm) are x, y, z."""

    document: Mapping[str, Any]
    key: str
    size: tuple[int, ...]
    offset: tuple[int, ...]
    chunk: tuple[int, ...]
    resolution: tuple[float, ...]
    encoding: str

    @property
    def sharding(self) -> Mapping[str, Any] | None:
        """The parameters of shards, or None where every chunk is an object of its own."""
        found: Mapping[str, Any] | None = self.document.get("sharding")
        return found

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along x, y, z."""
        return tuple(-(-n // c) for n, c in zip(self.size, self.chunk, strict=True))


@dataclass(frozen=True)
class Info:
    """A parsed `info` file."""

    document: Mapping[str, Any]
    dtype: np.dtype[Any]
    channels: int
    scales: tuple[Scale, ...]

    @property
    def own(self) -> Mapping[str, Any]:
        """What ndbatch and its users keep in the file."""
        found = self.document.get(OWN)
        return found if isinstance(found, Mapping) else {}

    @property
    def order(self) -> AxisOrder:
        """The axes that a volume has: z, y, x, and c where there are several channels; or those it was created with."""
        axes = str(self.own.get("axes", ""))
        if not axes or set(axes) - set(STORED) or (self.channels > 1 and "c" not in axes):
            axes = "xyzc" if self.channels > 1 else "xyz"
        return AxisOrder("".join(axis for axis in STORED if axis in axes))

    def spec(self, level: int) -> ArraySpec:
        """Return what the array at `level` is."""
        scale, order = self.scales[level], self.order

        def ours(along: Sequence[Any], channel: Any) -> tuple[Any, ...]:
            values = dict(zip(STORED, (*along, channel), strict=True))
            return tuple(values[axis] for axis in order.axes)

        known = "voxel_size" not in self.own
        shards = shard_shape(scale.grid, scale.chunk, scale.sharding, scale.document.get(OWN))
        return ArraySpec(
            shape=ours(scale.size, self.channels),
            dtype=self.dtype,
            axes=order.axes,
            chunks=ours(scale.chunk, self.channels),
            shards=ours(shards, self.channels) if shards else None,
            offset=ours(scale.offset, 0),
            voxel_size=ours([r / NANOMETRES for r in scale.resolution], 1.0) if known else None,
            kind=self._kind(),
            level=level,
            levels=len(self.scales),
        )

    def _kind(self) -> Kind:
        told = self.own.get("kind")
        if told in set(Kind):
            return Kind(told)
        return Kind.LABELS if self.document.get("type") == "segmentation" else Kind.IMAGE


def read_info(document: Any, url: str) -> Info:
    """Return a parsed `info`; Corrupt names what is missing or wrong in it."""
    if not isinstance(document, Mapping):
        raise Corrupt(f"{url}: its info file is not a JSON object", url=url)
    if document.get("redirect"):
        raise RemoteError(f"{url} only points to another layer; open precomputed://{document['redirect']}", url=url)
    found = document.get("@type", VOLUME_TYPE)
    if found != VOLUME_TYPE:
        raise RemoteError(f"{url} is no volume: its info file says {found}", url=url)
    try:
        scales = tuple(_scale(entry) for entry in document["scales"])
        dtype = np.dtype(str(document["data_type"]).lower())
        channels = int(document["num_channels"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"is not understood: {error}"
        raise Corrupt(f"{url}: its info file {what}", url=url) from None
    if dtype.kind not in "iuf" or channels < 1 or not scales:
        raise Corrupt(
            f"{url}: its info file tells of {len(scales)} scales of {channels} channels of {dtype}, which is no volume",
            url=url,
        )
    return Info(document, dtype, channels, scales)


def _scale(entry: Mapping[str, Any]) -> Scale:
    """Return one level; KeyError, TypeError or ValueError where it is not whole."""
    size, chunk = _three(entry["size"], int), _three(entry["chunk_sizes"][0], int)
    resolution = _three(entry["resolution"], float)
    if min(size) < 1 or min(chunk) < 1 or not all(0 < r < math.inf for r in resolution):
        raise ValueError(f"size {size}, chunk {chunk} and resolution {resolution} of {entry['key']} must be above 0")
    offset = _three(entry.get("voxel_offset", (0, 0, 0)), int)
    return Scale(entry, str(entry["key"]), size, offset, chunk, resolution, str(entry["encoding"]))


def _three(values: Sequence[Any], kind: type) -> tuple[Any, ...]:
    if len(values) != 3 or any(float(v) != kind(v) for v in values):
        raise ValueError(f"{list(values)} is not three numbers")
    return tuple(kind(v) for v in values)


def new_info(spec: ArraySpec, scale: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a new volume of one level."""
    labels = spec.kind is Kind.LABELS and spec.dtype.kind in "iu"
    own: dict[str, Any] = {}
    if spec.axes != ("czyx" if _channels(spec) > 1 else "zyx"):
        own["axes"] = spec.axes
    if spec.kind is not (Kind.LABELS if labels else Kind.IMAGE):
        own["kind"] = str(spec.kind)
    if spec.voxel_size is None:
        own["voxel_size"] = None
    return {
        "@type": VOLUME_TYPE,
        "type": "segmentation" if labels else "image",
        "data_type": spec.dtype.name,
        "num_channels": _channels(spec),
        "scales": [dict(scale)],
        **({OWN: own} if own else {}),
    }


def with_scale(info: Info, scale: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with one more level at the end."""
    return {**info.document, "scales": [*info.document["scales"], dict(scale)]}


def with_own(info: Info, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with `values` merged into what ndbatch and its users keep in it."""
    return {**info.document, OWN: {**info.own, **values}}


def new_scale(spec: ArraySpec, encoding: Mapping[str, Any], taken: Sequence[str], url: str) -> dict[str, Any]:
    """Return the entry of a new level; `encoding` holds the key `encoding` and its parameters, `taken` other levels' keys.

    The key is the resolution in nanometres, `260_260_290`, as is the custom; PlanError for shards that do not fit.
    """
    resolution = [_tidy(r * NANOMETRES) for r in _xyz(spec, spec.voxel_size, 1 / NANOMETRES)]
    size, chunk = _xyz(spec, spec.shape, 1), _xyz(spec, spec.chunks, 1)
    key = "_".join(f"{r:g}" if r == float(f"{r:g}") else repr(r) for r in resolution)
    names = (key, *(f"{key}_{number}" for number in range(1, len(taken) + 1)))
    scale: dict[str, Any] = {
        "key": next(name for name in names if name not in taken),
        "size": size,
        "resolution": resolution,
        "voxel_offset": _xyz(spec, spec.offset, 0),
        "chunk_sizes": [chunk],
        **encoding,
    }
    if spec.shards is not None:
        parameters, told = sharding(size, chunk, _xyz(spec, spec.shards, 1), encoding["encoding"], url)
        scale |= {"sharding": parameters, **({OWN: {"shards": told}} if told else {})}
    return scale


def require_spec(spec: ArraySpec, url: str) -> None:
    """Raise PlanError for types, axes and chunks that no precomputed volume has."""
    if spec.dtype.name not in DTYPES:
        near = {"bool": "uint8", "int64": "uint64, or int32", "float64": "float32", "float16": "float32"}
        use = near.get(spec.dtype.name, ", ".join(DTYPES))
        raise PlanError(f"{url}: precomputed volumes cannot hold {spec.dtype}; use dtype: {use}")
    if set(spec.axes) - set(STORED) or not spec.axes.endswith("yx"):
        raise PlanError(
            f"{url}: precomputed volumes have the axes c, z, y, x, not {', '.join(spec.axes)}; take one place along "
            "the others, such as ?t=0, or use zarr"
        )
    if "c" in spec.axes:
        at = spec.axes.index("c")
        if spec.offset[at]:
            raise PlanError(f"{url}: channels of precomputed volumes begin at 0, not at {spec.offset[at]}")
        if spec.chunks[at] != spec.shape[at] or (spec.shards and spec.shards[at] != spec.shape[at]):
            raise PlanError(
                f"{url}: a chunk of a precomputed volume holds all channels; use chunks: {{c: {spec.shape[at]}}}"
            )


def _channels(spec: ArraySpec) -> int:
    return spec.shape[spec.axes.index("c")] if "c" in spec.axes else 1


def _xyz(spec: ArraySpec, values: Sequence[Any] | None, default: Any) -> list[Any]:
    """Return one value for each of x, y, z from values that follow the axes; `default` along an axis that is not there."""
    named = dict(zip(spec.axes, values or (), strict=bool(values)))
    return [named.get(axis, default) for axis in "xyz"]


def _tidy(nanometres: float) -> float | int:
    """Return a length without the last bits that the change of unit left, whole where it is whole."""
    value = float(f"{nanometres:.12g}")
    return int(value) if value.is_integer() else value

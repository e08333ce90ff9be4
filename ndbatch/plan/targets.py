"""Where results go: the spec of every volume to write, what may stand in the way, and the unit blocks must respect."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.config.model import Config, Output
from ndbatch.errors import ConfigError, Denied, NotFound, PlanError
from ndbatch.geometry import Box, Shape, common_multiple
from ndbatch.plan.model import TableTarget, Target
from ndbatch.plan.objects import objects_target, require_no_objects, table_path
from ndbatch.plan.program import Bound, Stage, level_of, times
from ndbatch.remotes.abilities import VOXEL_TYPES
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.api import default_chunks
from ndbatch.remotes.base import ArraySpec, Kind, Volume
from ndbatch.remotes.registry import open_volume, store_class
from ndbatch.remotes.views.options import split
from ndbatch.steps.base import ArrayInfo
from ndbatch.tables.writing import TABLE_ENDINGS

LARGEST_WINDOW = 2**24
"""Voxels that one default chunk of a coarser array is made of at most."""


def volume_targets(
    config: Config,
    stored: frozenset[str],
    steps: Sequence[Bound],
    infos: Mapping[str, ArrayInfo],
    region: Box,
    sources: Mapping[str, Volume],
) -> dict[str, Target]:
    """Return the volumes to write, by name. PlanError for two outputs to one place, or an output onto an input."""
    targets: dict[str, Target] = {}
    # A view writes nothing, but it reads what stands at the address without the view.
    taken = {split(volume.address)[0].url: f"the input {name}" for name, volume in sources.items()}
    sparse = {name for step in steps if step.operation.unwritten == "empty" for name in step.array_names().values()}
    windows = {name: step.operation.scale for step in steps for name in step.array_names().values()}
    for name in sorted(stored, key=level_of):
        output = config.outputs.get(level_of(name)[0])
        box = region.coarsened(infos[name].scales)
        chunks = _default_chunks(box.shape, infos[name], windows[name])
        if output is None:
            address = Address("zarr", str(config.run_directory / "scratch" / f"{name}.zarr"))
            chunks = _within(config.blocks, infos[name], chunks) or chunks
            spec = _spec(infos[name], box, chunks, None, infos[name].kind, name)
            targets[name] = Target(name, address, spec, create=True, kept=False)
            continue
        target = _target(config, name, output, infos[name], box, chunks)
        if target.address.url in taken:
            raise PlanError(
                f"outputs.{name}: {target.address.url} is {taken[target.address.url]} already; choose another url"
            )
        if name in sparse and not target.create:
            raise PlanError(
                f"outputs.{name}: skip: empty would leave the old voxels of {target.address.url} where the result is empty; use "
                "skip: identical, or write to a new volume with create: true"
            )
        taken[target.address.url] = f"the output {name}"
        targets[name] = target
    return targets


def table_targets(config: Config, steps: Sequence[Bound], stages: Sequence[Stage]) -> dict[str, TableTarget]:
    """Return the tables to write, by name. ConfigError where the ending tells no table format."""
    from ndbatch.plan.program import Apply

    result: dict[str, TableTarget] = {}
    taken: dict[Path, str] = {}
    for index, step in enumerate(steps):
        for role, name in step.table_names().items():
            if name not in config.outputs:
                continue
            objects = objects_target(config, name, step.operation.objects.get(role))
            path = (
                table_path(config, name, step.kind)
                if objects is None
                else config.run_directory / f"{name}-table.parquet"
            )
            for place in {path, path if objects is None or objects.file is None else objects.file}:
                if place in taken:
                    raise PlanError(f"outputs.{name}: {place} is the output {taken[place]} already; choose another url")
                taken[place] = name
            stage = next(
                s.index for s in stages for c in s.calls if isinstance(c, Apply) and c.step == index and c.rows
            )
            result[name] = TableTarget(name, path, index, role, stage, objects)
    return result


def _target(config: Config, name: str, output: Output, info: ArrayInfo, region: Box, default: Shape) -> Target:
    if output.objects is not None:
        raise ConfigError(f"outputs.{name}: objects are rows of a table, but {name} is an array; measure it first")
    if output.url.endswith(TABLE_ENDINGS):
        raise ConfigError(
            f"outputs.{name}: {output.url} is a table, but {name} is an array; use a volume such as {name}.zarr"
        )
    address = _address(config, name, output)
    if seen := split(address)[1]:
        raise PlanError(
            f"outputs.{name}: {next(iter(seen))} makes a view, which is only read; put it into the url of an input"
        )
    if not store_class(address.scheme).abilities.write:
        raise PlanError(f"outputs.{name}: {address.scheme} volumes cannot be written")
    if not store_class(address.scheme).abilities.shared and config.cluster.kind not in ("inline", "threads"):
        raise PlanError(
            f"outputs.{name}: {address.url} lives in one process only; use cluster: {{kind: threads}}, or another store"
        )
    if address.place in ("http", "https") and not store_class(address.scheme).abilities.service:
        raise PlanError(
            f"outputs.{name}: {address.url} is on a web server, which is only read; write to a folder or a bucket"
        )
    if info.dtype.name not in VOXEL_TYPES:
        raise PlanError(
            f"outputs.{name}: {info.dtype} is no type of voxel that a volume can hold; set dtype to one of "
            f"{', '.join(VOXEL_TYPES)}"
        )
    kind = Kind(output.kind) if output.kind else info.kind
    if not output.create and not (level_of(name)[1] and not store_class(address.scheme).exists(address)):
        return _existing(config, name, address, info, region)
    chunks = _along(output.chunks, info, f"outputs.{name}.chunks") or _within(config.blocks, info, default)
    shards = _along(output.shards, info, f"outputs.{name}.shards")
    spec = _spec(info, region, chunks or default, shards, kind, name)
    store_class(address.scheme).check_spec(address, spec)
    if made_by_service(config, name, output, info):
        spec = replace(spec, levels=1 + _halvings(output, spec))
    spec = store_class(address.scheme).settled(address, spec)
    staged = None
    if not store_class(address.scheme).abilities.concurrent:
        staged = Address("zarr", str(config.run_directory / "staging" / f"{name}.zarr"))
    return Target(name, address, spec, create=True, staged=staged)


def made_by_service(config: Config, name: str, output: Output, info: ArrayInfo) -> bool:
    """Return whether the service that an output goes to makes its coarser levels, if any are wanted, in its own way."""
    if output.pyramid is None:
        return False
    kind = Kind(output.kind) if output.kind else info.kind
    if not store_class(_address(config, name, output).scheme).makes_levels(info.dtype, kind):
        return False
    if output.pyramid.factors != "auto" or output.pyramid.method != "auto":
        raise ConfigError(
            f"outputs.{name}.pyramid: the service of {output.url} makes levels in its own way; give their number alone"
        )
    return True


def _halvings(output: Output, spec: ArraySpec) -> int:
    """Return how many levels a service is to make: as many as are wanted, or until y and x are at most 128 voxels."""
    assert output.pyramid is not None
    longest = max(n for axis, n in zip(spec.axes, spec.shape, strict=True) if axis in "yx")
    return max(1, (longest - 1).bit_length() - 7) if output.pyramid.levels == "auto" else output.pyramid.levels


def _address(config: Config, name: str, output: Output) -> Address:
    """Return the address of an output, or of one of its levels. PlanError where the store keeps no levels."""
    address, (_, number) = parse(output.url, config.run_directory), level_of(name)
    address = address if output.token is None else address.with_token(output.token)
    if not number:
        return address
    if not store_class(address.scheme).abilities.levels:
        raise PlanError(
            f"outputs.{level_of(name)[0]}.pyramid: {address.scheme} volumes keep one level only; use OME-Zarr, N5 or "
            "precomputed, or leave pyramid out"
        )
    return address.with_options(level=str(address.count("level") + number))


def _existing(config: Config, name: str, address: Address, info: ArrayInfo, region: Box) -> Target:
    try:
        volume = open_volume(address)
    except NotFound as error:
        raise PlanError(f"outputs.{name}: {error.message}; create: false needs a volume that is there") from error
    if not volume.domain.contains(region):
        raise PlanError(
            f"outputs.{name}: {address.url} holds {volume.domain.describe(volume.axes)}, the result is "
            f"{region.describe(info.axes)}; choose a region inside it, or another url with create: true"
        )
    if volume.dtype != info.dtype:
        raise PlanError(
            f"outputs.{name}: {address.url} is {volume.dtype}, the result is {info.dtype}; set dtype: {volume.dtype} for "
            "this output, or choose another url"
        )
    follows = volume.makes_levels(volume.dtype, volume.kind)
    if (
        volume.levels > 1
        and not follows
        and not config.outputs[level_of(name)[0]].pyramid
        and not address.option("level")
    ):
        raise PlanError(
            f"outputs.{name}: {address.url} has {volume.levels} levels; writing one would leave the others as they were. "
            "Give it pyramid: to make them again, name the one you mean with ?level=, or write to a new volume"
        )
    if volume.abilities.merges:
        raise PlanError(
            f"outputs.{name}: {address.url} is there already, and {volume.scheme} keeps old voxels where zeros are written; "
            "use create: true with a new name, or ndbatch rm it first"
        )
    if not volume.abilities.concurrent:
        raise PlanError(
            f"outputs.{name}: parts of an existing {address.scheme} file cannot be replaced; use create: true"
        )
    return Target(name, address, volume.spec, create=False)


def _along(sizes: Mapping[str, int] | None, info: ArrayInfo, where: str) -> Shape | None:
    """Return named extents as a shape; axes not named take the whole axis' default from `default_chunks`."""
    if sizes is None:
        return None
    unknown = [axis for axis in sizes if axis not in info.axes]
    if unknown:
        raise ConfigError(f"{where}: axis {unknown[0]!r} is not one of {', '.join(info.axes)}")
    default = default_chunks(info.domain.shape, info.dtype, info.axes)
    return tuple(sizes.get(axis, n) for axis, n in zip(info.axes, default, strict=True))


def _within(blocks: Mapping[Any, int] | str, info: ArrayInfo, default: Shape) -> Shape | None:
    """Return chunks that blocks of the user's own shape are whole numbers of, as near the default as can be; or None."""
    if isinstance(blocks, str):
        return None
    result = []
    for axis, chunk, scale in zip(info.axes, default, info.scales, strict=True):
        block = max(1, blocks[axis] // scale) if axis in blocks else chunk
        parts = -(-block // chunk)
        result.append(block // parts if block % parts == 0 else block)
    return tuple(result)


def _spec(info: ArrayInfo, region: Box, chunks: Shape, shards: Shape | None, kind: Kind, name: str) -> ArraySpec:
    for axis, shard, chunk in zip(info.axes, shards or chunks, chunks, strict=True):
        if shard % chunk:
            raise PlanError(
                f"outputs.{name}.shards: {axis}: {shard} is not a whole number of chunks of {axis}: {chunk}; set chunks too, or "
                f"shards: {{{axis}: {-(-shard // chunk) * chunk}}}"
            )
    return ArraySpec(
        shape=region.shape,
        dtype=info.dtype,
        axes=info.axes,
        chunks=chunks,
        shards=shards,
        offset=region.start,
        voxel_size=info.voxel_size,
        kind=kind,
    )


def _default_chunks(shape: Shape, info: ArrayInfo, window: Shape) -> Shape:
    """Return the default chunks of an array; smaller ones where each voxel is made of a large `window` of them."""
    chunks = list(default_chunks(shape, info.dtype, info.axes))
    while math.prod(chunks) * math.prod(window) > LARGEST_WINDOW and max(chunks) > 1:
        largest = chunks.index(max(chunks))
        chunks[largest] = -(-chunks[largest] // 2)
    return tuple(chunks)


def output_dtypes(config: Config, products: Mapping[str, str]) -> dict[str, np.dtype[Any]]:
    """Return the dtypes asked for, by role. ConfigError for what numpy does not know."""
    result: dict[str, np.dtype[Any]] = {}
    for role, name in products.items():
        output = config.outputs.get(name)
        if output is None or output.dtype is None:
            continue
        try:
            result[role] = np.dtype(output.dtype)
        except TypeError:
            raise ConfigError(
                f"outputs.{name}.dtype: {output.dtype!r} is not a type of voxel; use uint8, uint16, uint32, uint64, float32 ..."
            ) from None
    return result


def write_unit(targets: Mapping[str, tuple[Target, Shape]], windows: Shape, region: Box) -> tuple[Shape, Shape]:
    """Return the unit that blocks must be whole numbers of, and the voxel it is counted from.

    Each target comes with the voxels of a block to one of its own, along each axis. `windows` are the voxels that are pooled
    into one by any step, counted from absolute 0. Raises PlanError where targets cannot agree.
    """
    origin = tuple(a // w * w for a, w in zip(region.start, windows, strict=True))
    free = {name for name, (t, by) in targets.items() if t.create and t.spec.anchor is None and math.prod(by) == 1}
    fixed = [entry for name, entry in targets.items() if name not in free]
    anchor = ""
    if fixed:
        first, by = max(fixed, key=lambda entry: math.prod(entry[1]))
        origin, anchor = times(first.spec.origin, by), f" with those of {first.address.url}"
    whole = tuple(_cover(region, origin, i) for i in range(region.ndim))
    units = [tuple(min(w, cover) for w, cover in zip(windows, whole, strict=True))]
    # Along an axis that one window or chunk must hold all of, one block holds all of every target, wherever its chunks begin.
    single = [w >= cover for w, cover in zip(windows, whole, strict=True)]
    for target, by in targets.values():
        held = times(target.spec.write_unit, by)
        single = [known or u >= cover for known, u, cover in zip(single, held, whole, strict=True)]
    for target, by in targets.values():
        spec = target.spec
        unit, offset = times(spec.write_unit, by), times(spec.origin, by)
        apart = [0 if one else (a - o) % u for one, a, o, u in zip(single, offset, origin, unit, strict=True)]
        if any(apart):
            legal = tuple(r - d for r, d in zip(region.start, apart, strict=True))
            raise PlanError(
                f"the chunks of {target.address.url} do not line up{anchor}; start the region at "
                + ", ".join(f"{n}: {v}" for n, v in zip(spec.axes, legal, strict=True))
            )
        # A chunk or shard larger than the region is written by one block whatever its extent.
        units.append(tuple(min(u, cover) for u, cover in zip(unit, whole, strict=True)))
    # A block that covers the region need not be a whole number of anything.
    return tuple(min(n, cover) for n, cover in zip(common_multiple(units), whole, strict=True)), origin


def _cover(region: Box, origin: Shape, axis: int) -> int:
    """Return the extent along `axis` from the origin's grid to the end of the region: nothing larger is ever needed."""
    return max(1, region.stop[axis] - min(region.start[axis], origin[axis]))


def require_free(targets: Mapping[str, Target], tables: Mapping[str, TableTarget]) -> None:
    """Raise PlanError where something is already at an address that the run would create."""
    for target in targets.values():
        if target.create and target.kept and store_class(target.address.scheme).exists(target.address):
            raise PlanError(
                f"outputs.{target.name}: {target.address.url} exists already{_difference(target)}; remove it, choose another "
                "url, or say create: false to replace its voxels",
                name=target.name,
            )
    for table in tables.values():
        if table.path.exists():
            raise PlanError(f"outputs.{table.name}: {table.path} exists already; remove it or choose another url")
        if table.objects is not None:
            require_no_objects(table.name, table.objects, targets)


def require_writable(directory: Path, targets: Mapping[str, Target], tables: Mapping[str, TableTarget]) -> None:
    """Raise PlanError or Denied where the run directory or an output could not be written, before any work is done for it."""
    places = {"directory": directory}
    places |= {f"outputs.{name}": table.path for name, table in tables.items()}
    places |= {f"outputs.{name}": t.objects.file for name, t in tables.items() if t.objects and t.objects.file}
    for name, target in targets.items():
        if target.kept and target.address.place == "file" in store_class(target.address.scheme).abilities.places:
            places[f"outputs.{name}"] = Path(target.address.path)
    for what, path in places.items():
        there = next(p for p in (path, *path.parents) if p.exists())
        if there != path and not there.is_dir():
            raise PlanError(
                f"{what}: {path} cannot be made, because {there} is a file, not a folder; choose another place"
            )
        if not os.access(there, os.W_OK):
            raise Denied(
                f"{what}: {there} cannot be written to: no permission, or a read-only file system; mend that, or choose "
                "another place",
                path=str(there),
            )


def _difference(target: Target) -> str:
    try:
        there = open_volume(target.address).spec
    except Exception:
        return " and is not a volume"
    if there.shape != target.spec.shape:
        return f" with shape {there.shape} where {target.spec.shape} is due"
    return f" with dtype {there.dtype} where {target.spec.dtype} is due" if there.dtype != target.spec.dtype else ""


def with_dtype(info: ArrayInfo, dtype: np.dtype[Any] | None) -> ArrayInfo:
    """Return `info` with another dtype, or as it is."""
    return info if dtype is None or dtype == info.dtype else replace(info, dtype=dtype)

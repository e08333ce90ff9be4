"""`map_blocks`: a function over the blocks of volumes, from Python, with all that a run has: journal, resume, executors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ndbatch import events
from ndbatch.config.load import from_mapping
from ndbatch.errors import ConfigError
from ndbatch.importing import about_to_act
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.views.view import View
from ndbatch.runner import Result, run
from ndbatch.steps.function.step import Function
from ndbatch.units import Length

NAMES = {"output": "result", "table": "table"}
"""What the products are called in the run's configuration, by their role."""


def map_blocks(
    function: Callable[..., Any] | str,
    inputs: Mapping[str, Volume | str] | Volume | str,
    output: Volume | str | None = None,
    *,
    table: str | Path | None = None,
    halo: Length | Mapping[str, Length] = 0,
    dtype: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    patches: Mapping[str, Any] | None = None,
    region: Mapping[str, tuple[Length, Length]] | None = None,
    blocks: Mapping[str, int] | str = "auto",
    cluster: str | Mapping[str, Any] = "processes",
    retry: Mapping[str, Any] | None = None,
    time_limit: Length | None = None,
    name: str | None = None,
    directory: str | Path | None = None,
    fresh: bool = False,
    observers: Sequence[events.Observer] = (),
) -> Result:
    """Call `function` on every block of `inputs` and keep what it returns; the same command goes on where it stopped.

    The function gets one array for each input, by its name (C-order, the volumes' axes, the block with `halo` voxels of
    context, clipped at the volume's edges), then `parameters` by name, and `block` if it has such a parameter. It returns
    an array of the shape it got (or of the block's core), rows of a table (a mapping of columns, a list of mappings, a
    data frame), or both as a pair. `output` is a volume from `create`, or an address where one is made; `table` a path
    that ends in .parquet or .csv. Relative ones are taken from the current folder.

    `patches` has the keys `patch`, `overlap`, `batch` and `setup` of the YAML. `cluster` is inline, threads, processes, dask,
    or a mapping as in the YAML. Raises NdbatchError before the first block; failed blocks are counted in the Result.
    """
    about_to_act("starts a run")
    volumes = dict(inputs) if isinstance(inputs, Mapping) else {"image": inputs}
    made = {"output": output, "table": table}
    own = {"halo": halo, "dtype": dtype, "parameters": dict(parameters or {}), **(patches or {})}
    step = _step(function, volumes, made, **own)
    document = {
        "name": name or step.title,
        "inputs": {role: entry_of(volume) for role, volume in volumes.items()},
        "region": dict(region) if region else None,
        "steps": (step,),
        "outputs": {NAMES[role]: _output(role, place, dtype) for role, place in made.items() if place is not None},
        "blocks": blocks if isinstance(blocks, str) else dict(blocks),
        "cluster": {"kind": cluster} if isinstance(cluster, str) else dict(cluster),
        "retry": dict(retry or {}),
        "time_limit": time_limit,
        "directory": None if directory is None else str(directory),
    }
    return run(from_mapping(document, Path.cwd()), fresh=fresh, observers=observers)


def _step(
    function: Callable[..., Any] | str, volumes: Mapping[str, Any], made: Mapping[str, Any], **own: Any
) -> Function:
    """Return the step that calls `function` on all volumes by their names."""
    if all(place is None for place in made.values()):
        raise ConfigError("map_blocks: give output= (a volume or its address), table= (a path), or both")
    names = {role: None if place is None else NAMES[role] for role, place in made.items()}
    return Function.of(function, inputs={role: role for role in volumes}, **names, **own)


def entry_of(volume: Volume | str) -> dict[str, Any]:
    """Return the configuration entry of an input: the address, with what the file of a volume does not know itself.

    ConfigError for a view whose facts were replaced, which no address tells.
    """
    if isinstance(volume, str):
        return {"url": volume}
    if isinstance(volume, View):
        if volume.overridden:
            raise ConfigError(f"{volume.url} is a view whose facts were replaced; give them to ndbatch.open instead")
        return {**entry_of(volume.origin), "url": volume.url}
    spec = volume.spec
    entry: dict[str, Any] = {"url": volume.url, "axes": spec.axes, "kind": str(spec.kind)}
    entry |= {"offset": dict(zip(spec.axes, spec.offset, strict=True))}
    if spec.voxel_size is not None:
        entry |= {"voxel_size": {a: f"{s!r} um" for a, s in zip(spec.axes, spec.voxel_size, strict=True)}}
    return entry


def _output(role: str, place: Volume | str | Path, dtype: str | None) -> dict[str, Any]:
    """Return the configuration entry of the table, of a volume that is there, or of one to be made."""
    if role == "table":
        return {"url": str(Path(str(place)).absolute())}
    if isinstance(place, Volume):
        return {"url": place.url, "create": False, "dtype": place.dtype.name, "kind": str(place.kind)}
    return {"url": parse(str(place), Path.cwd()).url, "dtype": dtype}

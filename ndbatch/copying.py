"""`copy`: one volume to another place, format or shape, through the same engine as any run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ndbatch import events
from ndbatch.config.load import from_mapping
from ndbatch.config.model import Config
from ndbatch.errors import ConfigError
from ndbatch.importing import about_to_act
from ndbatch.mapping import entry_of
from ndbatch.remotes import api
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import Volume
from ndbatch.runner import Result, run

Levels = int | Literal["auto"]
"""How many coarser levels to make; auto goes on until no axis of z, y, x is longer than 128 voxels."""


def copy(
    source: Volume | str | Path,
    target: str | Path,
    *,
    dtype: str | None = None,
    kind: str | None = None,
    chunks: Mapping[str, int] | None = None,
    shards: Mapping[str, int] | None = None,
    levels: Levels | None = None,
    offset: Mapping[str, int] | None = None,
    skip: Literal["empty", "identical"] | None = None,
    update: bool = False,
    cluster: str | Mapping[str, Any] = "processes",
    directory: str | Path | None = None,
    fresh: bool = False,
    observers: Sequence[events.Observer] = (),
    **view: Any,
) -> Result:
    """Copy a volume to `target`, which is created; the same call goes on where it stopped. As `ndbatch copy` does.

    `dtype`, `kind`, `chunks` and `shards` (voxels by axis name) are those of the copy, the source's own or the format's if
    not given; `levels` makes coarser levels too; `offset` is the position of the copy's first voxel; `skip` leaves out blocks
    of zeros, or those that the target holds already; `update` replaces the voxels of a volume that is there. `view` are the
    parameters of `ndbatch.open`: `level`, `t`, `c`, `crop`, `transpose`, `flip`, `pad`, `resample` ... Relative paths are taken
    from the current folder; the run directory is runs/copy-NAME there. Raises NdbatchError before the first block.
    """
    about_to_act("starts a run")
    if isinstance(view.get("flip"), str):  # open takes "z,y" too; a configuration has a list
        view["flip"] = [axis.strip() for axis in view["flip"].split(",")]
    made = {"dtype": dtype, "kind": kind, "chunks": chunks, "shards": shards, "pyramid": levels, "create": not update}
    config = copy_config(source, target, view, made, offset=offset, skip=skip, cluster=cluster, directory=directory)
    return run(config, fresh=fresh, observers=observers)


def copy_config(
    source: Volume | str | Path,
    target: str | Path,
    seen: Mapping[str, Any],
    made: Mapping[str, Any],
    *,
    offset: Mapping[str, int] | None = None,
    skip: str | None = None,
    cluster: str | Mapping[str, Any] = "processes",
    directory: str | Path | None = None,
    verb: str = "copy",
) -> Config:
    """Return the configuration of a copy: `seen` are the keys of the input beside its url, `made` those of the output.

    What is None is left out. `offset` is the position of the copy's first voxel along named axes. Addresses become absolute,
    so that the record of the run can be run again from anywhere. Raises ConfigError, PlanError or RemoteError; reads no voxel.
    """
    entry = {**source_entry(source), **given(seen)}
    if offset:
        if "resample" in entry:
            raise ConfigError("--offset and --resample do not go together; resample first, then copy with --offset")
        volume = api.open(entry)
        moved = {
            axis: at - volume.offset[volume.axes.index(axis)] for axis, at in offset.items() if axis in volume.axes
        }
        if len(moved) < len(offset):
            raise ConfigError(f"--offset names an axis that {source} lacks; its axes are {', '.join(volume.axes)}")
        entry["translate"] = moved
    address = parse(str(target), Path.cwd())
    return from_mapping(
        {
            "name": run_name(verb, address),
            "inputs": {"source": entry},
            "steps": [{"copy": {"input": "source", "output": "copy", **given({"skip": skip})}}],
            "outputs": {"copy": {"url": address.url, **given(made)}},
            "cluster": {"kind": cluster} if isinstance(cluster, str) else dict(cluster),
            "directory": run_place(directory, run_name(verb, address)),
        },
        Path.cwd(),
    )


def source_entry(source: Volume | str | Path) -> dict[str, Any]:
    """Return the configuration entry of a volume or its address, which becomes absolute."""
    entry = entry_of(source if isinstance(source, Volume) else str(source))
    return {**entry, "url": parse(entry["url"], Path.cwd()).url}


def run_name(verb: str, address: Address) -> str:
    """Return the name of a run: the verb, the volume's name, and a few digits that tell volumes of one name apart."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(address.inside or address.path).name.partition(".")[0]).strip("-")
    return f"{verb}-{stem or 'volume'}-{hashlib.sha256(address.url.encode()).hexdigest()[:6]}"


def run_place(directory: str | Path | None, name: str) -> str:
    """Return the run directory, runs/`name` in the current folder if none is given."""
    return str((Path.cwd() / (directory or Path("runs") / name)).resolve())


def given(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries without those that are None."""
    return {name: value for name, value in entries.items() if value is not None}

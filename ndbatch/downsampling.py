"""`downsample`: the coarser levels of a volume that is there, or of a copy of it.

The levels of one volume are added by one run after another, each in a directory named after the first level that it
makes. A run that did not end has levels that are there and not whole, so the next call goes on with that run, or is
refused where it asks for something else; only below whole levels are further ones made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ndbatch import events
from ndbatch.config.load import from_mapping, load
from ndbatch.config.model import Config
from ndbatch.copying import Levels, copy_config, given, run_name, run_place
from ndbatch.errors import PlanError
from ndbatch.importing import about_to_act
from ndbatch.journal import Journal
from ndbatch.plan.binding import SMALLEST_LEVEL, small_enough
from ndbatch.remotes import api
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.connecting import recognised
from ndbatch.remotes.registry import store_class
from ndbatch.remotes.views.options import split
from ndbatch.runner import Result, run

Method = Literal["auto", "mean", "mode", "median", "min", "max", "stride"]
MADE = "coarser"
"""The name of the first level that is made, in the configuration."""


def downsample(
    source: Volume | str | Path,
    output: str | Path | None = None,
    *,
    levels: Levels = "auto",
    factors: Mapping[str, int] | None = None,
    method: Method = "auto",
    cluster: str | Mapping[str, Any] = "processes",
    directory: str | Path | None = None,
    fresh: bool = False,
    observers: Sequence[events.Observer] = (),
) -> Result:
    """Add coarser levels to a volume, or write a copy of it that has them to `output`. As `ndbatch downsample` does.

    `levels` is how many to make; auto goes on until no axis of z, y, x is longer than 128 voxels. `factors` are voxels
    to one of the next level along each named axis; if not given, z, y and x are halved, the axes of short voxels first.
    `method` is auto (mode for labels, mean for the others), mean, mode, median, min, max or stride. The same call goes on
    where it stopped. Raises NdbatchError before the first block; PlanError for a format without levels.
    """
    about_to_act("starts a run")
    wanted = {"levels": levels, "factors": factors, "method": method}
    config = downsample_config(source, output, wanted, cluster=cluster, directory=directory, fresh=fresh)
    return run(config, fresh=fresh, observers=observers)


def downsample_config(
    source: Volume | str | Path,
    output: str | Path | None,
    wanted: Mapping[str, Any],
    *,
    cluster: str | Mapping[str, Any] = "processes",
    directory: str | Path | None = None,
    fresh: bool = False,
) -> Config:
    """Return the configuration that makes the levels: `wanted` are the keys of `outputs.NAME.pyramid`, what is None left out.

    With `fresh`, levels that an earlier run made are to be made again. Raises ConfigError, PlanError or RemoteError; reads
    no voxel.
    """
    asked = given({**wanted, "factors": dict(wanted["factors"]) if wanted.get("factors") else None})
    if output is not None:
        made = {"pyramid": asked}
        return copy_config(source, output, {}, made, cluster=cluster, directory=directory, verb="downsample")
    address = _stored(parse(source.url if isinstance(source, Volume) else str(source), Path.cwd()))
    levels = api.open(address.url).levels
    name = run_name("downsample", address)
    begun = _begun(directory, name)
    if begun is not None:
        first, place = begun
        recorded = load(place / "config.yaml")
        create = levels <= first if fresh else recorded.outputs[MADE].create
        if fresh and not create:  # every level below must follow from the new ones: as many are made as there are
            asked["levels"] = max(levels - first, 0 if asked["levels"] == "auto" else asked["levels"])
        config = _config(address, first, asked, create, cluster, directory or place)
        if fresh or _unfinished(place) or (config.steps, config.outputs) == (recorded.steps, recorded.outputs):
            return config
    _require_large(address, levels, asked)
    return _config(address, levels, asked, True, cluster, directory or Path("runs") / f"{name}-level{levels}")


def remade_config(
    url: str, wanted: Mapping[str, Any], *, cluster: str | Mapping[str, Any], directory: str | Path
) -> Config:
    """Return the configuration that makes all coarser levels that a volume has anew, because its voxels changed.

    `wanted` are the keys of `outputs.NAME.pyramid`; `levels` is the number of coarser levels that are there. Run it with `fresh`.
    """
    return _config(_stored(parse(url, Path.cwd())), 1, wanted, False, cluster, directory)


def _config(
    address: Address,
    first: int,
    asked: Mapping[str, Any],
    create: bool,
    cluster: str | Mapping[str, Any],
    directory: str | Path,
) -> Config:
    """Return the configuration that makes the level `first` of the volume at `address`, and those below it."""
    source, target = _level(address, first - 1), _level(address, first)
    volume = api.open(source.url)
    number = asked["levels"]
    rest = number if number == "auto" else number - 1
    keys = {key: asked[key] for key in ("factors", "method") if key in asked}
    stored = {"chunks": volume.chunks, "shards": volume.spec.shards}
    made: dict[str, Any] = {name: dict(zip(volume.axes, n, strict=True)) for name, n in stored.items() if n is not None}
    made |= {"url": target.url, "create": create, "pyramid": {**keys, "levels": rest} if rest else None}
    return from_mapping(
        {
            "name": f"{run_name('downsample', address)}-level{first}",
            "inputs": {"source": source.url},
            "steps": [{"downsample": {"input": "source", "output": MADE, **keys}}],
            "outputs": {MADE: given(made)},
            "cluster": {"kind": cluster} if isinstance(cluster, str) else dict(cluster),
            "directory": run_place(directory, ""),
        },
        Path.cwd(),
    )


def _stored(address: Address) -> Address:
    """Return the address of a whole volume. PlanError for one level, a view, and formats without levels."""
    stored, seen = split(recognised(address))
    if seen or stored.option("level"):
        what = next(iter(seen), "level")
        raise PlanError(
            f"{address.url}: levels are added to a whole volume; leave {what} out, or give --output with a new volume"
        )
    if not store_class(stored.scheme).abilities.levels:
        raise PlanError(
            f"{stored.url}: {stored.scheme} volumes keep one level only; give --output with a volume that keeps more, such as "
            f"{Path(stored.path).name.partition('.')[0]}.zarr"
        )
    return stored


def _level(address: Address, number: int) -> Address:
    return address.with_options(level=str(number)) if number else address


def _begun(directory: str | Path | None, name: str) -> tuple[int, Path] | None:
    """Return the first level that the last run on this volume makes, and its directory; None where there was no run."""
    places = [Path(directory)] if directory is not None else sorted(Path("runs").glob(f"{name}-level*"))
    found = []
    for place in places:
        if Journal.exists(place) and (place / "config.yaml").exists():
            outputs = load(place / "config.yaml").outputs
            if MADE in outputs:
                found.append((parse(outputs[MADE].url).count("level"), place))
    return max(found, default=None)


def _unfinished(place: Path) -> bool:
    with Journal.read(place) as journal:
        return journal.status != "done"


def _require_large(address: Address, levels: int, asked: Mapping[str, Any]) -> None:
    """Raise PlanError where `auto` has nothing to add."""
    volume = api.open(_level(address, levels - 1).url)
    if asked["levels"] == "auto" and small_enough(volume.shape, volume.axes, asked.get("factors", "auto")):
        raise PlanError(
            f"{address.url}: its {levels} level{'s are' if levels > 1 else ' is'} enough, no axis of the coarsest is longer than "
            f"{SMALLEST_LEVEL} voxels; --levels 1 makes one more all the same"
        )

"""The ingest itself: each volume created, uploaded block by block, read back and compared, and its levels made.

Uploading is a run like any other: the same call goes on where it stopped, and a block counts only when it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ndbatch import events
from ndbatch.copying import copy_config
from ndbatch.errors import PlanError
from ndbatch.importing import about_to_act
from ndbatch.ingest.look import Found, look
from ndbatch.ingest.settings import Ask, Settings, asked, fitting_dtype, kind_of, proposed
from ndbatch.remotes import api
from ndbatch.remotes.abilities import Abilities
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.connecting import connect
from ndbatch.remotes.registry import remote_class, store_class
from ndbatch.runner import Result, run
from ndbatch.verify import CheckReport, check

Told = Callable[[str], None]
"""Is told what happens, a sentence at a time."""


@dataclass(frozen=True)
class Ingested:
    """One volume in its new place."""

    url: str
    found: Found
    settings: Settings
    result: Result
    checked: CheckReport | None
    """What reading back found; None where the upload did not end."""
    levels: int
    """Levels that are there, level 0 included."""

    @property
    def ok(self) -> bool:
        """Whether every block was stored and read back as it was sent."""
        return self.result.exit_code == 0 and self.checked is not None and self.checked.ok

    def document(self) -> dict[str, Any]:
        """Return what came of it as JSON types."""
        return {
            "url": self.url,
            "found": self.found.document(),
            "settings": self.settings.document(),
            "status": self.result.status,
            "blocks": self.result.counts.planned,
            "verified_blocks": self.checked.blocks if self.checked else 0,
            "mismatches": len(self.checked.mismatches) if self.checked else 0,
            "levels": self.levels,
        }


def ingest(
    source: str | Path,
    target: str,
    *,
    axes: str | None = None,
    ask: Ask | None = None,
    tell: Told = lambda sentence: None,
    cluster: str | Mapping[str, Any] = "processes",
    directory: str | Path | None = None,
    fresh: bool = False,
    observers: Sequence[events.Observer] = (),
    **told: Any,
) -> list[Ingested]:
    """Put the volumes of a file into a service (or any format), and return what came of each.

    `target` is the address of the new volume, or of the place that it goes into (`ndstore://host/token`,
    `boss://host/collection/experiment`, `dvid://host/uuid` or `dvid://host/alias`, a folder), where the volume's own name is
    added. `told` are fields of `Settings`: channel, kind, dtype, offset, voxel_size, levels, options; the rest follows from
    the file, or is asked for with `ask`. The same call goes on where it stopped. Raises NdbatchError before the first block;
    PlanError where something is not known and nobody can be asked.
    """
    about_to_act("starts a run")
    volumes = look(source, {"axes": axes} if axes else {})
    if len(volumes) > 1 and ("channel" in told or directory is not None):
        raise PlanError(
            f"{source} holds {len(volumes)} volumes ({', '.join(one.volume.url for one in volumes)}); name one of them where "
            "it is to have a name or a directory of its own"
        )
    done = []
    for found in volumes:
        tell(sentence(found))
        scheme = parse(target, Path.cwd(), folder=True).scheme or "zarr"
        wanted = _settled(found, store_class(scheme).abilities, told, ask)
        address = destination(target, wanted.channel).with_options(**wanted.options)
        config = copy_config(
            found.volume,
            address.url,
            {"voxel_size": dict(wanted.voxel_size), **({"axes": found.volume.axes} if _retold(found) else {})},
            _made(address, wanted, found.volume),
            offset=dict(wanted.offset),
            cluster=cluster,
            directory=directory,
            verb="ingest",
        )
        result = run(config, fresh=fresh, observers=observers)
        checked = check(result.directory) if result.exit_code == 0 else None
        levels = api.open(address).levels if checked is not None else 1
        done.append(Ingested(address.url, found, wanted, result, checked, levels))
    return done


def _settled(found: Found, abilities: Abilities, told: Mapping[str, Any], ask: Ask | None) -> Settings:
    """Return the settings of one volume; its type follows from its kind also where that is told, or answered."""
    if told.get("kind"):
        found = replace(found, kind=kind_of(str(told["kind"])))
        told = {**told, "kind": found.kind}
    wanted = asked(proposed(found, abilities), told, ask)
    if wanted.kind is found.kind or told.get("dtype"):
        return wanted
    return replace(wanted, dtype=fitting_dtype(replace(found, kind=wanted.kind), abilities))


def destination(target: str, channel: str) -> Address:
    """Return the address of the new volume: `target` itself, or `channel` in the remote or folder that it names.

    A repository of DVID that is named by its alias is made where it is missing.
    """
    address = parse(target, Path.cwd(), folder=True)
    service = remote_class(address.scheme)
    if service is not None:
        return service(address).destination(channel)
    if not address.scheme:
        return connect(target).locate(f"{channel}.zarr")
    return address


def sentence(found: Found) -> str:
    """Return what was found, in one sentence."""
    volume = found.volume
    shape = ", ".join(f"{axis} {n}" for axis, n in zip(volume.axes, volume.shape, strict=True))
    low, high = found.window
    seen = f"values {low:g} to {high:g}" + ("" if found.exact else " where it was looked at")
    times = f", {found.times} time points" if found.times > 1 else ""
    return f"{found.volume.url}: {found.kind} {found.name}, {volume.dtype}, {shape}, {seen}{times}"


def _retold(found: Found) -> bool:
    """Return whether the axes of a volume are not those it would have by itself."""
    return api.open(found.volume.address).axes != found.volume.axes


def _made(address: Address, wanted: Settings, source: Volume) -> dict[str, Any]:
    made: dict[str, Any] = {"kind": str(wanted.kind), "create": True}
    if wanted.dtype != source.dtype.name:
        made["dtype"] = wanted.dtype
    abilities = store_class(address.scheme).abilities
    if wanted.levels and (abilities.levels or abilities.propagates):
        made["pyramid"] = wanted.levels
    return made

"""Before the first block: the volumes that a run writes are created, or opened again when it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndbatch.errors import NdbatchError, PlanError
from ndbatch.journal import Journal
from ndbatch.plan.model import Plan, Target, entry_address
from ndbatch.plan.program import level_of
from ndbatch.plan.targets import require_free
from ndbatch.remotes.base import Volume
from ndbatch.remotes.registry import create_volume, open_volume, store_class


def open_targets(plan: Plan, journal: Journal) -> dict[str, Volume]:
    """Return every volume the run writes, by name, created where it does not exist. Only the driver does this.

    Raises PlanError where a volume is gone, or has changed its shape, that blocks were already written to.
    """
    return {
        name: _open(target, plan, journal)
        for name, target in plan.targets.items()
        if target.kept or _is_needed(target, plan, journal)
    }


def _is_needed(target: Target, plan: Plan, journal: Journal) -> bool:
    """Return whether blocks are left that read or write an array stored on the way; it goes with the run's end."""
    users = [s for s in plan.stages if target.name in (*s.stores, *(load.name for load in s.loads))]
    return any(len(journal.done(stage.index)) < len(plan.blocks(stage)) for stage in users)


def _open(target: Target, plan: Plan, journal: Journal) -> Volume:
    address = target.address if journal.get(f"written:{target.name}") else target.working
    if not target.create or store_class(address.scheme).exists(address):
        volume = open_volume(address)
        if (volume.shape, volume.dtype, volume.offset) != (target.spec.shape, target.spec.dtype, target.spec.offset):
            raise PlanError(
                f"outputs.{target.name}: {volume.url} is now {volume.dtype} {volume.shape}, the run was begun with "
                f"{target.spec.dtype} {target.spec.shape}; start over with --fresh"
            )
        return volume
    done = sum(len(journal.done(stage.index)) for stage in plan.stages if target.name in stage.stores)
    if done:
        raise PlanError(
            f"outputs.{target.name}: {address.url} is gone, but the journal says that {done} of its blocks are done; do them "
            f"again with: ndbatch retry {plan.directory} --damaged, or start over with --fresh"
        )
    Path(address.path).parent.mkdir(parents=True, exist_ok=True) if Path(address.path).is_absolute() else None
    volume = create_volume(address, target.spec)
    if volume.abilities.attributes and not address.option("level"):
        volume.set_attributes({"run": plan.config.name, "fingerprint": plan.fingerprint, "complete": False})
    return volume


def start_over(plan: Plan) -> None:
    """Remove the journal of an earlier run and everything that it created, so that the run begins anew (`--fresh`).

    Raises JournalError while another driver holds the run directory, and PlanError where something that the earlier run did
    not create is in the way; then nothing is removed.
    """
    directory = plan.directory
    before = _created_before(directory, plan) if Journal.begun(directory) else {}
    going, outputs = {entry["url"] for entry in before.values()}, plan.document()["outputs"]
    stays = {name for name, entry in outputs.items() if entry["url"] not in going}
    require_free(
        {name: target for name, target in plan.targets.items() if level_of(name)[0] in stays},
        {name: table for name, table in plan.tables.items() if name in stays},
    )

    def remove() -> None:
        for entry in before.values():
            _remove(entry, directory)
        for folder in ("scratch", "staging"):
            shutil.rmtree(directory / folder, ignore_errors=True)

    if directory.is_dir():
        Journal.discard(directory, first=remove)


def _created_before(directory: Path, plan: Plan) -> Mapping[str, Any]:
    """Return the outputs that the earlier run created; where its journal is damaged or lost its plan, those of this plan
    that lie inside the run directory."""
    try:
        with Journal.read(directory) as journal:
            known = journal.document
    except NdbatchError:
        known = {}
    if not known:
        paths = {name: table.path for name, table in plan.tables.items()}
        paths |= {name: Path(target.address.path) for name, target in plan.targets.items()}
        ours = {n: e for n, e in plan.document()["outputs"].items() if paths[n].is_relative_to(directory)}
        return {name: entry for name, entry in ours.items() if entry["created"]}
    return {name: entry for name, entry in known["outputs"].items() if entry["created"]}


def _remove(entry: Mapping[str, Any], directory: Path) -> None:
    if entry["type"] == "table":
        Path(entry["url"]).unlink(missing_ok=True)
        if "objects" in entry and "://" not in entry["objects"]:
            Path(entry["objects"]).unlink(missing_ok=True)
        return  # objects of a channel stay: to delete them is to erase their voxels, which may be the run's input
    address = entry_address(entry, directory)
    if not address.option("level"):  # the levels of a volume go with it
        store_class(address.scheme).delete(address)

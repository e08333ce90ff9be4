"""Taking back what is damaged, so that the run does it again: those blocks, and what they need that is no longer there.

Everything is read from the plan in the journal. Volumes beside the run are made first; then one transaction takes back
the receipts. A process that ends before it has changed nothing, one that ends after it has a run to go on with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, NdbatchError, RemoteError
from ndbatch.geometry import Box, Grid
from ndbatch.journal import Journal
from ndbatch.plan.model import entry_address
from ndbatch.plan.program import ratio
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.registry import create_volume, open_volume, store_class
from ndbatch.verify.compare import WHOLE, DamagedTable, Mismatch, compare


def take_back(
    journal: Journal,
    document: Mapping[str, Any],
    directory: Path,
    found: Sequence[Mismatch],
    tables: Sequence[DamagedTable],
) -> None:
    """Take back the receipts of the blocks `found`, and forget that `tables` were written; the next session does them.

    With them those of blocks that made what is still to be read of an array stored on the way, where that is gone.

    Raises Corrupt for a volume whose metadata are damaged, RemoteError where something could only not be read now; then
    everything stays as it was.
    """
    job = _Job(journal, document, directory)
    for mismatch in found:
        job.add(mismatch)
    unset = [f"table:{table.name}" for table in tables]
    if not journal.get("complete"):
        job.add_dependents()
    job.add_needed()
    if job.again:
        if journal.get("complete"):
            for folder in ("scratch", "staging"):
                shutil.rmtree(directory / folder, ignore_errors=True)
        job.make_volumes()
        unset += ["complete", *(f"written:{name}" for name in job.restored)]
    if job.again or unset:
        known = {"mending": _as_text(_joined(journal.mending or {}, job.again))} if job.again else {}
        journal.take_back(job.again, unset, known)


def require_mended(journal: Journal, document: Mapping[str, Any], directory: Path) -> None:
    """Raise RemoteError where blocks that were done again are still not as their receipts say; else that is over."""
    blocks = journal.mending
    if blocks is None:
        return
    left = [mismatch for _, mismatch in compare(journal, document, directory, blocks) if mismatch]
    if left:
        raise RemoteError(
            f"{directory}: {len(left)} blocks were done again and are still not as they were written, the first at "
            f"{left[0].box}: {left[0].reason}. Where a store keeps old voxels under zeros, start over with --fresh"
        )
    journal.unset("mending")


@dataclass
class _Job:
    """What is to be done again, stage by stage."""

    journal: Journal
    document: Mapping[str, Any]
    directory: Path
    again: dict[int, set[int]] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    """Outputs of single files that are written anew as a whole."""

    def __post_init__(self) -> None:
        self.outputs = {**self.document["outputs"], **self.document["levels"]}
        self.staging: dict[str, Any] = self.document.get("staging", {})
        self.stages: list[dict[str, Any]] = self.document["stages"]
        self.maker = {name: stage for stage in self.stages for name in stage["stores"]}

    def add(self, mismatch: Mismatch) -> None:
        """Add a block; all of a stage for a file that is written as a whole, or for a volume of which nothing is left."""
        if not mismatch.damage:
            raise RemoteError(f"{mismatch.reason}; nothing is taken back, try again when it can be read")
        blocks: Iterable[int] = [mismatch.block]
        if mismatch.block == WHOLE:
            if mismatch.output not in self.staging and not self._is_gone(mismatch.output):
                raise Corrupt(
                    f"{mismatch.reason}. Its voxels may be sound, so nothing is done again: bring its metadata back from a "
                    "copy, or start over with --fresh"
                )
            blocks = self.journal.done(mismatch.stage)
        self.again.setdefault(mismatch.stage, set()).update(blocks)

    def _is_gone(self, name: str) -> bool:
        """Return whether nothing is left of a volume that the run makes."""
        address = entry_address(self.outputs[name], self.directory)
        return bool(self.outputs[name]["created"]) and not store_class(address.scheme).exists(address)

    def add_dependents(self) -> None:
        """Add the blocks that may have been made of what is damaged: while a run is under way nobody knows which came first."""
        for stage in self.stages:
            done = self.journal.done(stage["index"])
            if any(self.again.get(index) and self.stages[index]["payloads"] for index in stage.get("after", ())):
                self.again.setdefault(stage["index"], set()).update(done)
            damaged = {
                n: h
                for n, h in stage.get("loads", {}).items()
                if self.again.get(self.maker.get(n, {}).get("index", -1))
            }
            for index in done if damaged else ():
                makers = ((self.maker[n]["index"], self._makers(stage, index, n, h)) for n, h in damaged.items())
                if any(block in self.again[maker] for maker, blocks in makers for block in blocks):
                    self.again.setdefault(stage["index"], set()).add(index)

    def add_needed(self) -> None:
        """Add the blocks that made what the others read of arrays that were stored on the way and are gone."""
        lost = {name for name in self.staging if name not in self.outputs and self._is_lost(name)}
        for stage in reversed(self.stages):
            reads = {name: halo for name, halo in stage.get("loads", {}).items() if name in lost}
            left = set(Ranges.upto(stage["blocks"]).minus(self.journal.done(stage["index"]))) if reads else set()
            for index in left | self.again.get(stage["index"], set()):
                for name, halo in reads.items():
                    maker = self.maker[name]
                    done = self.journal.done(maker["index"])
                    needed = {block for block in self._makers(stage, index, name, halo) if block in done}
                    self.again.setdefault(maker["index"], set()).update(needed)
        self.again = {stage: blocks for stage, blocks in self.again.items() if blocks}

    def _is_lost(self, name: str) -> bool:
        """Return whether an array stored on the way must be taken for gone: it is, or only parts of it were made again."""
        if self.journal.get("complete") or self.journal.mending is not None:
            return True
        address = entry_address(self.staging[name], self.directory)
        return not store_class(address.scheme).exists(address)

    def _makers(self, stage: Mapping[str, Any], index: int, name: str, halo: Sequence[int]) -> Iterator[int]:
        """Yield the blocks that made what block `index` of `stage` reads of `name`."""
        entry, maker = self.staging.get(name) or self.outputs[name], self.maker[name]
        core = Grid.described(stage["grid"])[index].core.coarsened(ratio(entry["scale"], stage["scale"]))
        box = core.grow(halo).intersect(Box.of_shape(tuple(entry["shape"]), tuple(entry["offset"])))
        yield from Grid.described(maker["grid"]).touching(box.refined(ratio(entry["scale"], maker["scale"])))

    def make_volumes(self) -> None:
        """Make the volumes beside the run that the blocks read and write. Of a file that is written as a whole, the sound
        blocks are brought back."""
        used = {name for stage in self.stages if stage["index"] in self.again for name in stage["stores"]}
        used |= {name for stage in self.stages if self._has_work(stage) for name in stage.get("loads", {})}
        files = {
            entry_address(self.outputs[name], self.directory).path for name in used & {*self.staging} & {*self.outputs}
        }
        for name, entry in self.staging.items():
            if name not in self.outputs and name in used and self._is_lost(name):
                _make(entry, self.directory)
            elif name in self.outputs and entry_address(self.outputs[name], self.directory).path in files:
                self._restore(name, entry)

    def _has_work(self, stage: Mapping[str, Any]) -> bool:
        return stage["index"] in self.again or len(self.journal.done(stage["index"])) < stage["blocks"]

    def _restore(self, name: str, entry: Mapping[str, Any]) -> None:
        if self.journal.get(f"written:{name}") is None:
            return
        _make(entry, self.directory)
        stage, staging = self.maker[name], open_volume(entry_address(entry, self.directory))
        sound = [b for b in self.journal.done(stage["index"]) if b not in self.again.get(stage["index"], set())]
        volume = open_volume(entry_address(self.outputs[name], self.directory)) if sound else staging
        grid, by = Grid.described(stage["grid"]), ratio(entry["scale"], stage["scale"])
        for index in sound:
            box = grid[index].core.coarsened(by)
            staging.write(box, volume.read(box))
        volume.close()
        self.restored.append(name)


def _make(entry: Mapping[str, Any], directory: Path) -> None:
    """Create the empty volume of an entry of the plan, in the place of what was left of it."""
    address = entry_address(entry, directory)
    try:
        store_class(address.scheme).delete(address)
    except NdbatchError:
        shutil.rmtree(address.path, ignore_errors=True)
    Path(address.path).parent.mkdir(parents=True, exist_ok=True)
    shape, chunks, offset = (tuple(entry[key]) for key in ("shape", "chunks", "offset"))
    shards = tuple(entry["shards"]) if entry["shards"] else None
    size = tuple(entry["voxel_size"]) if entry["voxel_size"] else None
    dtype, kind = np.dtype(entry["dtype"]), Kind(entry["kind"])
    create_volume(address, ArraySpec(shape, dtype, entry["axes"], chunks, shards, offset, size, kind))


def _joined(a: Mapping[int, Iterable[int]], b: Mapping[int, Iterable[int]]) -> dict[int, Ranges]:
    parts = {stage: [np.fromiter(blocks.get(stage, ()), np.int64) for blocks in (a, b)] for stage in {*a, *b}}
    return {stage: Ranges.of(found) for stage, found in parts.items()}


def _as_text(blocks: Mapping[int, Ranges]) -> str:
    return json.dumps({stage: found.pairs for stage, found in blocks.items()})

"""The plan: everything that is known of a run before the first voxel is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.config.model import Config
from ndbatch.config.secret import Secret
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.plan.blocks import Cost
from ndbatch.plan.program import Bound, Map, Stage, level_of
from ndbatch.plan.requests import Traffic
from ndbatch.remotes.address import Address, parse
from ndbatch.remotes.base import ArraySpec, Volume
from ndbatch.steps.base import ArrayInfo

if TYPE_CHECKING:
    from ndbatch.ramon.store import Objects


@dataclass(frozen=True)
class Target:
    """A volume that the run writes."""

    name: str
    address: Address
    """Where the user wants it."""
    spec: ArraySpec
    create: bool
    staged: Address | None = None
    """Where blocks go first, for stores that only one process can write; the driver writes the file at the end."""
    kept: bool = True
    """False for an array that is only stored on the way and removed after the run."""

    @property
    def working(self) -> Address:
        """Where blocks are written."""
        return self.staged or self.address


@dataclass(frozen=True)
class ObjectsTarget:
    """Where the rows of a table become RAMON objects."""

    url: str
    """A channel of an ndstore, or a file (absolute path)."""
    type: str
    token: Secret | None = None
    create: bool = True
    """Whether no object may be there before."""

    @property
    def file(self) -> Path | None:
        """The file; None for a channel."""
        return None if "://" in self.url else Path(self.url)

    def open(self) -> Objects:
        """Open the store of the objects."""
        from ndbatch import ramon

        return ramon.open(self.url, token=self.token)


@dataclass(frozen=True)
class TableTarget:
    """A table that the run writes when all its rows are there."""

    name: str
    path: Path
    step: int
    role: str
    stage: int
    objects: ObjectsTarget | None = None
    """Where its rows are kept as objects, too."""


@dataclass(frozen=True)
class Plan:
    """What will be done, and what it takes."""

    config: Config
    sources: Mapping[str, Volume]
    infos: Mapping[str, ArrayInfo]
    steps: tuple[Bound, ...]
    stages: tuple[Stage, ...]
    costs: tuple[Cost, ...]
    grids: Mapping[Shape, Grid]
    """Blocks, by the scale of the stages that go over them."""
    region: Box
    targets: Mapping[str, Target]
    tables: Mapping[str, TableTarget]
    workers: int
    memory_limit: int
    identity: Mapping[str, Any]
    fingerprint: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.config.run_directory

    @property
    def axes(self) -> str:
        """Axis names of every array of the run."""
        return next(iter(self.infos.values())).axes

    @property
    def grid(self) -> Grid:
        """The blocks of the run's inputs, which the first stage goes over."""
        return self.grids[(1,) * self.region.ndim]

    def blocks(self, stage: Stage) -> Grid:
        """Return the blocks that `stage` goes over, in voxels of its scale."""
        return self.grids[stage.scale]

    @property
    def tasks(self) -> int:
        """Number of blocks of all stages together."""
        return sum(len(self.blocks(stage)) for stage in self.stages)

    def requests(self, stage: Stage) -> int:
        """Return how many chunks the stage reads, those read again for context included (an estimate from an inner block)."""
        return self.traffic.chunks(stage)

    @property
    def traffic(self) -> Traffic:
        """What the run reads and writes, request by request."""
        return Traffic(self.stages, self.grids, self.infos, self.sources, self.targets)

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON: what `plan.json`, `ndbatch plan --json` and the report show."""
        stages = [
            {
                "index": stage.index,
                "name": stage.title(self.steps),
                "blocks": len(self.blocks(stage)),
                "grid": self.blocks(stage).document(),
                "scale": list(stage.scale),
                "halo": [max((load.halo[i] for load in stage.loads), default=0) for i in range(self.region.ndim)],
                "bytes_read": self.costs[stage.index].read * len(self.blocks(stage)),
                "bytes_written": self.costs[stage.index].written * len(self.blocks(stage)),
                "requests": self.requests(stage),
                "memory": self.costs[stage.index].memory,
                "what": stage.title(self.steps).split(" + "),
                "stores": list(stage.stores),
                "proves": list(self.proved(stage)),
                "loads": {load.name: list(load.halo) for load in stage.loads},
                "after": sorted(stage.after),
                "payloads": [call.key for call in stage.calls if isinstance(call, Map)],
            }
            for stage in self.stages
        ]
        info, asked = next(iter(self.infos.values())), self.traffic.asked()
        return {
            "name": self.config.name,
            "directory": str(self.directory),
            "base": str(self.config.base.resolve()),
            "fingerprint": self.fingerprint,
            "identity": dict(self.identity),
            "axes": self.axes,
            "voxel_size": list(info.voxel_size) if info.voxel_size else None,
            "region": {"start": list(self.region.start), "stop": list(self.region.stop)},
            "grid": self.grid.document(),
            "executor": {
                "kind": self.config.cluster.kind,
                "workers": self.workers,
                "memory_limit": self.memory_limit,
            },
            "inputs": {
                name: _volume_entry(volume.address, volume.url, volume.spec) for name, volume in self.sources.items()
            },
            "outputs": {**self._volume_outputs(finest=True), **self._table_outputs()},
            "levels": self._volume_outputs(finest=False),
            "staging": self._staging(),
            "stages": stages,
            **({"bucket_requests": asked.document()} if asked else {}),
            "warnings": [*self.warnings, *self.traffic.warnings()],
        }

    def proved(self, stage: Stage) -> tuple[str, ...]:
        """Return the names of the stored arrays that the checksum of a receipt of `stage` is made of, in order.

        Arrays stored on the way are gone when the run is over: beside one that is kept they are left out.
        """
        kept = tuple(name for name in stage.stores if self.targets[name].kept)
        return kept or stage.stores

    def _staging(self) -> dict[str, Any]:
        """Return the volumes beside the run: arrays stored on the way, and outputs that become one file at the end."""
        return {
            name: {
                "scale": list(self.infos[name].scales),
                "kept": target.kept,
                **_volume_entry(target.working, target.working.url, target.spec),
            }
            for name, target in self.targets.items()
            if target.staged is not None or not target.kept
        }

    def _maker(self, name: str) -> str:
        return next(step.kind for step in self.steps if name in step.products.values())

    def _volume_outputs(self, *, finest: bool) -> dict[str, Any]:
        """Return what is told of the volumes to write, or of the levels of pyramids below them."""
        return {
            name: {
                "type": "volume",
                "step": self._maker(name),
                "created": target.create,
                "scale": list(self.infos[name].scales),
                **_volume_entry(target.address, target.address.url, target.spec),
            }
            for name, target in self.targets.items()
            if target.kept and finest == (level_of(name)[1] == 0)
        }

    def _table_outputs(self) -> dict[str, Any]:
        return {
            name: {
                "type": "table",
                "step": self._maker(name),
                "created": True,
                "url": str(table.path),
                "scale": list(self.steps[table.step].frame),
                **({} if table.objects is None else {"objects": table.objects.url, "object_type": table.objects.type}),
            }
            for name, table in self.tables.items()
        }


def entry_address(entry: Mapping[str, Any], directory: Path) -> Address:
    """Return the address of an entry of the plan's document, with the reference to the secret of its service."""
    address, token = parse(str(entry["url"]), directory), entry.get("token")
    return address if token is None else address.with_token(Secret(**token))


def _volume_entry(address: Address, url: str, spec: ArraySpec) -> dict[str, Any]:
    return {
        "url": url,
        **({"token": address.token.reference()} if address.token is not None else {}),
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "kind": str(spec.kind),
        "axes": spec.axes,
        "chunks": list(spec.chunks),
        "shards": list(spec.shards) if spec.shards else None,
        "offset": list(spec.offset),
        "voxel_size": list(spec.voxel_size) if spec.voxel_size else None,
    }

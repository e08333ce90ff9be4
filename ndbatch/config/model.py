"""The YAML as strict types: unknown keys refused, values checked, one place for every setting.

Nothing here opens a volume or converts a length: that is the planner's work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from ndbatch.steps.base import Step
from ndbatch.units import Length

Auto = Literal["auto"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
Unsigned = Annotated[int, Field(ge=1)]


class Document(BaseModel):
    """A mapping of the YAML file: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _as_mapping(value: Any) -> Any:
    """Accept a bare URL where a mapping with `url` is meant."""
    return {"url": value} if isinstance(value, str) else value


class Input(Document):
    """A volume to read. What the file does not know itself can be said here."""

    url: str
    """Path or URL of the volume."""
    level: int | None = Field(None, ge=0)
    """Resolution level, 0 the finest."""
    voxel_size: dict[str, Length] | None = None
    """Length of a voxel along each named axis, such as {z: 0.29 um, y: 0.26 um, x: 0.26 um}."""
    axes: str | None = None
    """Axis names in the order they are stored, such as zyx."""
    offset: dict[str, int] | None = None
    """Absolute position of the first voxel."""
    kind: Literal["image", "labels", "probability"] | None = None
    """What the voxels mean."""


class Output(Document):
    """A volume or a table to write."""

    url: str
    """Path or URL; tables end in .parquet or .csv."""
    kind: Literal["image", "labels", "probability"] | None = None
    """What the voxels mean; the step's own word if not given."""
    dtype: str | None = None
    """Type of a voxel; the step's own if not given. Values that do not fit are refused."""
    chunks: dict[str, Unsigned] | None = None
    """Voxels of a stored chunk along each named axis."""
    shards: dict[str, Unsigned] | None = None
    """Voxels of a shard (one file of many chunks) along each named axis."""
    create: bool = True
    """Create the volume; with false it must exist already and its voxels are replaced."""


class Cluster(Document):
    """Where blocks are computed."""

    kind: Literal["inline", "threads", "processes", "dask"] = "processes"
    """inline: in this process, one after another; threads and processes: on this machine; dask: on a dask cluster."""
    workers: Unsigned | Auto = "auto"
    """Blocks computed at the same time; auto is one for each core."""
    memory: str | Auto = "auto"
    """Memory promised to each worker, such as 4 GB; auto divides 80 % of what is free."""
    address: str | None = None
    """Address of a running dask scheduler, such as tcp://host:8786; a local cluster is started if not given."""


class Retry(Document):
    """How often a block is tried again."""

    attempts: Unsigned = 4
    """Times a block is tried when reading, writing or its function fails for a reason that may pass."""
    kills: Unsigned = 2
    """Times a block may take its worker process down before it is called failed."""
    budget: float = Field(0.05, ge=0, le=1)
    """Share of the blocks (and 20 more) that may be tried again in one run before failures are final at once."""
    wait: float = Field(0.5, ge=0)
    """Seconds before the first repeat; doubled each time, with jitter."""


def _one_step(value: Any) -> Any:
    """Turn `{kind: {parameters}}` into a step; a Step passes as it is."""
    from ndbatch.config.stepform import step_of

    return step_of(value)


class Config(Document):
    """A whole run: what to read, what to do, where to write, and on what."""

    name: Name = "run"
    """Names the run and its directory."""
    inputs: dict[Name, Annotated[Input, BeforeValidator(_as_mapping)]] = Field(min_length=1)
    """Volumes to read, by a name of your choice."""
    region: dict[str, tuple[Length, Length]] | None = None
    """The part to work on: named axes, each [start, stop) in voxels or lengths; whole axes if not given."""
    steps: tuple[Annotated[SerializeAsAny[Step], BeforeValidator(_one_step)], ...] = Field(min_length=1)
    """What to do, in order; each step names its inputs and outputs."""
    outputs: dict[Name, Annotated[Output, BeforeValidator(_as_mapping)]] = Field(min_length=1)
    """What to keep: names that steps make, each with an address."""
    blocks: dict[str, Unsigned] | Auto = "auto"
    """Voxels of a block along each named axis; auto chooses by memory."""
    cluster: Cluster = Cluster()
    """Where blocks are computed."""
    retry: Retry = Retry()
    """How often a block is tried again."""
    time_limit: Length | None = None
    """Longest time for one block, seconds or text such as 5 min; none if not given."""
    directory: str | None = None
    """The run directory; runs/NAME beside the file if not given."""
    base: Path = Field(default_factory=Path.cwd, exclude=True)
    """Folder that relative paths are taken from: the configuration file's."""

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        made: set[str] = set()
        for number, step in enumerate(self.steps, 1):
            for role, name in step.sources.items():
                if name not in self.inputs and name not in made:
                    known = ", ".join([*self.inputs, *sorted(made)])
                    raise ValueError(
                        f"step {number} ({step.kind}): {role}: {name!r} is neither an input nor made before; known: {known}"
                    )
            for role, name in step.products.items():
                if name in self.inputs or name in made:
                    raise ValueError(f"step {number} ({step.kind}): {role}: the name {name!r} is taken already")
                made.add(name)
        for name in self.outputs:
            if name not in made:
                raise ValueError(f"outputs: no step makes {name!r}; the steps make: {', '.join(sorted(made))}")
        return self

    @property
    def run_directory(self) -> Path:
        """Absolute path of the run directory."""
        return (self.base / (self.directory or f"runs/{self.name}")).resolve()

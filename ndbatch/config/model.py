"""The YAML as strict types: unknown keys refused, values checked, one place for every setting.

Nothing here opens a volume or converts a length: that is the planner's work.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ndbatch.config.cluster import Cluster
from ndbatch.config.document import Auto, Document, Duration, Positive
from ndbatch.config.quantities import parse_seconds
from ndbatch.config.secret import Secret, refuse_password
from ndbatch.remotes.abilities import VOXEL_TYPES
from ndbatch.remotes.address import ENDINGS, PLACES
from ndbatch.steps.base import Step
from ndbatch.tables.writing import TABLE_ENDINGS
from ndbatch.units import Length

VoxelKind = Literal["image", "labels", "probability"]


def _one_of(words: tuple[str, ...], what: str) -> tuple[AfterValidator, WithJsonSchema]:
    """Return what makes text one of `words`: the check, with the nearest word, and the schema for editors."""

    def check(value: str) -> str:
        if value not in words:
            near = get_close_matches(value, words, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; write {', '.join(words[:-1])} or {words[-1]}"
            raise ValueError(f"{value!r} is not {what}{hint}")
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": list(words)})


AXES = ("t", "c", "z", "y", "x")
Axis = Annotated[str, *_one_of(AXES, "an axis")]
VoxelType = Annotated[str, *_one_of(VOXEL_TYPES, "a type of voxels")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]


def _as_mapping(value: Any) -> Any:
    """Accept a bare URL where a mapping with `url` is meant."""
    return {"url": value} if isinstance(value, str) else value


def _is_url(url: str) -> str:
    if not url.strip():
        raise ValueError("is empty; write a path such as image.tif or a URL such as zarr:///data/image.zarr")
    return refuse_password(url)


def _is_order(axes: str) -> str:
    if not axes or set(axes) - set("tczyx") or len(set(axes)) != len(axes):
        raise ValueError(f"{axes!r} is not an order of axes; write each of t, c, z, y, x at most once, such as zyx")
    return axes


Url = Annotated[str, AfterValidator(_is_url)]
ObjectType = Literal["generic", "synapse", "segment", "neuron", "organelle", "node", "roi"]
Span = Annotated[tuple[Length, Length], Field(strict=False)]
"""[start, stop) along one axis."""


class Place(Document):
    """What an input and an output have in common: an address and what opens it."""

    url: Url
    """Path or URL."""
    token: Secret | None = None
    """Where the token of the service is, {env: NAME} or {file: path}; the token itself is never written here."""

    @model_validator(mode="after")
    def _token_has_a_service(self) -> Place:
        scheme, separator, _ = self.url.partition("://")
        if self.token is not None and (not separator or scheme in {*ENDINGS.values(), *PLACES, "memory"}):
            raise ValueError(f"token: {self.url} is not a service and takes no token")
        return self


class Input(Place):
    """A volume to read. What the file does not know itself can be said here."""

    level: Annotated[int, Field(ge=0)] | None = None
    """Resolution level, 0 the finest."""
    voxel_size: dict[Axis, Length] | None = None
    """Length of a voxel along each named axis, such as {z: 0.29 um, y: 0.26 um, x: 0.26 um}; plain numbers are micrometres."""
    axes: Annotated[str, AfterValidator(_is_order)] | None = None
    """Axis names in the order they are stored, such as zyx."""
    offset: dict[Axis, int] | None = None
    """Absolute position of the first voxel along each named axis."""
    kind: VoxelKind | None = None
    """What the voxels mean; the file's own word if not given."""
    t: int | None = None
    """The time to take; the axis t goes away."""
    c: int | str | None = None
    """The channel to take, by number or by the name that the file knows; the axis c goes away."""
    transpose: str | None = None
    """The file's spatial axes that become z, y, x, in this order, such as xyz."""
    flip: Annotated[tuple[Axis, ...], Field(strict=False)] | None = None
    """Axes that run backwards, such as [z]."""
    crop: dict[Axis, Span] | None = None
    """The part to see: named axes, each [start, stop) in voxels or lengths. Positions stay."""
    pad: dict[Axis, Annotated[tuple[int, int], Field(strict=False)] | int] | None = None
    """Voxels to add along each named axis, [before, after] or one number for both."""
    translate: dict[Axis, Length] | None = None
    """How far to move the volume along each named axis, in voxels or lengths."""
    resample: Literal["nearest", "linear"] | None = None
    """Sample the volume on other voxels, those of the input `like` or of `grid`: nearest (labels) or linear."""
    like: Name | None = None
    """The input whose voxels to take; the first one if neither this nor grid is given."""
    grid: dict[Axis, Length | Annotated[tuple[Length, Length, Length], Field(strict=False)]] | None = None
    """The voxels to take: for each of z, y, x a voxel size (plain numbers are micrometres), or [start, stop, voxel size]."""
    dtype: VoxelType | None = None
    """Type of a voxel to read it as. Values that do not fit are refused."""
    fill: float | int | None = None
    """Value of the voxels that pad and resample add; 0 if not given."""

    @model_validator(mode="after")
    def _like_goes_with_resample(self) -> Input:
        if self.like is not None and self.resample is None:
            raise ValueError(f"like: {self.like} goes with resample; write resample: nearest (or linear) too")
        if self.like is not None and self.grid is not None:
            raise ValueError("like and grid both name the voxels to take; leave one out")
        return self


class Pyramid(Document):
    """Coarser levels of an output, made in the same run."""

    levels: Positive | Auto = "auto"
    """Levels beside the output itself; auto goes on until no axis that is made shorter is longer than 128 voxels."""
    factors: dict[Axis, Positive] | Auto = "auto"
    """Voxels to one of the next level along each named axis; auto halves z, y and x, the axes of short voxels first, until
    voxels are as near to cubes as can be."""
    method: Literal["auto", "mean", "mode", "median", "min", "max", "stride"] = "auto"
    """How voxels become one, as in downsample; auto is mode for labels and mean for the others."""


def _as_pyramid(value: Any) -> Any:
    """Accept `auto` or a number of levels where a mapping with `levels` is meant."""
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"must be auto, a number of levels, or a mapping (key: value), not {value!r}")
    is_levels = value == "auto" or (isinstance(value, int) and not isinstance(value, bool))
    return {"levels": value} if is_levels else value


class Output(Place):
    """A volume or a table to write."""

    kind: VoxelKind | None = None
    """What the voxels mean; the step's own word if not given."""
    dtype: VoxelType | None = None
    """Type of a voxel; the step's own if not given. Values that do not fit are refused."""
    chunks: dict[Axis, Positive] | None = None
    """Voxels of a stored chunk along each named axis."""
    shards: dict[Axis, Positive] | None = None
    """Voxels of a shard (one file of many chunks) along each named axis."""
    create: bool = True
    """Create the volume; with false it must exist already and its voxels are replaced."""
    pyramid: Annotated[Pyramid | None, BeforeValidator(_as_pyramid)] = None
    """Coarser levels to make as well: auto, a number of levels, or a mapping."""
    objects: ObjectType | None = None
    """Of a table: make every row a RAMON object of this type, kept at url, a channel of an ndstore or a file (.parquet, .h5,
    .json). The table itself stays in the run directory."""

    @property
    def is_table(self) -> bool:
        """Whether the address is that of a table."""
        return self.objects is not None or self.url.lower().endswith(TABLE_ENDINGS)

    @model_validator(mode="after")
    def _table_has_no_voxels(self) -> Output:
        for name in ("kind", "dtype", "chunks", "shards", "pyramid"):
            if self.is_table and getattr(self, name) is not None:
                raise ValueError(f"{name}: {self.url} is a table, which has no {name}")
        return self


class Retry(Document):
    """How often a block is tried again."""

    attempts: Positive = 4
    """Times a block is tried when reading, writing or its function fails for a reason that may pass."""
    kills: Positive = 2
    """Times a block may take its worker process down before it is called failed."""
    budget: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the blocks (and 20 more) that may be tried again in one run before failures are final at once."""
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """Seconds before the first repeat; doubled each time, with jitter."""


def _one_step(value: Any) -> Any:
    """Turn `{kind: {parameters}}` into a step; a Step passes as it is."""
    from ndbatch.config.stepform import step_of

    return step_of(value)


class Config(Document):
    """A whole run: what to read, what to do, where to write, and on what."""

    name: Name = "run"
    """Names the run and its directory."""
    inputs: Annotated[dict[Name, Annotated[Input, BeforeValidator(_as_mapping)]], Field(min_length=1)]
    """Volumes to read, by a name of your choice; each a path or URL, or a mapping."""
    region: dict[Axis, Span] | None = None
    """The part to work on: named axes, each [start, stop) in voxels or lengths; whole axes if not given."""
    steps: Annotated[
        tuple[Annotated[SerializeAsAny[Step], BeforeValidator(_one_step)], ...], Field(min_length=1, strict=False)
    ]
    """What to do, in order; each step names its inputs and outputs."""
    outputs: Annotated[dict[Name, Annotated[Output, BeforeValidator(_as_mapping)]], Field(min_length=1)]
    """What to keep: names that steps make, each with a path or URL, or a mapping. Tables end in .parquet or .csv."""
    blocks: dict[Axis, Positive] | Auto = "auto"
    """Voxels of a block along each named axis; auto chooses by memory."""
    cluster: Cluster = Cluster()
    """Where blocks are computed."""
    retry: Retry = Retry()
    """How often a block is tried again."""
    time_limit: Duration | None = None
    """Longest time for one block, seconds or text such as 5 min; none if not given."""
    directory: str | None = None
    """The run directory; runs/NAME beside the file if not given."""
    base: Path = Field(default_factory=Path.cwd, exclude=True)
    """Folder that relative paths are taken from: the configuration file's. Not a key of the file."""
    origin: Annotated[Path | None, Field(exclude=True)] = None
    """The configuration file, where there is one. Not a key of the file."""
    overrides: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    """What `--set` changed, as it was written, for the record. Not a key of the file."""

    @property
    def run_directory(self) -> Path:
        """Absolute path of the run directory."""
        return (self.base / Path(self.directory or f"runs/{self.name}").expanduser()).resolve()

    @property
    def time_limit_seconds(self) -> float | None:
        """Seconds that one block may take; None where there is no limit."""
        return None if self.time_limit is None else parse_seconds(self.time_limit)

    @model_validator(mode="after")
    def _region_is_not_empty(self) -> Config:
        for axis, (start, stop) in (self.region or {}).items():
            if not isinstance(start, str) and not isinstance(stop, str) and start >= stop:
                raise _wrong(("region", axis), f"[{start}, {stop}] is empty; write [start, stop) with start below stop")
        return self

    @model_validator(mode="after")
    def _inputs_are_like_others(self) -> Config:
        first = next(iter(self.inputs))
        for name, entry in self.inputs.items():
            if entry.resample is None or entry.grid is not None:
                continue
            other = entry.like or first
            if other not in self.inputs:
                raise _wrong(
                    ("inputs", name, "like"), f"no input is named {other!r}; there are {', '.join(self.inputs)}"
                )
            if other == name:
                raise _wrong(
                    ("inputs", name, "resample"), "it needs like: another input, or grid: {z: 1 um, y: 1 um, x: 1 um}"
                )
            if self.inputs[other].resample is not None and self.inputs[other].grid is None:
                raise _wrong(("inputs", name, "like"), f"{other} is itself resampled like another input; name that one")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        made: set[str] = set()
        for number, step in enumerate(self.steps):
            place = ("steps", number, step.kind)
            for role, name in step.sources.items():
                if name not in self.inputs and name not in made:
                    known = ", ".join([*self.inputs, *sorted(made)])
                    raise _wrong(
                        (*place, role), f"{name!r} is neither an input nor made by a step before; known: {known}"
                    )
            for role, name in step.products.items():
                if name in self.inputs or name in made:
                    raise _wrong((*place, role), f"the name {name!r} is taken already")
                made.add(name)
        for name in self.outputs:
            if name not in made:
                raise _wrong(("outputs", name), f"no step makes {name!r}; the steps make: {', '.join(sorted(made))}")
        return self

    @model_validator(mode="after")
    def _one_output_a_target(self) -> Config:
        seen: dict[str, str] = {}
        objects = {step.products.get("output") for step in self.steps if step.kind == "objects"}
        for name, output in self.outputs.items():
            target = output.url.rstrip("/")
            if "://" in target and (output.objects or name in objects):
                target += " objects"  # a channel holds its voxels and their objects
            if target in seen:
                raise _wrong(("outputs", name), f"{output.url} is the target of {seen[target]} too; give each its own")
            seen[target] = name
        return self


def _wrong(path: tuple[str | int, ...], sentence: str) -> PydanticCustomError:
    """Return the error for the key at `path` below the whole document; `ndbatch.config.sentences` reads the path."""
    return PydanticCustomError(
        "fit", "{dotted}: {sentence}", {"path": path, "dotted": ".".join(map(str, path)), "sentence": sentence}
    )

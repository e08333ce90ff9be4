"""The verb copy: one volume to another place, format or shape, through the same engine as any run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ndbatch.cli.arguments import AsJson
from ndbatch.cli.work import Quiet, carry_out
from ndbatch.errors import ConfigError

if TYPE_CHECKING:
    from ndbatch.config.model import Config

Named = list[str] | None
"""Words such as `z=0:64`, given once or more, or joined by commas."""


Source = Annotated[str, typer.Argument(metavar="SRC", help="Path or URL of the volume; ?t=0&c=DAPI takes a place.")]
Target = Annotated[str, typer.Argument(metavar="DST", help="Path or URL of the copy, which is created.")]
Level = Annotated[int | None, typer.Option(help="Resolution level of SRC, 0 the finest.")]
Region = Annotated[Named, typer.Option(metavar="z=0:64", help="The part to copy, in voxels or lengths.")]
Transposed = Annotated[str | None, typer.Option(metavar="xyz", help="SRC's axes that become z, y, x of the copy.")]
Flipped = Annotated[str | None, typer.Option(metavar="z,y", help="Axes that run backwards in the copy.")]
Padding = Annotated[Named, typer.Option(metavar="z=2:3", help="Voxels to add before and after.")]
Fill = Annotated[float | None, typer.Option(help="Value of added voxels, 0 if not given.")]
Offset = Annotated[Named, typer.Option(metavar="z=0", help="Position of the copy's first voxel.")]
Method = Annotated[Literal["nearest", "linear"] | None, typer.Option(help="Sample SRC on voxels of another size.")]
Size = Annotated[Named, typer.Option(metavar="z=1um,y=1um,x=1um", help="Size of the copy's voxels, with --resample.")]
Dtype = Annotated[str | None, typer.Option(help="Type of a voxel; values that do not fit are refused.")]
Meaning = Annotated[Literal["image", "labels", "probability"] | None, typer.Option(help="What the voxels mean.")]
Chunks = Annotated[Named, typer.Option(metavar="z=64,y=64,x=64", help="Voxels of a stored chunk.")]
Shards = Annotated[Named, typer.Option(metavar="z=512,y=512,x=512", help="Voxels of a shard, a file of many chunks.")]
Skip = Annotated[
    Literal["empty", "identical"] | None,
    typer.Option(help="Do not write blocks of zeros, or those that DST holds already."),
]
Update = Annotated[bool, typer.Option("--update", help="DST is there: replace its voxels.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Blocks at the same time; one for each core if not given.")]
Directory = Annotated[Path | None, typer.Option(help="The run directory; runs/copy-NAME here if not given.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Remove what an earlier try made, and start over.")]


def add_to(app: typer.Typer) -> None:
    """Add the verb of this module to `app`."""
    app.command("copy", short_help="Copy a volume to another place or format.")(copy)


def copy(
    source: Source,
    target: Target,
    level: Level = None,
    region: Region = None,
    transpose: Transposed = None,
    flip: Flipped = None,
    pad: Padding = None,
    fill: Fill = None,
    offset: Offset = None,
    resample: Method = None,
    voxel_size: Size = None,
    dtype: Dtype = None,
    kind: Meaning = None,
    chunks: Chunks = None,
    shards: Shards = None,
    skip: Skip = None,
    update: Update = False,
    workers: Workers = None,
    directory: Directory = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy SRC to DST: another format, chunks, type, part or grid. The same command goes on where it stopped."""
    flipped = [axis.strip() for axis in flip.split(",")] if flip else None
    seen = {"level": level, "transpose": transpose, "flip": flipped, "fill": fill, **_sampled(resample, voxel_size)}
    seen |= {"crop": _spans("--region", region), "pad": _spans("--pad", pad, integers=True)}
    made: dict[str, Any] = {"dtype": dtype, "kind": kind, "create": not update}
    made |= {"chunks": _integers("--chunks", chunks), "shards": _integers("--shards", shards)}
    place = _integers("--offset", offset)
    config = copy_config(source, target, _given(seen), _given(made), place, skip, workers, directory)
    carry_out(config, config.run_directory / "config.yaml", (), fresh=fresh, as_json=as_json, quiet=quiet)


def copy_config(
    source: str,
    target: str,
    seen: Mapping[str, Any],
    made: Mapping[str, Any],
    offset: Mapping[str, int] | None = None,
    skip: str | None = None,
    workers: int | None = None,
    directory: Path | None = None,
) -> Config:
    """Return the configuration of a copy: `seen` are the keys of the input beside its url, `made` those of the output.

    `offset` is the position of the copy's first voxel along named axes. Addresses become absolute, so that the record of
    the run can be run again from anywhere. Raises ConfigError, PlanError or RemoteError; reads no voxel.
    """
    from ndbatch.config.load import from_mapping
    from ndbatch.remotes import api
    from ndbatch.remotes.address import parse

    here = Path.cwd()
    entry = {"url": parse(source, here).url, **seen}
    if offset:
        if "resample" in seen:
            raise ConfigError("--offset and --resample do not go together; resample first, then copy with --offset")
        volume = api.open(entry)
        moved = {
            axis: at - volume.offset[volume.axes.index(axis)] for axis, at in offset.items() if axis in volume.axes
        }
        if len(moved) < len(offset):
            raise ConfigError(f"--offset names an axis that {source} lacks; its axes are {', '.join(volume.axes)}")
        entry["translate"] = moved
    address = parse(target, here)
    name = _name(address.inside or address.path, address.url)
    return from_mapping(
        {
            "name": name,
            "inputs": {"source": entry},
            "steps": [{"copy": {"input": "source", "output": "copy", **({"skip": skip} if skip else {})}}],
            "outputs": {"copy": {"url": address.url, **made}},
            "cluster": {"workers": workers} if workers else {},
            "directory": str((here / (directory or Path("runs") / name)).resolve()),
        },
        here,
    )


def _name(path: str, url: str) -> str:
    """Return the name of the run: that of the copy, and a few digits that tell copies of one name apart."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).name.partition(".")[0]).strip("-") or "volume"
    return f"copy-{stem}-{hashlib.sha256(url.encode()).hexdigest()[:6]}"


def _given(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None}


def _sampled(resample: str | None, voxel_size: Named) -> dict[str, Any]:
    """Return the keys of resampling; ConfigError where one of the two options lacks the other."""
    if (resample is None) != (voxel_size is None):
        raise ConfigError(
            "--resample and --voxel-size go together, such as --resample linear --voxel-size z=1um,y=1um,x=1um"
        )
    sizes = _words("--voxel-size", voxel_size)
    return {"resample": resample, "grid": {axis: _number(text) for axis, text in sizes.items()} if sizes else None}


def _words(option: str, given: Named) -> dict[str, str]:
    """Return what is said of each axis: `z=0:64,y=1:2` or the option again and again."""
    found: dict[str, str] = {}
    for part in [part for text in given or () for part in text.split(",")]:
        axis, equals, value = part.partition("=")
        if not equals or not value.strip() or len(axis.strip()) != 1:
            raise ConfigError(f"{option} {part}: name the axis, such as {option} z=...")
        found[axis.strip()] = value.strip()
    return found


def _integers(option: str, given: Named) -> dict[str, int] | None:
    try:
        return {axis: int(text) for axis, text in _words(option, given).items()} or None
    except ValueError:
        raise ConfigError(
            f"{option} {','.join(given or ())}: write whole numbers, such as {option} z=64,y=64,x=64"
        ) from None


def _spans(option: str, given: Named, *, integers: bool = False) -> dict[str, Sequence[Any]] | None:
    """Return a pair for each named axis; one number is taken for both ends where `integers`."""
    found: dict[str, Sequence[Any]] = {}
    for axis, text in _words(option, given).items():
        ends = [_number(end) for end in text.split(":")]
        ends = ends * 2 if integers and len(ends) == 1 else ends
        if len(ends) != 2 or (integers and not all(isinstance(end, int) for end in ends)):
            raise ConfigError(f"{option} {axis}={text}: write two numbers, such as {option} {axis}=2:64")
        found[axis] = ends
    return found or None


def _number(text: str) -> int | float | str:
    """Return a number where `text` is one, else the text, which may be a length."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()

"""The verbs copy and downsample: one volume to another place, format, shape or scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ndbatch.cli.arguments import AsJson
from ndbatch.cli.work import Quiet, carry_out
from ndbatch.errors import ConfigError

Named = list[str] | None
"""Words such as `z=0:64`, given once or more, or joined by commas."""


Source = Annotated[str, typer.Argument(metavar="SRC", help="Path or URL of the volume; ?t=0&c=DAPI takes a place.")]
Coarsened = Annotated[str, typer.Argument(metavar="VOLUME", help="Path or URL of the volume.")]
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
Levels = Annotated[
    str | None,
    typer.Option(metavar="all|N", help="Coarser levels to make too; all: until no axis is longer than 128 voxels."),
]
Skip = Annotated[
    Literal["empty", "identical"] | None,
    typer.Option(help="Do not write blocks of zeros, or those that DST holds already."),
]
Update = Annotated[bool, typer.Option("--update", help="DST is there: replace its voxels.")]
Pooling = Literal["auto", "mean", "mode", "median", "min", "max", "stride"]
Workers = Annotated[int | None, typer.Option(min=1, help="Blocks at the same time; one for each core if not given.")]
Directory = Annotated[Path | None, typer.Option(help="The run directory; runs/copy-NAME here if not given.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Remove what an earlier try made, and start over.")]


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("copy", short_help="Copy a volume to another place or format.")(copy)
    app.command("downsample", short_help="Make the coarser levels of a volume.")(downsample)


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
    levels: Levels = None,
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
    made |= {
        "chunks": _integers("--chunks", chunks),
        "shards": _integers("--shards", shards),
        "pyramid": _levels(levels),
    }
    place = _integers("--offset", offset)
    from ndbatch.copying import copy_config

    config = copy_config(
        source, target, seen, made, offset=place, skip=skip, cluster=_cluster(workers), directory=directory
    )
    carry_out(config, config.run_directory / "config.yaml", (), fresh=fresh, as_json=as_json, quiet=quiet)


def downsample(
    source: Coarsened,
    output: Annotated[
        str | None, typer.Option(metavar="DST", help="Write a new volume with all levels; without it VOLUME gets them.")
    ] = None,
    levels: Annotated[
        str, typer.Option(metavar="auto|N", help="Levels to make; auto: until no axis is longer than 128 voxels.")
    ] = "auto",
    factors: Annotated[
        Named, typer.Option(metavar="z=1,y=2,x=2", help="Voxels to one of the next level; towards cubes if not given.")
    ] = None,
    method: Annotated[Pooling, typer.Option(help="How voxels become one; auto: mode for labels, else mean.")] = "auto",
    workers: Workers = None,
    directory: Annotated[
        Path | None, typer.Option(help="The run directory; runs/downsample-NAME here if not given.")
    ] = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add coarser levels to VOLUME, or write a copy that has them. The same command goes on where it stopped."""
    from ndbatch.downsampling import downsample_config

    wanted = {"levels": _levels(levels), "factors": _integers("--factors", factors), "method": method}
    config = downsample_config(source, output, wanted, cluster=_cluster(workers), directory=directory, fresh=fresh)
    carry_out(config, config.run_directory / "config.yaml", (), fresh=fresh, as_json=as_json, quiet=quiet)


def _cluster(workers: int | None) -> dict[str, Any]:
    return {"workers": workers} if workers else {}


def _levels(text: str | None) -> int | Literal["auto"] | None:
    """Return how many levels to make: a number from 1 up, or auto (all). ConfigError for another word."""
    if text is None:
        return None
    if text in ("auto", "all"):
        return "auto"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--levels {text}: write a number from 1 up, or auto, which goes on until the volume is small")


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
        if axis.strip() not in tuple("tczyx"):
            raise ConfigError(f"{option} {part}: {axis.strip()} is not an axis; write t, c, z, y or x")
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

"""The verbs about volumes: info, show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ndbatch.cli.arguments import AsJson, echo_json, positions
from ndbatch.errors import ConfigError

if TYPE_CHECKING:
    from ndbatch.remotes.base import Volume

Url = Annotated[str, typer.Argument(metavar="URL", help="Path or URL of a volume, such as image.tif or seg.h5::/seg.")]


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("info", short_help="Say what a volume is.")(info)
    app.command("show", short_help="Write a picture of a volume.")(show)


def info(
    url: Url,
    size: Annotated[
        bool, typer.Option("--size", help="Add up what is stored in a bucket too: a request for every folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a volume is: shape, type, chunks, codecs, levels, voxel size, bytes stored. Reads no voxel."""
    volume = _open(url)
    document = _document(volume, size)
    if as_json:
        echo_json(document)
    else:
        typer.echo("\n".join(_lines(volume, document)))


def show(
    url: Url,
    z: Annotated[
        int | None, typer.Option(help="Show the slice at this z (an absolute voxel); the middle if not given.")
    ] = None,
    y: Annotated[int | None, typer.Option(help="Show the slice at this y instead.")] = None,
    x: Annotated[int | None, typer.Option(help="Show the slice at this x instead.")] = None,
    project: Annotated[
        Literal["max", "mean"] | None, typer.Option(help="Project along the axis instead of showing a slice.")
    ] = None,
    along: Annotated[Literal["z", "y", "x"], typer.Option(help="The axis to project along.")] = "z",
    at: Annotated[
        str | None, typer.Option(metavar="c=0,t=3", help="Channel and time, where the volume has them.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="URL", help="Outline the objects of this volume of labels.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png", help="The picture; named after the volume if not given."),
    ] = None,
) -> None:
    """Write a slice or a projection of a volume as a PNG picture, with the outlines of labels."""
    given = {axis: value for axis, value in (("z", z), ("y", y), ("x", x)) if value is not None}
    if len(given) > 1 or (given and project):
        raise ConfigError("show takes one of --z, --y, --x and --project")
    from ndbatch.report.pictures import look, write_png

    volume = _open(url)
    over = None if labels is None else _open(labels)
    axis = next(iter(given), along)
    picture = look(volume, over, axis, {**positions(at), **given}, project)
    path = output or Path(f"{Path(volume.address.inside or volume.address.path).stem}.png")
    try:
        write_png(path, picture.rgb)
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error.strerror or error}") from None
    typer.echo(f"{path}: {picture.words}")


def _open(url: str) -> Volume:
    from ndbatch.remotes.connecting import open
    from ndbatch.remotes.remote import Remote

    volume = open(url, base=Path.cwd())
    if isinstance(volume, Remote):
        raise ConfigError(f"{volume.url} is a folder of volumes; ndbatch ls {url} lists them")
    return cast("Volume", volume)


def _levels(volume: Volume) -> list[dict[str, Any]]:
    """Return extents, chunks and voxel sizes of every level; of the whole pyramid, whichever level is open."""
    from ndbatch.remotes.registry import open_volume

    found = []
    for level in range(volume.levels):
        spec = open_volume(volume.address.with_options(level=str(level))).spec
        size = None if spec.voxel_size is None else list(spec.voxel_size)
        found.append({"level": level, "shape": list(spec.shape), "chunks": list(spec.chunks), "voxel_size": size})
    return found


def _stored_bytes(volume: Volume, anywhere: bool) -> int | None:
    """Return the bytes that the volume, or the file it is in, takes; None where asking would cost much, or nobody knows."""
    from ndbatch.remotes.places.keyvalue import place

    if not volume.abilities.shared or volume.abilities.service or (volume.address.place != "file" and not anywhere):
        return None
    return place(volume.address).stored_bytes()


def _document(volume: Volume, size: bool = False) -> dict[str, Any]:
    """Return what is known of a volume without reading voxels, JSON types only. Voxel sizes are micrometres."""
    spec = volume.spec
    return {
        "url": volume.url,
        "axes": spec.axes,
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "kind": str(spec.kind),
        "voxel_size": None if spec.voxel_size is None else list(spec.voxel_size),
        "offset": list(spec.offset),
        "chunks": list(spec.chunks),
        "shards": None if spec.shards is None else list(spec.shards),
        "level": spec.level,
        "levels": spec.levels,
        "pyramid": _levels(volume) if spec.levels > 1 else [],
        "codecs": volume.encoding,
        "bytes": spec.nbytes,
        "stored_bytes": _stored_bytes(volume, size),
        "attributes": volume.attributes,
    }


def _lines(volume: Volume, document: dict[str, Any]) -> Iterator[str]:
    """Yield what `info` says to a reader."""
    from ndbatch.report.words import nbytes

    def named(values: list[Any]) -> str:
        return ", ".join(f"{axis}: {value:g}" for axis, value in zip(volume.axes, values, strict=True))

    yield document["url"]
    yield f"  shape       {named(document['shape'])}"
    yield f"  type        {document['dtype']}, {document['kind']}, {nbytes(document['bytes'])} not compressed"
    size = (
        "unknown; lengths need voxel_size" if document["voxel_size"] is None else f"{named(document['voxel_size'])} um"
    )
    yield f"  voxel size  {size}"
    if any(document["offset"]):
        yield f"  offset      {named(document['offset'])}"
    yield f"  chunks      {named(document['chunks'])}"
    if document["shards"]:
        yield f"  shards      {named(document['shards'])}"
    if document["codecs"]:
        yield f"  codecs      {document['codecs']}"
    if document["stored_bytes"] is not None:
        yield f"  stored      {nbytes(document['stored_bytes'])}"
    if document["levels"] > 1:
        yield f"  levels      {document['levels']}, this is {document['level']}"
    for level in document["pyramid"]:
        sizes = "" if level["voxel_size"] is None else f"; {named(level['voxel_size'])} um"
        yield f"    {level['level']}         {named(level['shape'])}{sizes}"
    for name, value in document["attributes"].items():
        if name in document:
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        yield f"  {name}: {text if len(text) <= 100 else text[:97] + '...'}"

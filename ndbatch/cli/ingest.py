"""The verb ingest: volumes of a file into a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ndbatch.cli.arguments import AsJson, echo_json
from ndbatch.cli.work import Quiet

if TYPE_CHECKING:
    from ndbatch.ingest.upload import Ingested


Source = Annotated[str, typer.Argument(metavar="SRC", help="Path or URL of a file: HDF5, TIFF, zarr ...")]
Destination = Annotated[
    str, typer.Argument(metavar="DST", help="ndstore://host/token[/channel], boss://host/collection/experiment ...")
]
Name = Annotated[str | None, typer.Option(help="Name of the new channel; the file's own if not given.")]
Meaning = Annotated[Literal["image", "labels", "probability"] | None, typer.Option(help="What the voxels mean.")]
Dtype = Annotated[str | None, typer.Option(help="Type of a voxel; values that do not fit are refused.")]
Axes = Annotated[str | None, typer.Option(metavar="tzyx", help="The axes as they are stored.")]
Offset = Annotated[str | None, typer.Option(metavar="z=0,y=0,x=0", help="Absolute position of the first voxel.")]
Size = Annotated[str | None, typer.Option(metavar="z=40nm,y=4nm,x=4nm", help="Size of a voxel.")]
Levels = Annotated[int | None, typer.Option(min=0, help="Coarser levels to make.")]
Options = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="What the service has its own word for, such as scaling=isotropic."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what the file tells.")]
Directory = Annotated[Path | None, typer.Option(help="The run directory; runs/ingest-NAME here if not given.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Remove what an earlier try made, and start over.")]


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("ingest", short_help="Put a file's volumes into a service.")(ingest)


def ingest(
    source: Source,
    target: Destination,
    channel: Name = None,
    kind: Meaning = None,
    dtype: Dtype = None,
    axes: Axes = None,
    offset: Offset = None,
    voxel_size: Size = None,
    levels: Levels = None,
    option: Options = None,
    yes: Yes = False,
    directory: Directory = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look into SRC, create a volume for it in DST, upload it, read it back, make its levels, and print its address.

    What is not told is found in the file, or asked for. The same command goes on where it stopped.
    """
    from ndbatch.ingest.settings import named
    from ndbatch.ingest.upload import ingest as carry_out
    from ndbatch.remotes.base import Kind
    from ndbatch.report.progress import Progress

    told: dict[str, Any] = {"channel": channel, "dtype": dtype, "levels": levels, "kind": Kind(kind) if kind else None}
    told["offset"] = {axis: int(text) for axis, text in named(offset or "").items()}
    told["voxel_size"] = named(voxel_size or "")
    told["options"] = dict(part.partition("=")[::2] for part in option or ())
    talk = not (as_json or quiet)
    with Progress(mode="quiet" if not talk else "auto") as progress:
        done = carry_out(
            source,
            target,
            axes=axes,
            ask=None if yes or as_json or not sys.stdin.isatty() else _ask,
            tell=typer.echo if talk else lambda sentence: None,
            directory=directory,
            fresh=fresh,
            observers=(progress,),
            **{name: value for name, value in told.items() if value not in (None, {})},
        )
    if as_json:
        echo_json([one.document() for one in done])
    else:
        typer.echo("\n".join(_ending(one) for one in done))
    raise typer.Exit(0 if all(one.ok for one in done) else max([one.result.exit_code for one in done] + [1]))


def _ask(question: str, proposal: str) -> str:
    answer: str = typer.prompt(question, default=proposal, err=True)
    return answer


def _ending(one: Ingested) -> str:
    """Return what became of a volume, in one line."""
    if one.checked is None:
        counts = one.result.counts
        return f"{one.url}: {one.result.status}, {counts.done} of {counts.planned} blocks are there; the same command goes on"
    wrong = len(one.checked.mismatches)
    if wrong:
        return (
            f"{one.url}: {wrong} of {one.checked.blocks} blocks read back otherwise than they were sent; "
            f"ndbatch check {one.result.directory} names them"
        )
    levels = "1 level" if one.levels == 1 else f"{one.levels} levels"
    blocks = "1 block" if one.checked.blocks == 1 else f"{one.checked.blocks} blocks"
    return f"{one.url}: {blocks} stored and read back, {levels}"

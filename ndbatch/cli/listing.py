"""The verbs about places of volumes: ls, rm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndbatch.cli.arguments import AsJson, echo_json
from ndbatch.errors import ConfigError

if TYPE_CHECKING:
    from ndbatch.remotes.remote import Entry


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("ls", short_help="List the volumes in a folder or a bucket.")(ls)
    app.command("rm", short_help="Remove a volume.")(rm)


def ls(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A folder, s3://bucket/folder, gs://..., http(s)://...")
    ] = ".",
    depth: Annotated[int, typer.Option(min=1, help="Folders below each other that are looked into.")] = 3,
    as_json: AsJson = False,
) -> None:
    """List the volumes in a folder or a bucket: name, format, shape, type, levels, voxel size. Reads no voxel."""
    from ndbatch.remotes.connecting import connect

    remote = connect(url, base=Path.cwd())
    entries = remote.ls(depth)
    if as_json:
        echo_json({"url": remote.url, "volumes": [entry.document() for entry in entries]})
        return
    rows = [("name", "format", "shape", "type", "levels", "voxel size (um)"), *(_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows if entries else ():
        typer.echo("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    for entry in entries:
        if entry.problem:
            typer.echo(f"{entry.name}: {entry.problem}", err=True)
    if not entries:
        typer.echo(f"{remote.url} holds no volume; look deeper with --depth {depth + 2}", err=True)


def _row(entry: Entry) -> tuple[str, ...]:
    """Return an entry as words, an axis name at every extent."""
    if entry.shape is None:
        return (entry.name, entry.format, "cannot be opened", "", "", "")
    shape = " ".join(f"{axis}={extent}" for axis, extent in zip(entry.axes, entry.shape, strict=True))
    sizes = zip(entry.axes, entry.voxel_size, strict=True) if entry.voxel_size else ()
    size = " ".join(f"{axis}={extent:g}" for axis, extent in sizes if axis in "zyx")
    return (entry.name, entry.format, shape, f"{entry.dtype} {entry.kind}", str(entry.levels), size or "-")


def rm(
    url: Annotated[str, typer.Argument(metavar="URL", help="The volume: a path or URL.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a volume with all of its levels, after asking. What is no volume is never removed."""
    from ndbatch.remotes.address import parse
    from ndbatch.remotes.connecting import delete, recognised

    address = recognised(parse(url, Path.cwd(), folder=True))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"rm {address.url}: nobody is there to ask; add --yes to remove it")
        if not typer.confirm(f"Remove {address.url} for good?"):
            typer.echo("nothing was removed")
            return
    delete(address)
    typer.echo(f"removed {address.url}")

"""The verbs that compute: run, retry, try; and plan, which says what run would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndbatch.cli.arguments import (
    AsJson,
    ConfigFile,
    Overrides,
    RunPlace,
    echo_json,
    load_config,
    load_recorded,
    positions,
)
from ndbatch.errors import NdbatchError

if TYPE_CHECKING:
    from ndbatch.config.model import Config
    from ndbatch.events import Event

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show failures and the end alone.")]


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("run", short_help="Do what CONFIG says, or go on with it.")(run)
    app.command("try", short_help="Do the steps at one place; write nothing.")(look_first)
    app.command("plan", short_help="Say what a run would do and take.")(plan)
    app.command("retry", short_help="Try failed blocks again, or damaged ones.")(retry)


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what an earlier run of this configuration made, and start over.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background; a closed terminal does not stop it.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Run in the background and show its progress; Ctrl-C stops the showing alone."),
    ] = False,
) -> None:
    """Do what CONFIG says, or go on where an earlier run of it stopped."""
    loaded = load_config(config, overrides)
    if detach or follow:
        from ndbatch.cli.background import start

        start(loaded, config, overrides or (), fresh=fresh, follow=follow)
        return
    carry_out(loaded, config, overrides or (), fresh=fresh, as_json=as_json, quiet=quiet)


def retry(
    place: RunPlace,
    overrides: Overrides = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Read the outputs again, and do anew what is not as it was written.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Try the failed blocks of a run again; what is done stays as it is, unless it is found damaged (--damaged)."""
    loaded = load_recorded(place, overrides)
    options = {"retry_failed": not damaged, "retry_damaged": damaged}
    carry_out(loaded, place, overrides or (), **options, as_json=as_json, quiet=quiet)


def carry_out(
    config: Config,
    path: Path,
    overrides: Sequence[str],
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    retry_damaged: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Run `config`, show the progress on standard error, say on standard output what came of it, and leave with the exit code.

    `path` and `overrides` are what a command names to go on with it.
    """
    from ndbatch.cli.ending import ending, ending_document
    from ndbatch.report.progress import Progress
    from ndbatch.runner import run as run_config

    begun = _Begun()
    try:
        with Progress(mode="quiet" if quiet else "auto") as progress:
            result = run_config(
                config,
                fresh=fresh,
                retry_failed=retry_failed,
                retry_damaged=retry_damaged,
                observers=(begun, progress),
            )
    except NdbatchError as error:
        if not begun.seen:
            raise
        from ndbatch.cli.speech import tell

        tell(error.message)
        raise typer.Exit(1) from None
    if as_json:
        echo_json(ending_document(result))
    else:
        typer.echo("\n".join(ending(result, config, path, overrides)))
    raise typer.Exit(result.exit_code)


class _Begun:
    """An observer that knows whether work has begun: errors before are refusals, errors after are failures."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, event: Event) -> None:
        self.seen = True


def look_first(
    config: ConfigFile,
    overrides: Overrides = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="z=10,y=100,x=100", help="A voxel of the block to try; the middle if not given."),
    ] = None,
    slice_only: Annotated[
        bool, typer.Option("--slice", help="One slice through that voxel instead of a block.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Where to put the picture.")] = None,
) -> None:
    """Do the steps on one block or slice, show what comes of it, and write nothing else: the look before the long run."""
    loaded = load_config(config, overrides)
    from ndbatch.cli.trial import shown
    from ndbatch.trial import try_region

    result = try_region(loaded, positions(at), slice_only=slice_only)
    typer.echo("\n".join(shown(result, loaded, picture)))


def plan(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run would do and what it takes: stages, blocks, bytes, requests, memory. Reads no voxel."""
    loaded = load_config(config, overrides)
    from ndbatch.plan.make import make_plan

    document = make_plan(loaded).document()
    if as_json:
        echo_json(document)
        return
    from ndbatch.cli.planview import show

    show(document)

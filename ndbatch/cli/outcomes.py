"""The verbs about runs that were begun: status, report, check."""

from __future__ import annotations

from typing import Annotated

import typer

from ndbatch.cli.arguments import AsJson, Overrides, RunPlace, command, echo_json, run_directory


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("status", short_help="Say where a run is.")(status)
    app.command("attach", short_help="Show a run that goes on elsewhere.")(attach)
    app.command("report", short_help="Write report.html anew.")(report)
    app.command("check", short_help="Compare outputs with what was written.")(check)


def status(place: RunPlace, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say where a run is, also while it goes on in another terminal."""
    directory = run_directory(place, overrides)
    from ndbatch.journal import Journal
    from ndbatch.report.status import status_lines
    from ndbatch.report.summary import summary_of

    with Journal.read(directory) as journal:
        if as_json:
            echo_json({**summary_of(journal), "holder": journal.holder})
        else:
            typer.echo("\n".join(status_lines(journal)))


def attach(place: RunPlace, overrides: Overrides = None) -> None:
    """Show the progress of a run that goes on in another terminal, in the background or in a job, until it ends.

    Ctrl-C stops the showing, not the run. The exit code is that of the run.
    """
    directory = run_directory(place, overrides)
    from ndbatch.cli.background import watch

    watch(directory, place, overrides or ())


def report(place: RunPlace, overrides: Overrides = None) -> None:
    """Write report.html of a run anew and print its path."""
    directory = run_directory(place, overrides)
    from ndbatch.report.html import write_report

    typer.echo(str(write_report(directory)))


def check(
    place: RunPlace,
    overrides: Overrides = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Mend the journal; what it lost, or is not as written, is done again by the next run."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read the outputs of a run again and compare every block and table with what was written. Exit code 1 where one differs."""
    directory = run_directory(place, overrides)
    from ndbatch.cli.ending import checked_document, checked_lines
    from ndbatch.verify import check as check_run

    found = check_run(directory, rebuild=rebuild)
    if as_json:
        echo_json(checked_document(found))
        raise typer.Exit(0 if found.ok else 1)
    lines = checked_lines(found)
    if rebuild:
        lines.append(
            f"journal rebuilt: {found.salvaged:,} receipts kept, {found.proven:,} proven by the outputs, {found.lost:,} lost"
        )
    if not found.ok:
        again = command("run", place) if place.is_file() else "run the configuration again"
        lines.append(
            f"to do anew what is missing:  {again}" if rebuild else f"mend it:  {command('retry', place, '--damaged')}"
        )
    typer.echo("\n".join(lines))
    raise typer.Exit(0 if found.ok else 1)

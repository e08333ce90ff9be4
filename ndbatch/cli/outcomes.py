"""The verbs about runs that were begun: status, report, check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ndbatch.cli.arguments import AsJson, Overrides, RunPlace, command, echo_json, run_directory

if TYPE_CHECKING:
    from ndbatch.verify import Mismatch

TOLD = 10
"""Mismatches told one by one."""


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
            "--rebuild", help="Mend the journal: blocks that are not as written are done again by the next run."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read the outputs of a run again and compare every block with what was written. Exit code 1 where one differs."""
    directory = run_directory(place, overrides)
    from dataclasses import asdict

    from ndbatch.report.words import count
    from ndbatch.verify import check as check_run

    found = check_run(directory, rebuild=rebuild)
    if as_json:
        echo_json({**asdict(found), "directory": str(directory), "ok": found.ok})
        raise typer.Exit(0 if found.ok else 1)
    lines = [f"{directory}: {count(found.blocks, 'block')} read again, {_verdict(len(found.mismatches))}"]
    lines += [f"  {_where(mismatch)}: {mismatch.reason}" for mismatch in found.mismatches[:TOLD]]
    lines += [f"  and {len(found.mismatches) - TOLD:,} more"] if len(found.mismatches) > TOLD else []
    if rebuild and (found.salvaged or found.lost):
        lines.append(f"journal rebuilt: {found.salvaged:,} receipts kept, {found.lost:,} lost")
    if not found.ok:
        mend = (
            "run the configuration again to do these blocks anew"
            if rebuild
            else f"mend it:  {command('check', place, '--rebuild')}"
        )
        lines.append(mend)
    typer.echo("\n".join(lines))
    raise typer.Exit(0 if found.ok else 1)


def _where(mismatch: Mismatch) -> str:
    """Return the place of a mismatch; a volume that cannot be opened at all has no block."""
    place = "all blocks" if mismatch.block < 0 else f"block {mismatch.block} ({mismatch.box})"
    return f"stage {mismatch.stage + 1}, {place}"


def _verdict(mismatches: int) -> str:
    return "all as they were written" if not mismatches else f"{mismatches:,} not as they were written"

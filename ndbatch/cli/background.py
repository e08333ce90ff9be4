"""Runs in the background: started so that a closed terminal does not stop them, and shown again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ndbatch.cli.arguments import command
from ndbatch.cli.speech import tell
from ndbatch.errors import JournalError

if TYPE_CHECKING:
    from ndbatch.config.model import Config

LOOK_EVERY = 0.05
"""Seconds between two looks at a process that starts or ends."""
EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 3, "dead": 3, "planned": 3}


def start(config: Config, path: Path, overrides: Sequence[str], *, fresh: bool, follow: bool) -> None:
    """Start the run of `config` in a process of its own session; return when it holds the run directory.

    What it says goes to a file beside the run directory. A run that does not begin leaves with its own words and exit code.
    With `follow` its progress is shown; a run that is under way already is only shown.
    """
    from ndbatch.journal import Journal  # before the process is there: an import may swallow Ctrl-C

    directory = config.run_directory
    if follow and not fresh and _holder(directory):
        watch(directory, path, overrides)
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.with_name(f"{directory.name}.log")
    words = [sys.executable, "-m", "ndbatch", "run", str(path), *(w for text in overrides for w in ("--set", text))]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*words, *(["--fresh"] if fresh else [])],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None and not (_held_by(process.pid, directory) and Journal.exists(directory)):
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        typer.echo(f"process {process.pid} goes on in the background; what it says goes to {log}", err=True)
        raise typer.Exit(0) from None
    if process.poll() is not None:
        tell(log.read_text(errors="replace").strip())
        raise typer.Exit(process.returncode)
    typer.echo(f"running in the background as process {process.pid}; what it says goes to {log}")
    typer.echo(f"Look at it:  {command('attach', path, overrides=overrides)}")
    typer.echo(f"Stop it:  kill {process.pid}")
    if follow:
        watch(directory, path, overrides)


def _held_by(pid: int, directory: Path) -> bool:
    return (_holder(directory) or {}).get("pid") == pid


def watch(directory: Path, place: Path, overrides: Sequence[str]) -> None:
    """Show the run in `directory` until it ends, and leave with its exit code; Ctrl-C leaves the run alone."""
    from ndbatch.journal import Journal
    from ndbatch.report.following import follow
    from ndbatch.report.progress import Progress
    from ndbatch.report.status import status_lines

    try:
        while not Journal.exists(directory) and _holder(directory):
            time.sleep(LOOK_EVERY)  # a driver has just taken the directory
        if not Journal.exists(directory):
            again = command("run", place, overrides=overrides)
            raise JournalError(f"{directory} holds no run yet; start it with: {again}")
        if _holder(directory):
            with Progress() as progress:
                for event in follow(directory, lambda: _holder(directory) is not None):
                    progress(event)
            while (_holder(directory) or {}).get("pid") not in (None, os.getpid()):
                time.sleep(LOOK_EVERY)  # it still writes its report
    except KeyboardInterrupt:
        typer.echo(f"the run goes on; look again:  {command('attach', place, overrides=overrides)}", err=True)
        raise typer.Exit(0) from None
    with Journal.read(directory) as journal:
        typer.echo("\n".join(status_lines(journal)))
        status = journal.status
    raise typer.Exit(EXIT_CODES.get(status, 1))


def _holder(directory: Path) -> dict[str, object] | None:
    from ndbatch.journal.lock import holder_of

    return holder_of(directory)

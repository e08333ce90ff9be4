"""`ndbatch`: the verbs, and the one place that turns errors into sentences and exit codes.

Exit codes: 0 all done, 1 some blocks failed, 2 a bad configuration, plan or command line, 3 interrupted and resumable.
Every verb imports what it needs when it runs, so that `ndbatch --help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ndbatch.cli import copying, ingest, listing, objects, outcomes, places, points, serve, starts, work
from ndbatch.cli.speech import tell
from ndbatch.errors import Interrupted, NdbatchError, StepError

FAILED, REFUSED, INTERRUPTED = 1, 2, 3


class Verbs(TyperGroup):
    """The verbs in the order they were added; Ctrl-C ends with the exit code of what can be continued."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order they were added, the most used first."""
        return list(self.commands)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the words of the command line; KeyboardInterrupt is answered before typer gives it an exit code of its own."""
        try:
            return super().make_context(*arguments, **options)
        except KeyboardInterrupt:
            _interrupted()

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; KeyboardInterrupt is answered likewise."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _interrupted()


app = typer.Typer(
    cls=Verbs,
    name="ndbatch",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Parallel, resumable batch processing over chunked 3-D volumes.",
    epilog="ndbatch init lists the steps; ndbatch init STEP --output job.yaml writes a configuration to start from.",
)
for _rooms in (work, outcomes, starts, places, listing, copying, ingest, objects, points, serve):
    _rooms.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ndbatch {version('ndbatch')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (`sys.argv` if no `arguments` are given) and leave the process with its exit code."""
    _stop_like_ctrl_c()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="ndbatch")
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        if _is_interruption(error):
            _interrupted()
        _end_with(error)
    raise SystemExit(0)


def _end_with(error: Exception) -> NoReturn:
    """Say what is wrong and leave with its exit code."""
    if isinstance(error, NdbatchError):
        tell(error.message)
        raise SystemExit(exit_code(error)) from None
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe left; nothing to say
        raise SystemExit(FAILED) from None
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        tell(f"{where}{error.strerror or error}")
        raise SystemExit(REFUSED) from None
    tell(_unexpected(error))
    raise SystemExit(FAILED) from None


def _is_interruption(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind `error`: modules written in C turn it into an ImportError while they are imported."""
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, KeyboardInterrupt):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def exit_code(error: NdbatchError) -> int:
    """Return the exit code of an error that ended a verb."""
    if isinstance(error, Interrupted):
        return INTERRUPTED
    return FAILED if isinstance(error, StepError) else REFUSED


def _unexpected(error: Exception) -> str:
    """Return one sentence about a mistake of ndbatch's own, and keep its traceback in a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="ndbatch-error-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(f"command: {' '.join(sys.argv)}\n\n")
        traceback.print_exception(error, file=log)
    said = (str(error).splitlines() or [""])[0]
    return f"ndbatch itself failed ({type(error).__name__}: {said}); please report it with the file {log.name}"


def _interrupted() -> NoReturn:
    typer.echo("interrupted; the same command goes on where it stopped", err=True)
    raise SystemExit(INTERRUPTED) from None


def _stop_like_ctrl_c() -> None:
    """Let SIGTERM end the process as Ctrl-C does, also while it still plans."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)

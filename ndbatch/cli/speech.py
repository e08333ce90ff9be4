"""How the command line speaks of what is wrong: on standard error, in the errors' own sentences."""

from __future__ import annotations

import typer


def tell(message: str) -> None:
    """Say on standard error what is wrong; several problems one below the other. Nothing in it is taken as markup."""
    lines = message.splitlines() or ["no message"]
    head = typer.style("error:", fg="red", bold=True)
    if len(lines) > 1 and all(": " in line for line in lines):
        typer.echo(f"{head} {len(lines)} problems", err=True)
        lines = [f"  {line}" for line in lines]
        typer.echo("\n".join(lines), err=True)
    else:
        typer.echo(f"{head} " + "\n".join(lines), err=True)

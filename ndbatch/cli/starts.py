"""The verbs that help to write a configuration: init, schema, config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ndbatch.cli.arguments import ConfigFile, Overrides, command, echo_json, load_config
from ndbatch.errors import ConfigError, NdbatchError


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("init", short_help="Print a configuration to start from.")(init)
    app.command("schema", short_help="Print the JSON Schema for editors.")(schema)
    app.command("config", short_help="Print CONFIG with all defaults.")(config)


def init(
    step: Annotated[
        str | None,
        typer.Argument(help="A step, or module:function for a function of your own; without it the steps are listed."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here instead of printing.")
    ] = None,
) -> None:
    """Print a commented configuration for STEP to start from, every parameter with its meaning and default."""
    if step is None:
        typer.echo("\n".join(_steps()))
        return
    from ndbatch.config.template import template

    text = template(step)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{output} is there already; choose another name or remove it") from None
    typer.echo(f"{output} is written; adapt the inputs and see what it would do:  {command('plan', output)}")


def _steps() -> list[str]:
    """Return the list of known steps, each with what it does."""
    from ndbatch.config.template import summary
    from ndbatch.steps.registry import step_class, step_names

    names = sorted(step_names())
    width = max(map(len, [*names, "module:function"]))
    lines = []
    for name in names:
        try:
            lines.append(f"{name:<{width}}  {summary(step_class(name))}")
        except (NdbatchError, ImportError) as error:
            lines.append(f"{name:<{width}}  not available: {error}")
    lines.append(f"{'module:function':<{width}}  A function of your own, in a file beside the configuration.")
    return [*lines, "", f"A configuration to start from:  {command('init', 'nuclei', '--output', 'job.yaml')}"]


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors that complete and check YAML."""
    from ndbatch.config.schema import json_schema

    echo_json(json_schema())


def config(path: ConfigFile, overrides: Overrides = None) -> None:
    """Print CONFIG with every default filled in, as a run records it. Secrets stay references."""
    from ndbatch.config.load import dump

    typer.echo(dump(load_config(path, overrides)), nl=False)

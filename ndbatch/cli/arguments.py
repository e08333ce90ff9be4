"""Arguments and options that several verbs have, and what is common in reading and printing them."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndbatch.errors import ConfigError

if TYPE_CHECKING:
    from ndbatch.config.model import Config

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The configuration, a YAML file.", show_default=False)
]
RunPlace = Annotated[
    Path,
    typer.Argument(
        metavar="DIR_OR_CONFIG", help="A run directory, or the configuration of the run.", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the configuration, such as cluster.workers=2. May be repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def load_config(path: Path, overrides: Sequence[str] | None) -> Config:
    """Return the configuration at `path` with `--set` applied; ConfigError names every mistake."""
    from ndbatch.config.load import load

    return load(path, overrides or ())


def run_directory(place: Path, overrides: Sequence[str] | None = None) -> Path:
    """Return the run directory that `place` is, or that the configuration at `place` names."""
    if place.is_dir():
        return place.resolve()
    return load_config(place, overrides).run_directory


def load_recorded(place: Path, overrides: Sequence[str] | None) -> Config:
    """Return the configuration at `place`, or that which the run directory `place` keeps; ConfigError where it has none."""
    from ndbatch.config.load import load
    from ndbatch.journal import Journal

    path = place / "config.yaml" if place.is_dir() else place
    if path == place:
        return load_config(place, overrides)
    if not path.exists():
        raise ConfigError(f"{place} holds no run: there is no config.yaml in it; name the configuration instead")
    with Journal.read(place) as journal:
        base = journal.document.get("base")
    if base is None:
        raise ConfigError(f"{place} does not say where its configuration lay; name the configuration instead")
    config = load(path, overrides or (), Path(base))
    return config.model_copy(update={"directory": str(place.resolve())})


def positions(text: str | None) -> dict[str, int]:
    """Return the voxel in `z=10,y=100,x=100`, by axis name; ConfigError where it is written otherwise."""
    found: dict[str, int] = {}
    for part in (text or "").split(",") if text else []:
        axis, _, value = part.partition("=")
        try:
            found[axis.strip()] = int(value)
        except ValueError:
            raise ConfigError(
                f"--at {text}: write a voxel for each named axis, such as --at z=10,y=100,x=100"
            ) from None
    return found


def echo_json(document: Any) -> None:
    """Print `document` as JSON on standard output."""
    from ndbatch.report.eventlog import plain

    typer.echo(json.dumps(plain(document), indent=2, ensure_ascii=False))


def _program() -> list[str]:
    """Return how this program is called: by its name where that is on the path, else as it was called now."""
    if shutil.which("ndbatch") is not None:
        return ["ndbatch"]
    called = Path(sys.argv[0])
    return [str(called)] if called.name == "ndbatch" else ["python", "-m", "ndbatch"]


def command(verb: str, *words: object, overrides: Sequence[str] | None = None) -> str:
    """Return a command line as the user would type it, quoted for the shell."""
    parts = [*_program(), verb, *map(str, words)]
    for text in overrides or ():
        parts += ["--set", text]
    return shlex.join(parts)

"""The verb serve: volumes of a folder, or those that a file names, for programs that speak other protocols."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ndbatch.config.secret import Secret
    from ndbatch.remotes.remote import Entry
    from ndbatch.server.service import Service
    from ndbatch.server.settings import Settings

SHOWN = 8
"""Volumes whose addresses are printed; the start page has all of them."""


def add_to(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("serve", short_help="Serve volumes to viewers and to clients of ndstore, BOSS and DVID.")(serve)


def serve(
    place: Annotated[
        Path, typer.Argument(metavar="DIR_OR_CONFIG", help="A folder of volumes, or a YAML file that names them.")
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to listen on: 127.0.0.1, this machine alone, if not given.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port, 8080 if not given; 0 takes a free one.")
    ] = None,
    write: Annotated[
        Literal["token", "anyone", "nobody"] | None,
        typer.Option(help="Who may write: those who show the token (if not given), anyone, nobody."),
    ] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable that holds the token.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File that holds the token; one is made if not given.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes that answer, 1 if not given.")] = None,
    open_to_network: Annotated[
        bool, typer.Option("--open-to-network", help="Let anyone on the network write, with --write anyone.")
    ] = False,
) -> None:
    """Serve volumes until Ctrl-C: precomputed and zarr for Neuroglancer, and the services that old scripts speak to.

    Prints where. Requests in flight are answered before it ends, so that no write that was answered is lost.
    """
    from ndbatch.server.memory import share_arenas
    from ndbatch.server.running import base_address, listening, prepared, require_server
    from ndbatch.server.running import serve as answer
    from ndbatch.server.settings import settings

    token = _token(token_env, token_file)
    changes: dict[str, Any] = {"host": host, "port": port, "write": write, "workers": workers, "token": token}
    told = replace(settings(place), **{name: value for name, value in changes.items() if value is not None})
    told.require_safe(open_to_network)
    require_server()
    share_arenas()  # before volumes are looked at, in threads: arenas that there are stay
    bound = listening(told.host, told.port)
    try:
        service, refused, made = prepared(told)
        _announce(service, told, base_address(told.host, bound), refused, made)
        _answer_until_stopped(answer, service, bound, told.workers)
    finally:
        bound.close()
    typer.echo("stopped; every request that came was answered")


def _token(env: str | None, file: Path | None) -> Secret | None:
    """Return where the token is, of the two ways to say it. ConfigError where both are given."""
    from ndbatch.config.secret import Secret
    from ndbatch.errors import ConfigError

    if env and file:
        raise ConfigError("--token-env and --token-file are two places for one token; give one of them")
    return Secret(env=env) if env else Secret(file=str(file)) if file else None


def _answer_until_stopped(answer: Any, service: Service, bound: socket.socket, workers: int) -> None:
    try:
        answer(service, bound, workers)
    except KeyboardInterrupt:
        return  # how a service is meant to end


def _announce(service: Service, told: Settings, base: str, refused: list[Entry], made: str) -> None:
    """Say what is served, where, and how to write."""
    from ndbatch.server.addresses import addresses

    pairs = [(p, c) for p in service.catalogue.projects() for c in service.catalogue.channels(p.name)]
    typer.echo(f"{base}/ serves {len(pairs)} volume{'s' * (len(pairs) != 1)} of {service.root}; Ctrl-C stops it")
    for project, channel in pairs[:SHOWN]:
        typer.echo(f"\n{project.name}/{channel.name}  {channel.dtype} {channel.kind}")
        for known in addresses(service, base, project, channel):
            typer.echo(f"  {known.text}")
    if len(pairs) > SHOWN:
        typer.echo(f"\n... and {len(pairs) - SHOWN} more, on the page {base}/")
    for entry in refused:
        typer.echo(f"\nnot served: {entry.name}: {entry.problem}", err=True)
    typer.echo("\n" + _writing(service, told, made))


def _writing(service: Service, told: Settings, made: str) -> str:
    """Return a sentence about who may write; the token itself is in it only when it was made just now."""
    if told.write == "nobody":
        return "nobody may write"
    if told.write == "anyone":
        return "anyone who reaches it may write"
    if told.token is not None:
        reference = told.token.reference()
        return f"writing needs the token in {reference.get('env') or reference.get('file')}"
    where = service.state / "token"
    return f"writing needs the token {made}, kept in {where}" if made else f"writing needs the token in {where}"

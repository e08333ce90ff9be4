"""What `ndbatch serve` is told: a folder, or a YAML file that names volumes wherever they lie; and how to serve them.

```yaml
volumes:
  embryo/nuclei: data/nuclei.zarr                        # PROJECT/CHANNEL: a path or URL
  embryo/cells: {url: "seg.h5::/cells", kind: labels}    # or what an input of a run may say
folder: served                                           # new volumes go here, and what lies here is served too
port: 8080
```
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from ndbatch.config.document import Document
from ndbatch.config.model import Input
from ndbatch.config.secret import Secret
from ndbatch.config.sentences import problems_of
from ndbatch.config.source import read
from ndbatch.errors import ConfigError, PlanError
from ndbatch.remotes.address import parse
from ndbatch.server.catalogue import NAME

Writers = Literal["token", "anyone", "nobody"]
PORT = 8080
CONFIGURATIONS = (".yaml", ".yml")


def _as_mapping(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Served(Document):
    """The YAML file of `ndbatch serve`."""

    volumes: dict[str, Annotated[Input, BeforeValidator(_as_mapping)]]
    """The volumes, PROJECT/CHANNEL: a path or URL, or a mapping as an input of a run has it."""
    folder: str = "served"
    """Where new volumes go and what the service keeps; volumes that lie there are served too."""
    host: str = "127.0.0.1"
    """The address to listen on; only this machine reaches 127.0.0.1."""
    port: Annotated[int, Field(ge=0, le=65535)] = PORT
    """The port to listen on; 0 takes a free one."""
    write: Writers = "token"
    """Who may write: those who show the token, anyone, or nobody."""
    token: Secret | None = None
    """Where the token is, {env: NAME} or {file: path}; one is made and kept in the folder if not given."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer."""

    @field_validator("volumes")
    @classmethod
    def _are_named(cls, volumes: dict[str, Input]) -> dict[str, Input]:
        for name, volume in volumes.items():
            parts = name.split("/")
            if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
                raise ValueError(f"{name!r} is not PROJECT/CHANNEL, each of letters, digits, _ and -")
            if volume.like is not None:
                raise ValueError(f"{name}: like names an input of a run; write grid instead")
        return volumes


@dataclass(frozen=True)
class Settings:
    """What to serve and how, checked. `volumes` maps PROJECT/CHANNEL to what `ndbatch.open` takes, paths absolute."""

    root: Path
    volumes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = PORT
    write: Writers = "token"
    token: Secret | None = None
    workers: int = 1

    def require_safe(self, open_to_network: bool) -> None:
        """Raise PlanError where anyone on the network could write, unless that is wanted."""
        if self.write == "anyone" and not is_loopback(self.host) and not open_to_network:
            raise PlanError(
                f"anyone who reaches {self.host} could overwrite and delete volumes; use --write token, or listen on "
                "127.0.0.1, or say --open-to-network if that is what you want"
            )


def settings(place: Path) -> Settings:
    """Return what to serve: a folder as it is, or what a YAML file says. ConfigError names every mistake with its line."""
    place = place.expanduser()
    if place.is_dir():
        return Settings(place.resolve())
    if place.suffix.lower() not in CONFIGURATIONS:
        what = "is a file" if place.exists() else "does not exist"
        raise ConfigError(f"{place} {what}; give a folder of volumes, or a YAML file with the key volumes")
    source = read(place)
    try:
        told = Served.model_validate(source.data)
    except ValidationError as error:
        problems = sorted(problems_of(error, Served, source.data), key=lambda one: source.line(one.path) or 0)
        lines = [f"{source.place(problem.path)}: {problem.text()}" for problem in problems]
        raise ConfigError("\n".join(dict.fromkeys(lines)), file=str(place)) from None
    base = place.resolve().parent
    volumes = {name: _absolute(volume, base) for name, volume in told.volumes.items()}
    folder = (base / Path(told.folder).expanduser()).resolve()
    return Settings(folder, volumes, told.host, told.port, told.write, _beside(told.token, base), told.workers)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _absolute(volume: Input, base: Path) -> dict[str, Any]:
    """Return what `ndbatch.open` takes, as JSON types."""
    told = volume.model_dump(mode="json", exclude_none=True)
    if volume.token is not None:
        token = _beside(volume.token, base)
        told["token"] = token.reference() if token else None
    return {**told, "url": parse(volume.url, base).url}


def _beside(token: Secret | None, base: Path) -> Secret | None:
    """Return a reference to a secret whose file is taken from the folder of the configuration."""
    if token is None or token.file is None:
        return token
    return Secret(file=str(base / Path(token.file).expanduser()))

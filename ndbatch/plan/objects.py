"""Tables that end as RAMON objects: where, of which type, and what may stand in the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ndbatch.config.model import Config
from ndbatch.errors import ConfigError, NotFound, PlanError
from ndbatch.plan.model import ObjectsTarget, Target
from ndbatch.ramon.files import ENDINGS
from ndbatch.remotes.address import parse
from ndbatch.tables.writing import TABLE_ENDINGS


def table_path(config: Config, name: str, step: str) -> Path:
    """Return the file of the table `name`. ConfigError where its ending tells no format of tables."""
    url = config.outputs[name].url
    path = Path(url).expanduser()
    if path.suffix not in TABLE_ENDINGS:
        hint = "say objects: segment, or another type, to keep its rows there, or " if url.startswith("ndstore") else ""
        raise ConfigError(
            f"outputs.{name}: {url} is a table of {step}; {hint}its name must end in {' or '.join(TABLE_ENDINGS)}"
        )
    return path if path.is_absolute() else config.run_directory / path


def objects_target(config: Config, name: str, made_as: str | None) -> ObjectsTarget | None:
    """Return where the rows of the table `name` become objects; None where they stay a table.

    `made_as` is the type that the step gives them, if it makes objects. ConfigError for an address that keeps none.
    """
    output = config.outputs[name]
    kind = output.objects or made_as
    if kind is None:
        return None
    if "://" not in output.url:
        path = Path(output.url).expanduser()
        if not path.name.lower().endswith(ENDINGS):
            raise ConfigError(
                f"outputs.{name}: {output.url} keeps no objects; use ndstore://host/token/channel, or a file that ends in "
                f"{', '.join(ENDINGS)}"
            )
        path = path if path.is_absolute() else config.run_directory / path
        return ObjectsTarget(str(path), kind, None, output.create)
    address = parse(output.url, config.run_directory)
    if address.scheme != "ndstore":
        raise ConfigError(f"outputs.{name}: {output.url} keeps no objects; only an ndstore and files do")
    return ObjectsTarget(output.url, kind, output.token, output.create)


def require_no_objects(name: str, objects: ObjectsTarget, targets: Mapping[str, Target]) -> None:
    """Raise PlanError where objects are there already, or nothing is there to keep them: a channel that no output makes."""
    try:
        if objects.file is not None and not objects.file.exists():
            return
        found = objects.open().query(limit=1)
    except NotFound as error:
        address = parse(objects.url)
        if any(target.create and target.address.path == address.path for target in targets.values()):
            return
        raise PlanError(
            f"outputs.{name}: objects need a channel of labels, and {objects.url} is none ({error.message}); make it, or write "
            "the labels there in the same run"
        ) from None
    if found and objects.create:
        raise PlanError(
            f"outputs.{name}: {objects.url} holds objects already; choose another url, or say create: false to add to them and "
            "to replace those with the same ids"
        )

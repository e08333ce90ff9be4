"""The fingerprint of a run: everything that decides what it writes, and nothing else.

Workers, memory, retries and the kind of cluster are not in it: they may change between one session and the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ndbatch.config.model import Config
from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.plan.model import Target
from ndbatch.plan.program import level_of
from ndbatch.remotes.base import Volume


def identity(
    config: Config,
    sources: Mapping[str, Volume],
    targets: Mapping[str, Target],
    region: Box,
    grids: Mapping[Shape, Grid],
) -> dict[str, Any]:
    """Return the facts that decide the output, as JSON types."""
    facts = {
        "inputs": {
            name: {"url": volume.url, "version": volume.version(), "spec": _plain(volume.spec)}
            for name, volume in sources.items()
        },
        "steps": [step.identity() for step in config.steps],
        "outputs": {
            name: {
                "url": config.outputs[level_of(name)[0]].url,
                "spec": _plain(targets[name].spec) if name in targets else None,
                **_objects(config.outputs[level_of(name)[0]].objects),
            }
            for name in [*config.outputs, *(name for name in targets if level_of(name)[1])]
        },
        "pyramids": {name: output.pyramid.model_dump() for name, output in config.outputs.items() if output.pyramid},
        "region": {"start": list(region.start), "stop": list(region.stop)},
        "blocks": {scale_name(scale): list(grid.block) for scale, grid in grids.items()},
    }
    return dict(json.loads(json.dumps(facts, default=str)))


def _objects(kind: str | None) -> dict[str, str]:
    return {} if kind is None else {"objects": kind}


def scale_name(scale: Shape) -> str:
    """Return a scale as the word that the facts keep: `1 2 2`."""
    return " ".join(map(str, scale))


def digest(facts: Mapping[str, Any]) -> str:
    """Return the fingerprint of `facts`: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def require_same(old: Mapping[str, Any], new: Mapping[str, Any], directory: str) -> None:
    """Raise PlanError, saying what differs, where a run directory was begun with other facts."""
    changes = list(differences(old, new))
    if changes:
        raise PlanError(
            f"{directory} was begun with something else: {'; '.join(changes[:5])}"
            + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")
            + ". Start over with --fresh (what that run wrote is removed), or give the run another name",
            changes=changes,
        )


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield `path: old -> new` for every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{path}.{number}")
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(spec: Any) -> dict[str, Any]:
    return {
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "axes": spec.axes,
        "chunks": list(spec.chunks),
        "shards": list(spec.shards) if spec.shards else None,
        "offset": list(spec.offset),
        "voxel_size": list(spec.voxel_size) if spec.voxel_size else None,
        "kind": str(spec.kind),
        "level": spec.level,
    }

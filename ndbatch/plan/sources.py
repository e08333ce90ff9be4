"""The inputs of a run: opened, seen as the configuration says, and held to one voxel grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ndbatch.config.model import Config, Input
from ndbatch.errors import NdbatchError, PlanError
from ndbatch.remotes import api
from ndbatch.remotes.base import Volume
from ndbatch.steps.base import ArrayInfo

FRAME = ("axes", "domain", "voxel_size")
"""What inputs must have in common."""


def open_sources(config: Config) -> dict[str, Volume]:
    """Return the inputs of `config`, opened, by name and in its order; no voxel is read.

    An input with `resample` is laid on the voxels of the input that `like` names, of the first one if it names none (and no
    `grid`). Raises PlanError or RemoteError, naming the input, and PlanError where inputs do not lie on one voxel grid.
    """
    first = next(iter(config.inputs))
    likes = {name: _like(entry, first) for name, entry in config.inputs.items()}
    opened: dict[str, Volume] = {}
    for name, entry in sorted(config.inputs.items(), key=lambda item: likes[item[0]] is not None):
        frame = likes[name]
        opened[name] = _open(name, entry, config, None if frame is None else opened[frame])
    return {name: opened[name] for name in config.inputs}


def _like(entry: Input, first: str) -> str | None:
    """Return the name of the input whose voxels `entry` takes, or None where it keeps its own or names a grid."""
    return (entry.like or first) if entry.resample is not None and entry.grid is None else None


def _open(name: str, entry: Input, config: Config, like: Volume | None) -> Volume:
    told: dict[str, Any] = entry.model_dump(exclude={"url", "token", "like"}, exclude_none=True)
    try:
        return api.open(entry.url, base=config.base, token=entry.token, like=like, **told)
    except NdbatchError as error:
        error.message = f"inputs.{name}: {error.message}"
        raise


def require_one_frame(infos: Mapping[str, ArrayInfo]) -> None:
    """Raise PlanError where inputs do not share one voxel grid: nothing is resampled silently."""
    (first, frame), *others = infos.items()
    for name, info in others:
        for what in FRAME:
            mine, theirs = getattr(frame, what), getattr(info, what)
            if not _alike(what, mine, theirs):
                raise PlanError(
                    f"inputs {first} and {name} do not lie on the same voxels: {what} {_told(what, frame)} and "
                    f"{_told(what, info)}; {_advice(name, what)}"
                )


def _alike(what: str, mine: Any, theirs: Any) -> bool:
    """Return whether two inputs agree; a voxel size that is not known, or differs by rounding alone, does."""
    if what != "voxel_size" or mine is None or theirs is None:
        return what == "voxel_size" or mine == theirs
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(mine, theirs, strict=True))


def _told(what: str, info: ArrayInfo) -> str:
    """Return, with named axes, what of an input differs from the other."""
    if what == "domain":
        return info.domain.describe(info.axes)
    if what == "voxel_size" and info.voxel_size is not None:
        return ", ".join(f"{axis}: {n:g}" for axis, n in zip(info.axes, info.voxel_size, strict=True)) + " um"
    return str(getattr(info, what))


def _advice(name: str, what: str) -> str:
    if what == "axes":
        return f"take one place along an axis with t: or c: in inputs.{name}"
    return (
        "they must have the same shape, offset and voxel size; to sample "
        f"{name} on the voxels of the first, write resample: nearest (or linear) in inputs.{name}"
    )

"""What an ingest has to know beside the voxels: told on the command line, found in the file, or asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.ingest.look import Found
from ndbatch.remotes.abilities import Abilities, nearest_dtype
from ndbatch.remotes.base import Kind
from ndbatch.units import Length

Ask = Callable[[str, str], str]
"""Asks the user: a question and the answer that is proposed, to the answer."""

WIDE, NARROW = 1000, 500
"""Levels are added while y or x is longer than the first and both are longer than the second."""


@dataclass(frozen=True)
class Settings:
    """The facts of one channel to be made. Lengths and positions are by axis name."""

    channel: str
    kind: Kind
    dtype: str
    offset: Mapping[str, int]
    voxel_size: Mapping[str, Length]
    levels: int
    """Coarser levels to make beside level 0."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the target's address, in the words of the service."""

    def document(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return {
            **self.__dict__,
            "kind": str(self.kind),
            "offset": dict(self.offset),
            "voxel_size": dict(self.voxel_size),
        }


def proposed(found: Found, abilities: Abilities) -> Settings:
    """Return what follows from the file and from what the service can hold. PlanError where it can hold no such voxels."""
    volume = found.volume
    size = dict(zip(volume.axes, volume.voxel_size, strict=True)) if volume.voxel_size else {}
    return Settings(
        channel=found.name,
        kind=found.kind,
        dtype=fitting_dtype(found, abilities),
        offset={
            axis: found.offset.get(axis, at)
            for axis, at in zip(volume.axes, volume.offset, strict=True)
            if axis in "zyx"
        },
        voxel_size={axis: length for axis, length in size.items() if axis in "zyx"},
        levels=fitting_levels(dict(zip(volume.axes, volume.shape, strict=True))),
    )


def fitting_dtype(found: Found, abilities: Abilities) -> str:
    """Return the type that the service holds all values in: the volume's own, else the smallest that every seen value fits.

    Labels become the widest unsigned type of the service that holds them, so that later ids fit too; a type that holds
    every value of the volume's own is taken before one that holds the values that were seen.
    """
    own, known = found.volume.dtype, list(abilities.dtypes)
    unsigned = [name for name in known if np.dtype(name).kind == "u"]
    if found.kind is Kind.LABELS and abilities.labels and own.kind in "bui":
        known = unsigned = list(abilities.labels)
    elif found.kind is Kind.LABELS and own.kind in "bui" and own.itemsize < 4:
        known = [name for name in unsigned if np.dtype(name).itemsize >= 4] or known
    if own.name in known:
        return own.name
    safe = nearest_dtype(own, known)
    if safe in known:
        return safe
    low, high = found.window
    fits = [name for name in unsigned if found.exact and low >= 0 and high <= np.iinfo(name).max and own.kind in "iu"]
    if fits:
        return min(fits, key=lambda name: np.dtype(name).itemsize)
    raise PlanError(
        f"{found.volume.url}: {own} from {low} to {high} fits none of {', '.join(known)}; say which with --dtype, after "
        "ndbatch copy --dtype if values must be changed"
    )


def fitting_levels(shape: Mapping[str, int]) -> int:
    """Return how many coarser levels a volume wants where nobody says: y and x are halved while they are long."""
    y, x, levels = shape["y"], shape["x"], 0
    while max(y, x) > WIDE and min(y, x) > NARROW:
        y, x, levels = -(-y // 2), -(-x // 2), levels + 1
    return levels


def asked(settings: Settings, told: Mapping[str, Any], ask: Ask | None) -> Settings:
    """Return the settings as they are told, and where they are not and there is somebody to `ask`, as answered.

    PlanError where the voxel size is told nowhere and nobody can be asked.
    """
    settings = replace(settings, **{name: value for name, value in told.items() if value not in (None, {})})
    if ask is not None:
        settings = _answered(settings, {name for name, value in told.items() if value not in (None, {})}, ask)
    missing = [axis for axis in "zyx" if axis not in settings.voxel_size]
    if missing:
        raise PlanError(
            f"the voxel size along {', '.join(missing)} is not known; say it: --voxel-size z=40nm,y=4nm,x=4nm"
        )
    return settings


def _answered(settings: Settings, known: set[str], ask: Ask) -> Settings:
    if "channel" not in known:
        settings = replace(settings, channel=ask("channel", settings.channel))
    if "kind" not in known:
        settings = replace(settings, kind=kind_of(ask("image or labels", str(settings.kind))))
    if "voxel_size" not in known:
        sizes = {a: size if isinstance(size, str) else f"{size:g}um" for a, size in settings.voxel_size.items()}
        said = ",".join(f"{axis}={size}" for axis, size in sizes.items())
        settings = replace(settings, voxel_size=named(ask("voxel size", said or "z=1um,y=1um,x=1um")))
    if "offset" not in known:
        said = ",".join(f"{axis}={at}" for axis, at in settings.offset.items())
        settings = replace(settings, offset={axis: _integer(text) for axis, text in named(ask("offset", said)).items()})
    if "levels" not in known:
        settings = replace(settings, levels=_integer(ask("coarser levels", str(settings.levels))))
    return settings


def named(text: str) -> dict[str, str]:
    """Return `z=40nm,y=4nm,x=4nm` by axis name; PlanError where it is written otherwise."""
    found = {}
    for part in text.split(",") if text.strip() else ():
        axis, equals, value = (word.strip() for word in part.partition("="))
        if not equals or axis not in ("z", "y", "x") or not value:
            raise PlanError(f"{text!r}: write a value for each named axis, such as z=40nm,y=4nm,x=4nm")
        found[axis] = value
    return found


def _integer(text: str) -> int:
    if not text.strip().lstrip("-").isdigit():
        raise PlanError(f"{text!r} is not a whole number")
    return int(text)


def kind_of(text: str) -> Kind:
    """Return the kind that a word means, in the words of ndbatch or of a service; PlanError for another."""
    try:
        return Kind({"annotation": "labels", "segmentation": "labels"}.get(text, text))
    except ValueError:
        raise PlanError(f"{text!r} is none of {', '.join(Kind)}") from None

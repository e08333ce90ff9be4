"""Binding: what the steps of a configuration make of its inputs; the levels of pyramids are bound like steps of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from ndbatch.config.model import Config, Pyramid
from ndbatch.errors import ConfigError, NdbatchError, PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.plan.program import Bound, level_name, times
from ndbatch.plan.targets import made_by_service, output_dtypes
from ndbatch.remotes.base import Kind
from ndbatch.steps.base import ArrayInfo
from ndbatch.steps.downsample import chosen, isotropic_factors, named_factors, pooling

SMALLEST_LEVEL = 128
"""Voxels along the longest axis at which a pyramid of `levels: auto` ends."""


def bind(config: Config, infos: dict[str, ArrayInfo], region: Box) -> tuple[Bound, ...]:
    """Bind every step in order, then the levels of every pyramid; `infos` gains what they make.

    Raises ConfigError or PlanError, naming the step or the output.
    """
    steps = []
    for number, step in enumerate(config.steps, 1):
        where = f"step {number} ({step.kind})"
        frame = _frame_of(where, step.sources, infos)
        inputs = {role: infos[name] for role, name in step.sources.items()}
        try:
            operation = step.bind(inputs, output_dtypes(config, step.products))
        except NdbatchError as error:
            error.message = f"{where}: {error.message.removeprefix(f'{step.kind}: ')}"
            raise
        bound = Bound(step.kind, operation, step.sources, step.products, frame, step.asks)
        infos.update(_made(bound, region))
        steps.append(bound)
    _require_used(config, steps)
    for name, output in config.outputs.items():
        if output.pyramid is not None and name in infos:
            if output.kind is not None:
                infos[name] = replace(infos[name], kind=Kind(output.kind))
            if not made_by_service(config, name, output, infos[name]):
                steps += _levels(name, output.pyramid, infos, region)
    return tuple(steps)


def _levels(name: str, pyramid: Pyramid, infos: dict[str, ArrayInfo], region: Box) -> Iterator[Bound]:
    """Yield what makes each level of the output `name` from the one before it."""
    below, number = name, 0
    while number != pyramid.levels:
        info = replace(infos[below], domain=region.coarsened(infos[below].scales))
        if pyramid.levels == "auto" and small_enough(info.domain.shape, info.axes, pyramid.factors):
            return
        number += 1
        try:
            factors = isotropic_factors(info) if pyramid.factors == "auto" else named_factors(pyramid.factors, info)
            operation = pooling(info, factors, chosen(pyramid.method, info), name=name)
        except PlanError as error:
            error.message = f"outputs.{name}.pyramid: level {number}: {error.message}"
            raise
        if not any(n > 1 for n in infos[name].scales):
            _require_whole_windows(name, number, times(info.scales, factors), info.axes, region)
        made = level_name(name, number)
        bound = Bound(f"level {number}", operation, {"input": below}, {"output": made}, info.scales)
        infos.update(_made(bound, region))
        below = made
        yield bound


def _require_whole_windows(name: str, level: int, window: Shape, axes: str, region: Box) -> None:
    """Raise PlanError where chunks of the output would begin inside a voxel of its level, so that no block holds both."""
    within = [i for i, (a, w) in enumerate(zip(region.start, window, strict=True)) if a % w]
    if within:
        ends = (f"{axes[i]}: [{-(-region.start[i] // window[i]) * window[i]}, {region.stop[i]}]" for i in within)
        raise PlanError(
            f"outputs.{name}.pyramid: a voxel of level {level} is made of {', '.join(f'{axes[i]}: {window[i]}' for i in within)} "
            f"voxels counted from 0, and the region begins within one; set region: {{{', '.join(ends)}}}, or fewer levels"
        )


def small_enough(shape: Shape, axes: str, factors: Mapping[Any, int] | Literal["auto"]) -> bool:
    """Return whether a pyramid of `levels: auto` ends at `shape`: no axis that its factors shorten is longer than 128 voxels."""
    shortened = (
        [axis for axis in axes if axis in "zyx"] if factors == "auto" else [a for a, n in factors.items() if n > 1]
    )
    if factors != "auto" and not (shortened and set(shortened) <= set(axes)):
        return False  # there is no such axis, or nothing to do: refused where the level is bound
    return all(shape[axes.index(axis)] <= SMALLEST_LEVEL for axis in shortened)


def _frame_of(where: str, sources: Mapping[str, str], infos: Mapping[str, ArrayInfo]) -> Shape:
    """Return the scale that the inputs of a step have in common; that of the first input where it reads none.

    PlanError where they differ.
    """
    if not sources:
        return next(iter(infos.values())).scales
    (first, scale), *others = ((name, infos[name].scales) for name in sources.values())
    for name, other in others:
        if other != scale:
            raise PlanError(
                f"{where}: {first} and {name} have voxels of different size, {scale} and {other} times those of the inputs; "
                "bring them to the same size first"
            )
    return scale


def _made(bound: Bound, region: Box) -> dict[str, ArrayInfo]:
    """Return the arrays that a step makes, by name; a coarse one covers the region, as if that were the whole volume."""
    result = {}
    for role, name in bound.array_names().items():
        info = bound.operation.arrays[role]
        coarse = any(n > 1 for n in bound.scale)
        result[name] = replace(info, scale=bound.scale, domain=region.coarsened(bound.scale)) if coarse else info
    return result


def _require_used(config: Config, steps: list[Bound]) -> None:
    used = {name for step in steps for name in step.sources.values()} | set(config.outputs)
    for number, step in enumerate(steps, 1):
        if not used & set(step.products.values()):
            names = ", ".join(step.products.values())
            raise ConfigError(
                f"step {number} ({step.kind}) makes {names}, which no step and no output uses; add it to outputs"
            )

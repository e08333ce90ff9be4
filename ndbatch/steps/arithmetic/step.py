"""`arithmetic`: an expression of arrays, voxel by voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from ndbatch.casting import cast, integer_for
from ndbatch.errors import ConfigError, PlanError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.arithmetic.expression import (
    CONSTANTS,
    FUNCTIONS,
    INT64,
    Node,
    Range,
    evaluate,
    live_bytes,
    names_in,
    parse,
    range_of,
)
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step


class Arithmetic(Step):
    """Compute an expression of arrays, voxel by voxel, such as (a - b) / 2 > 10."""

    kind: ClassVar[str] = "arithmetic"

    expression: Annotated[str, Field(examples=["(a - b) / 2 > 10"])]
    """What to compute: numbers, the inputs by their names, + - * / // % ** & | ^ ~, comparisons, and, or, not, where(test, a,
    b), clip, minimum, maximum and numpy's other functions of single values. Integers never wrap around."""
    inputs: Annotated[dict[str, str], Field(min_length=1, examples=[{"a": "image", "b": "background"}])]
    """The arrays, by the names that the expression uses."""
    output: str
    """The name of the result: uint8 (0 or 1) of a comparison; the smallest integers that hold every result there can be;
    float32 (float64 where an input is) otherwise; unless the output asks for another dtype."""

    @model_validator(mode="after")
    def _names_are_inputs(self) -> Arithmetic:
        try:
            used = names_in(parse(self.expression))
        except ConfigError as error:
            raise ValueError(error.message) from None
        for name in self.inputs:
            if not name.isidentifier() or name in FUNCTIONS or name in CONSTANTS:
                raise ValueError(f"inputs: {name!r} cannot be a name in an expression; choose another, such as a")
            if name not in used:
                raise ValueError(f"inputs: the expression does not use {name}; leave it out")
        missing = sorted(used - set(self.inputs))
        if missing:
            raise ValueError(
                f"the expression uses {missing[0]}, which inputs does not name; it names {', '.join(self.inputs)}"
            )
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The arrays it reads, by their names in the expression."""
        return dict(self.inputs)

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo, no passes, no copy of the inputs but for their widening.

        Raises PlanError for inputs that are no numbers, and for bits of floating point numbers.
        """
        for name, info in inputs.items():
            if info.dtype.kind not in "buif":
                raise PlanError(f"arithmetic: {name} is {info.dtype}; use integers or floating point numbers")
        tree = parse(self.expression)
        try:
            found = range_of(tree, {name: info.dtype for name, info in inputs.items()})
        except ConfigError as error:
            raise PlanError(f"arithmetic: {error.message}") from None
        first = next(iter(inputs.values()))
        dtype = dtypes.get("output") or _dtype(found, inputs)
        kind = Kind.LABELS if found.kind == "b" else Kind.IMAGE
        return _Computing(
            arrays={"output": replace(first, dtype=dtype, kind=kind)},
            working_bytes=float(live_bytes(tree) + 16),
            tree=tree,
            name=self.output,
        )


def _dtype(found: Range, inputs: Mapping[str, ArrayInfo]) -> np.dtype[Any]:
    """Return the result's own type: the smallest that holds what it can be."""
    if found.kind == "b":
        return np.dtype(np.uint8)
    if found.kind == "i":
        # What leaves int64 is an error where it happens, so that nothing beyond it comes out.
        low, high = max(found.low, INT64[0]), min(found.high, INT64[1])
        return np.dtype(integer_for(low, high) or np.int64)
    wide = any(info.dtype == np.float64 for info in inputs.values())
    return np.dtype(np.float64 if wide else np.float32)


@dataclass(frozen=True)
class _Computing(Operation):
    tree: Node = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the expression's value on the box. Raises StepError where it leaves int64 or the output's dtype."""
        value = evaluate(self.tree, {name: patch.crop(box) for name, patch in inputs.items()}, self.name)
        return {"output": cast(np.broadcast_to(value, box.shape), self.arrays["output"].dtype, self.name)}

"""`copy`: the voxels as they are, or in another dtype. What else changes on the way, the view of the input does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from ndbatch.casting import cast
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step


class Copy(Step):
    """Copy a volume: to another format, another chunk shape, another dtype (values that do not fit are refused).

    Part of it, flipped, transposed, padded, moved or on other voxels: the keys of the input say so.
    """

    kind: ClassVar[str] = "copy"

    input: str
    """The array to copy."""
    output: str
    """The name of the copy."""
    skip: Literal["empty", "identical"] | None = None
    """Blocks that are not written: empty, those of nothing but zeros (in a new volume they are zero already); identical,
    those that the output holds already, which costs reading them. How many is told in the report."""

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo, no passes; the dtype of the input unless another is asked for."""
        info = inputs["input"]
        dtype = dtypes.get("output", info.dtype)
        return _Copying(
            arrays={"output": replace(info, dtype=dtype)},
            working_bytes=0.0 if dtype == info.dtype else 9.0,
            unwritten=self.skip or "",
            name=self.output,
        )


@dataclass(frozen=True)
class _Copying(Operation):
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return a view of the input where the dtype is the same."""
        return {"output": cast(inputs["input"].crop(box), self.arrays["output"].dtype, self.name)}

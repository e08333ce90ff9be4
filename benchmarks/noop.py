"""A step that does nothing, to measure what everything around a step costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step

EMPTY = pa.RecordBatch.from_pydict({"nothing": pa.array([], pa.int64())})


class NothingOperation(Operation):
    """Reads nothing, makes nothing."""

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array | pa.RecordBatch]:
        """Return a table without rows."""
        return {"table": EMPTY}


class Nothing(Step):
    """`apply` is called once a block and returns no rows."""

    kind = "nothing"

    @property
    def sources(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def products(self) -> dict[str, str]:
        """One table."""
        return {"table": "nothing"}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation."""
        return NothingOperation(arrays={}, tables=("table",))

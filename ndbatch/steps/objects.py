"""`objects`: a RAMON object for each label of a volume, with what is measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

from ndbatch.steps.base import ArrayInfo, Operation
from ndbatch.steps.measure.step import Measure


class Objects(Measure):
    """Make a RAMON object of every label, with its measurements, in an ndstore or in a file."""

    kind: ClassVar[str] = "objects"

    type: Literal["generic", "synapse", "segment", "neuron", "organelle", "node", "roi"] = "segment"
    """What the objects are: a class of RAMON. A synapse and an organelle get their centroid, a node its location."""

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation of measure, whose rows are objects. Raises what measure raises."""
        return replace(super().bind(inputs, dtypes), objects={"output": self.type})

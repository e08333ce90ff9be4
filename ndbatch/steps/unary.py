"""Steps that make one array from one array: where they read and write."""

from __future__ import annotations

from ndbatch.errors import PlanError
from ndbatch.steps.base import ArrayInfo, Step


class Unary(Step):
    """One array in, `input`, one array out, `output`. Subclasses say what either is."""

    input: str
    """The name of the array it reads."""
    output: str
    """The name of the array it makes."""

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"input": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The array it makes."""
        return {"output": self.output}

    def require_numbers(self, info: ArrayInfo) -> None:
        """Raise PlanError unless the voxels are integers, floating point numbers or bool."""
        if info.dtype.kind not in "buif":
            raise PlanError(f"{self.kind}: {self.input} is {info.dtype}; use integers or floating point numbers")

    def require_labels(self, info: ArrayInfo) -> None:
        """Raise PlanError unless the voxels are integers or bool."""
        if info.dtype.kind not in "bui":
            raise PlanError(
                f"{self.kind}: {self.input} is {info.dtype}, which is neither a mask nor labels; put a threshold or "
                "components step before it"
            )

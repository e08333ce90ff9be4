"""The order of axes: what a file stores, and what ndbatch sees, which is always (t?, c?, z, y, x).

A store translates once, at its edge, with an `AxisOrder`; nothing else in ndbatch ever sees another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ndbatch.errors import PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array

CANONICAL = "tczyx"
T = TypeVar("T")


@dataclass(frozen=True)
class AxisOrder:
    """The names of a file's axes in the order they are stored, each one of t, c, z, y, x at most once."""

    stored: str

    @property
    def axes(self) -> str:
        """The names in the order that ndbatch uses."""
        return "".join(axis for axis in CANONICAL if axis in self.stored)

    @property
    def _places(self) -> tuple[int, ...]:
        return tuple(self.stored.index(axis) for axis in self.axes)

    def from_stored(self, values: Sequence[T]) -> tuple[T, ...]:
        """Return one value an axis, given in stored order, in the order of ndbatch."""
        return tuple(values[i] for i in self._places)

    def to_stored(self, values: Sequence[T]) -> tuple[T, ...]:
        """Return one value an axis, given in the order of ndbatch, in stored order."""
        return tuple(values[self.axes.index(axis)] for axis in self.stored)

    def slices(self, box: Box, origin: Sequence[int]) -> tuple[slice, ...]:
        """Return the slices of `box`, in stored order, in an array whose first voxel is `origin`."""
        return self.to_stored(box.slices(origin))

    def array_from_stored(self, data: Array) -> Array:
        """Return a view of `data` with its axes in the order of ndbatch."""
        return data.transpose(self._places)

    def array_to_stored(self, data: Array) -> Array:
        """Return a view of `data` with its axes in stored order."""
        return data.transpose([self.axes.index(axis) for axis in self.stored])


def axis_order(address: Address, shape: Sequence[int], names: Iterable[object] | None) -> AxisOrder:
    """Return the order of the axes of a stored array of `shape`.

    The option `axes` of the address is taken first, then `names` (what the file says) where each is one of t, c, z, y,
    x, then (t, c, z, y, x) from the right. Raises PlanError for an option that does not fit, RemoteError for an array
    that has no place among the axes of ndbatch.
    """
    ndim = len(shape)
    wanted = address.option("axes")
    if wanted:
        if not _is_order(wanted, ndim):
            raise PlanError(
                f"{address.url}: axes={wanted} does not name the {ndim} axes of an array of shape {tuple(shape)}; write each "
                "of them once, as stored, from t, c, z, y, x"
            )
        return AxisOrder(wanted)
    found = "".join(str(name).lower() for name in names or ())
    if found and _is_order(found, ndim):
        return AxisOrder(found)
    if not 1 <= ndim <= len(CANONICAL):
        raise RemoteError(
            f"{address.url}: an array of {ndim} axes, shape {tuple(shape)}, is not a volume; 1 to {len(CANONICAL)} axes "
            f"({', '.join(CANONICAL)}) can be read",
            url=address.url,
        )
    return AxisOrder(CANONICAL[-ndim:])


def _is_order(names: str, ndim: int) -> bool:
    return len(names) == ndim and len(set(names)) == ndim and not set(names) - set(CANONICAL)

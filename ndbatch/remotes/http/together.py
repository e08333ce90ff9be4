"""Small boxes that several threads ask for at the same time, carried by one request where they lie side by side.

A request costs a service and its client a few milliseconds of processor whatever it carries. As long as few are in flight
each box travels at once and alone, so that nobody waits for company; boxes that come meanwhile wait for a place, and go
together as the largest box that they fill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array

PLACES = 6
"""Requests in flight beyond which small boxes wait for one of them to end."""
SMALL = 2**20
"""Bytes of voxels up to which a box is small."""
LARGEST = 2**21
"""Bytes of voxels that go together at most."""


@dataclass(eq=False)
class _Traveller:
    """A box on its way: `data` is what is stored, or what was read."""

    box: Box
    data: Array | None = None
    company: list[_Traveller] = field(default_factory=list)
    """Whom it takes along, itself among them, once it has a place; empty where another takes it along."""
    arrived: bool = False
    called: threading.Event = field(default_factory=threading.Event)
    """Set when it has a place, or when who took it along is back."""


class Together:
    """The boxes of one level of a volume that are on their way in one direction; any thread may call."""

    def __init__(self, itemsize: int) -> None:
        self._most = LARGEST // itemsize
        self._lock = threading.Lock()
        self._waiting: dict[Shape, _Traveller] = {}
        """Who waits for a place, by the first voxel, in the order they came. Somebody waits only while no place is free."""
        self._taken = 0

    def read(self, box: Box, get: Callable[[Box], Array]) -> Array:
        """Return the voxels of `box`, which `get` returns of any box; what `get` raises for this box alone is raised."""

        def send(whole: Box, group: list[_Traveller]) -> None:
            found = get(whole)
            for one in group:  # a part of its own, so that the whole is not held by who keeps one part
                one.data = found if len(group) == 1 else found[one.box.slices(whole.start)].copy()

        me = _Traveller(box)
        self._travel(me, send)
        assert me.data is not None
        return me.data

    def write(self, box: Box, data: Array, put: Callable[[Box, Array], object]) -> None:
        """Have `put` store `data` in `box`, maybe with others; what it raises for this box alone is raised."""

        def send(whole: Box, group: list[_Traveller]) -> None:
            joined = np.empty(whole.shape, data.dtype) if len(group) > 1 else data
            for one in group if len(group) > 1 else ():
                joined[one.box.slices(whole.start)] = one.data
            put(whole, joined)

        self._travel(_Traveller(box, data), send)

    def _travel(self, me: _Traveller, send: Callable[[Box, list[_Traveller]], None]) -> None:
        """Send a box, alone or with others, or wait until another has taken it along."""
        if self._must_wait(me):
            try:
                me.called.wait()
            except BaseException:
                self._leave(me)
                raise
        if me.company:
            try:
                send(_whole(me.company), me.company)
                for one in me.company:
                    one.arrived = True
            except Exception:
                if len(me.company) == 1:
                    raise
            finally:
                self._give_place(me)
        if not me.arrived:
            send(me.box, [me])  # what failed in company is tried alone: each box has its own error

    def _must_wait(self, me: _Traveller) -> bool:
        """Take a place and return False, or queue up and return True. A box that already waits goes beside the queue."""
        with self._lock:
            if self._taken >= PLACES and me.box.start not in self._waiting:
                self._waiting[me.box.start] = me
                return True
            if self._taken < PLACES:
                self._taken += 1
                me.company = [me]
            return False

    def _give_place(self, me: _Traveller) -> None:
        """Call whom `me` took along, and give the place to who has waited longest."""
        with self._lock:
            if self._waiting:
                first = next(iter(self._waiting.values()))
                company = self._company_of(first)
                for one in company:
                    del self._waiting[one.box.start]
                first.company = company
                first.called.set()
            else:
                self._taken -= 1
        for one in me.company:
            if one is not me:
                one.called.set()

    def _leave(self, me: _Traveller) -> None:
        """Undo what a thread that was interrupted had begun."""
        with self._lock:
            if self._waiting.get(me.box.start) is me:
                del self._waiting[me.box.start]
                return
        if me.company:
            self._give_place(me)

    def _company_of(self, first: _Traveller) -> list[_Traveller]:
        """Return `first` and who waits beside it: boxes of one shape that fill a box, grown along the last axis first."""
        group = [first]
        for axis in reversed(range(first.box.ndim)):
            while layer := self._layer(group, axis):
                group += layer
        return group

    def _layer(self, group: list[_Traveller], axis: int) -> list[_Traveller]:
        """Return who waits on one side of the box that `group` fills and makes it a larger box; nobody where it is too large."""
        whole, shape = _whole(group), group[0].box.shape
        for by, rim in ((shape[axis], whole.stop[axis]), (-shape[axis], whole.start[axis])):
            move = tuple(by if i == axis else 0 for i in range(len(shape)))
            edge = [one.box for one in group if rim in (one.box.start[axis], one.box.stop[axis])]
            layer = [self._waiting.get(box.shift(move).start) for box in edge]
            found = [one for one in layer if one is not None and one.box.shape == shape]
            if len(found) == len(edge) and (len(group) + len(found)) * group[0].box.size <= self._most:
                return found
        return []


def _whole(group: list[_Traveller]) -> Box:
    """Return the box that the boxes of a group fill."""
    starts, stops = zip(*((one.box.start, one.box.stop) for one in group), strict=True)
    return Box(tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True))))

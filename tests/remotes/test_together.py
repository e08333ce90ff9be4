"""Small boxes that share a request: which do, that none waits without need, and that each has its own voxels and errors."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import Corrupt
from ndbatch.geometry import Box, Grid
from ndbatch.remotes.base import Array
from ndbatch.remotes.http.together import LARGEST, PLACES, Together
from ndbatch.testing.serving import serving

SHAPE, UNIT = (16, 32, 64), (8, 8, 8)
DATA = np.random.default_rng(2).integers(0, 2**16, SHAPE, dtype="uint16")
BOXES = [block.core for block in Grid.over(Box.of_shape(SHAPE), UNIT)]
ELSEWHERE = [Box.of_shape(UNIT, (100 + 16 * i, 0, 0)) for i in range(PLACES)]
"""Boxes that touch no other; they are held on the way, so that all places are taken."""


class Line:
    """A service whose answers are held until `go`; `asked` are the boxes of its requests, in order."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[Box] = []
        self.stored = np.zeros_like(DATA)

    def get(self, box: Box) -> Array:
        self.asked.append(box)
        self.go.wait(180)
        return np.zeros(box.shape, DATA.dtype) if box in ELSEWHERE else DATA[box.slices()]

    def put(self, box: Box, data: Array) -> None:
        self.asked.append(box)
        self.go.wait(180)
        if box not in ELSEWHERE:
            self.stored[box.slices()] = data

    def queue(
        self, pool: ThreadPoolExecutor, call: Callable[[Box], Array | None], boxes: list[Box]
    ) -> list[Future[Array]]:
        """Take all places, queue `boxes` up in their order, and return their results to come."""
        for box in ELSEWHERE:
            pool.submit(call, box)
        until(lambda: len(self.asked) == PLACES)
        calls = []
        for box in boxes:
            calls.append(pool.submit(call, box))
            time.sleep(0.002)
        time.sleep(0.05)
        assert len(self.asked) == PLACES
        self.go.set()
        return calls


def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_boxes_side_by_side_go_together_and_each_has_its_own_voxels() -> None:
    line, together = Line(), Together(2)
    with ThreadPoolExecutor(64) as pool:
        found = line.queue(pool, lambda box: together.read(box, line.get), BOXES[:32])
        for box, one in zip(BOXES, found, strict=False):
            assert np.array_equal(one.result(), DATA[box.slices()])
            assert one.result().flags.owndata
    assert line.asked[PLACES:] == [Box.of_shape((8, 32, 64))]  # 8 along x, 4 along y


def test_nothing_is_read_that_nobody_asked_for() -> None:
    line, together = Line(), Together(2)
    chosen = [BOXES[i] for i in (5, 4, 6, 13, 30)]  # three in a row; one above the middle of it; one apart
    with ThreadPoolExecutor(64) as pool:
        found = line.queue(pool, lambda box: together.read(box, line.get), chosen)
        for box, one in zip(chosen, found, strict=True):
            assert np.array_equal(one.result(), DATA[box.slices()])
    row = Box(BOXES[4].start, BOXES[6].stop)
    assert sorted(line.asked[PLACES:], key=str) == sorted([row, BOXES[13], BOXES[30]], key=str)


def test_who_is_stored_together_is_stored() -> None:
    line, together = Line(), Together(2)
    with ThreadPoolExecutor(64) as pool:
        none = np.zeros(UNIT, DATA.dtype)
        write = lambda box: together.write(box, none if box in ELSEWHERE else DATA[box.slices()], line.put)  # noqa: E731
        for one in line.queue(pool, write, BOXES[:48]):
            one.result()
    expected = np.zeros_like(DATA)
    for box in BOXES[:48]:
        expected[box.slices()] = DATA[box.slices()]
    assert np.array_equal(line.stored, expected)
    assert len(line.asked) < PLACES + 24


def test_an_error_is_that_of_its_own_box_alone() -> None:
    line, together = Line(), Together(2)

    def get(box: Box) -> Array:
        found = line.get(box)
        if box.contains(BOXES[9]):
            raise Corrupt("damaged")
        return found

    with ThreadPoolExecutor(64) as pool:
        found = line.queue(pool, lambda box: together.read(box, get), BOXES[:16])
        for i, one in enumerate(found):
            if i == 9:
                with pytest.raises(Corrupt, match="damaged"):
                    one.result()
            else:
                assert np.array_equal(one.result(), DATA[BOXES[i].slices()])
    assert together._taken == 0


def test_a_box_goes_at_once_where_there_is_a_place_and_no_request_is_too_large() -> None:
    line, together = Line(), Together(2)
    line.go.set()
    for box in BOXES[:5]:
        together.read(box, line.get)
    assert line.asked == BOXES[:5]
    small = Together(LARGEST // (3 * 512))  # a request takes three boxes
    line = Line()
    with ThreadPoolExecutor(64) as pool:
        for one in line.queue(pool, lambda box: small.read(box, line.get), BOXES[:8]):
            one.result()
    assert sorted(box.size // 512 for box in line.asked[PLACES:]) == [2, 3, 3]


def test_the_same_box_twice_is_right_twice() -> None:
    line, together = Line(), Together(2)
    with ThreadPoolExecutor(64) as pool:
        found = [pool.submit(together.read, ELSEWHERE[i], line.get) for i in range(PLACES)]
        until(lambda: len(line.asked) == PLACES)
        found = [pool.submit(together.read, BOXES[3], line.get) for _ in range(3)]
        time.sleep(0.05)
        line.go.set()
        for one in found:
            assert np.array_equal(one.result(), DATA[BOXES[3].slices()])


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread")
def test_who_is_interrupted_while_waiting_keeps_nobody_from_going_on() -> None:
    line, together = Line(), Together(2)
    with ThreadPoolExecutor(64) as pool:
        for box in ELSEWHERE:
            pool.submit(together.read, box, line.get)
        until(lambda: len(line.asked) == PLACES)
        timer = threading.Timer(0.1, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            together.read(BOXES[0], line.get)
        timer.join()
        line.go.set()
    assert np.array_equal(together.read(BOXES[1], line.get), DATA[BOXES[1].slices()])
    assert (together._taken, together._waiting) == (0, {})
    assert BOXES[0] not in line.asked


def test_many_threads_at_a_service(tmp_path: Path) -> None:
    """Every chunk stored and read by a thread of its own, through BOSS and ndstore."""
    with serving(tmp_path) as (url, _):
        host = url.removeprefix("http://")
        for address in (f"boss://{host}/lab/embryo/cells", f"ndstore://{host}/mouse/cells"):
            volume = nb.create(address, shape=SHAPE, dtype="uint16", kind="image", voxel_size=(0.04, 0.004, 0.004))
            with ThreadPoolExecutor(32) as pool:
                list(pool.map(lambda box, to=volume: to.write(box, DATA[box.slices()]), BOXES))  # type: ignore[misc]
                found = list(pool.map(volume.read, BOXES))
            assert np.array_equal(nb.open(address)[...], DATA)
            assert all(np.array_equal(one, DATA[box.slices()]) for box, one in zip(BOXES, found, strict=True))

"""One suite for every executor: what a run promises does not depend on where blocks are computed."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events

EXECUTORS = ("inline", "threads", "processes", "dask")
FUNCTIONS = '''
"""Functions that behave, and functions that do not."""

import ctypes
import os
import time
from pathlib import Path

import numpy as np


def double(image):
    return image * 2


def counted(image, block, folder):
    """Leaves a file for each call, so that calls can be counted across processes."""
    Path(folder, f"{block.index}-{time.time_ns()}-{os.getpid()}").touch()
    return image + 1


def counted_slowly(image, block, folder, seconds):
    time.sleep(seconds)
    return counted(image, block, folder)


def rows(image, block):
    return {"block": [block.index], "sum": [int(image.sum())]}


def both(image, block):
    return image // 2, [{"block": block.index, "max": int(image.max())}]


def add(a, b, factor=1):
    return a + factor * b


def in_place(image):
    image[image < 5] = 0
    return image


def raises(image, block, bad):
    if block.index in bad:
        raise ValueError(f"no good voxels in block {block.index}")
    return image


def flaky(image, block, folder):
    """Fails the first time for each block, with an error that may pass."""
    mark = Path(folder, str(block.index))
    if not mark.exists():
        mark.touch()
        raise ConnectionError("the network is away")
    return image


def dies(image, block, bad):
    if block.index in bad:
        os.kill(os.getpid(), 9)
    return image


def exits(image, block, bad):
    if block.index in bad:
        os._exit(3)
    return image


def hangs(image, block, bad):
    if block.index in bad:
        time.sleep(600)
    return image


def hangs_hard(image, block, bad):
    """Holds the interpreter lock: nobody else in the process can even look."""
    if block.index in bad:
        ctypes.pydll.LoadLibrary(None).sleep(600)
    return image


def eats(image, block, bad):
    if block.index in bad:
        hoard = []
        while True:
            hoard.append(np.ones(4_000_000))
            time.sleep(0.005)
    return image


def wrong_shape(image):
    return image[:-1]


def wrong_dtype(image):
    return image.astype("float64")


def nothing(image):
    pass


def no_array(image):
    return "done"


def interrupts(image, block, folder):
    Path(folder, str(block.index)).touch()
    time.sleep(0.3)
    return image
'''


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def standing_cluster() -> Iterator[str]:
    """The address of a dask cluster of two workers that all tests share, those in which no worker comes to harm."""
    import distributed

    place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=False, **place) as cluster:
        yield str(cluster.scheduler_address)


@pytest.fixture(params=EXECUTORS)
def harmless(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each executor as `cluster`, for tests that harm no worker: dask is one that stands, as starting it takes seconds."""
    if request.param != "dask":
        return cluster_of(request.param)
    return {"kind": "dask", "address": request.getfixturevalue("standing_cluster")}


def cluster_of(kind: str) -> dict[str, Any]:
    return {"kind": kind, "workers": 1 if kind == "inline" else 2, "memory": "2 GB"}


@pytest.fixture
def image(tmp_path: Path) -> np.ndarray[Any, Any]:
    """A volume of 2 x 3 x 2 blocks of 8 voxels, the last ones cut, and the module of functions beside it."""
    data = np.random.default_rng(3).integers(0, 100, (16, 22, 15), dtype="uint16")
    volume = nb.create(f"{tmp_path}/image.zarr", shape=data.shape, dtype=data.dtype, chunks=(8, 8, 8))
    volume.write(volume.domain, data)
    (tmp_path / "bench_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    return data


Runner = Callable[..., nb.Result]


class Seen(list[events.Event]):
    """An observer that keeps the events and checks the books at every stage's end."""

    def __call__(self, event: events.Event) -> None:
        self.append(event)
        if isinstance(event, events.StageEnded | events.RunEnded):
            assert event.counts.balanced, event

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def run(tmp_path: Path, image: np.ndarray[Any, Any], seen: Seen) -> Runner:
    """Run one function of the module over the image on an executor, a kind or all of `cluster`; 12 blocks of 8 voxels."""

    def start(
        executor: str | dict[str, Any],
        function: str,
        *,
        fresh: bool = False,
        step: dict[str, Any] | None = None,
        **changes: Any,
    ) -> nb.Result:
        name = f"bench_functions:{function}"
        document: dict[str, Any] = {
            "name": "job",
            "inputs": {"image": "image.zarr"},
            "steps": [{name: {"input": "image", "output": "out", **(step or {})}}],
            "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 8, "y": 8, "x": 8}}},
            "blocks": {"z": 8, "y": 8, "x": 8},
            "cluster": cluster_of(executor) if isinstance(executor, str) else executor,
            "retry": {"wait": 0.01},
            **changes,
        }
        from ndbatch.config.load import from_mapping

        return nb.run(from_mapping(document, tmp_path), fresh=fresh, observers=[seen], report=False)

    return start


@pytest.fixture(params=["processes", "dask"])
def process_executor(request: pytest.FixtureRequest) -> str:
    """The executors whose workers are processes that may die."""
    return str(request.param)
